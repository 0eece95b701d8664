"""``python -m lab.failover``: runs faults on a pair of real aggregators and prints a table."""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from lab.failover.drill import Outcome, drill
from lab.failover.plan import FAULTS, PHASES, SHORT, Fault, Timing, random_kv_faults
from lab.failover.scaling import scaling
from lab.kv import KINDS
from m3x.version import VERSION

_REPEATS = 2
"""An invalid run says nothing about the fault: it is repeated so often."""
_SHORTEST_TTL_S = 3
"""A leader stops a second before its lease is over."""
_COLUMNS = (
    "fault", "at", "judged", "missing", "wrong", "doubled", "delay p50", "p99", "max", "hand-over", "after back", "named",
    "result",
)  # fmt: skip


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="scripts/failover", description="Failover drill: faults on a pair of real aggregators under load, judged window by window."
    )  # fmt: skip
    parser.add_argument("--backend", choices=KINDS, default="embedded", help="the KV (default: embedded)")
    parser.add_argument(
        "--faults",
        default="",
        metavar="TEXT[;TEXT…]",
        help="only faults of these names, or whose name contains one of these",
    )
    parser.add_argument(
        "--phases", type=_seconds, default=[], metavar="S[,S…]", help="seconds into a window (default: 0.3, 4, 9.5)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="pairs at a time; each takes some of the phases")
    parser.add_argument("--resolution", type=int, default=10, help="seconds of a window (default: 10)")
    parser.add_argument("--ttl", type=int, default=10, help="seconds that the leader's lease lives (default: 10)")
    parser.add_argument("--short", action="store_true", help="only a few faults, each at one phase")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="instead: the KV killed at N random moments")
    parser.add_argument("--seed", type=int, default=1, help="of --random (default: 1)")
    parser.add_argument(
        "--scaling", action="store_true", help="no faults: a second pair joins and leaves again, about six minutes"
    )
    parser.add_argument("--list", action="store_true", help="print the faults and end")
    parser.add_argument("--json", action="store_true", help="a line of JSON per fault instead of a table")
    parser.add_argument("--keep-logs", metavar="DIR", default="", help="copy the logs of a failed fault there")
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    options = parser.parse_args(arguments)
    if min(options.jobs, options.resolution) < 1 or options.ttl < _SHORTEST_TTL_S or options.random < 0:
        parser.error(f"--jobs and --resolution must be at least 1, --ttl {_SHORTEST_TTL_S}, and --random not negative")
    if not chosen(options):
        parser.error(f"--faults {options.faults!r} names none of the faults on {options.backend}: see --list")
    return options


def _seconds(text: str) -> list[float]:
    try:
        phases = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds separated by commas, like 0.3,4,9.5") from None
    if not all(0 <= phase < float("inf") for phase in phases):
        raise argparse.ArgumentTypeError("must not be negative")
    return phases


def chosen(options: argparse.Namespace) -> list[Fault]:
    """The faults to run."""
    possible = [fault for fault in FAULTS if options.backend in fault.backends]
    texts = [text.strip() for text in options.faults.split(";") if text.strip()]
    named = {fault.name for fault in possible}
    return [
        fault
        for fault in possible
        if not texts or any(text == fault.name or (text not in named and text in fault.name) for text in texts)
    ]


def row(outcome: Outcome) -> dict[str, Any]:
    """An outcome as a flat record."""
    verdict = outcome.verdict
    counts = asdict(verdict)
    counts.pop("delays_s")
    return {
        "fault": outcome.fault,
        "backend": outcome.backend,
        "phase": outcome.phase_s,
        **counts,
        "delay_p50": round(verdict.delay_s(0.5), 3),
        "delay_p99": round(verdict.delay_s(0.99), 3),
        "delay_max": round(verdict.delay_s(1.0), 3),
        "hand_over_s": None if outcome.hand_over_s is None else round(outcome.hand_over_s, 2),
        "after_back_s": None if outcome.after_back_s is None else round(outcome.after_back_s, 2),
        "named_s": None if outcome.named_s is None else round(outcome.named_s, 2),
        "invalid": outcome.invalid,
        "failures": outcome.failures,
    }


def line(record: dict[str, Any]) -> str:
    """A row of the table."""
    total = record["judged"] + record["outside"]
    result = "; ".join(record["failures"]) or "passed"
    if record["invalid"]:
        result = "invalid: " + "; ".join(record["invalid"])
    cells = [
        record["fault"], f"{record['phase']:g} s", f"{record['judged']}/{total}", record["missing"], record["wrong"],
        record["doubled"], f"{record['delay_p50']:.2f} s", f"{record['delay_p99']:.2f} s", f"{record['delay_max']:.2f} s",
        "–" if record["hand_over_s"] is None else f"{record['hand_over_s']:.2f} s",
        "–" if record["after_back_s"] is None else f"{record['after_back_s']:.2f} s",
        "–" if record["named_s"] is None else f"{record['named_s']:.2f} s", result,
    ]  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def runs(options: argparse.Namespace, phases: list[float]) -> list[tuple[Fault, float]]:
    """What is to be run: faults and their phases."""
    if options.random:
        return random_kv_faults(random.Random(options.seed), options.random)
    if options.short:
        # Part of every test run, on machines of any speed: handing over must only be sooner than the lease would end.
        named = {
            fault.name: replace(fault, hand_over_s=max(fault.hand_over_s, options.ttl / 2))
            if fault.hand_over_s
            else fault
            for fault in FAULTS
        }
        return [
            (named[name], phase * options.resolution / 10)
            for name, phase in SHORT
            if options.backend in named[name].backends
        ]
    return [(fault, phase) for fault in chosen(options) for phase in phases]


def run_here(options: argparse.Namespace, phases: list[float]) -> int:
    """Everything on one pair."""
    timing = Timing(resolution_s=options.resolution, past_s=options.resolution // 2, ttl_s=options.ttl)
    failed = 0
    with drill(options.backend, timing) as running:
        for fault, phase in runs(options, phases):
            outcome = running.run(fault, phase)
            for _ in range(_REPEATS):
                if not outcome.invalid:
                    break
                print(f"{fault.name} at {phase:g} s, again: {'; '.join(outcome.invalid)}", file=sys.stderr, flush=True)
                outcome = running.run(fault, phase)
            record = row(outcome)
            bad = bool(record["failures"] or record["invalid"])
            failed += bad
            if bad and options.keep_logs:
                _keep_logs(running.cluster.folder, options.keep_logs, f"{fault.name} {phase:g}")
            print(json.dumps(record) if options.json else line(record), flush=True)
            for example in record["examples"]:
                print("   ", example, file=sys.stderr, flush=True)
    return 1 if failed else 0


def run_scaling(options: argparse.Namespace) -> int:
    """Shards move out and back under load."""
    timing = Timing(resolution_s=options.resolution, past_s=options.resolution // 2, ttl_s=options.ttl)
    with scaling(options.backend, timing) as running:
        first = running.begin()
        cutovers = [running.out(), running.back()]
        # The windows around the last cutover and two more.
        verdict = running.judge(first, cutovers[1] + 2 * options.resolution * 10**9)
        if not verdict.clean and options.keep_logs:
            _keep_logs(running.cluster.folder, options.keep_logs, "scaling")
        moved = ", ".join(f"{n} shards" for n in running.moved)
    print(
        f"moved {moved}: {verdict.judged} windows of series judged, {verdict.missing} missing, {verdict.wrong} wrong, "
        f"{verdict.doubled} doubled; delay p99 {verdict.delay_s(0.99):.2f} s, max {verdict.delay_s(1.0):.2f} s"
    )
    for example in verdict.examples:
        print("   ", example, file=sys.stderr)
    return 0 if verdict.clean else 1


def _keep_logs(folder: os.PathLike[str], target: str, name: str) -> None:
    os.makedirs(target, exist_ok=True)
    for entry in os.scandir(folder):
        if entry.name.endswith(".log"):
            path = os.path.join(target, f"{name.replace('/', '')} {os.getpid()} {entry.name}".replace(" ", "-"))
            with open(entry.path, "rb") as source, open(path, "wb") as copy:
                copy.write(source.read())


def run_apart(options: argparse.Namespace, phases: list[float]) -> int:
    """Each job takes some of the phases in a process of its own."""
    common = ["--backend", options.backend, "--faults", options.faults, "--resolution", str(options.resolution)]
    common += ["--ttl", str(options.ttl), *(["--json"] if options.json else []), "--keep-logs", options.keep_logs]
    jobs = []
    for k in range(min(options.jobs, len(phases))):
        mine = ",".join(f"{phase:g}" for phase in phases[k :: options.jobs])
        jobs.append(subprocess.Popen([sys.executable, "-m", "lab.failover", "--part", *common, "--phases", mine]))
        time.sleep(1.0)
    try:
        return max(job.wait() for job in jobs)
    finally:
        for job in jobs:
            if job.poll() is None:
                job.terminate()
                job.wait()


def main() -> int:
    """Runs the drill; 0: all passed."""
    # Instances have sessions of their own: SIGTERM has to unwind what started them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # What is late here looks like a fault of what is measured.
    with contextlib.suppress(PermissionError):
        os.nice(-10)
    part = "--part" in sys.argv
    options = parse([a for a in sys.argv[1:] if a != "--part"])
    if options.list:
        for fault in chosen(options):
            print(fault.name)
        return 0
    if options.scaling:
        return run_scaling(options)
    scale = options.resolution / 10
    phases = options.phases or [PHASES[0], PHASES[1] * scale, PHASES[2] * scale]
    if not options.json and not part:
        print("| " + " | ".join(_COLUMNS) + " |\n|" + "---|" * len(_COLUMNS), flush=True)
    return (
        run_apart(options, phases)
        if options.jobs > 1 and len(phases) > 1 and not options.random
        else run_here(options, phases)
    )


if __name__ == "__main__":
    sys.exit(main())

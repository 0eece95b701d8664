"""``python -m lab.crash``: lets processes die while numbered samples come, and says what of them is missing, wrong or doubled."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lab.crash.drill import Drill, Outcome, drill
from lab.crash.faults import SITUATIONS, Situation
from lab.crash.stack import Settings
from lab.kv import KINDS
from m3x.version import VERSION

_FORGIVEN_S = 1.0
_INTERVAL_S = 0.1
_LATE_S = 0.05
"""So late the acks of a batch may come, which left after its fsync was due."""
_WAYS = ("m3msg", "write", "both")
_COLUMNS = (
    "what", "seconds", "deaths and cuts", "sent", "acked", "resent", "refused", "emitted", "came again", "missing", "wrong",
    "doubled", "result",
)  # fmt: skip


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="scripts/crash",
        description="Crash drill: processes of a real aggregator, its coordinator and its KV die every few seconds, or as a situation "
        "says, under numbered samples; each of them is looked for in what comes out.",
    )
    parser.add_argument("--seconds", type=float, default=120, help="random faults for so long (default: 120)")
    parser.add_argument("--seed", type=int, default=1, help="of the random faults (default: 1)")
    parser.add_argument("--backend", choices=KINDS, default="etcd", help="the KV of random faults (default: etcd)")
    parser.add_argument(
        "--way", choices=_WAYS, default="both", help="m3msg, remote write through a coordinator, or both (default)"
    )
    parser.add_argument(
        "--situations",
        default="",
        metavar="TEXT[;TEXT…]",
        help="instead: those whose name contains one of these; 'all'",
    )
    parser.add_argument(
        "--phases",
        type=_seconds,
        default=[4.0],
        metavar="S[,S…]",
        help="of situations: seconds into a window (default: 4)",
    )
    parser.add_argument(
        "--before",
        type=float,
        default=0,
        metavar="S",
        help="of situations: samples come so long before; waits tell of a pair in use if it is longer than a rollup takes (--past and 20)",
    )
    parser.add_argument(
        "--power-cut", choices=("interval", "always"), default="", help="instead: cut the power, under this sync policy"
    )
    parser.add_argument("--cuts", type=int, default=5, help="of --power-cut (default: 5)")
    parser.add_argument("--list", action="store_true", help="print the situations and end")
    parser.add_argument("--no-faults", action="store_true", help="nothing dies: shows that the drill judges rightly")
    parser.add_argument("--workers", type=int, default=2, help="of each instance (default: 2)")
    parser.add_argument("--scale", type=int, default=3, help="about a hundred samples a second each (default: 3)")
    parser.add_argument("--past", type=int, default=60, metavar="S", help="how late samples may come (default: 60)")
    parser.add_argument(
        "--patience",
        type=float,
        default=1.0,
        metavar="S",
        help="a third of the producers sends again what is not acked so long, over the same connection; 0: none does (default: 1)",
    )
    parser.add_argument(
        "--instance",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of the section instance, as journal=off",
    )
    parser.add_argument("--ack", default="aggregated", help="writes.ack of the coordinator (default: aggregated)")
    parser.add_argument("--json", action="store_true", help="a line of JSON per run instead of a table")
    parser.add_argument("--keep-files", metavar="DIR", default="", help="copy the files of a failed run there")
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    options = parser.parse_args(arguments)
    if min(options.workers, options.scale, options.past) < 1 or options.seconds <= 0:
        parser.error("--workers, --scale and --past must be at least 1, and --seconds more than 0")
    if options.situations and not chosen(options):
        parser.error(f"--situations {options.situations!r} names none of them: see --list")
    return options


def _seconds(text: str) -> list[float]:
    try:
        phases = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds separated by commas, like 0.3,4,9.5") from None
    if not phases or not all(0 <= phase < float("inf") for phase in phases):
        raise argparse.ArgumentTypeError("must be seconds that are not negative")
    return phases


def chosen(options: argparse.Namespace) -> list[Situation]:
    """The situations to run."""
    texts = [text.strip() for text in options.situations.split(";") if text.strip()]
    return [one for one in SITUATIONS if any(text == "all" or text in one.name for text in texts)]


def settings(options: argparse.Namespace, instance: dict[str, Any] | None = None, **more: Any) -> Settings:
    """The stack that the options ask for; ``instance``: keys of that section."""
    instance = dict(instance or {})
    for text in options.instance:
        key, _, value = text.partition("=")
        instance[key] = {"on": True, "off": False, "true": True, "false": False}.get(value, value)
    # A rollup is out when its sources are, however late these are, and after what a restart takes.
    return Settings(
        workers=options.workers, past_s=options.past, rollup_s=options.past + 20, instance=instance, ack=options.ack, **more
    )  # fmt: skip


def row(outcome: Outcome) -> dict[str, Any]:
    """An outcome as a flat record."""
    record = asdict(outcome.verdict) | asdict(outcome)
    record["by_kind"] = {f"{which}: {kind}": count for (kind, which), count in sorted(outcome.verdict.by_kind.items())}
    for key in ("verdict", "forgiven_ns"):
        record.pop(key)
    return record | {"passed": outcome.passed}


def line(record: dict[str, Any]) -> str:
    """A row of the table."""
    refused = ", ".join(f"{count} {reason}" for reason, count in record["refused"].items()) or "0"
    problems = [f"{record['unacked']} never acked"] if record["unacked"] else []
    problems += record["broken"] + [f"invalid: {why}" for why in record["invalid"]]
    result = "passed" if record["passed"] else "; ".join(problems) or "failed"
    cells = [
        record["name"], f"{record['seconds']:g}", sum(record["faults"].values()), record["sent"], record["acked"],
        record["resent"], refused, record["emitted"], record["again"], record["missing"], record["wrong"],
        record["doubled"], result,
    ]  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def report(options: argparse.Namespace, outcome: Outcome, folder: Path, story: list[str]) -> bool:
    """Prints an outcome, and keeps the files of a failed one; whether it passed."""
    record = row(outcome)
    print(json.dumps(record, ensure_ascii=False) if options.json else line(record), flush=True)
    for text in outcome.waits:
        print("   ", text, file=sys.stderr, flush=True)
    if outcome.passed:
        return True
    counted = ", ".join(f"{what}: {count}" for what, count in sorted(outcome.faults.items()))
    kinds = ", ".join(f"{count} {what}" for what, count in record["by_kind"].items())
    for text in [kinds, counted, *outcome.verdict.examples, *story]:
        print("   ", text, file=sys.stderr, flush=True)
    if options.keep_files:
        name = outcome.name.replace(" ", "-").replace("/", "")
        shutil.copytree(folder, Path(options.keep_files) / f"{name}-{os.getpid()}", dirs_exist_ok=True)
    return False


def finished(running: Drill, act: Callable[[], None], name: str) -> Outcome:
    """Does something to a stack, and judges; what is waited for in vain meanwhile is a promise that was not kept."""
    try:
        act()
    except TimeoutError as error:
        running.broken.append(str(error))
    return running.finish(name)


def run_random(options: argparse.Namespace) -> bool:
    """Random faults; whether all is well."""
    made = settings(options, backend=options.backend, coordinator=options.way != "m3msg")
    with drill(made, options.scale, direct=options.way != "write", patience_s=options.patience) as running:
        if options.no_faults:
            outcome = finished(running, partial(running.wait, options.seconds), "nothing")
        else:
            name = f"random, {options.backend}, seed {options.seed}"
            outcome = finished(running, partial(running.random, options.seconds, options.seed), name)
        return report(options, outcome, running.stack.folder, running.log)


def run_situation(options: argparse.Namespace, situation: Situation, phase_s: float) -> bool:
    """A situation at a phase; whether all is well."""
    made = settings(
        options, backend=situation.backend, instances=situation.instances, coordinator=situation.coordinator
    )
    with drill(made, options.scale, patience_s=options.patience) as running:
        outcome = finished(
            running, partial(running.situation, situation, phase_s, options.before), f"{situation.name}, {phase_s:g} s"
        )
        return report(options, outcome, running.stack.folder, running.log)


def run_power_cuts(options: argparse.Namespace) -> bool:
    """The power is cut again and again; whether no more is lost than the policy says."""
    made = settings(options, noting=True, instance={"journalSync": options.power_cut})
    with drill(made, options.scale, patience_s=options.patience) as running:
        running.forgiven_s = _FORGIVEN_S if options.power_cut == "interval" else 0.0
        outcome = finished(
            running, partial(running.power_cuts, options.cuts), f"{options.cuts} power cuts, {options.power_cut}"
        )
        age_s, longest_s = running.oldest_lost_s(outcome.verdict), running.stack.notes.longest_s
        lost = len(outcome.verdict.forgiven_ns)
        if age_s > _INTERVAL_S + longest_s + _LATE_S:
            outcome.broken.append("acks older than 100 ms and an fsync are lost")
        running.log.append(
            f"{lost} acked samples lost, acked at most {age_s * 1000:.0f} ms before; longest fsync {longest_s * 1000:.0f} ms"
        )
        print(running.log[-1], file=sys.stderr)
        return report(options, outcome, running.stack.folder, running.log)


def main() -> int:
    """Runs the drill; 0: all passed."""
    # Instances have sessions of their own: SIGTERM has to unwind what started them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # What is late here looks like a fault of what is measured.
    with contextlib.suppress(PermissionError):
        os.nice(-10)
    options = parse()
    if options.list:
        for situation in SITUATIONS:
            print(situation.name)
        return 0
    if not options.json:
        print("| " + " | ".join(_COLUMNS) + " |\n|" + "---|" * len(_COLUMNS), flush=True)
    if options.power_cut:
        return 0 if run_power_cuts(options) else 1
    if not options.situations:
        return 0 if run_random(options) else 1
    passed = [run_situation(options, one, phase) for one in chosen(options) for phase in options.phases]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())

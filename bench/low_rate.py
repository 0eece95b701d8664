"""``scripts/bench low-rate``: what a pair of instances costs that has little to do, and nothing at all; ours, and rivals in turn.

    scripts/bench low-rate [--seconds 45] [--against 'go=PATH/m3aggregator -f {config}']

Two instances mirror each other (replication factor 2) and get the same few messages in small writes; one leads and emits, the other one
follows. CPU seconds are user plus system of each process while the load lasts, figures are scaled to 180 s; then the same while nothing is
sent and all windows are flushed. The KV, the load and the consumer of the output are processes of their own, whose time does not count.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lab.errors import LabError

from bench.ingest import SinkProcess
from bench.instance import wakes
from bench.rivals import Instance, against_option, named_rivals, started
from m3x.process import cpu_seconds

__all__ = ["main"]

_SCALE_S = 180.0
_OVERLAY = {"aggregator": {"bufferDurationForPastTimedMetric": "5s"}}
"""Windows are flushed while the load lasts."""
_SETTLE_S = 5.0
_QUIET_S = 40.0
"""After the last sample its windows are flushed within this time."""


def main(values: list[str]) -> int:
    """Measures and prints; exit code 1 if something that was sent is not acked."""
    parser = argparse.ArgumentParser(prog="scripts/bench low-rate", description=__doc__)
    parser.add_argument("--rate", type=float, default=3000.0, help="messages a second to each instance")
    parser.add_argument("--write", type=int, default=3, help="messages of one TCP write")
    parser.add_argument("--series", type=int, default=3000)
    parser.add_argument("--kind", default="timed")
    parser.add_argument("--seconds", type=float, default=60.0, help="of load, and then of idleness")
    parser.add_argument("--idle-seconds", type=float, default=0.0, help="of idleness, if that is to be another time")
    parser.add_argument("--workers", type=int, default=1, help="of each instance")
    parser.add_argument("--kv", choices=("embedded", "etcd"), default="etcd")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    against_option(parser)
    options = parser.parse_args(values)
    if min(options.rate, options.write, options.series, options.seconds, options.workers) <= 0:
        parser.error("--rate, --write, --series, --seconds and --workers must be above 0")
    named = named_rivals(parser, options.against)
    if options.against and options.kv != "etcd":
        parser.error("--against: rivals need --kv etcd")
    folder = Path(tempfile.mkdtemp(prefix="bench-low-rate-"))
    found: dict[str, dict[str, Any]] = {}
    try:
        for name, command in named:
            found[name] = _turn(name, command, folder / name, options)
            if not options.json:
                print(f"{name}: {_table(found[name])}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(found))
    return 0 if all(one["load"]["sent"] == one["load"]["acked"] for one in found.values()) else 1


def _turn(name: str, command: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    sink = SinkProcess()
    try:
        with started(
            name, command, folder, sink.address, members=2, workers=options.workers, overlay=_OVERLAY, kv=options.kv
        ) as members:
            load, loaded = _loaded(members, options)
            time.sleep(_QUIET_S)
            idle_s = options.idle_seconds or options.seconds
            idle = _spent(members, lambda: time.sleep(idle_s))
            return {"load": load, "loaded": loaded, "idle": idle, "flushed": sink.summary()["messages"]}
    finally:
        sink.close()


def _loaded(members: Sequence[Instance], options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    command = [
        sys.executable, "-m", "bench.paced", "--rate", str(options.rate), "--write", str(options.write), "--kind", options.kind,
        "--series", str(options.series), "--seconds", str(options.seconds + _SETTLE_S), "--go",
        *(word for one in members for word in ("--target", one.address)),
    ]  # fmt: skip
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stderr.readline()
        process.stdin.write("\n")
        process.stdin.flush()
        # Series are new, and lists come to be.
        time.sleep(_SETTLE_S)
        spent = _spent(members, lambda: time.sleep(options.seconds))
        line = process.stdout.readline()
        errors = process.stderr.read()
    if not line:
        raise LabError(f"the load generator failed: {errors}")
    result: dict[str, Any] = json.loads(line)
    return result, spent


def _spent(members: Sequence[Instance], meanwhile: Callable[[], None]) -> dict[str, Any]:
    """CPU seconds in 180 s, and how often a second threads went to sleep, by role and process."""
    sides = [("leader" if one.leads() else "follower", one) for one in members]
    roles = {(side, process): pid for side, one in sides for process, pid in one.pids().items()}
    began = time.monotonic()
    before = {key: (cpu_seconds(pid, children=True), wakes(pid)) for key, pid in roles.items()}
    meanwhile()
    took = time.monotonic() - began
    found: dict[str, Any] = {}
    for key, pid in roles.items():
        member, process = key
        cpu, woken = before[key]
        scaled = (cpu_seconds(pid, children=True) - cpu) * _SCALE_S / took
        found.setdefault(member, {})[process] = (round(scaled, 2), round((wakes(pid) - woken) / took, 1))
    return found


def _table(figures: dict[str, Any]) -> str:
    load = figures["load"]
    lines = [
        f"sent {load['sent']}, acked {load['acked']} in {load['seconds']:.1f} s; ack p50 {load['p50_ms']:.1f} ms, "
        f"p99 {load['p99_ms']:.1f} ms, at most {load['max_ms']:.1f} ms; flushed {figures['flushed']} values",
        f"{'CPU s in 180 s, sleeps/s':<26}{'under load':>22}{'idle':>20}",
    ]
    for member, processes in figures["loaded"].items():
        idle = figures["idle"][member]
        rows = [(name, *processes[name], *idle[name]) for name in processes]
        rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
        for name, cpu, woken, idle_cpu, idle_woken in rows:
            share = f" ({100 * idle_cpu / _SCALE_S:.1f} %)" if name == "all" else ""
            lines.append(
                f"{member + ' ' + name:<26}{cpu:>12.2f}{woken:>10.0f}{idle_cpu:>12.2f}{idle_woken:>8.0f}{share}"
            )
    return "\n".join(lines)

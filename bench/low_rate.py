"""``scripts/bench low-rate``: what a pair of instances costs that has little to do, and nothing at all.

Two instances mirror each other (replication factor 2) and get the same few messages in small writes; one leads and emits, the other one
follows. CPU seconds are user plus system of each process while the load lasts, figures are scaled to 180 s; then the same while nothing is
sent and all windows are flushed. The KV, the load and the consumer of the output are processes of their own, whose time does not count.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from bench.ingest import SinkProcess
from bench.instance import Pair, wakes
from m3x.process import cpu_seconds

__all__ = ["main"]

_SCALE_S = 180.0
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
    options = parser.parse_args(values)
    if min(options.rate, options.write, options.series, options.seconds, options.workers) <= 0:
        parser.error("--rate, --write, --series, --seconds and --workers must be above 0")
    sink = SinkProcess()
    try:
        with Pair(options.workers, sink.address, options.kv) as pair:
            load, loaded = _loaded(pair, options)
            if load is None:
                return 1
            time.sleep(_QUIET_S)
            idle_s = options.idle_seconds or options.seconds
            idle = _spent(pair, lambda: time.sleep(idle_s))
            figures = {"load": load, "loaded": loaded, "idle": idle, "flushed": sink.summary()["messages"]}
    finally:
        sink.close()
    print(json.dumps(figures) if options.json else _table(figures))
    return 0 if load["sent"] == load["acked"] else 1


def _loaded(pair: Pair, options: argparse.Namespace) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    command = [
        sys.executable, "-m", "bench.paced", "--rate", str(options.rate), "--write", str(options.write), "--kind", options.kind,
        "--series", str(options.series), "--seconds", str(options.seconds + _SETTLE_S), "--go",
        *(word for one in pair.members for word in ("--target", one.address)),
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
        spent = _spent(pair, lambda: time.sleep(options.seconds))
        line = process.stdout.readline()
        errors = process.stderr.read()
    if not line:
        print(f"the load generator failed: {errors}", file=sys.stderr)
        return None, spent
    result: dict[str, Any] = json.loads(line)
    return result, spent


def _spent(pair: Pair, meanwhile: Any) -> dict[str, Any]:
    """CPU seconds in 180 s, and how often a second threads went to sleep, by role and process."""
    roles = pair.roles()
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

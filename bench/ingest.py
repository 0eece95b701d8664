"""``scripts/bench ingest``: load on a real instance as fast as it is acknowledged, or at ``--rate``, and what it costs.

CPU seconds are user plus system of all processes of the instance (``/proc``); messages per server CPU second is the figure to compare,
since machines are noisy. ``--journal both`` is ``bench.journal_turns``.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import IO, Any

from bench import journal_turns
from bench.instance import Aggregator
from bench.loading import replay
from bench.messages import KINDS, TIMER_VALUES, build


class SinkProcess:
    """``bench.sink`` in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.address = self._output.readline().strip()

    @property
    def _output(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def summary(self) -> dict[str, Any]:
        """What it has received so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        result: dict[str, Any] = json.loads(self._output.readline())
        return result

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        with self._process:
            self._process.stdin.close()
            self._process.wait(10)


def arguments(values: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="scripts/bench ingest", description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="timed")
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--resolution", default="10s", help="window, whole seconds: 10s")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="messages a second; 0: as fast as they are acknowledged"
    )
    parser.add_argument("--pairs", type=int, default=6, help="--journal both: pairs of turns of --seconds")
    parser.add_argument(
        "--journal",
        choices=("on", "off", "both"),
        default="on",
        help="whether workers journal what they apply; both: in turns, and what that costs as a ratio",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    options = parser.parse_args(values)
    resolution = options.resolution.removesuffix("s")
    if not resolution.isdecimal() or int(resolution) < 1:
        parser.error(f"--resolution {options.resolution!r}: expected whole seconds, like 10s")
    if min(options.series, options.workers, options.connections, options.pairs) < 1 or not 0 < options.seconds < float(
        "inf"
    ):
        parser.error("--series, --workers, --connections and --pairs must be at least 1, and --seconds above 0")
    return options


def main(values: list[str]) -> int:
    """Measures and prints; exit code 1 if something that was sent is not acked, or a counter run's sums differ."""
    options = arguments(values)
    resolution_s = int(options.resolution.removesuffix("s"))
    sink = SinkProcess()
    try:
        if options.journal == "both":
            return _both(options, sink)
        overlay = {"instance": {"journal": options.journal == "on"}}
        with Aggregator(options.workers, sink.address, overlay) as aggregator:
            looks: list[tuple[dict[str, float], dict[str, float]]] = []

            def look() -> None:
                looks.append((aggregator.cpu(), aggregator.memory_mib()))

            result = replay(
                aggregator.address, options.kind, options.series, options.seconds, options.connections, began=look, ended=look,
                rate=options.rate, resolution=resolution_s,
            )  # fmt: skip
            (before, memory_before), (after, memory_loaded) = looks
            result["journal_bytes"] = aggregator.written_bytes()
            flushed = _wait_for_output(sink, resolution_s)
            end, memory_end = aggregator.cpu(), aggregator.memory_mib()
    finally:
        sink.close()
    return _report(options, result, flushed, (before, after, end), (memory_before, memory_loaded, memory_end))


def _both(options: argparse.Namespace, sink: SinkProcess) -> int:
    per = max(options.series, 20_000) // options.connections
    frames = [
        build(options.kind, options.series, per, journal_turns.RESOLUTION_S, first=c * per)
        for c in range(options.connections)
    ]
    return journal_turns.run(options, sink.address, frames)


def _wait_for_output(sink: SinkProcess, resolution_s: int) -> dict[str, Any]:
    """Until nothing has come out for longer than two windows and the past buffer."""
    quiet = 2 * resolution_s + 8
    started = time.time()
    while True:
        summary = sink.summary()
        if time.time() - max(summary["last_at"], started) > quiet:
            return summary
        time.sleep(0.5)


def _report(
    options: argparse.Namespace,
    result: dict[str, Any],
    flushed: dict[str, Any],
    cpu: tuple[dict[str, float], dict[str, float], dict[str, float]],
    memory: tuple[dict[str, float], dict[str, float], dict[str, float]],
) -> int:
    before, after, end = cpu
    spent = {name: after[name] - before.get(name, 0.0) for name in after}
    total = sum(spent.values())
    all_in = sum(end.values()) - sum(before.values())
    messages = max(result["acked"], 1)
    samples = messages * (TIMER_VALUES if options.kind == "timer" else 1)
    sums_right = options.kind != "counter" or flushed["total"] == result["value_sum"]
    figures = {
        "kind": options.kind, "series": options.series, "workers": options.workers, "message_bytes": result["message_bytes"],
        "sent": result["sent"], "acked": result["acked"], "seconds": round(result["seconds"], 2),
        "messages_per_second": round(messages / result["seconds"]),
        "messages_per_cpu_second": round(messages / total) if total else 0,
        "us_per_message": round(total / messages * 1e6, 3),
        "journal": options.journal, "journal_bytes_per_message": round(result["journal_bytes"] / messages, 1),
        "values_per_cpu_second": round(samples / total) if total else 0,
        "cpu_seconds": {name: round(value, 2) for name, value in spent.items()},
        "flushed_values": flushed["messages"], "flushed_sum_equals_sent": sums_right if options.kind == "counter" else None,
        "us_per_message_all_in": round(all_in / messages * 1e6, 3),
        "mib": {name: round(value, 1) for name, value in memory[2].items()},
        "mib_total": {
            name: round(sum(m.values())) for name, m in zip(("start", "loaded", "end"), memory, strict=True)
        },
    }  # fmt: skip
    if options.json:
        print(json.dumps(figures))
    else:
        _print(figures)
    complete = result["sent"] == result["acked"] and sums_right and not result["failed"]
    return 0 if complete else 1


def _print(f: dict[str, Any]) -> None:
    print(f"ingest {f['kind']}: {f['series']} series, {f['workers']} workers, {f['message_bytes']} bytes a message")
    print(
        f"  sent {f['sent']}, acked {f['acked']} in {f['seconds']} s = {f['messages_per_second'] / 1e3:.0f} k messages/s"
    )
    print(
        f"  {f['messages_per_cpu_second'] / 1e3:.0f} k messages per server CPU second = {f['us_per_message']} us a message "
        f"({', '.join(f'{name} {value} s' for name, value in f['cpu_seconds'].items())})"
    )
    print(f"  journal {f['journal']}: {f['journal_bytes_per_message']} bytes written a message, snapshots included")
    if f["kind"] == "timer":
        print(f"  {f['values_per_cpu_second'] / 1e6:.2f} M timer values per server CPU second")
    print(f"  flushed {f['flushed_values']} values; {f['us_per_message_all_in']} us a message with flush and forward")
    if f["flushed_sum_equals_sent"] is not None:
        print(f"  sum of all flushed windows equals what was sent: {'yes' if f['flushed_sum_equals_sent'] else 'NO'}")
    memory = f["mib_total"]
    print(
        f"  MiB: start {memory['start']}, loaded {memory['loaded']}, end {memory['end']} "
        f"({', '.join(f'{name} {value}' for name, value in f['mib'].items())})"
    )

"""``scripts/bench latency``: how long a message waits for its ack, and how long a large window waits to be out.

First the maximum throughput of an instance is found; then it gets half of that at an even pace, and the time from the write of each message
to its ack is taken. A second instance gets every one of ``--window-series`` timed series once per window: told is, for each whole window,
the time from when it was due until the consumer had acked the last value of it. The load and the consumer are processes of their own, on
the same machine.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

from bench.ingest import SinkProcess
from bench.instance import Aggregator

__all__ = ["main"]

_RESOLUTION_S = 10
_DELAY_S = 15.0
"""After its end a window of timed metrics is due: one resolution and the past buffer of ``configs/local``."""
_CHUNKS = 1000
"""Writes of one connection in a second."""
_WHOLE = 0.99


def main(values: list[str]) -> int:
    """Measures and prints; exit code 1 if something that was sent is not acked."""
    parser = argparse.ArgumentParser(prog="scripts/bench latency", description=__doc__)
    parser.add_argument("--kind", default="timed")
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each of both loads")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--rate", type=float, default=0.0, help="messages a second, instead of half of the maximum")
    parser.add_argument("--window-series", type=int, default=1_000_000, help="series of the large window; 0: none")
    parser.add_argument("--windows", type=int, default=3, help="how many large windows")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    options = parser.parse_args(values)
    if min(options.series, options.seconds, options.workers, options.connections, options.windows) <= 0:
        parser.error("--series, --seconds, --workers, --connections and --windows must be above 0")
    figures: dict[str, Any] = {}
    sink = SinkProcess()
    try:
        with Aggregator(options.workers, sink.address) as aggregator:
            rate = options.rate
            if not rate:
                figures["maximum"] = most = _load(options, aggregator, options.series, 0.0, options.seconds)
                rate = most["acked"] / most["seconds"] / 2
            figures["half"] = _load(options, aggregator, options.series, rate, options.seconds)
        if options.window_series:
            figures["windows"] = _windows(options)
    finally:
        sink.close()
    print(json.dumps(figures) if options.json else _table(options, figures))
    return 0 if all(one["sent"] == one["acked"] for name, one in figures.items() if name != "windows") else 1


def _load(
    options: argparse.Namespace, aggregator: Aggregator, series: int, rate: float, seconds: float
) -> dict[str, Any]:
    write = max(round(rate / options.connections / _CHUNKS), 1)
    command = [
        sys.executable, "-m", "bench.paced", "--target", aggregator.address, "--kind", options.kind, "--series", str(series),
        "--rate", str(rate), "--write", str(write), "--seconds", str(seconds), "--connections", str(options.connections),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise RuntimeError(f"the load generator failed: {done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _windows(options: argparse.Namespace) -> dict[str, Any]:
    sink = SinkProcess()
    try:
        with Aggregator(options.workers, sink.address) as aggregator:
            seconds = _RESOLUTION_S * (options.windows + 1) + _DELAY_S + 2
            rate = options.window_series / _RESOLUTION_S
            load = _load(options, aggregator, options.window_series, rate, seconds)
            windows = sink.summary()["windows"]
    finally:
        sink.close()
    due = {int(end) / 1e9 + _DELAY_S: found for end, found in sorted(windows.items())}
    late = [last - at for at, (count, last) in due.items() if count >= _WHOLE * options.window_series]
    return {"seconds_after_due": late, "load": load}


def _table(options: argparse.Namespace, figures: dict[str, Any]) -> str:
    lines = []
    for name, text in (("maximum", "as fast as it goes"), ("half", "half of that")):
        if one := figures.get(name):
            lines.append(
                f"{text}: {one['acked'] / one['seconds'] / 1e3:.0f} k messages/s; ack p50 {one['p50_ms']:.1f} ms, "
                f"p99 {one['p99_ms']:.1f} ms, at most {one['max_ms']:.1f} ms"
            )
    if found := figures.get("windows"):
        late = ", ".join(f"{seconds:.2f}" for seconds in found["seconds_after_due"]) or "no whole window"
        load = found["load"]
        lines.append(f"a window of {options.window_series} series, due until its last value is acked: {late} s")
        lines.append(
            f"  meanwhile ack p50 {load['p50_ms']:.1f} ms, p99 {load['p99_ms']:.1f} ms, at most {load['max_ms']:.1f} ms"
        )
    return "\n".join(lines)

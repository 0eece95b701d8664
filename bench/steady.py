"""``scripts/bench steady``: every series once per window for a while, at an instance of ours and at rivals in turn.

    scripts/bench steady --series 1000000 --seconds 120 [--past 1m] [--against 'go=PATH/m3aggregator -f {config}']

What a sample costs from its message to the ack of the value that it makes: CPU of all processes from the first message until the last
window is out, and until the load ends alone. The peak of memory is that of all processes together (PSS), children that write snapshots
among them, while the load lasts. ``--past``: how late samples may be, so windows stay open for so long after their ends. All get the
same configuration, cluster and consumer (``bench.rivals``).
"""

import argparse
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import LabError

from bench.ingest import SinkProcess
from bench.loading import machine_ms, replay
from bench.messages import KINDS, TIMER_VALUES
from bench.rivals import OURS, Instance, against_option, named_rivals, started
from m3x.config import Duration

__all__ = ["main"]

_LOOK_S = 0.5
_SPARE_S = 8.0
"""A window may be out later than it is due, where flushes are spread over time."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What an instance did, and what it cost."""

    sent: int
    acked: int
    loaded_cpu_s: float
    """While the load lasted."""
    cpu_s: float
    """Until the last window was out."""
    peak_mib: float
    values: int
    """Came out."""
    sums_right: bool
    """Whether what came out is in sum what was sent; of counters only."""

    @property
    def us_a_sample(self) -> float:
        """CPU until the last window was out."""
        return self.cpu_s / max(self.acked, 1) * 1e6

    @property
    def complete(self) -> bool:
        """Whether nothing was lost."""
        return self.sent == self.acked and self.values > 0 and self.sums_right


class _Peak(threading.Thread):
    """The most that ``mib`` has said; it is asked every now and then."""

    def __init__(self, mib: Callable[[], float]) -> None:
        super().__init__(daemon=True)
        self._mib = mib
        self._ended = threading.Event()
        self.most = 0.0

    def run(self) -> None:
        while not self._ended.wait(_LOOK_S):
            self.most = max(self.most, self._mib())

    def close(self) -> float:
        """Ends it."""
        self._ended.set()
        self.join()
        return self.most


def _load(one: Instance, options: argparse.Namespace) -> tuple[dict[str, Any], float, float, float]:
    """What the generator says, CPU seconds before and after it, and the peak of memory in MiB. Raises ``LabError`` if it says nothing."""
    spent: list[float] = []
    peak = _Peak(one.mib)

    def began() -> None:
        spent.append(sum(one.cpu().values()))
        peak.start()

    result = replay(
        one.address, options.kind, options.series, options.seconds, options.connections, began=began,
        ended=lambda: spent.append(sum(one.cpu().values())), rate=options.rate or options.series / options.resolution,
        resolution=options.resolution,
    )  # fmt: skip
    before, after = spent
    return result, before, after, peak.close()


def _until_quiet(sink: SinkProcess, one: Instance, quiet_s: float) -> tuple[dict[str, Any], float]:
    """What has come out when nothing has for so long, and CPU seconds until the last of it."""
    began = time.time()
    found, cpu = sink.summary(), sum(one.cpu().values())
    while time.time() - max(found["last_at"], began) < quiet_s:
        time.sleep(_LOOK_S)
        if (now := sink.summary())["messages"] != found["messages"]:
            found, cpu = now, sum(one.cpu().values())
    return found, cpu


def _turn(name: str, command: str, folder: Path, options: argparse.Namespace) -> _Found:
    overlay = {"aggregator": {"bufferDurationForPastTimedMetric": str(options.past)}}
    own = {"instance": {"journal": options.journal == "on"}}
    sink = SinkProcess()
    try:
        with started(name, command, folder, sink.address, overlay=overlay, own=own, workers=options.workers) as (one,):
            result, before, loaded, peak = _load(one, options)
            flushed, end = _until_quiet(sink, one, 2 * options.resolution + options.past.seconds + _SPARE_S)
    finally:
        sink.close()
    if result["failed"]:
        raise LabError(f"{name}: connections failed: {result['failed']}")
    sums_right = options.kind != "counter" or flushed["total"] == result["value_sum"]
    return _Found(result["sent"], result["acked"], loaded - before, end - before, peak, flushed["messages"], sums_right)


def main(values: list[str]) -> int:
    """Runs the benchmark; exit code 1 if something that was sent is not acked, nothing came out, or sums of counters differ."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench steady", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    against_option(parser)
    parser.add_argument("--kind", choices=KINDS, default="timed")
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=10, help="of windows, in seconds")
    parser.add_argument("--rate", type=float, default=0.0, help="messages a second; default: one per series and window")
    parser.add_argument("--past", type=Duration.parse, default=Duration.parse("10s"), help="how late samples may be")
    parser.add_argument("--workers", type=int, default=1, help="of ours")
    parser.add_argument("--journal", choices=("on", "off"), default="on", help="of ours")
    options = parser.parse_args(values)
    named = named_rivals(parser, options.against)
    if (
        min(options.series, options.connections, options.resolution, options.workers) < 1
        or options.seconds <= 0
        or options.rate < 0
    ):
        parser.error("all numbers must be positive")
    print(
        f"{options.kind}: {options.series} series, windows of {options.resolution} s, {options.past} late at most, journal of ours "
        f"{options.journal}",
        flush=True,
    )
    folder = Path(tempfile.mkdtemp(prefix="bench-steady-"))
    found: dict[str, _Found] = {}
    try:
        for name, command in named:
            speed = machine_ms()
            found[name] = one = _turn(name, command, folder / name, options)
            print(f"  {name:8} {_text(one, options.kind)} (machine: {speed:.1f} ms)", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, one in found.items():
        if name != OURS:
            ours = found[OURS]
            print(
                f"{name}: a sample costs {one.us_a_sample / ours.us_a_sample:.1f} times as much as ours, the peak is "
                f"{one.peak_mib / ours.peak_mib:.1f} times as high"
            )
    return 0 if all(one.complete for one in found.values()) else 1


def _text(f: _Found, kind: str) -> str:
    samples = f" of {TIMER_VALUES} values" if kind == "timer" else ""
    wrong = "" if f.sums_right else "; SUMS DIFFER"
    return (
        f"{f.acked} of {f.sent} messages{samples} acked, {f.values} values came out; {f.us_a_sample:.3f} us of CPU a message, of it "
        f"{f.loaded_cpu_s / max(f.acked, 1) * 1e6:.3f} while they came; peak {f.peak_mib:.0f} MiB{wrong}"
    )

"""``scripts/bench pauses``: for how long ingest stands still while a worker's snapshot is written.

    scripts/bench pauses [--kind timed] [--series 1000000] [--order same]

One instance with a journal, all of whose series are known and whose windows are long: nothing is flushed. It gets messages as fast as it
acknowledges them until a snapshot was written, then half as many a second at an even pace until the next one was. Told are for both
loads, beside the snapshot and while it was written:

* the longest *gap*: time between two acks, over whatever connection, while some message waits;
* the longest *wait* of a message, from its write to its ack; as fast as it goes that is the length of queues.

And of both: for how long the worker's loop was held by the snapshot, as it says itself (``worker.snapshot-pause-seconds``), and in which
part of the time its thread could have run and no processor was free (``/proc/PID/schedstat``). Load and instance share one machine: as
fast as it goes there is always somebody who waits for a processor. ``--order shuffled``: samples come in another order than series did at
first, so that nearly every one of a snapshot's first batches has to copy memory that the snapshot still needs.
"""

import argparse
import contextlib
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lab.http import get
from lab.waiting import wait_until

from bench.acks import ENTRY_SIZE
from bench.ingest import SinkProcess
from bench.instance import Aggregator
from bench.messages import KINDS, Frames, build
from bench.paced import Paced

__all__ = ["Gap", "gaps", "main"]

_RESOLUTION_S = 3600
_LOOK_S = 0.005
_MARGIN_S = 0.1
"""The worker begins a snapshot before its child is there, and looks up to 50 ms after it has ended."""
_FILLED = 0.7
"""Of the messages between two snapshots: so many are sent as fast as it goes before half of that follows."""
_BEHIND_S = 0.5
"""For so long a load goes on after a snapshot."""
_WRITES = 250
"""Of each connection in a second, at an even pace."""
_AT_ONCE = 512
_TICK_S = 0.002
_PATIENCE_S = 120.0


class Gap(NamedTuple):
    """Between two acks (monotonic seconds)."""

    began: float
    """When the first one came, or later, when the first message was written of those that wait."""
    ended: float
    wait: float
    """Seconds since the oldest message was written that the second one acknowledges."""


def gaps(sends: Sequence[Sequence[tuple[float, int]]], acks: Sequence[Sequence[tuple[float, int]]]) -> Iterator[Gap]:
    """From ack to ack, over all connections.

    ``sends``, of each connection: when a write began, and how many messages were written before it; ``acks``: when acks came, and how
    many messages were acknowledged then.
    """
    began = [iter([*(time for time, _ in of), math.inf]) for of in sends]
    after = [iter([*(before for _, before in of[1:]), math.inf]) for of in sends]
    oldest, until = [next(one) for one in began], [next(one) for one in after]
    events = sorted((at, number, acked) for number, of in enumerate(acks) for at, acked in of)
    last = -math.inf
    for at, number, acked in events:
        yield Gap(max(last, min(oldest)), at, at - oldest[number])
        while acked >= until[number]:
            oldest[number], until[number] = next(began[number]), next(after[number], math.inf)
        last = at


class _Connection(Paced):
    """Keeps when it wrote and when acks came."""

    def __init__(self, address: tuple[str, int], frames: Frames) -> None:
        self.sends: list[tuple[float, int]] = []
        self.acks: list[tuple[float, int]] = []
        super().__init__(address, frames)

    def send(self, count: int) -> None:
        """See ``Paced``."""
        self.sends.append((time.monotonic(), self.sent))
        super().send(count)

    def _take(self, acks: list[bytes], now: float) -> None:
        self.acked += sum(map(len, acks)) // ENTRY_SIZE
        self.acks.append((now, self.acked))


@dataclass
class _Snapshot:
    began: float
    acked: int
    """Messages acknowledged before."""
    ended: float = math.inf


class _Watch(threading.Thread):
    """Looks for children of the workers: the snapshots."""

    def __init__(self, workers: list[int], acked: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self._workers = workers
        self._acked = acked
        self._done = threading.Event()
        self.snapshots: list[_Snapshot] = []

    def run(self) -> None:
        """Until ``close``."""
        while not self._done.wait(_LOOK_S):
            busy, going = self._children(), bool(self.snapshots) and self.snapshots[-1].ended == math.inf
            if busy and not going:
                self.snapshots.append(_Snapshot(time.monotonic(), self._acked()))
            elif going and not busy:
                self.snapshots[-1].ended = time.monotonic()

    def close(self) -> None:
        """Ends it."""
        self._done.set()
        self.join()

    @property
    def written(self) -> int:
        """How many have ended."""
        return sum(one.ended < math.inf for one in self.snapshots)

    def _children(self) -> bool:
        found = ""
        for pid in self._workers:
            with contextlib.suppress(OSError):
                found += Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return bool(found)


@dataclass
class _Phase:
    """One load: from when to when, and what was found."""

    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    messages: int = 0
    waited: float = 0.0
    """Part of the time in which workers waited for a processor."""
    held_s: float = 0.0
    snapshot_s: float = 0.0


class _Load:
    """The instance under load."""

    def __init__(self, options: argparse.Namespace, sink: str) -> None:
        per = max(options.series // options.connections, 1)
        self._frames = [
            build(options.kind, options.series, per, _RESOLUTION_S, first=number * per)
            for number in range(options.connections)
        ]
        self.aggregator = Aggregator(options.workers, sink)
        self.connections = [_Connection(self.aggregator.socket_address, one) for one in self._frames]
        self._workers = [pid for name, pid in self.aggregator.roles().items() if name.startswith("worker")]
        self.watch = _Watch(self._workers, lambda: sum(one.acked for one in self.connections))
        self.watch.start()

    def shuffle(self) -> None:
        """From now on series come in another order."""
        for one in self._frames:
            one.matrix[:] = one.matrix[np.random.default_rng(3).permutation(len(one.matrix))]

    def send(self, rate: float, enough: Callable[[], bool]) -> _Phase:
        """Sends ``rate`` messages a second, 0: as many as are acknowledged, until it is enough; returns when all are acknowledged."""
        phase, before, waited = _Phase(), self.acked, self._waited()
        ended = threading.Event()
        groups = [self.connections] if rate else [[one] for one in self.connections]
        pace = rate / len(self.connections)
        threads = [threading.Thread(target=_send, args=(group, pace, ended), daemon=True) for group in groups]
        for thread in threads:
            thread.start()
        limit = time.monotonic() + _PATIENCE_S
        while not enough() and time.monotonic() < limit and not self.failed:
            time.sleep(_LOOK_S)
        phase.ended, phase.messages = time.monotonic(), self.acked - before
        phase.waited = (self._waited() - waited) / (phase.ended - phase.began) / len(self._workers)
        ended.set()
        for thread in threads:
            thread.join()
        while self.acked < sum(one.sent for one in self.connections) and time.monotonic() < limit and not self.failed:
            time.sleep(_LOOK_S)
        written = self.watch.written
        wait_until("the figures of the snapshot", lambda: self._figure("worker_snapshots") >= written, _PATIENCE_S)
        phase.held_s = self._figure("worker_snapshot_pause_seconds")
        if self.watch.snapshots:
            phase.snapshot_s = self.watch.snapshots[-1].ended - self.watch.snapshots[-1].began
        return phase

    def written(self, count: int, behind_s: float = _BEHIND_S) -> bool:
        """Whether so many snapshots were written, the last one ``behind_s`` ago."""
        return self.watch.written >= count and time.monotonic() > self.watch.snapshots[count - 1].ended + behind_s

    def longest(self, phase: _Phase) -> dict[str, float]:
        """The longest gaps and waits in milliseconds."""
        found = dict.fromkeys(("gap_ms", "gap_in_snapshot_ms", "wait_ms", "wait_in_snapshot_ms"), 0.0)
        for gap in gaps([one.sends for one in self.connections], [one.acks for one in self.connections]):
            if not (phase.began <= gap.began and gap.ended <= phase.ended):
                continue
            met = any(
                one.began - _MARGIN_S <= gap.ended and gap.began <= one.ended + _MARGIN_S
                for one in self.watch.snapshots
            )
            where = "_in_snapshot_ms" if met else "_ms"
            found["gap" + where] = max(found["gap" + where], 1e3 * (gap.ended - gap.began))
            found["wait" + where] = max(found["wait" + where], 1e3 * gap.wait)
        return found

    def close(self) -> None:
        """Ends all."""
        self.watch.close()
        for one in self.connections:
            one.close()
        self.aggregator.close()

    @property
    def acked(self) -> int:
        """Messages so far."""
        return sum(one.acked for one in self.connections)

    @property
    def failed(self) -> list[str]:
        """Why connections ended."""
        return [one.failed for one in self.connections if one.failed]

    def _waited(self) -> float:
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) for pid in self._workers) / 1e9

    def _figure(self, name: str) -> float:
        """The largest on the metrics page."""
        lines = get(self.aggregator.metrics_url)[1].splitlines()
        return max((float(line.split()[-1]) for line in lines if name in line and line[0] != "#"), default=0.0)


def _send(connections: list[_Connection], rate: float, ended: threading.Event) -> None:
    """Sends over all of them, ``rate`` messages a second over each; 0: as fast as TCP takes them."""
    began, sent, write = time.monotonic(), 0, max(round(rate / _WRITES), 1) if rate else _AT_ONCE
    while not ended.is_set() and not any(one.failed for one in connections):
        if not rate or sent + write <= rate * (time.monotonic() - began):
            for one in connections:
                one.send(write)
            sent += write
        else:
            time.sleep(_TICK_S)


def main(values: list[str]) -> int:
    """Measures and prints; exit code 1 if something that was sent is not acknowledged."""
    parser = argparse.ArgumentParser(prog="scripts/bench pauses", description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="timed")
    parser.add_argument("--series", type=int, default=1_000_000)
    parser.add_argument(
        "--order", choices=("same", "shuffled"), default="same", help="of samples, after the first ones"
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    options = parser.parse_args(values)
    if min(options.series, options.workers, options.connections) < 1:
        parser.error("--series, --workers and --connections must be at least 1")
    sink = SinkProcess()
    try:
        load = _Load(options, sink.address)
        try:
            figures = _measured(options, load)
            failed = load.failed or load.acked != sum(one.sent for one in load.connections)
        finally:
            load.close()
    finally:
        sink.close()
    print(json.dumps(figures) if options.json else _text(options, figures))
    if failed:
        print(f"not everything was acknowledged: {failed}", file=sys.stderr)
    return 1 if failed else 0


def _measured(options: argparse.Namespace, load: _Load) -> dict[str, Any]:
    # The first snapshot comes soon, and not of known series only.
    load.send(0.0, lambda: load.acked >= options.series and load.written(1))
    if options.order == "shuffled":
        load.shuffle()
    full = load.send(0.0, lambda: load.written(2))
    first, second = load.watch.snapshots[:2]
    wanted = second.acked + _FILLED * (second.acked - first.acked)
    load.send(0.0, lambda: load.acked >= wanted)
    rate = full.messages / (full.ended - full.began) / 2
    known = len(load.watch.snapshots)
    half = load.send(rate, lambda: load.written(known + 1))
    return {
        name: {
            "messages_per_second": phase.messages / (phase.ended - phase.began),
            **load.longest(phase),
            "held_ms": 1e3 * phase.held_s,
            "snapshot_seconds": phase.snapshot_s,
            "waits_for_processor": phase.waited,
        }
        for name, phase in (("full", full), ("half", half))
    }


def _text(options: argparse.Namespace, figures: dict[str, dict[str, float]]) -> str:
    lines = [f"pauses {options.kind}: {options.series} series, order {options.order}, {options.workers} workers"]
    for name, text in (("full", "as fast as it goes"), ("half", "half of that")):
        f = figures[name]
        lines += [
            f"  {text}, {f['messages_per_second'] / 1e3:.0f} k messages/s; the worker waits for a processor "
            f"{100 * f['waits_for_processor']:.0f} % of the time; a snapshot takes {f['snapshot_seconds']:.1f} s, and held its loop for "
            f"{f['held_ms']:.0f} ms at most",
            f"    longest time between two acks: {f['gap_in_snapshot_ms']:.0f} ms while it was written, {f['gap_ms']:.0f} ms beside",
            f"    longest wait of a message for its ack: {f['wait_in_snapshot_ms']:.0f} ms while it was written, "
            f"{f['wait_ms']:.0f} ms beside",
        ]
    return "\n".join(lines)

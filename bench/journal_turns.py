"""``scripts/bench ingest --journal both``: what the journal costs a whole instance, and what a snapshot does to it.

Two instances, one with and one without a journal, are given the same messages as fast as they acknowledge them, in turns of some
seconds: a pair of turns is one ratio of messages per CPU second, of all processes, snapshots included. All series are known before the
first turn, and windows are long: nothing is flushed meanwhile. Turns go on until there are enough pairs, and those with a journal until
a snapshot was written, which may be sooner than its share of what is written: the bytes a message are the most that they can be.
Memory is proportional (PSS) and that of all processes, the child that writes the snapshot among them. To look at it takes 40 ms of CPU
each time, so for how long ingest stands still is another bench (``bench.pauses``).
"""

import argparse
import contextlib
import json
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.instance import Aggregator
from bench.load import Connection
from bench.messages import Frames
from m3x.process import cpu_seconds, proportional_bytes

__all__ = ["run"]

_LEAST_MESSAGES = 20_000
_LOOK_S = 0.02
_MEASURE_S = 0.1
_MOST_TURNS = 8
"""So many times the pairs that are wanted, while no snapshot was written."""
_SNAPSHOT_FROM = 500_000
"""Series from which on a snapshot is waited for: those of fewer are too small to be looked at."""
_PATIENCE_S = 120.0
RESOLUTION_S = 3600


@dataclass
class _Snapshot:
    began: float
    before: int
    """Bytes of memory of the instance."""
    most: int = 0
    cpu_s: float = 0.0
    ended: float = 0.0


class _Watch(threading.Thread):
    """Looks for children of the workers, and at the memory of all processes while there is one."""

    def __init__(self, aggregator: Aggregator) -> None:
        super().__init__(daemon=True)
        roles = aggregator.roles()
        self._pids = list(roles.values())
        self._workers = [pid for name, pid in roles.items() if name.startswith("worker")]
        self._done = threading.Event()
        self.snapshots: list[_Snapshot] = []
        """Those that have ended."""

    def run(self) -> None:
        """Until ``close``."""
        current: _Snapshot | None = None
        cpu_s = before = measured = 0.0
        memory = self._memory([])
        while not self._done.wait(_LOOK_S):
            children, now = self._children(), time.monotonic()
            if current is None and not children:
                if now - measured > 10 * _MEASURE_S:
                    memory, measured, before = self._memory([]), now, self._ended_cpu()
            elif current is None:
                current, cpu_s = _Snapshot(now, memory), before
            if current is not None and not children:
                current.ended, current.cpu_s = now, self._ended_cpu() - cpu_s
                self.snapshots.append(current)
                current = None
            elif current is not None and now - measured > _MEASURE_S:
                current.most, measured = max(current.most, self._memory(children)), now

    def close(self) -> None:
        """Ends it."""
        self._done.set()
        self.join()

    @property
    def busy(self) -> bool:
        """Whether a snapshot is being written."""
        return bool(self._children())

    def _children(self) -> list[int]:
        found: list[int] = []
        for pid in self._workers:
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def _memory(self, children: list[int]) -> int:
        return sum(map(proportional_bytes, [*self._pids, *children]))

    def _ended_cpu(self) -> float:
        return sum(cpu_seconds(pid, children=True) - cpu_seconds(pid) for pid in self._workers)


class _Side:
    """An instance and the connections to it."""

    def __init__(self, options: argparse.Namespace, frames: list[Frames], sink: str, *, journal: bool) -> None:
        self.aggregator = Aggregator(options.workers, sink, {"instance": {"journal": journal}})
        address = self.aggregator.socket_address
        self.connections = [Connection(address, one) for one in frames]
        self.watch = _Watch(self.aggregator)
        self.watch.start()
        self.messages = 0
        self.cpu_s = 0.0

    def turn(self, seconds: float) -> float:
        """Messages a CPU second."""
        began, cpu_s = time.monotonic(), sum(self.aggregator.cpu().values())
        messages = sum(c.acked for c in self.connections)
        writers = [
            threading.Thread(target=c.replay, args=(began + seconds, 0.0, 0), daemon=True) for c in self.connections
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        limit = time.monotonic() + _PATIENCE_S
        while any(c.acked < c.sent and not c.failed for c in self.connections) and time.monotonic() < limit:
            time.sleep(0.005)
        messages = sum(c.acked for c in self.connections) - messages
        cpu_s = sum(self.aggregator.cpu().values()) - cpu_s
        self.messages += messages
        self.cpu_s += cpu_s
        return messages / cpu_s

    def forget(self) -> None:
        """What was so far is not measured."""
        self.messages, self.cpu_s = 0, 0.0
        self.watch.snapshots.clear()

    def close(self) -> None:
        """Ends all."""
        self.watch.close()
        for connection in self.connections:
            connection.close()
        self.aggregator.close()


def run(options: argparse.Namespace, sink: str, frames: list[Frames]) -> int:
    """Measures and prints; exit code 1 if something that was sent is not acknowledged."""
    sides: list[_Side] = []
    try:
        for journal in (False, True):
            sides.append(_Side(options, frames, sink, journal=journal))
        figures = _measured(options, *sides)
        failed = [c.failed for side in sides for c in side.connections if c.failed or c.acked != c.sent]
    finally:
        for side in sides:
            side.close()
    print(json.dumps(figures) if options.json else _text(figures))
    if failed:
        print(f"not everything was acknowledged: {failed}", file=sys.stderr)
    return 1 if failed else 0


def _measured(options: argparse.Namespace, plain: _Side, durable: _Side) -> dict[str, Any]:
    for side in (plain, durable):
        side.turn(options.seconds)
    # A snapshot of the first round is not one of known series.
    limit = time.monotonic() + _PATIENCE_S
    while durable.watch.busy and time.monotonic() < limit:
        time.sleep(_LOOK_S)
    for side in (plain, durable):
        side.forget()
    written = durable.aggregator.written_bytes()
    pairs: list[tuple[float, float]] = []
    wanted = options.series >= _SNAPSHOT_FROM
    while len(pairs) < options.pairs:
        order = (plain, durable) if len(pairs) % 2 == 0 else (durable, plain)
        found = {side: side.turn(options.seconds) for side in order}
        pairs.append((found[plain], found[durable]))
    turns = 0
    while len(durable.watch.snapshots) < wanted and turns < _MOST_TURNS * options.pairs:
        durable.turn(options.seconds)
        turns += 1
    ratios = [with_journal / without for without, with_journal in pairs]
    snapshots = durable.watch.snapshots
    return {
        "kind": options.kind, "series": options.series, "workers": options.workers, "pairs": len(pairs),
        "ratio_median": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios),
        "ratio_all": (durable.messages / durable.cpu_s) / (plain.messages / plain.cpu_s),
        "messages_per_cpu_second_without": statistics.median(p[0] for p in pairs),
        "messages_per_cpu_second_with": statistics.median(p[1] for p in pairs),
        "bytes_per_message": (durable.aggregator.written_bytes() - written) / durable.messages,
        "snapshots": [
            {"cpu_s": s.cpu_s, "seconds": s.ended - s.began, "memory": s.most / s.before - 1} for s in snapshots
        ],
    }  # fmt: skip


def _text(f: dict[str, Any]) -> str:
    lines = [
        f"ingest {f['kind']}: {f['series']} series, {f['workers']} workers, {f['pairs']} pairs of turns",
        f"  messages per CPU second with the journal: {100 * f['ratio_median']:.0f} % of those without (median; "
        f"{100 * f['ratio_min']:.0f} to {100 * f['ratio_max']:.0f} %, all turns together {100 * f['ratio_all']:.0f} %)",
        f"  {f['messages_per_cpu_second_without'] / 1e3:.0f} k without, {f['messages_per_cpu_second_with'] / 1e3:.0f} k with",
        f"  {f['bytes_per_message']:.1f} bytes written a message, snapshots included",
    ]
    lines += [
        f"  snapshot: {s['cpu_s']:.2f} s CPU in {s['seconds']:.1f} s, memory of all processes +{100 * s['memory']:.0f} %"
        for s in f["snapshots"]
    ]
    return "\n".join(lines)

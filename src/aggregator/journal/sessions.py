"""Which fronts have sent what: what a front gives once more, and what producers may send once more. Pure.

A front numbers the batches of each worker, over the worker's incarnations. So a successor knows of a batch whether it is in the journal
(``has``). Of the producers it is only known up to where they have got their acks (``ipc.Batch.settled``); what is behind that, and not
older than ``REPEATS_NS``, may come again (``open_from``, ``is_open``).
"""

from collections import deque
from typing import NamedTuple

from m3x.segments import Position

__all__ = ["REPEATS_NS", "Sessions"]

REPEATS_NS = 120_000_000_000
"""Whoever has not sent a message again after that time never will."""


class _Written(NamedTuple):
    front: int
    seq: int
    now_ns: int
    start: Position


class Sessions:
    """See the module. Batches are told in the order in which they are in the journal."""

    def __init__(self) -> None:
        self._seq: dict[int, int] = {}
        self._settled: dict[int, int] = {}
        self._open: deque[_Written] = deque()
        self._front = -1

    def wrote(self, front: int, seq: int, settled: int, now_ns: int, start: Position) -> None:
        """A batch is in the journal, at ``start``."""
        if front != self._front:
            self._front = front
            self._forget_fronts()
        self._seq[front] = max(seq, self._seq.get(front, -1))
        self._settled[front] = max(settled, self._settled.get(front, -1))
        self._open.append(_Written(front, seq, now_ns, start))
        while self._open and not self._is_open(self._open[0], now_ns):
            self._open.popleft()

    def _forget_fronts(self) -> None:
        named = {written.front for written in self._open} | {self._front}
        self._seq = {front: seq for front, seq in self._seq.items() if front in named}
        self._settled = {front: seq for front, seq in self._settled.items() if front in named}

    def _is_open(self, written: _Written, now_ns: int) -> bool:
        return written.seq > self._settled[written.front] and written.now_ns > now_ns - REPEATS_NS

    def has(self, front: int, seq: int) -> bool:
        """Whether that batch is in the journal."""
        return seq <= self._seq.get(front, -1)

    def is_open(self, front: int, seq: int) -> bool:
        """Whether messages of that batch may come again, as far as is known; ask only for what ``open_from`` leaves."""
        return seq > self._settled.get(front, -1)

    @property
    def open_from(self) -> Position | None:
        """Where the first batch is whose messages may come again; None: no such."""
        return self._open[0].start if self._open else None

    def open_since(self, seq: int) -> Position | None:
        """``open_from``, but for batches of the front that sent last before that number."""
        return next((one.start for one in self._open if one.front != self._front or one.seq >= seq), None)

    @property
    def last(self) -> tuple[int, int, int]:
        """Front, its last batch, and up to where it is settled; (-1, -1, -1): none."""
        if self._front < 0:
            return (-1, -1, -1)
        return self._front, self._seq[self._front], self._settled[self._front]

    def restore(self, front: int, seq: int, settled: int) -> None:
        """What ``last`` was when a snapshot was made, before any batch is told."""
        if front >= 0:
            self._front = front
            self._seq[front] = seq
            self._settled[front] = settled

"""What waits in one lane of a sink, and batches made of it. Pure.

A record of the queue is split by lane when it comes into memory; what of it belongs to a lane is a *piece*. A batch is put together from
pieces, perhaps of many records, perhaps from a part of one.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.sinks import kernels
from coordinator.sinks.annotations import Annotations, joined_annotations
from coordinator.sinks.sink import RefusedWhy
from coordinator.sinks.values import Destination, Values

__all__ = ["Batch", "Lane", "Piece", "Record", "Watcher", "compose"]

_BACKLOG_TURN = 4
"""Of a lane's batches every fourth one is for the backlog, while newer values wait as well."""
_RECORD_BYTES = 600
"""What a record takes in memory besides its columns, and a piece of it in each lane, roughly."""
_ORDER_BYTES = 4
_PIECE_BYTES = 200
"""What a parked piece takes besides its rows, roughly."""


class Watcher(Protocol):
    """Who wants to know what becomes of the rows of a record."""

    @property
    def answered(self) -> bool:
        """Whether whoever wrote them has been answered by now."""

    def refused(self, why: RefusedWhy, rows: NDArray[np.int64], text: str) -> None:
        """These rows of the record were refused."""

    def final(self) -> None:
        """All rows are delivered or refused. Nothing is told afterwards."""

    def forgotten(self) -> None:
        """The record waits on disk only: nothing is told afterwards."""


@dataclass(slots=True, eq=False)
class Record:
    """A record of the queue in memory."""

    first: int
    stop: int
    """Its values have the numbers ``[first, stop)`` in the queue."""
    values: Values
    """Fewer rows than numbers, where some could not be read."""
    again: bool = False
    """Perhaps the sink has some of it."""
    answered: bool = False
    """Who wrote it has been answered."""
    watcher: Watcher | None = None
    order: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    """The rows by lane."""
    lanes: list[int] = field(default_factory=list)
    """Those that have a piece of it."""
    left: int = 0
    """Rows that are not final."""
    backlog: bool = False
    """It came from disk beside newer ones."""
    gone: bool = False
    """It was left to the disk; its pieces mean nothing any more."""
    size_bytes: int = 0
    """Memory, roughly."""
    parked: list[NDArray[np.uint32]] = field(default_factory=list)
    """The rows of its parked pieces, which change in place when the record becomes smaller."""
    parked_since_ns: int | None = None
    """Since when a row of it is."""
    numbers: NDArray[np.uint32] | None = None
    """Of a record that became smaller: which row of it as it was each one is."""

    def __post_init__(self) -> None:
        self.size_bytes = _RECORD_BYTES + _ORDER_BYTES * len(self.values) + self.values.size_bytes

    def split(self, lanes: int) -> list[tuple[int, "Piece"]]:
        """Sorts the rows by lane; the lanes that have some, and which."""
        rows = self.left = len(self.values)
        bounds = np.zeros(lanes + 1, np.int64)
        if lanes == 1:
            self.order, bounds[1] = np.arange(rows, dtype=np.uint32), rows
        else:
            self.order = np.empty(rows, np.uint32)
            kernels.split(self.values.table.hashes, self.values.columns[0], lanes, self.order, bounds)
        ends = bounds.tolist()
        self.lanes = [k for k in range(lanes) if ends[k] < ends[k + 1]]
        return [(k, Piece(self, ends[k], ends[k + 1])) for k in self.lanes]

    def park(self, rows: NDArray[np.uint32]) -> "Piece":
        """Rows that are no longer in any lane's piece: a piece of them alone."""
        self.parked.append(rows)
        self.size_bytes += _PIECE_BYTES + rows.nbytes
        return Piece(self, 0, len(rows), rows)

    def unpark(self, rows: NDArray[np.uint32]) -> None:
        """The piece with these rows is no longer."""
        self.parked = [one for one in self.parked if one is not rows]
        self.size_bytes -= _PIECE_BYTES + rows.nbytes

    def shrink(self) -> None:
        """Keeps only the parked rows, where that saves at least half; nothing else of it waits."""
        kept = self.left
        if 2 * kept > len(self.values):
            return
        rows = np.sort(np.concatenate(self.parked))
        places = np.empty(len(self.values), np.uint32)
        places[rows] = np.arange(kept, dtype=np.uint32)
        for one in self.parked:
            one[:] = places[one]
        self.numbers = rows if self.numbers is None else self.numbers[rows]
        self.values, self.order = self.values.rows(rows.astype(np.int64)), np.zeros(0, np.uint32)
        pieces = sum(_PIECE_BYTES + one.nbytes for one in self.parked)
        self.size_bytes = _RECORD_BYTES + self.values.size_bytes + self.numbers.nbytes + pieces

    def as_written(self, rows: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Which rows these were when the record was written."""
        return (rows if self.numbers is None else self.numbers[rows]).astype(np.int64)

    def leave(self) -> None:
        """The disk has it, the memory not any more."""
        self.gone = True
        self.values = self.values.rows(np.zeros(0, np.int64))
        self.order = np.zeros(0, np.uint32)


class Piece(NamedTuple):
    """Rows ``order[start:stop]`` of a record, all of one lane."""

    record: Record
    start: int
    stop: int
    own: NDArray[np.uint32] | None = None
    """Its ``order``; None: that of the record."""

    @property
    def rows(self) -> NDArray[np.uint32]:
        """Which rows of the record these are now."""
        order = self.record.order if self.own is None else self.own
        return order[self.start : self.stop]


@dataclass(slots=True, eq=False)
class Batch:
    """What a sink is given in one call."""

    values: Values
    pieces: list[Piece]
    """Its rows are theirs, one after the other."""
    again: bool
    attempts: int = 0
    parks: int = 0
    """How often its rows were parked; 0: they come for the first time."""

    def rows_of(self, rows: NDArray[np.int64]) -> list[tuple[Record, NDArray[np.uint32]]]:
        """The records behind some rows of the batch (ascending), and the rows of these as they are now."""
        stops = np.cumsum([piece.stop - piece.start for piece in self.pieces])
        which = np.searchsorted(stops, rows, side="right")
        found = []
        for k in np.unique(which).tolist():
            piece = self.pieces[k]
            within = rows[which == k] - (int(stops[k]) - (piece.stop - piece.start))
            found.append((piece.record, piece.rows[within]))
        return found


class Lane:
    """Pieces that wait, and the batch that is under way or waits for its next attempt."""

    def __init__(self, batch_rows: int) -> None:
        self._batch_rows = batch_rows
        self._live: deque[Piece] = deque()
        self._backlog: deque[Piece] = deque()
        self._gone = 0
        self._turn = 0
        self.rows = 0
        """How many wait here, with some that were left to the disk meanwhile."""
        self.batch: Batch | None = None
        self.due_ns: int | None = None
        """When the batch is to be tried again; None: it is under way, or there is none."""
        self.failure = ""
        """Why the last attempt of the batch failed."""
        self.held = False
        """Waiting alone will not cure it."""
        self.asked = False
        """The sink has said how long to wait."""

    def add(self, piece: Piece, *, backlog: bool = False) -> None:
        """Newer than all others in the same row."""
        (self._backlog if backlog else self._live).append(piece)
        self.rows += _size(piece)

    def forget(self) -> None:
        """A record that has a piece here was left to the disk."""
        self._gone += 1
        while self._live and self._live[0].record.gone:
            self.rows -= _size(self._live.popleft())
            self._gone -= 1
        if 2 * self._gone > len(self._live):
            self.rows -= sum(_size(piece) for piece in self._live if piece.record.gone)
            self._live = deque(piece for piece in self._live if not piece.record.gone)
            self._gone = 0

    def next(self, *, newest_first: bool) -> Batch | None:
        """Makes a batch of what waits, which is no longer in the lane then."""
        self._turn += 1
        if self._backlog and (len(self._live) == self._gone or self._turn % _BACKLOG_TURN == 0):
            pieces = self._oldest(self._backlog)
        else:
            pieces = self._newest() if newest_first else self._oldest(self._live)
        self.rows -= sum(map(_size, pieces))
        return Batch(compose(pieces), pieces, any(piece.record.again for piece in pieces)) if pieces else None

    def _oldest(self, waiting: deque[Piece]) -> list[Piece]:
        room, taken = self._batch_rows, list[Piece]()
        while waiting and room:
            piece = waiting.popleft()
            if piece.record.gone:
                self.rows -= _size(piece)
                self._gone -= 1
                continue
            if taken and piece.record.values.table is not taken[0].record.values.table:
                waiting.appendleft(piece)
                break
            record, start, stop, _ = piece
            if stop - start > room:
                waiting.appendleft(Piece(record, start + room, stop))
                piece = Piece(record, start, start + room)
            taken.append(piece)
            room -= piece.stop - piece.start
        return taken

    def _newest(self) -> list[Piece]:
        room, taken, waiting = self._batch_rows, list[Piece](), self._live
        while waiting and room:
            piece = waiting.pop()
            if piece.record.gone:
                self.rows -= _size(piece)
                self._gone -= 1
                continue
            if taken and piece.record.values.table is not taken[0].record.values.table:
                waiting.append(piece)
                break
            record, start, stop, _ = piece
            if stop - start > room:
                waiting.append(Piece(record, start, stop - room))
                piece = Piece(record, stop - room, stop)
            taken.append(piece)
            room -= piece.stop - piece.start
        return taken[::-1]


def _size(piece: Piece) -> int:
    return piece.stop - piece.start


def compose(pieces: Sequence[Piece]) -> Values:
    """The rows of all pieces."""
    rows = sum(piece.stop - piece.start for piece in pieces)
    out = np.empty(rows, np.uint32), np.empty(rows, np.int64), np.empty(rows, np.float64), np.empty(rows, np.uint16)
    destinations = pieces[0].record.values.destinations
    renumbered = np.arange(len(destinations), dtype=np.uint16)
    last, at = destinations, 0
    for piece in pieces:
        values = piece.record.values
        if values.destinations is not last:
            last = values.destinations
            destinations, renumbered = _joined(destinations, last)
        kernels.gather(piece.rows, values.columns, renumbered, out, at)
        at += piece.stop - piece.start
    annotations = joined_annotations([(piece.stop - piece.start, _annotations(piece)) for piece in pieces])
    return Values(pieces[0].record.values.table, out[0], out[1], out[2], destinations, out[3], annotations)


def _annotations(piece: Piece) -> Annotations | None:
    annotations = piece.record.values.annotations
    return None if annotations is None else annotations.rows(piece.rows.astype(np.int64))


def _joined(
    known: tuple[Destination, ...], more: tuple[Destination, ...]
) -> tuple[tuple[Destination, ...], NDArray[np.uint16]]:
    """Both together, each once, those of ``known`` in their places; where those of ``more`` are."""
    numbers = {one: k for k, one in enumerate(known)}
    fresh = [one for one in dict.fromkeys(more) if one not in numbers]
    numbers.update(zip(fresh, range(len(known), len(known) + len(fresh)), strict=True))
    renumbered = np.array([numbers[one] for one in more], np.uint16)
    return ((*known, *fresh) if fresh else known), renumbered

"""Rows that a sink cannot take yet, by the time at which they come again. Pure.

They stay in memory as pieces of their records (``lanes``), which become smaller once nothing else of them waits.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from coordinator.sinks.lanes import Batch, Piece, compose

__all__ = ["Group", "Parking"]


@dataclass(slots=True, eq=False)
class Group:
    """Rows that were parked together."""

    pieces: list[Piece]
    due_ns: int
    since_ns: int
    """When the first of them was parked for the first time."""
    parks: int
    """How often they were."""
    text: str
    """Why."""

    @property
    def rows(self) -> int:
        """How many."""
        return sum(piece.stop for piece in self.pieces)


class Parking:
    """The groups of one sink."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Group]] = []
        self._added = 0
        self.rows = 0
        """How many there are."""

    def __iter__(self) -> Iterator[Group]:
        return (group for _, _, group in self._heap)

    @property
    def due_ns(self) -> int | None:
        """When the next one is due."""
        return self._heap[0][0] if self._heap else None

    def add(self, group: Group) -> None:
        """To come again when it is due."""
        heapq.heappush(self._heap, (group.due_ns, self._added, group))
        self._added += 1
        self.rows += group.rows

    def take(self, now_ns: int, most_rows: int) -> Batch | None:
        """A batch of those that are due, which are no longer here then; the whole of a group, and of one table."""
        pieces: list[Piece] = []
        rows = parks = 0
        while self._heap and self._heap[0][0] <= now_ns:
            group = self._heap[0][2]
            table = group.pieces[0].record.values.table
            if pieces and (rows + group.rows > most_rows or table is not pieces[0].record.values.table):
                break
            heapq.heappop(self._heap)
            pieces += group.pieces
            rows += group.rows
            self.rows -= group.rows
            parks = max(parks, group.parks)
        return Batch(compose(pieces), pieces, again=True, parks=parks) if pieces else None

    def remove(self, before: int) -> list[Piece]:
        """Takes out the pieces of records whose first value has a lower number than ``before``."""
        taken: list[Piece] = []
        kept: list[tuple[int, int, Group]] = []
        for due_ns, number, group in self._heap:
            taken += [piece for piece in group.pieces if piece.record.first < before]
            group.pieces = [piece for piece in group.pieces if piece.record.first >= before]
            if group.pieces:
                kept.append((due_ns, number, group))
        heapq.heapify(kept)
        self._heap = kept
        self.rows -= sum(piece.stop for piece in taken)
        return taken

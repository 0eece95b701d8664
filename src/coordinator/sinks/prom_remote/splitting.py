"""Which rows to send next when a store has refused a request of several. Pure: no sockets, no clocks.

A store refuses a request for the sake of some of its samples, and often without a word about which. So the rows are halved until the bad
ones stand alone; a row is given up only after it was refused alone (or follows from one that was), so that it takes no neighbour with it:

* Parts are sent from the first to the last, and one is settled before the next begins, so that a store that refuses late samples never
  gets a row before an earlier one of its series.
* A row refused as too old settles every row that is not newer: that limit of a store holds for all of its series.
* If the first half is stored, the second one is to blame: it is not sent as a whole again, but halved at once.
* Series that were refused in the batch before are sent apart (``Suspects``), so that the others do not suffer from what is bad for long.
* A store that names the series it refuses is believed as to where to look: that series is sent alone, the others together.

A bad row costs at most ``2 * ceil(log2(n)) + 2`` requests, and one delivery at most ``bound(n)``, about n/8. What is not settled then
(more than one row in a few dozen is bad, for the first time) is left for another delivery after a pause, which goes on where this one
stopped.
"""

from dataclasses import dataclass
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from coordinator.sinks.prom_remote.answers import Answer, Kind
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.sink import Refused, RefusedWhy
from coordinator.sinks.values import Values

__all__ = ["Splitting", "Suspects", "bound"]

Rows = NDArray[np.int64]


def bound(count: int) -> int:
    """How many requests one delivery of so many rows may take, the first one included; for few rows, what one bad row takes."""
    return max(count // 8, 2 * max(count - 1, 1).bit_length() + 3)


@dataclass(slots=True)
class _Part:
    """Rows that are sent together."""

    rows: Rows
    guilty: bool = False
    """Whether it is known that the store refuses some of them."""
    first_half: bool = False
    """Of rows of which some are bad; the other half is below it on the stack."""


class Splitting:
    """What is settled of a batch and what is not: ``next``, then ``settle`` with the answer, until ``next`` is None."""

    def __init__(self, time_ns: NDArray[np.int64], rows: Rows, suspects: Rows | None = None) -> None:
        """``time_ns``: that column of the batch. ``rows``: those to be sent, ascending; ``suspects``: some more, to be sent apart."""
        self._time_ns = time_ns
        self._refused: dict[RefusedWhy, tuple[list[Rows], str]] = {}
        # A stack: the last one is next.
        self._parts = [_Part(part) for part in (suspects, rows) if part is not None and len(part)]

    def next(self) -> Rows | None:
        """The rows of the next request; None when all is settled."""
        while self._parts:
            part = self._parts[-1]
            if not part.guilty or len(part.rows) == 1:
                return part.rows
            self._halve(self._parts.pop(), guilty=True)
        return None

    @property
    def unsettled(self) -> int:
        """Rows of which it is not known yet whether the store takes them."""
        return sum(len(part.rows) for part in self._parts)

    def settle(self, answer: Answer, named: Rows | None = None) -> None:
        """The store's answer to the rows of ``next``: stored, refused or too large. ``named``: those that the answer names."""
        part = self._parts.pop()
        if answer.kind is Kind.STORED:
            if part.first_half:
                self._parts[-1].guilty = True
        elif len(part.rows) == 1:
            why = RefusedWhy.TOO_LARGE if answer.kind is Kind.TOO_LARGE else answer.why
            self.refuse(why, part.rows, answer.text)
            if why is RefusedWhy.TOO_OLD:
                self._refuse_older(int(self._time_ns[part.rows[0]]), answer.text)
        elif named is not None and 0 < len(named) < len(part.rows):
            self._parts += [_Part(part.rows[~np.isin(part.rows, named)]), _Part(named, guilty=True)]
        else:
            self._halve(part, guilty=answer.kind is not Kind.TOO_LARGE)

    def refuse(self, why: RefusedWhy, rows: Rows, text: str) -> None:
        """Gives rows up that are in no part."""
        self._refused.setdefault(why, ([], text))[0].append(rows)

    def result(self) -> list[Refused]:
        """What was given up."""
        return [Refused(why, np.sort(np.concatenate(rows)), text) for why, (rows, text) in self._refused.items()]

    def _halve(self, part: _Part, *, guilty: bool) -> None:
        """``guilty``: some of the rows are bad."""
        middle = len(part.rows) // 2
        self._parts += [_Part(part.rows[middle:]), _Part(part.rows[:middle], first_half=guilty)]

    def _refuse_older(self, time_ns: int, text: str) -> None:
        """Gives up all that is not newer."""
        left = []
        for part in self._parts:
            older = self._time_ns[part.rows] <= time_ns
            if older.any():
                self.refuse(RefusedWhy.TOO_OLD, part.rows[older], text)
            if not older.all():
                # Whether what is left is to blame is not known any more.
                left.append(_Part(part.rows[~older]))
        self._parts = left


class Suspects:
    """Series of which the store refused a value the last time. Those of one table: a new one begins without."""

    def __init__(self) -> None:
        self._table: ref[SeriesTable] | None = None
        self._numbers = np.zeros(0, np.uint32)

    def split(self, batch: Values, rows: Rows) -> tuple[Rows, Rows]:
        """Rows of other series, and those of suspects."""
        if not len(self._numbers) or self._table is None or self._table() is not batch.table:
            return rows, np.zeros(0, np.int64)
        suspect = np.isin(batch.series[rows], self._numbers)
        return rows[~suspect], rows[suspect]

    def learn(self, batch: Values, refused: list[Refused]) -> None:
        """The outcome of a batch. What is too old, or no series at all, says nothing of the next value."""
        if self._table is None or self._table() is not batch.table:
            self._table, self._numbers = ref(batch.table), np.zeros(0, np.uint32)
        rows = [one.rows for one in refused if one.why not in (RefusedWhy.TOO_OLD, RefusedWhy.BAD_ID)]
        if rows or len(self._numbers):
            others = np.setdiff1d(self._numbers, batch.series)
            self._numbers = np.union1d(others, batch.series[np.concatenate(rows)]) if rows else others

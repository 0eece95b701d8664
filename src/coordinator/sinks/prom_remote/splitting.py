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

The exception is a batch of which (nearly) everything is refused: a backlog of an hour that another coordinator has overtaken, a store that
takes nothing from us. Asking for each row would take longer than the backlog did to come. So once ``_ENOUGH`` rows were refused alone and
next to none was stored, ``_DRAWN`` rows of each time are drawn by chance: are all of these refused, the others of that time are given up
with them; is one stored, that time is settled row by row as above. A batch most of whose series were refused the last time is drawn from
at once.
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

_ENOUGH = 64
"""Rows refused alone, before the rest of a batch is taken for hopeless."""
_FEW = 20
"""Next to none: one stored for so many refused ones."""
_DRAWN = 32
"""If none of them is stored, nine of ten times fewer than seven of a hundred others would have been."""


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
    whole: bool = False
    """Not a part of something that was refused."""
    suspect: bool = False
    """Of series that were refused the last time."""
    drawn_from: "_Part | None" = None
    """The others of the same time, where this row was drawn from them."""
    given_up: tuple[RefusedWhy, str] | None = None
    """What is to become of it without asking: all that were drawn from it were refused so."""
    drawn_stored: bool = False
    """Whether one that was drawn from it was stored."""


class Splitting:
    """What is settled of a batch and what is not: ``next``, then ``settle`` with the answer, until ``next`` is None."""

    def __init__(self, time_ns: NDArray[np.int64], rows: Rows, suspects: Rows | None = None) -> None:
        """``time_ns``: that column of the batch. ``rows``: those to be sent, ascending; ``suspects``: some more, to be sent apart."""
        self._time_ns = time_ns
        self._refused: dict[RefusedWhy, tuple[list[Rows], str]] = {}
        # A stack: the last one is next.
        self._parts = [_Part(rows, whole=True)] if len(rows) else []
        if suspects is not None and len(suspects):
            self._parts.insert(0, _Part(suspects, whole=True, suspect=True))
        self._mostly_suspects = suspects is not None and len(suspects) > len(rows)
        self._refused_alone = 0
        self._stored_after_all = 0
        self._suspects_refused = False
        self._drawn = False

    def next(self) -> Rows | None:
        """The rows of the next request; None when all is settled."""
        while self._parts:
            part = self._parts[-1]
            if part.given_up is not None:
                self._parts.pop()
                why, text = part.given_up
                self.refuse(why, part.rows, text)
            elif part.guilty and len(part.rows) > 1:
                self._halve(self._parts.pop(), guilty=True)
            else:
                return part.rows
        return None

    def hopeless(self, long: bool) -> bool:
        """Whether to ``draw`` now. ``long``: splitting has taken many requests already."""
        if self._drawn:
            return False
        if self._mostly_suspects and self._suspects_refused:
            return True
        few_stored = self._stored_after_all * _FEW <= self._refused_alone
        return long and few_stored and self._refused_alone >= _ENOUGH

    def draw(self, chance: np.random.Generator) -> None:
        """Draws some rows of every time that are to speak for the others."""
        self._drawn = True
        rows = np.sort(np.concatenate([part.rows for part in self._parts]))
        times = self._time_ns[rows]
        self._parts = []
        # The oldest ones come to lie on top: no row is sent before an earlier one of its series.
        for time_ns in np.unique(times)[::-1]:
            same = rows[times == time_ns]
            if len(same) <= 2 * _DRAWN:
                self._parts.append(_Part(same))
                continue
            drawn = chance.choice(same, _DRAWN, replace=False)
            others = _Part(same[~np.isin(same, drawn)])
            self._parts.append(others)
            self._parts += [_Part(drawn[k : k + 1], drawn_from=others) for k in range(_DRAWN)]

    @property
    def unsettled(self) -> int:
        """Rows of which it is not known yet whether the store takes them."""
        return sum(len(part.rows) for part in self._parts)

    def settle(self, answer: Answer, named: Rows | None = None) -> None:
        """The store's answer to the rows of ``next``: stored, refused or too large. ``named``: those that the answer names."""
        part = self._parts.pop()
        if answer.kind is Kind.STORED:
            self._settle_stored(part)
        elif len(part.rows) == 1:
            self._settle_refused(part, answer)
        elif named is not None and 0 < len(named) < len(part.rows):
            self._parts += [_Part(part.rows[~np.isin(part.rows, named)]), _Part(named, guilty=True)]
        else:
            self._suspects_refused |= part.suspect
            self._halve(part, guilty=answer.kind is not Kind.TOO_LARGE)

    def _settle_stored(self, part: _Part) -> None:
        if part.first_half:
            self._parts[-1].guilty = True
        if not part.whole:
            self._stored_after_all += len(part.rows)
        if part.drawn_from is not None:
            part.drawn_from.drawn_stored = True
            part.drawn_from.given_up = None

    def _settle_refused(self, part: _Part, answer: Answer) -> None:
        """A row alone."""
        why = RefusedWhy.TOO_LARGE if answer.kind is Kind.TOO_LARGE else answer.why
        self._refused_alone += 1
        self.refuse(why, part.rows, answer.text)
        if part.drawn_from is not None and not part.drawn_from.drawn_stored:
            part.drawn_from.given_up = why, answer.text
        if why is RefusedWhy.TOO_OLD:
            self._refuse_older(int(self._time_ns[part.rows[0]]), answer.text)

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

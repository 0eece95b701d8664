"""Which series match: label matchers with Prometheus' meaning over columns of label values, in memory.

Every pair of name and value that occurs has a number; for each name there is a column that tells which entries have it, and the pair.
"""

import operator
import struct
import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.matchers import Matcher, MatchOp
from coordinator.store import label_kernels as kernels
from m3metrics.ids import MAX_LITERAL_BYTES
from m3x.byte_table import ByteTable

__all__ = ["LabelIndex"]

_AT_ONCE = 1 << 14
"""Series that are indexed in one go: what it needs meanwhile is a few hundred bytes for each."""


class _Column:
    """Which entries have a label name (ascending), and the pair of name and value of each."""

    def __init__(self) -> None:
        self._entries = np.zeros(4, np.int32)
        self._pairs = np.zeros(4, np.int32)
        self._count = 0

    @property
    def size_bytes(self) -> int:
        return self._entries.nbytes + self._pairs.nbytes

    def add(self, entries: NDArray[np.int32], pairs: NDArray[np.int32]) -> None:
        count = self._count + len(entries)
        if count > len(self._entries):
            room = max(count, len(self._entries) * 5 // 4)
            self._entries = _grown(self._entries, room)
            self._pairs = _grown(self._pairs, room)
        self._entries[self._count : count] = entries
        self._pairs[self._count : count] = pairs
        # Last: a reader on another thread takes the count first and finds the rows below it complete.
        self._count = count

    def rows(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        count = self._count
        return self._entries[:count], self._pairs[:count]


class LabelIndex:
    """Over the ids that ``ids`` gives: their bytes, and start and size by entry, each an encoded tag set sorted by name.

    Entries are only ever added, by any thread. What has come since the last question is indexed when the next one is asked: writers
    pay nothing, and who asks waits less than a microsecond for each new series. May be asked by several threads at a time.
    """

    def __init__(self, ids: Callable[[], tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]]) -> None:
        self._ids = ids
        self._guard = threading.Lock()
        """Held while something is added to the tables or looked up in them: one that grows gives its old arrays back."""
        self._count = 0
        self._pairs = ByteTable()
        """Encoded tags, a number for each."""
        self._columns_of = np.zeros(256, np.int32)
        """The number of the column by pair, of those that have one already: ``_named``."""
        self._named = 0
        self._names = ByteTable()
        """Encoded names → numbers of columns."""
        self._columns: dict[bytes, _Column] = {}
        """By name, in the order of their numbers."""

    @property
    def size_bytes(self) -> int:
        """Memory of the arrays."""
        columns = sum(column.size_bytes for column in self._columns.values())
        return self._pairs.size_bytes + self._names.size_bytes + self._columns_of.nbytes + columns

    def match(self, matchers: Sequence[Matcher]) -> NDArray[np.int64]:
        """The entries that satisfy all of them, ascending."""
        count = self._follow()
        selected = np.ones(count, np.bool_)
        # The cheap and narrow ones first; a pattern then only looks at values that are left.
        for matcher in sorted(matchers, key=operator.attrgetter("op")):
            selected &= self._matching(matcher, selected)
        return np.flatnonzero(selected)

    def _matching(self, matcher: Matcher, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
        predicate = matcher.predicate()
        result = np.full(len(among), predicate(b""), np.bool_)
        column = self._columns.get(matcher.name)
        if column is None:
            return result
        entries, pairs = column.rows()
        if matcher.op in (MatchOp.EQUAL, MatchOp.NOT_EQUAL):
            verdict = (pairs == self._number(matcher.name, matcher.value)) == (matcher.op == MatchOp.EQUAL)
        else:
            below = entries < len(among)
            needed = _distinct(pairs[below][among[entries[below]]])
            accepted = np.zeros(int(pairs.max(initial=0)) + 1, np.bool_)
            accepted[needed] = list(map(predicate, self._values(needed)))
            verdict = accepted[pairs]
        inside = entries < len(among)
        result[entries[inside]] = verdict[inside]
        return result

    def names(self, among: NDArray[np.int64] | None = None) -> list[bytes]:
        """Label names, sorted; only those of some entries."""
        wanted = _marked(self._follow(), among)
        columns = sorted(self._columns.items())
        if wanted is None:
            return [name for name, _ in columns]
        return [name for name, column in columns if len(_pairs(column, wanted))]

    def values(self, name: bytes, among: NDArray[np.int64] | None = None) -> list[bytes]:
        """Values of a label, sorted; only those of some entries."""
        wanted = _marked(self._follow(), among)
        column = self._columns.get(name)
        if column is None:
            return []
        return sorted(self._values(_distinct(column.rows()[1] if wanted is None else _pairs(column, wanted))))

    def _number(self, name: bytes, value: bytes) -> int:
        """Of a pair; -1: no series has it."""
        if max(len(name), len(value)) > MAX_LITERAL_BYTES:
            return -1
        with self._guard:
            return int(self._pairs.find_keys([_encoded(name) + _encoded(value)])[0])

    def _values(self, pairs: NDArray[np.intp]) -> list[bytes]:
        """The values of some pairs."""
        arena, at, size = self._pairs.ranges()
        begin = at[pairs]
        end = begin + size[pairs]
        begin += 4 + _uint16(arena, begin)
        text = arena.data
        return [text[a:b].tobytes() for a, b in zip(begin.tolist(), end.tolist(), strict=True)]

    def _follow(self) -> int:
        """Indexes what has been added; how many entries there are in the index then."""
        with self._guard:
            arena, at, size = self._ids()
            while self._count < len(at):
                last = min(self._count + _AT_ONCE, len(at))
                # Copies: kernels are compiled for columns that stand by themselves.
                self._add(arena, at[self._count : last].copy(), size[self._count : last].copy())
                self._count = last
            return self._count

    def _add(self, arena: NDArray[np.uint8], at: NDArray[np.int64], size: NDArray[np.int64]) -> None:
        total = kernels.count_tags(arena, at, size)
        entries, tag_at, tag_size = np.empty(total, np.int32), np.empty(total, np.int64), np.empty(total, np.int64)
        n = kernels.split_tags(arena, at, size, self._count, entries, tag_at, tag_size)
        pairs = self._pairs.number(arena, tag_at[:n], tag_size[:n])
        self._name_pairs()
        listed = list(self._columns.values())
        starts = np.empty(len(listed) + 1, np.int64)
        grouped = np.empty(n, np.int32), np.empty(n, np.int32)
        kernels.group(self._columns_of[pairs], pairs, entries, starts, *grouped)
        for number in np.flatnonzero(np.diff(starts)).tolist():
            part = slice(starts[number], starts[number + 1])
            listed[number].add(grouped[1][part], grouped[0][part])

    def _name_pairs(self) -> None:
        """Finds or makes the columns of new pairs."""
        known, count = self._named, len(self._pairs)
        if count == known:
            return
        arena, at, _ = self._pairs.ranges()
        at = at[known:].copy()
        columns = self._names.number(arena, at, 2 + _uint16(arena, at))
        for number in range(len(self._columns), len(self._names)):
            self._columns[self._names.key(number)[2:]] = _Column()
        if count > len(self._columns_of):
            self._columns_of = _grown(self._columns_of, 2 * count)
        self._columns_of[known:count] = columns
        self._named = count


def _marked(count: int, among: NDArray[np.int64] | None) -> NDArray[np.bool_] | None:
    """Which of the first ``count`` entries are meant; None: all."""
    if among is None or len(among) == count:
        return None
    wanted = np.zeros(count, np.bool_)
    wanted[among] = True
    return wanted


def _pairs(column: _Column, wanted: NDArray[np.bool_]) -> NDArray[np.int32]:
    entries, pairs = column.rows()
    # Entries that came since are behind all others.
    known = int(np.searchsorted(entries, len(wanted)))
    return pairs[:known][wanted[entries[:known]]]


def _distinct(numbers: NDArray[np.int32]) -> NDArray[np.intp]:
    """As ``np.unique``, for numbers that are many and small."""
    there = np.zeros(int(numbers.max(initial=-1)) + 1, np.bool_)
    there[numbers] = True
    return np.flatnonzero(there)


def _uint16(arena: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.int64]:
    return arena[at] | arena[at + 1].astype(np.int64) << 8


def _encoded(literal: bytes) -> bytes:
    return struct.pack("<H", len(literal)) + literal


def _grown(array: NDArray[np.int32], room: int) -> NDArray[np.int32]:
    grown = np.zeros(room, array.dtype)
    grown[: len(array)] = array
    return grown

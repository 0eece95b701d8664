"""Which series match: label matchers with Prometheus' meaning over columns of label values, in memory."""

import enum
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import re2  # type: ignore[import-untyped]
from numpy.typing import NDArray

from coordinator.store.errors import MatcherError
from m3metrics.ids import Tags

__all__ = ["LabelIndex", "MatchOp", "Matcher"]


class MatchOp(enum.IntEnum):
    """As numbered in Prometheus' remote read protocol."""

    EQUAL = 0
    NOT_EQUAL = 1
    REGEX = 2
    NOT_REGEX = 3


_OPTIONS = re2.Options()
_OPTIONS.log_errors = False


class Matcher(msgspec.Struct, frozen=True):
    """A condition on one label; a series without the label has the empty value. Regular expressions are RE2 and match whole values.

    RE2 works in linear time: no pattern of a request can take the service down.
    """

    op: MatchOp
    name: bytes
    value: bytes

    def __post_init__(self) -> None:
        if not self.name:
            raise MatcherError("a matcher needs a label name")
        if self.op in (MatchOp.REGEX, MatchOp.NOT_REGEX):
            self._compile()

    def _compile(self) -> Callable[[bytes], object]:
        try:
            compiled = re2.compile(b"^(?:" + self.value + b")$", _OPTIONS)
        except re2.error as error:
            reason = error.args[0].decode(errors="replace") if error.args else "unknown"
            raise MatcherError(f"error parsing regexp {self.value.decode(errors='replace')!r}: {reason}") from None
        match: Callable[[bytes], object] = compiled.match
        return match

    def predicate(self) -> Callable[[bytes], bool]:
        """Whether a value satisfies it."""
        if self.op == MatchOp.EQUAL:
            return lambda value: value == self.value
        if self.op == MatchOp.NOT_EQUAL:
            return lambda value: value != self.value
        match = self._compile()
        if self.op == MatchOp.REGEX:
            return lambda value: match(value) is not None
        return lambda value: match(value) is None


@dataclass(slots=True)
class _Column:
    """The values of one label name: which entries have it (ascending), and which value each (a number into ``values``)."""

    values: list[bytes]
    numbers: dict[bytes, int]
    entries: NDArray[np.int32]
    codes: NDArray[np.int32]
    count: int = 0

    def add(self, entry: int, value: bytes) -> None:
        if self.count == len(self.entries):
            self.entries = np.concatenate([self.entries, np.zeros_like(self.entries)])
            self.codes = np.concatenate([self.codes, np.zeros_like(self.codes)])
        number = self.numbers.get(value)
        if number is None:
            number = len(self.values)
            self.values.append(value)
            self.numbers[value] = number
        self.entries[self.count] = entry
        self.codes[self.count] = number
        # Last: a reader on another thread takes the count first and finds the rows below it complete.
        self.count += 1

    def rows(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        count = self.count
        return self.entries[:count], self.codes[:count]


class LabelIndex:
    """Entries are numbered from 0 in the order of adding. Written by one thread, may be read by others at the same time."""

    def __init__(self) -> None:
        self._columns: dict[bytes, _Column] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, tags: Tags) -> int:
        """Adds a series; returns its entry. Of a name that is there twice the first value counts."""
        entry = self._count
        previous = None
        for name, value in tags:
            if name == previous:
                continue
            previous = name
            column = self._columns.get(name)
            if column is None:
                column = _Column([], {}, np.zeros(4, np.int32), np.zeros(4, np.int32))
                self._columns[name] = column
            column.add(entry, value)
        self._count += 1
        return entry

    def match(self, matchers: Sequence[Matcher]) -> NDArray[np.int64]:
        """The entries that satisfy all of them, ascending."""
        count = self._count
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
        entries, codes = column.rows()
        if matcher.op in (MatchOp.EQUAL, MatchOp.NOT_EQUAL):
            number = column.numbers.get(matcher.value, -1)
            verdict = (codes == number) == (matcher.op == MatchOp.EQUAL)
        else:
            below = entries < len(among)
            needed = np.zeros(len(column.values), np.bool_)
            needed[codes[below][among[entries[below]]]] = True
            accepted = np.zeros(len(needed), np.bool_)
            for number in np.flatnonzero(needed).tolist():
                accepted[number] = predicate(column.values[number])
            verdict = accepted[codes]
        inside = entries < len(among)
        result[entries[inside]] = verdict[inside]
        return result

    def names(self, among: NDArray[np.int64] | None = None) -> list[bytes]:
        """Label names, sorted; only those of some entries."""
        columns = sorted(self._columns.items())
        if among is None:
            return [name for name, _ in columns]
        return [name for name, column in columns if len(self._codes(column, among))]

    def values(self, name: bytes, among: NDArray[np.int64] | None = None) -> list[bytes]:
        """Values of a label, sorted; only those of some entries."""
        column = self._columns.get(name)
        if column is None:
            return []
        if among is None:
            return sorted(column.values)
        return sorted(column.values[code] for code in np.unique(self._codes(column, among)))

    def _codes(self, column: _Column, among: NDArray[np.int64]) -> NDArray[np.int32]:
        entries, codes = column.rows()
        return codes[np.isin(entries, among)]

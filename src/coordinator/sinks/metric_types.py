"""What type each metric family is of, as far as the annotations of aggregated values say it (docs/m3/coordinator.md, annotation), and what
senders declare besides. Pure.

A value costs one comparison; a series that is new, or whose type has changed, a look into the table of names; Python runs only where
the type of a name is new or has changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from coordinator.prompb import METADATA_REQUEST
from coordinator.sinks import type_kernels
from coordinator.sinks.series import SeriesTable
from m3metrics.ids import NAME_TAG
from m3x.byte_table import ByteTable
from m3x.protobuf import marshal

__all__ = ["NOTHING", "Described", "MetricTypes", "family_of"]

_MOST_NAMES = 20_000
_NO_TYPES, _NO_NAMES = np.zeros(0, np.uint8), np.zeros(0, np.int32)
_HISTOGRAM, _GAUGE_HISTOGRAM, _SUMMARY = 3, 4, 5
_SUFFIXES = {
    _HISTOGRAM: (b"_bucket", b"_count", b"_sum"),
    _GAUGE_HISTOGRAM: (b"_bucket", b"_gcount", b"_gsum", b"_count", b"_sum"),
    _SUMMARY: (b"_count", b"_sum"),
}
"""What the names of their series have behind the name of the family."""


@dataclass(slots=True)
class Described:
    """What is known of the series of one table, by their numbers; those beyond the end of a column have nothing."""

    types: NDArray[np.uint8]
    """0: none is known."""
    names: NDArray[np.int32]
    """The number of the name; 0: none."""
    helps: NDArray[np.int32]
    """By that number: which of ``texts`` is the help of the family; 0: none."""
    units: NDArray[np.int32]
    """The same for its unit."""
    texts: Sequence[bytes]
    """Only grows; the first one is empty."""


NOTHING = Described(_NO_TYPES, _NO_NAMES, np.zeros(1, np.int32), np.zeros(1, np.int32), (b"",))
"""Of no series anything is known."""


@dataclass(slots=True)
class _Known:
    """Of the series of one table."""

    types: NDArray[np.uint8]
    names: NDArray[np.int32]


class MetricTypes:
    """The types of families; one for all sinks that tell their stores about them. A family is never forgotten.

    ``name_tag``: the tag that has the name. ``most_names``: of metrics; the type of further ones is not noted.
    """

    def __init__(self, name_tag: bytes = NAME_TAG, most_names: int = _MOST_NAMES) -> None:
        self._tag = np.frombuffer(bytearray(name_tag), np.uint8)
        self._most_names = most_names
        self._known: WeakKeyDictionary[SeriesTable, _Known] = WeakKeyDictionary()
        self._names = ByteTable()
        self._types = np.zeros(1 << 8, np.uint8)
        self._records: dict[bytes, tuple[int, bytes]] = {}
        self._kinds: dict[bytes, int] = {}
        self._families: dict[int, bytes] = {}
        """By the number of a name, from 0."""
        self._members: dict[bytes, set[int]] = {}
        self._declared: dict[bytes, tuple[bytes, bytes]] = {}
        self._texts = {b"": 0}
        self._text_list = [b""]
        self._helps, self._units = np.zeros(1 << 8, np.int32), np.zeros(1 << 8, np.int32)
        self.version = 0
        """Grows with every type that is new or has changed; 0: none is known."""

    def note(
        self,
        table: SeriesTable,
        series: NDArray[np.uint32],
        buf: NDArray[np.uint8],
        ids: tuple[NDArray[np.int64], NDArray[np.int64]],
        annotations: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> None:
        """One row per value: number of its series, starts and sizes of its id and its annotation in ``buf``, which is writable."""
        known = self._known.get(table)
        if known is None:
            known = self._known[table] = _Known(_NO_TYPES, _NO_NAMES)
        if len(known.types) < len(table):
            size = max(2 * len(table), 1 << 8)
            known.types, known.names = _grown(known.types, size), _grown(known.names, size)
        rows, types = np.empty(len(series), np.int64), np.empty(len(series), np.uint8)
        count = type_kernels.take_new(buf, series, *annotations, known.types, rows, types)
        if count:
            self._note_names(buf, ids, rows[:count], types[:count], series, known)

    def declare(self, family: bytes, help_text: bytes, unit: bytes) -> None:
        """What a sender says of a family, in place of what was said before. Of more families than there may be names it is not noted."""
        if self._declared.get(family) == (help_text, unit):
            return
        if family not in self._declared and len(self._declared) >= self._most_names:
            return
        self._declared[family] = help_text, unit
        for number in self._members.get(family, ()):
            self._describe(number, family)
        if family in self._kinds:
            self._put(family, self._kinds[family])

    def of(self, table: SeriesTable) -> Described:
        """What is known of the series of a table."""
        known = self._known.get(table)
        if known is None:
            return NOTHING
        return Described(known.types, known.names, self._helps, self._units, self._text_list)

    def records(self, since: int = 0) -> list[bytes]:
        """What has changed since that version: for each family the field ``metadata`` of a ``WriteRequest``."""
        return [record for version, record in self._records.values() if version > since]

    def _note_names(
        self,
        buf: NDArray[np.uint8],
        ids: tuple[NDArray[np.int64], NDArray[np.int64]],
        rows: NDArray[np.int64],
        types: NDArray[np.uint8],
        series: NDArray[np.uint32],
        known: _Known,
    ) -> None:
        at, size = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        type_kernels.find_names(buf, *ids, rows, self._tag, at, size)
        named = np.flatnonzero(size)
        at, size, types = at[named], size[named], types[named]
        numbers = self._names.number(buf, at, size, limit=self._most_names)
        # Numbers from 1 on: -1, for those beyond the bound, is none.
        known.names[series[rows[named]]] = numbers + 1
        numbers, types = numbers[numbers >= 0], types[numbers >= 0]
        if len(self._types) <= len(self._names):
            length = 2 * len(self._names) + 1
            self._types = _grown(self._types, length)
            self._helps, self._units = _grown(self._helps, length), _grown(self._units, length)
        changed = np.flatnonzero(self._types[numbers] != types)
        fresh, first = np.unique(numbers[changed], return_index=True)
        for number, kind in zip(fresh.tolist(), types[changed][first].tolist(), strict=True):
            self._types[number] = kind
            family = family_of(self._names.key(number), kind)
            self._members.get(self._families.get(number, b""), set()).discard(number)
            self._families[number] = family
            self._members.setdefault(family, set()).add(number)
            self._describe(number, family)
            self._put(family, kind)

    def _describe(self, number: int, family: bytes) -> None:
        """Help and unit of a name that belongs to the family."""
        help_text, unit = self._declared.get(family, (b"", b""))
        self._helps[number + 1], self._units[number + 1] = self._text(help_text), self._text(unit)

    def _text(self, text: bytes) -> int:
        number = self._texts.get(text)
        if number is None:
            number = self._texts[text] = len(self._text_list)
            self._text_list.append(text)
        return number

    def _put(self, family: bytes, kind: int) -> None:
        self._kinds[family] = kind
        help_text, unit = self._declared.get(family, (b"", b""))
        record = marshal(
            METADATA_REQUEST,
            {"metadata": [{"type": kind, "metric_family_name": family, "help": help_text, "unit": unit}]},
        )
        if self._records.get(family, (0, b""))[1] != record:
            self.version += 1
            self._records[family] = (self.version, record)


def _grown(old: NDArray[Any], size: int) -> NDArray[Any]:
    new = np.zeros(size, old.dtype)
    new[: len(old)] = old
    return new


def family_of(name: bytes, kind: int) -> bytes:
    """The family that a metric of that name and type belongs to."""
    for suffix in _SUFFIXES.get(kind, ()):
        if name.endswith(suffix) and len(name) > len(suffix):
            return name.removesuffix(suffix)
    return name

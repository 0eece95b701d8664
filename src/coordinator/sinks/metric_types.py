"""What type each metric family is of, as far as the annotations of aggregated values say it (docs/m3/coordinator.md, annotation). Pure.

A value costs one comparison; a series that is new, or whose type has changed, a look into the table of names; Python runs only where
the type of a name is new or has changed.
"""

from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from coordinator.prompb import METADATA_REQUEST
from coordinator.sinks import type_kernels
from coordinator.sinks.series import SeriesTable
from m3metrics.ids import NAME_TAG
from m3x.byte_table import ByteTable
from m3x.protobuf import marshal

__all__ = ["MetricTypes"]

_MOST_NAMES = 20_000
_NONE = np.zeros(0, np.uint8)
_HISTOGRAM, _GAUGE_HISTOGRAM, _SUMMARY = 3, 4, 5
_SUFFIXES = {
    _HISTOGRAM: (b"_bucket", b"_count", b"_sum"),
    _GAUGE_HISTOGRAM: (b"_bucket", b"_gcount", b"_gsum", b"_count", b"_sum"),
    _SUMMARY: (b"_count", b"_sum"),
}
"""What the names of their series have behind the name of the family."""


class MetricTypes:
    """The types of families; one for all sinks that tell their stores about them. A family is never forgotten.

    ``name_tag``: the tag that has the name. ``most_names``: of metrics; the type of further ones is not noted.
    """

    def __init__(self, name_tag: bytes = NAME_TAG, most_names: int = _MOST_NAMES) -> None:
        self._tag = np.frombuffer(bytearray(name_tag), np.uint8)
        self._most_names = most_names
        self._known: WeakKeyDictionary[SeriesTable, NDArray[np.uint8]] = WeakKeyDictionary()
        self._names = ByteTable()
        self._types = np.zeros(1 << 8, np.uint8)
        self._records: dict[bytes, tuple[int, bytes]] = {}
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
        if known is None or len(known) < len(table):
            grown = np.zeros(max(2 * len(table), 1 << 8), np.uint8)
            if known is not None:
                grown[: len(known)] = known
            known = self._known[table] = grown
        rows, types = np.empty(len(series), np.int64), np.empty(len(series), np.uint8)
        count = type_kernels.take_new(buf, series, *annotations, known, rows, types)
        if count:
            self._note_names(buf, ids, rows[:count], types[:count])

    def of(self, table: SeriesTable) -> NDArray[np.uint8]:
        """The type of each series of a table by number, 0: none is known; numbers beyond its end have none."""
        known = self._known.get(table)
        return _NONE if known is None else known

    def records(self, since: int = 0) -> list[bytes]:
        """What has changed since that version: for each family the field ``metadata`` of a ``WriteRequest``."""
        return [record for version, record in self._records.values() if version > since]

    def _note_names(
        self,
        buf: NDArray[np.uint8],
        ids: tuple[NDArray[np.int64], NDArray[np.int64]],
        rows: NDArray[np.int64],
        types: NDArray[np.uint8],
    ) -> None:
        at, size = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        type_kernels.find_names(buf, *ids, rows, self._tag, at, size)
        named = np.flatnonzero(size)
        at, size, types = at[named], size[named], types[named]
        numbers = self._names.number(buf, at, size, limit=self._most_names)
        numbers, types = numbers[numbers >= 0], types[numbers >= 0]
        if len(self._types) < len(self._names):
            grown = np.zeros(2 * len(self._names), np.uint8)
            grown[: len(self._types)] = self._types
            self._types = grown
        changed = np.flatnonzero(self._types[numbers] != types)
        fresh, first = np.unique(numbers[changed], return_index=True)
        for number, kind in zip(fresh.tolist(), types[changed][first].tolist(), strict=True):
            self._types[number] = kind
            self._put(_family(self._names.key(number), kind), kind)

    def _put(self, family: bytes, kind: int) -> None:
        record = marshal(METADATA_REQUEST, {"metadata": [{"type": kind, "metric_family_name": family}]})
        if self._records.get(family, (0, b""))[1] != record:
            self.version += 1
            self._records[family] = (self.version, record)


def _family(name: bytes, kind: int) -> bytes:
    """The family that a metric of that name and type belongs to."""
    for suffix in _SUFFIXES.get(kind, ()):
        if name.endswith(suffix) and len(name) > len(suffix):
            return name.removesuffix(suffix)
    return name

"""The bytes of a queue's records: one for each batch that was appended. Pure.

A queue numbers its values from 0, over all segments and runs; a record has the values from ``first`` on. Everything is little endian:

=====================  ==========================================================================================================
``version``            u8, 2
``flags``              u8. 1: all values have one destination. 2: whoever wrote the values has been answered by now. 4: there are
                       annotations
``new_destinations``   u16, how many destinations are defined here
``rows``               u32, how many values there are; at least 1
``first``              u64, the number of the first value
``at``                 i64, when they were appended, ns since 1970
``known_series``       u32, how many series were defined in the segment before
``new_series``         u32, how many series are defined here; they have the numbers from ``known_series`` on
``known_destinations`` u16, how many destinations were defined in the segment before
``destination``        u16, the destination of all values, with flag 1
``id_bytes``           u32, the size of all ids that are defined here
----------------------------------------------------------------------------------------------------------------------------------
destinations           ``new_destinations`` times: i64 window in ns, i64 precision in ns, i64 retention in ns, i64 unit of times
                       (``TimeUnit``); window -1: not aggregated
sizes                  ``new_series`` times u32, the size of an id
ids                    one after the other (docs/m3/metrics.md, encoded tags), zeros up to a multiple of 8
times                  ``rows`` times i64, ns since 1970
values                 ``rows`` times f64
series                 ``rows`` times u32, a number within the segment
destinations           ``rows`` times u16, a number within the segment; not with flag 1
annotations            with flag 4: u32 how many different ones, u32 the size of all, their sizes (u32 each) and bytes one after the
                       other; then, unless there is only one, ``rows`` times which of them, in u8, u16 or u32: the first that is
                       large enough
=====================  ==========================================================================================================

So a value of a known series has 20 or 22 bytes, and one more where values differ in their annotations. Series and destinations are defined
once in a segment, in the order in which they are first used there; numbers of one segment mean nothing in another.

Version 1, which is read still, has no annotations, and destinations of three numbers: times of aggregated values are in the precision of
their policy, others in milliseconds.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.sinks import kernels
from coordinator.sinks.annotations import Annotations
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.values import UNAGGREGATED, Destination, TimeUnit, Values
from m3metrics.policy import StoragePolicy

__all__ = [
    "READABLE_VERSIONS",
    "VERSION",
    "DecodedRecord",
    "Encoder",
    "Header",
    "Interner",
    "RecordError",
    "RecordVersionError",
    "decode",
    "header_of",
    "size_bound",
]

VERSION = 2
"""Of records, and of the begin of a segment."""
READABLE_VERSIONS = (1, VERSION)

_ONE_DESTINATION = 1
_ANSWERED = 2
_ANNOTATED = 4
_HEADER = struct.Struct("<BBHIQqIIHHI")
_DESTINATION = struct.Struct("<qqqq")
_DESTINATION_1 = struct.Struct("<qqq")
_ANNOTATIONS = struct.Struct("<II")
_FRAME_BYTES = 256
"""Of a record besides its values, without the ids that it defines."""
_ROW_BYTES = 22
_RAW = -1
_MAX_STAMP = (1 << 32) - 1
_MISSING = np.uint32(0xFFFFFFFF)
"""In place of the number of a series whose definition is missing."""


class RecordError(Exception):
    """A record that cannot be read; the text says what was found."""


class RecordVersionError(RecordError):
    """A record of another version of the format."""

    def __init__(self, found: int) -> None:
        super().__init__(
            f"the queue has records of format version {found}, this release reads version {VERSION} and before: run the release that "
            "wrote it until the queue is empty, or move the queue's directory away"
        )


@dataclass(frozen=True, slots=True)
class Header:
    """What a record says before its columns."""

    version: int
    flags: int
    new_destinations: int
    rows: int
    first: int
    at_ns: int
    known_series: int
    new_series: int
    known_destinations: int
    destination: int
    id_bytes: int

    @property
    def answered(self) -> bool:
        """Whether whoever wrote the values has been answered."""
        return bool(self.flags & _ANSWERED)


@dataclass(slots=True)
class DecodedRecord:
    """A record; the columns are views of its bytes, series and destinations count within the segment."""

    header: Header
    destinations: list[Destination]
    """Defined here."""
    ids: tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]
    """Defined here: bytes, starts, sizes."""
    series: NDArray[np.uint32]
    time_ns: NDArray[np.int64]
    values: NDArray[np.float64]
    destination: NDArray[np.uint16]
    annotations: Annotations | None


class Encoder:
    """Makes records for one segment after the other; knows what the segment defines."""

    def __init__(self) -> None:
        self._stamp = 0
        self._table: SeriesTable | None = None
        self._known = np.zeros(0, np.uint64)
        self._series = 0
        self._destinations: dict[Destination, int] = {}
        self._tuple: tuple[Destination, ...] = ()
        self._renumbered = np.zeros(0, np.uint16)

    @property
    def destinations(self) -> int:
        """How many the segment defines."""
        return len(self._destinations)

    def begin_segment(self) -> None:
        """What follows goes to a segment in which nothing is defined yet."""
        self._stamp += 1
        if self._stamp >= _MAX_STAMP:
            self._stamp, self._table = 1, None
        self._series = 0
        self._destinations = {}
        self._tuple = ()

    def encode(self, batch: Values, first: int, at_ns: int, *, answered: bool = False) -> list[bytes | NDArray[Any]]:
        """The parts of the record for a batch of at least one row, whose first value has the number ``first``.

        What it defines counts as defined from now on: where the record does not get into the segment, ``begin_segment`` is next.
        """
        rows = len(batch)
        known_series, known_destinations = self._series, len(self._destinations)
        fresh = self._number_destinations(batch)
        columns, same, ids = self._lay_out(batch)
        one = int(self._renumbered[batch.destination[0]])
        flags = same * _ONE_DESTINATION | answered * _ANSWERED | (batch.annotations is not None) * _ANNOTATED
        header = _HEADER.pack(
            VERSION, flags, len(fresh), rows, first, at_ns,
            known_series, self._series - known_series, known_destinations, one if same else 0, len(ids) and ids[1].nbytes,
        )  # fmt: skip
        defined = b"".join(map(_destination_bytes, fresh))
        parts: list[bytes | NDArray[Any]] = [header + defined, *ids]
        padding = -sum(len(part) if isinstance(part, bytes) else part.nbytes for part in parts) % 8
        parts += [bytes(padding)] if padding else []
        parts.append(columns[: 20 * rows] if same else columns)
        return parts if batch.annotations is None else parts + _annotation_parts(batch.annotations)

    def _lay_out(self, batch: Values) -> tuple[NDArray[np.uint8], bool, list[NDArray[Any]]]:
        """The columns, series and destinations as numbers within the segment; whether all destinations are the same; sizes and bytes of the
        ids that are new to the segment, if any."""
        table, rows = batch.table, len(batch)
        if table is not self._table:
            # The series of another table are other numbers: those of this segment are not found again, and defined once more.
            self._table, self._known = table, np.zeros(0, np.uint64)
        if len(self._known) < len(table):
            known = np.zeros(max(len(table), 2 * len(self._known)), np.uint64)
            known[: len(self._known)] = self._known
            self._known = known
        columns, fresh = np.empty(_ROW_BYTES * rows, np.uint8), np.empty(rows, np.uint32)
        count, same = kernels.lay_out(
            batch.columns, self._renumbered, self._known, self._stamp, self._series, columns, fresh
        )
        if not count:
            return columns, same, []
        self._series += count
        arena, at, size = table.ids()
        fresh = fresh[:count]
        sizes = size[fresh].astype(np.uint32)
        data = np.empty(int(sizes.sum()), np.uint8)
        kernels.copy_ids(arena, at, size, fresh, data)
        return columns, same, [sizes, data]

    def _number_destinations(self, batch: Values) -> list[Destination]:
        """Numbers the destinations within the segment; those that are new to it."""
        fresh: list[Destination] = []
        if batch.destinations is not self._tuple:
            for one in batch.destinations:
                if one not in self._destinations:
                    self._destinations[one] = len(self._destinations)
                    fresh.append(one)
            self._tuple = batch.destinations
            self._renumbered = np.array([self._destinations[one] for one in batch.destinations], np.uint16)
        return fresh


class Interner:
    """Reads the records of one segment, from its begin, into a ``SeriesTable``.

    Where a record is missing, what it defined is not known: rows that use it cannot be read, all others can.
    """

    def __init__(self, table: SeriesTable) -> None:
        self._table = table
        self._parts: list[NDArray[np.uint32]] = []
        self._numbers = np.array([_MISSING], np.uint32)
        """By number within the segment; the last one is for all beyond."""
        self._series = 0
        self._destinations: tuple[Destination, ...] = ()
        self._homes = np.zeros(1, np.bool_)
        """Which destinations are known; the last one is for all beyond."""

    def values(self, record: DecodedRecord) -> Values:
        """The rows that can be read."""
        self.learn(record)
        if self._parts:
            self._numbers = np.concatenate([self._numbers[:-1], *self._parts, self._numbers[-1:]])
            self._parts = []
        series = self._numbers[np.minimum(record.series, len(self._numbers) - 1)]
        known = (series != _MISSING) & self._homes[np.minimum(record.destination, min(len(self._homes) - 1, 0xFFFF))]
        values = Values(
            self._table,
            series,
            record.time_ns,
            record.values,
            self._destinations,
            record.destination,
            record.annotations,
        )
        return values if known.all() else values.rows(np.flatnonzero(known))

    def learn(self, record: DecodedRecord) -> None:
        """Takes what the record defines only."""
        header = record.header
        if header.known_series > self._series:
            self._add(np.full(header.known_series - self._series, _MISSING, np.uint32))
        if header.new_series:
            self._add(self._table.numbers(*record.ids))
        missing = max(header.known_destinations - len(self._destinations), 0)
        if missing or record.destinations:
            self._destinations = (*self._destinations, *[UNAGGREGATED] * missing, *record.destinations)
            fresh = [*[False] * missing, *[True] * len(record.destinations), False]
            self._homes = np.concatenate([self._homes[:-1], np.array(fresh, np.bool_)])

    def _add(self, numbers: NDArray[np.uint32]) -> None:
        self._parts.append(numbers)
        self._series += len(numbers)


def size_bound(batch: Values) -> int:
    """Bytes that the record of a batch has at most, without the ids that it defines."""
    return _FRAME_BYTES + batch.size_bytes


def header_of(data: memoryview) -> Header:
    """The header of a record. Raises ``RecordError``."""
    if len(data) < _HEADER.size:
        raise RecordError(f"a record of {len(data)} bytes, expected at least {_HEADER.size}")
    header = Header(*_HEADER.unpack_from(data))
    if header.version not in READABLE_VERSIONS:
        raise RecordVersionError(header.version)
    return header


def decode(data: memoryview, *, definitions_only: bool = False) -> DecodedRecord:
    """A record, in columns of their own, which are empty with ``definitions_only``. Raises ``RecordError``."""
    header = header_of(data)
    rows, same = header.rows, header.flags & _ONE_DESTINATION
    form = _DESTINATION_1 if header.version == 1 else _DESTINATION
    sizes_at = _HEADER.size + header.new_destinations * form.size
    ids_at = sizes_at + 4 * header.new_series
    times_at = (ids_at + header.id_bytes + 7) // 8 * 8
    end = times_at + rows * (20 if same else 22)
    annotated = header.version > 1 and bool(header.flags & _ANNOTATED)
    if rows == 0 or len(data) < end or (len(data) > end and not annotated):
        raise RecordError(f"a record of {len(data)} bytes for {rows} values, expected {end if rows else 'at least 1'}")
    sizes = np.frombuffer(data, np.uint32, header.new_series, sizes_at).astype(np.int64)
    if int(sizes.sum()) != header.id_bytes:
        raise RecordError(f"ids of {int(sizes.sum())} bytes, expected {header.id_bytes}")
    count = 0 if definitions_only else rows
    return DecodedRecord(
        header=header,
        destinations=[_destination(*defined) for defined in form.iter_unpack(data[_HEADER.size : sizes_at])],
        ids=(_copied(data, np.uint8, header.id_bytes, ids_at), np.cumsum(sizes) - sizes, sizes),
        time_ns=_copied(data, np.int64, count, times_at),
        values=_copied(data, np.float64, count, times_at + 8 * rows),
        series=_copied(data, np.uint32, count, times_at + 16 * rows),
        destination=np.full(count, header.destination, np.uint16)
        if same
        else _copied(data, np.uint16, count, times_at + 20 * rows),
        annotations=_annotations(data, end, rows) if annotated and not definitions_only else None,
    )


def _annotation_parts(annotations: Annotations) -> list[bytes | NDArray[Any]]:
    used = annotations.used()
    texts = b"".join(used.texts)
    sizes = np.fromiter(map(len, used.texts), np.uint32, len(used.texts))
    head = _ANNOTATIONS.pack(len(sizes), len(texts)) + sizes.tobytes() + texts
    return [head] if len(sizes) == 1 else [head, used.column.astype(_column_type(len(sizes)))]


def _annotations(data: memoryview, at: int, rows: int) -> Annotations:
    """Those of a record, which are its end. Raises ``RecordError``."""
    if len(data) < at + _ANNOTATIONS.size:
        raise RecordError(f"a record of {len(data)} bytes ends before its annotations")
    count, size = _ANNOTATIONS.unpack_from(data, at)
    texts_at = at + _ANNOTATIONS.size + 4 * count
    column_at = texts_at + size
    kind = np.dtype(_column_type(count))
    expected = column_at + (rows * kind.itemsize if count > 1 else 0)
    if not count or len(data) != expected:
        raise RecordError(f"a record of {len(data)} bytes with {count} annotations, expected {expected}")
    sizes = np.frombuffer(data, np.uint32, count, at + _ANNOTATIONS.size).astype(np.int64)
    if int(sizes.sum()) != size:
        raise RecordError(f"annotations of {int(sizes.sum())} bytes, expected {size}")
    ends = (texts_at + np.cumsum(sizes)).tolist()
    texts = tuple(bytes(data[end - one : end]) for end, one in zip(ends, sizes.tolist(), strict=True))
    if count == 1:
        return Annotations(texts, np.zeros(rows, np.uint32))
    column = np.frombuffer(data, kind, rows, column_at).astype(np.uint32)
    if int(column.max()) >= count:
        raise RecordError(f"annotation {int(column.max())} of a record that has {count}")
    return Annotations(texts, column)


def _column_type(texts: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if texts <= 1 << 8 else np.uint16 if texts <= 1 << 16 else np.uint32


def _copied(data: memoryview, dtype: type[np.generic], count: int, at: int) -> NDArray[Any]:
    # Writable and aligned like every column, or numba would compile the kernels once more; and the bytes that were read can go.
    return np.frombuffer(data, dtype, count, at).copy()


def _destination_bytes(destination: Destination) -> bytes:
    policy, unit = destination.policy, destination.unit
    if policy is None:
        return _DESTINATION.pack(_RAW, 0, 0, unit)
    return _DESTINATION.pack(policy.window_ns, policy.precision_ns, policy.retention_ns, unit)


def _destination(window_ns: int, precision_ns: int, retention_ns: int, unit: int | None = None) -> Destination:
    """As it was defined; without ``unit`` in version 1. Raises ``RecordError``."""
    if unit is not None and unit not in TimeUnit.__members__.values():
        raise RecordError(f"a destination with times in unit {unit}")
    if window_ns == _RAW:
        return UNAGGREGATED if unit is None else Destination(None, TimeUnit(unit))
    policy = StoragePolicy(window_ns, precision_ns, retention_ns)
    return Destination.of(policy) if unit is None else Destination(policy, TimeUnit(unit))

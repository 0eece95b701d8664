"""The queue of one sink: batches appended to a log of segments, read back from any value on, and how far they are delivered.

Values are numbered from 0 over all segments and runs (``coordinator.sinks.records``). Every segment has a preamble of 16 bytes, little
endian: u32 version of the records, u32 0, u64 number of its first value; so where a value is, is known without reading. Beside the
segments lies ``delivered.cursor``: the numbers of values that are final, as a list of half-open intervals. If it is missing or cannot be
read, everything that is in the queue is delivered again.

``Queue`` belongs to the thread of its event loop; ``QueueReader.read`` may run in another.
"""

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from coordinator.sinks.intervals import Intervals
from coordinator.sinks.records import (
    READABLE_VERSIONS,
    VERSION,
    DecodedRecord,
    Encoder,
    Header,
    Interner,
    RecordError,
    RecordVersionError,
    decode,
    header_of,
    size_bound,
)
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.values import Values
from m3x.log import logger
from m3x.segments import Position, Reader, Segment, SegmentError, SegmentLog, SyncPolicy

__all__ = ["Chunk", "Place", "Queue", "QueueFullError", "QueueOptions", "QueueReader", "ReadRecord"]

_log = logger(__name__)
_PREAMBLE = struct.Struct("<IIQ")
_CURSOR = "delivered"
_READ_BYTES = 2 << 20
_MOST_DESTINATIONS = 1 << 15
"""A segment with more is complete: their numbers have 16 bits."""

_Done = list[tuple[int, int]]


class QueueOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``sinkQueue:`` of the configuration, for one sink."""

    max_bytes: int = 1 << 30
    """On disk; the ids of one batch may be beyond it."""
    segment_bytes: int = 64 << 20
    """At most an eighth of ``max_bytes``. Ids are stored once in each segment; what is delivered is deleted by segments."""
    sync: SyncPolicy = "os"
    """When what is appended is durable: see ``m3x.segments``."""
    sync_interval_s: float = 0.1
    drop_oldest: bool = False
    """A full queue throws its oldest segment away; else writers wait."""
    window_bytes: int = 64 << 20
    """Memory for what is not delivered yet."""


class QueueFullError(Exception):
    """There is no room until something is delivered."""


class Place(NamedTuple):
    """Where a batch is in the queue."""

    first: int
    stop: int
    """The numbers of its values are ``[first, stop)``."""
    end: Position
    """Of its record in the log."""


class Queue:
    """An open queue. ``done``: what was final, by its cursor; ``available``: the first number that it has."""

    def __init__(self, directory: Path, options: QueueOptions, on_durable: Callable[[], None] = lambda: None) -> None:
        """Opens or makes it. Blocks while the last segment is read.

        ``on_durable`` is called in another thread when ``is_durable`` may have changed.

        Raises ``SegmentError`` (another process has it, it cannot be read, …) or ``RecordVersionError``.
        """
        self.options = options
        self._encoder = Encoder()
        self._segment = -1
        self._end = 0
        segment_bytes = min(options.segment_bytes, options.max_bytes // 8)
        self._log = SegmentLog(
            directory,
            sync=options.sync,
            interval_s=options.sync_interval_s,
            segment_bytes=segment_bytes,
            preamble=lambda: _PREAMBLE.pack(VERSION, 0, self._end),
            on_durable=lambda _: on_durable(),
        )
        try:
            self._cursor = self._log.cursor(_CURSOR, _Done)
            try:
                self._end = max(_end_of(self._log), self._saved_end())
                self.available = self._first_number()
            except BaseException:
                self._cursor.close()
                raise
        except BaseException:
            self._log.close()
            raise
        self.done = Intervals([(0, self.available)] if self._cursor.value is None else self._cursor.value)

    @property
    def end(self) -> int:
        """The number of the next value."""
        return self._end

    @property
    def damaged(self) -> bool:
        """Whether values that are missing at its begin are lost to damage; else they were dropped to make room."""
        return bool(self._log.damage) or not self.options.drop_oldest

    @property
    def size_bytes(self) -> int:
        """On disk."""
        return self._log.size_bytes

    @property
    def trouble(self) -> str:
        """Why what is appended is not made durable; empty: it is."""
        return self._log.trouble

    @property
    def crowded(self) -> bool:
        """Whether more than half of the room is taken, by more than one segment."""
        return self._log.size_bytes > self.options.max_bytes // 2 and len(self._log.segments) > 1

    @property
    def began(self) -> list[tuple[int, int]]:
        """For each segment its first number, and when it was made (ns since 1970)."""
        return [(_first_of(segment), segment.header.created_ns) for segment in self._log.segments]

    def bytes_of(self, values: int) -> int:
        """What so many values of the queue have on disk, by the average of those that are there."""
        there = self._end - self.available
        return min(values * self._log.size_bytes // there, self._log.size_bytes) if there > 0 else 0

    def append(self, batch: Values, at_ns: int, *, waiting: int, answered: bool = False) -> Place:
        """Appends a batch of at least one row. ``waiting``: how many values are not final; ``answered``: as in ``records``.

        With ``drop_oldest`` ``available`` may have advanced then, also when it fails.
        Raises ``QueueFullError``, ``AppendError``, ``ValueError`` (larger than a record may be) or, for good, another ``SegmentError``.
        """
        self._make_room(size_bound(batch), waiting)
        if self._encoder.destinations > _MOST_DESTINATIONS:
            self._log.roll()
        if self._log.next_segment != self._segment:
            self._encoder.begin_segment()
        first = self._end
        parts = self._encoder.encode(batch, first, at_ns, answered=answered)
        try:
            appended = self._log.append(parts)
        except Exception:
            # A full disk, or a record that is larger than a log takes. What it defines is not in the segment: the next one defines it,
            # in a segment of its own.
            self._log.roll()
            self._segment = -1
            raise
        self._segment = appended.start.segment
        self._end += len(batch)
        return Place(first, self._end, appended.end)

    def is_durable(self, end: Position) -> bool:
        """Whether everything before ``end`` is as durable as ``sync`` says."""
        return self._log.durable >= end

    def reader(self) -> "QueueReader":
        """A reader of its own, to be closed by ``QueueReader.close``."""
        return QueueReader(self._log)

    def save(self, done: _Done) -> None:
        """Replaces the cursor, and deletes segments all values of which are final. Raises ``SegmentError``."""
        if self._cursor.value != done:
            self._cursor.write(done)
        first = _first_not_done(done)
        if first == self._end and self._log.size_bytes > self.options.max_bytes // 2:
            self._drop_all()
            return
        passed = [one for one, following in itertools.pairwise(self._log.segments) if _first_of(following) <= first]
        if passed:
            self._log.drop_through(Position(passed[-1].header.number, passed[-1].size))
            self.available = self._first_number()

    def close(self) -> None:
        """Leaves no segments where everything was final when it was saved last. Blocks for what has to be made durable."""
        try:
            if _first_not_done(self._cursor.value or []) == self._end:
                self._drop_all()
        except SegmentError as error:
            _log.warning("what is delivered cannot be deleted", path=str(self._log.path), error=str(error))
        finally:
            self._cursor.close()
            self._log.close()

    def _drop_all(self) -> None:
        self._log.roll()
        self._log.drop_through(self._log.end)
        self.available = self._first_number()

    def _make_room(self, size: int, waiting: int) -> None:
        while waiting and self._log.size_bytes + size > self.options.max_bytes:
            if not self.options.drop_oldest or self._log.drop_oldest() is None:
                raise QueueFullError(f"the queue has {self._log.size_bytes} of {self.options.max_bytes} bytes")
            self.available = self._first_number()

    def _first_number(self) -> int:
        segments = self._log.segments
        return _first_of(segments[0]) if segments else self._end

    def _saved_end(self) -> int:
        return self._cursor.value[-1][1] if self._cursor.value else 0


@dataclass(slots=True)
class ReadRecord:
    """A record that was read."""

    segment: int
    """Numbers of series and destinations are those of this segment."""
    record: DecodedRecord
    wanted: bool
    """Else it is there for what it defines, and has no rows."""


@dataclass(slots=True)
class Chunk:
    """What one ``QueueReader.read`` found."""

    records: list[ReadRecord] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)
    """Numbers of values that are damaged or missing."""


class QueueReader:
    """Reads records of a queue, going on where it ended as far as that is right."""

    def __init__(self, log: SegmentLog) -> None:
        self._log = log
        self._reader: Reader | None = None
        self._segment = -1
        self._next = 0
        """The number behind the last record that was read."""
        self._interner: tuple[int, Interner] | None = None

    def read(self, start: int, stop: int, most_bytes: int = _READ_BYTES) -> Chunk:
        """Records with numbers in ``[start, stop)``, about ``most_bytes`` of them. Blocks; raises ``OSError`` or ``RecordVersionError``."""
        reader = self._seek(start)
        chunk, size = Chunk(), 0
        while size < most_bytes and self._next < stop:
            try:
                found = reader.next()
            except OSError:
                # What was read up to here is not told to anyone: the definitions in it must be read again.
                self.close()
                raise
            if found is None:
                self._miss(chunk, start, stop)
                break
            self._segment = found.start.segment
            size += len(found.data)
            try:
                header = header_of(found.data)
                wanted = start <= header.first < stop
                record = decode(found.data, definitions_only=not wanted)
            except RecordVersionError:
                self.close()
                raise
            except RecordError as error:
                # Its checksum is right: it was written like this. What it had counts as lost when the next one is there.
                _log.error("a record of the queue cannot be read", path=str(self._log.path), error=str(error))
                continue
            self._miss(chunk, start, min(header.first, stop))
            self._next = header.first + header.rows
            chunk.records.append(ReadRecord(found.start.segment, record, wanted))
        return chunk

    def values(self, read: ReadRecord, table: SeriesTable) -> Values:
        """The rows of a record, which belong to ``table`` or to one before it. For the thread of the table; records come in order."""
        if self._interner is None or self._interner[0] != read.segment:
            self._interner = read.segment, Interner(table)
        interner = self._interner[1]
        return interner.values(read.record)

    def close(self) -> None:
        """Closes what is open; the next ``read`` opens it again."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def _seek(self, start: int) -> Reader:
        """A reader that comes to ``start`` soon, and before it to all definitions of its segment."""
        numbers = [(_first_of(segment), segment.header.number) for segment in self._log.segments]
        target = max((number for first, number in numbers if first <= start), default=numbers[0][1] if numbers else 0)
        if self._reader is None or self._next > start or self._segment < target:
            self.close()
            self._reader = self._log.reader(Position(target, 0))
            self._interner = None
            self._next = next((first for first, number in numbers if number == target), 0)
        return self._reader

    def _miss(self, chunk: Chunk, start: int, stop: int) -> None:
        lost = max(self._next, start), stop
        if lost[0] < lost[1]:
            chunk.lost.append(lost)
            self._next = stop


def _first_not_done(done: _Done) -> int:
    return done[0][1] if done and done[0][0] == 0 else 0


def _first_of(segment: Segment) -> int:
    preamble = segment.header.preamble
    version, _, first = _PREAMBLE.unpack(preamble) if len(preamble) == _PREAMBLE.size else (0, 0, 0)
    if version not in READABLE_VERSIONS:
        raise RecordVersionError(version)
    return int(first)


def _end_of(log: SegmentLog) -> int:
    """The number behind the last value in the log. Blocks; raises ``OSError`` or ``RecordVersionError``."""
    if not log.segments:
        return 0
    for segment in log.segments:
        end = _first_of(segment)
    reader = log.reader(Position(log.segments[-1].header.number, 0))
    try:
        for found in reader:
            header: Header = header_of(found.data)
            end = header.first + header.rows
    finally:
        reader.close()
    return end

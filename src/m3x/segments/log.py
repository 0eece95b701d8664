"""The log itself: appends records, begins and drops segments, knows how far it is durable."""

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypeVar

from m3x import log as logs
from m3x.segments.cursor import Cursor
from m3x.segments.directory import RUN_BITS, Directory, segment_name, set_aside
from m3x.segments.errors import AppendError, DirectoryError, SegmentError
from m3x.segments.format import Part, SegmentHeader, encode_header, frame
from m3x.segments.reader import Extent, Reader
from m3x.segments.recovery import Segment, recover
from m3x.segments.scan import CHUNK_BYTES, START, Damage, Position
from m3x.segments.syncing import Syncer

__all__ = ["SEGMENT_BYTES", "Appended", "Dropped", "SegmentLog", "SyncPolicy"]

SEGMENT_BYTES = 32 << 20
"""From this size on a segment is complete, by default."""

T = TypeVar("T")

SyncPolicy = Literal["os", "interval", "always"]

_log = logs.logger(__name__)
_MOST_BUFFERS = os.sysconf("SC_IOV_MAX")


class Appended(NamedTuple):
    """Where a record is."""

    start: Position
    end: Position
    """Behind it: what to wait for, and where to read on."""


class Dropped(NamedTuple):
    """A segment that was deleted."""

    number: int
    size: int
    """Bytes."""
    records: int


class SegmentLog:
    """A log that this process owns. Methods are called one at a time, unless they say otherwise."""

    def __init__(
        self,
        path: Path,
        *,
        sync: SyncPolicy = "os",
        interval_s: float = 0.1,
        segment_bytes: int = SEGMENT_BYTES,
        preamble: Callable[[], bytes] = bytes,
        on_durable: Callable[[Position], None] | None = None,
    ) -> None:
        """Opens or makes the log in the directory ``path``: locks it, and reads its last segment. Blocks while it does.

        ``preamble`` is asked whenever a segment is made. ``on_durable`` is called with the durable position when it has advanced, in
        another thread; never under ``os``.
        Raises ``DirectoryLocked``, ``VersionError`` or ``DirectoryError``.
        """
        self._directory = Directory(path)
        try:
            recovered = recover(self._directory)
        except OSError as error:
            self._directory.close()
            raise DirectoryError(path, error) from error
        self.path = path
        self.damage: list[Damage] = []
        """What could not be read so far, found at opening and by readers of this log; each is logged once."""
        self._segments = tuple(recovered.segments)
        self._file = -1
        self._segment_bytes = segment_bytes
        self._preamble = preamble
        self._next = self._directory.run << RUN_BITS
        last = self._segments[-1] if self._segments else None
        self._end = Position(last.number, last.size) if last else Position(self._next, 0)
        self._syncer: Syncer | None = None
        if sync != "os":
            pause_s = interval_s if sync == "interval" else 0.0
            self._syncer = Syncer(self._directory.sync, self._end, pause_s, on_durable)
        for damage in recovered.damage:
            self._note(damage)

    @property
    def end(self) -> Position:
        """Behind the last record."""
        return self._end

    @property
    def next_segment(self) -> int:
        """The number of the segment that the next record goes to. When it has changed, that record is the first of a new segment."""
        return self._segments[-1].number if self._file >= 0 else self._next

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments on disk."""
        return sum(segment.size for segment in self._segments)

    @property
    def records(self) -> int:
        """Records in all segments."""
        return sum(segment.records for segment in self._segments)

    def size_from(self, position: Position) -> int:
        """Bytes of the records from ``position`` on: what a consumer there has before it. May be called from any thread."""
        return sum(
            segment.size - max(position.offset if segment.number == position.segment else 0, segment.header.size)
            for segment in self._segments
            if segment.number >= position.segment
        )

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments, oldest first. May be called from any thread."""
        return self._segments

    @property
    def durable(self) -> Position:
        """Everything before it is as durable as the sync policy says: under ``os`` that is ``end``. May be called from any thread."""
        return self._end if self._syncer is None else self._syncer.durable

    @property
    def trouble(self) -> str:
        """Why the durable position does not advance; empty: it does."""
        return "" if self._syncer is None else self._syncer.trouble

    async def wait_durable(self, position: Position) -> None:
        """Returns when everything before ``position`` is durable. Raises ``SegmentError`` once that cannot come true any more."""
        if self._syncer is not None:
            await self._syncer.wait(position)

    def flush(self) -> None:
        """Blocks until everything is durable in the sense of ``durable``. Raises ``SegmentError``."""
        if self._syncer is not None:
            self._syncer.flush()

    def append(self, parts: Sequence[Part]) -> Appended:
        """Appends one record that is made of ``parts``, which are written as they are, one behind the other.

        Raises ``AppendError`` (nothing was appended; the next call tries again), ``ValueError`` for a record above ``MAX_RECORD``, or the
        ``SegmentError`` of a log that has failed for good.
        """
        if self._syncer is not None and self._syncer.failure is not None:
            raise self._syncer.failure
        if self._file < 0:
            self._begin()
        segment = self._segments[-1]
        buffers, size = frame(parts, self._next, segment.size, segment.header)
        try:
            _write(self._file, buffers, size, segment.size)
        except OSError as error:
            # Should this fail as well, the next record overwrites what is left, and a recovery cuts it off.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, segment.size)
            raise AppendError(self.path, error) from error
        start, self._end = Position(segment.number, segment.size), Position(segment.number, segment.size + size)
        self._next += 1
        self._replace_last(Segment(segment.header, self._end.offset, self._next, complete=False))
        if self._syncer is not None:
            self._syncer.appended(self._end)
        if self._end.offset >= self._segment_bytes:
            self.roll()
        return Appended(start, self._end)

    def roll(self) -> None:
        """Completes the segment: the next record is the first of a new one. Does nothing to a segment without records."""
        if self._file < 0 or not self._segments[-1].records:
            return
        self._replace_last(replace(self._segments[-1], complete=True))
        if self._syncer is None:
            os.close(self._file)
        else:
            self._syncer.complete()
        self._file = -1

    @property
    def damaged(self) -> set[int]:
        """Segments with something in them that cannot be read: they are set aside instead of being deleted. What was torn is cut off."""
        return {damage.segment for damage in self.damage if not damage.torn}

    def drop_through(self, position: Position) -> list[Dropped]:
        """Deletes all segments that end at or before ``position``, but not the one that is being written. Raises ``DirectoryError``."""
        dropped = []
        for segment in self._segments:
            if not segment.complete or Position(segment.number, segment.size) > position:
                break
            dropped.append(self._drop(segment))
        return dropped

    def drop_oldest(self) -> Dropped | None:
        """Deletes the oldest segment, even the one that is being written if there is no other; None: there are no records."""
        if len(self._segments) <= 1:
            self.roll()
            if self._file >= 0:
                return None
        return self._drop(self._segments[0]) if self._segments else None

    def reader(self, position: Position = START, chunk_bytes: int = CHUNK_BYTES) -> Reader:
        """A reader from ``position`` on, for use in any one thread. Where segments were dropped it goes on behind them."""
        return Reader(self, position, chunk_bytes, self._note)

    def cursor(self, name: str, kind: type[T]) -> Cursor[T]:
        """The cursor ``name`` in the log's directory, whose values are of ``kind``; the caller closes it. Raises ``DirectoryError``."""
        cursor = Cursor(self.path / f"{name}.cursor", kind)
        if cursor.aside:
            _log.warning("a cursor cannot be read", path=str(cursor.path), now=cursor.aside)
        return cursor

    def following(self, number: int) -> int | None:
        """The first segment whose number is at least ``number`` (a ``Source`` of readers)."""
        return next((segment.number for segment in self._segments if segment.number >= number), None)

    def extent(self, number: int) -> Extent | None:
        """How far a segment can be read; None: it was dropped (a ``Source`` of readers)."""
        for segment in reversed(self._segments):
            if segment.number == number:
                return Extent(segment.size, segment.complete)
        return None

    def close(self) -> None:
        """Makes durable what can be (not under ``os``), and gives the directory back. Blocks."""
        if self._syncer is not None:
            with contextlib.suppress(SegmentError):
                self._syncer.flush()
            self._syncer.close()
        elif self._file >= 0:
            os.close(self._file)
        self._file = -1
        self._directory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        last = self._segments[-1] if self._segments else None
        header = SegmentHeader(
            number=self._next,
            salt=secrets.randbits(64),
            previous=last.number if last else 0,
            previous_stop=last.stop if last else 0,
            created_ns=time.time_ns(),
            preamble=self._preamble(),
        )
        encoded = encode_header(header)
        path = self.path / segment_name(header.number)
        try:
            self._directory.begin_run()
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                _write(file, [encoded], len(encoded), 0)
            except OSError:
                os.close(file)
                path.unlink()
                raise
        except OSError as error:
            raise AppendError(self.path, error) from error
        self._file = file
        self._segments = (*self._segments, Segment(header, len(encoded), header.number, complete=False))
        if self._syncer is not None:
            self._syncer.begin(file, header)

    def _replace_last(self, segment: Segment) -> None:
        # Readers in other threads see one tuple or the other.
        self._segments = (*self._segments[:-1], segment)

    def _drop(self, segment: Segment) -> Dropped:
        name = segment_name(segment.number)
        try:
            if segment.number in self.damaged:
                set_aside(self.path / name)
            else:
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise DirectoryError(self.path, error) from error
        self._segments = self._segments[1:]
        return Dropped(segment.number, segment.size, segment.records)

    def _note(self, damage: Damage) -> None:
        if all(damage[:2] != known[:2] for known in self.damage):
            self.damage.append(damage)
            _log.warning("a part of the log cannot be read", path=str(self.path), damage=str(damage))


def _write(file: int, buffers: Sequence[bytes | memoryview], size: int, offset: int) -> None:
    """Writes all of the buffers at ``offset``. Raises ``OSError``, also when the system takes nothing more."""
    written = os.pwritev(file, buffers[:_MOST_BUFFERS], offset)
    if written == size:
        return
    # Many buffers, or a system that took a part only: it says why when it is asked to take the rest.
    rest = memoryview(b"".join(memoryview(buffer).cast("B") for buffer in buffers))
    while written < size:
        more = os.pwrite(file, rest[written:], offset + written)
        if more == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        written += more

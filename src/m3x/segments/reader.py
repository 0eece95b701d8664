"""Reading a log, from any position to its present end and later on from there, beside the process that writes it or without its lock."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from m3x.segments.directory import segment_name, segment_numbers
from m3x.segments.format import HeaderError, SegmentHeader
from m3x.segments.scan import CHUNK_BYTES, START, Damage, Position, Record, SegmentScan, read_header

__all__ = ["Extent", "Reader", "Source", "read_only"]


class Extent(NamedTuple):
    """How far a segment can be read."""

    size: int
    """Bytes of its file."""
    complete: bool
    """Nothing is appended to it any more."""


class Source(Protocol):
    """Who knows which segments there are."""

    path: Path

    def following(self, number: int) -> int | None:
        """The first segment whose number is at least ``number``."""

    def extent(self, number: int) -> Extent | None:
        """How far a segment can be read; None: it is gone."""


class Reader:
    """Records from a position on. An iteration ends at the present end of the log; the next one goes on where it ended.

    Records' data are views of chunks that were read for them: they stay as they are, and keep their chunk alive.
    """

    def __init__(
        self, source: Source, position: Position, chunk_bytes: int, on_damage: Callable[[Damage], None]
    ) -> None:
        """Use ``SegmentLog.reader`` or ``read_only``."""
        self._source = source
        self._from = position
        self._chunk_bytes = chunk_bytes
        self._on_damage = on_damage
        self._scan: SegmentScan | None = None
        self._file = -1
        self._unreadable = -1
        """The last segment whose header could not be read."""
        self._before: tuple[SegmentScan, int] | None = None
        """The segment that was read to its end, and its size: what of it is missing shows when the next one begins."""

    @property
    def position(self) -> Position:
        """Where the next record is looked for."""
        return self._from if self._scan is None else Position(self._scan.header.number, self._scan.good)

    def __iter__(self) -> Iterator[Record]:
        while (record := self.next()) is not None:
            yield record

    def next(self) -> Record | None:
        """The next record; None: there is none yet. Raises ``OSError``."""
        while self._scan is not None or self._open():
            scan = self._scan
            assert scan is not None
            extent = self._source.extent(scan.header.number)
            if extent is None:
                self._leave(Position(scan.header.number + 1, 0))
                continue
            record = scan.next(extent.size)
            if record is not None:
                return record
            if not extent.complete:
                return None
            self._before = (scan, extent.size)
            self._leave(Position(scan.header.number, extent.size))
        return None

    def close(self) -> None:
        """Closes the file that is being read."""
        self._leave(self.position)

    def _leave(self, position: Position) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._scan, self._file, self._from = None, -1, position

    def _open(self) -> bool:
        """Begins with the segment of the position, or the next one behind it; False: there is none yet."""
        while True:
            first = self._from.segment if self._before is None else self._before[0].header.number + 1
            number = self._source.following(max(first, self._from.segment))
            if number is None:
                return False
            try:
                file = os.open(self._source.path / segment_name(number), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._from = Position(number + 1, 0)
                continue
            try:
                header = read_header(file)
            except HeaderError as error:
                os.close(file)
                extent = self._source.extent(number)
                if extent is not None and not extent.complete:
                    return False
                self._on_damage(Damage(number, 0, extent.size if extent else 0, None, str(error)))
                self._unreadable = number
                self._from = Position(number + 1, 0)
                continue
            self._compare(header)
            offset = self._from.offset if number == self._from.segment else 0
            self._file = file
            self._scan = SegmentScan(file, header, offset, self._chunk_bytes, self._on_damage)
            return True

    def _compare(self, header: SegmentHeader) -> None:
        """Tells what is missing between the segment that was read to its end and the one that begins now."""
        if self._before is None:
            return
        scan, size = self._before
        self._before = None
        scan.finish(size, header.previous_stop if header.previous == scan.header.number else None)
        if header.previous > max(scan.header.number, self._unreadable) and self._source.following(0) != header.number:
            self._on_damage(Damage(header.previous, 0, 0, None, f"missing before {header.number:016x}"))


class _Unlocked:
    """The segments of a directory that another process may be writing to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def following(self, number: int) -> int | None:
        return next((found for found in segment_numbers(self.path) if found >= number), None)

    def extent(self, number: int) -> Extent | None:
        # In this order: of a segment that has a successor the size does not change any more.
        complete = self.following(number + 1) is not None
        try:
            return Extent((self.path / segment_name(number)).stat().st_size, complete)
        except FileNotFoundError:
            return None


def read_only(
    path: Path,
    position: Position = START,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    on_damage: Callable[[Damage], None] = lambda damage: None,
) -> Reader:
    """A reader for tools: without the lock, beside whoever writes the log or after its end. It ends at a record that is not whole."""
    return Reader(_Unlocked(path), position, chunk_bytes, on_damage)

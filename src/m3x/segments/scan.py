"""Records of one segment, one after the other, from an open file; what cannot be read is skipped and told."""

import os
from collections.abc import Callable
from typing import NamedTuple

from m3x.segments.format import (
    HEAD_BYTES,
    HEADER_BYTES,
    Bad,
    Frame,
    SegmentHeader,
    Short,
    ShortHeaderError,
    decode_header,
    frame_at,
    padded,
)

__all__ = ["CHUNK_BYTES", "START", "Damage", "Position", "Record", "SegmentScan", "read_header"]

CHUNK_BYTES = 1 << 21


class Position(NamedTuple):
    """A place in a log, between two records; positions of one log order as their records do."""

    segment: int
    """The number of the segment."""
    offset: int
    """Bytes from the begin of its file. 0 is a good place as well: before its first record."""


START = Position(0, 0)
"""Before the first record of any log."""


class Record(NamedTuple):
    """A record as it was appended."""

    start: Position
    end: Position
    """Behind it: where reading goes on."""
    sequence: int
    data: memoryview
    header: SegmentHeader
    lost: int
    """How many records directly before it, in its segment, could not be read."""


class Damage(NamedTuple):
    """Something that cannot be read any more."""

    segment: int
    offset: int
    size: int
    """Bytes."""
    records: int | None
    """How many records are lost with it; None: not known."""
    what: str
    torn: bool = False
    """It is the beginning of the record that was being written when the process ended."""

    def __str__(self) -> str:
        lost = "an unknown number of records" if self.records is None else f"{self.records} records"
        return f"segment {self.segment:016x}: {self.what}; {self.size} bytes from offset {self.offset}, {lost} lost"


def read_header(fd: int) -> SegmentHeader:
    """The header of a segment's file. Raises ``HeaderError`` or ``OSError``."""
    need = HEADER_BYTES
    while True:
        data = os.pread(fd, need, 0)
        try:
            return decode_header(data)
        except ShortHeaderError as error:
            if error.need <= need:
                raise
            need = error.need


class SegmentScan:
    """The records of the segment in the open file ``fd``, from ``offset`` on."""

    def __init__(
        self,
        fd: int,
        header: SegmentHeader,
        offset: int = 0,
        chunk_bytes: int = CHUNK_BYTES,
        on_damage: Callable[[Damage], None] = lambda damage: None,
    ) -> None:
        self.header = header
        self.expected = header.number if offset <= header.size else None
        """The sequence number of the next record; None: not known yet."""
        self.good = padded(max(offset, header.size))
        """Where the last good record ended."""
        self._at = self.good
        self._fd = fd
        self._chunk_bytes = chunk_bytes
        self._data = b""
        self._base = self._at
        self._on_damage = on_damage

    def next(self, limit: int) -> Record | None:
        """The next whole record that ends at or before offset ``limit``; None: there is none, or not yet. Raises ``OSError``."""
        while self._at + HEAD_BYTES <= limit:
            found = frame_at(self._data, self._at - self._base, self._base, self.header)
            if isinstance(found, Short):
                if self._at + found.need > limit or not self._fill(found.need, limit):
                    return None
            elif isinstance(found, Bad):
                self._at = self._base + found.next
            else:
                return self._take(found)
        return None

    def finish(self, limit: int, stop: int | None) -> None:
        """The segment ends at ``limit``, and its records at sequence number ``stop`` (None: not known): tells what of it is missing."""
        known = stop is not None and self.expected is not None
        lost = max(stop - self.expected, 0) if stop is not None and self.expected is not None else None
        if lost or (not known and self.good < limit):
            self._on_damage(
                Damage(self.header.number, self.good, max(limit - self.good, 0), lost, "its end is damaged")
            )

    def _take(self, found: Frame) -> Record:
        start, end = self._base + found.start - HEAD_BYTES, self._base + found.end
        lost = 0 if self.expected is None else found.sequence - self.expected
        if lost or start > self.good:
            records = None if self.expected is None else lost
            number = self.header.number
            self._on_damage(Damage(number, self.good, start - self.good, records, "damaged in the middle"))
        self.expected = found.sequence + 1
        self.good = self._at = end
        number = self.header.number
        data = memoryview(self._data)[found.start : found.stop]
        return Record(Position(number, start), Position(number, end), found.sequence, data, self.header, lost)

    def _fill(self, need: int, limit: int) -> bool:
        """Reads on from where the scan stands; whether ``need`` bytes are there."""
        wanted = max(need, min(self._chunk_bytes, limit - self._at))
        data = os.pread(self._fd, wanted, self._at)
        while len(data) < need and (more := os.pread(self._fd, need - len(data), self._at + len(data))):
            data += more
        self._data, self._base = data, self._at
        return len(data) >= need

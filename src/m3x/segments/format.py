"""The bytes of a segment, pure: headers and record frames made and read (the tables are in the docstring of ``m3x.segments``).

``frame_at`` judges what stands at one place of a buffer: a whole record, too few bytes to tell, or damage, and then where the next record
may begin. It never gives bytes that are not a record: the checksum of a head covers the segment's salt and the offset in the file, so
neither a copy of a frame inside some record's data nor what an older file left in the same blocks is taken for one.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from m3x.checksum import crc32

__all__ = [
    "ALIGN",
    "HEADER_BYTES",
    "HEAD_BYTES",
    "MAX_PREAMBLE",
    "MAX_RECORD",
    "VERSION",
    "Bad",
    "Frame",
    "HeaderError",
    "HeaderVersionError",
    "Part",
    "SegmentHeader",
    "Short",
    "ShortHeaderError",
    "decode_header",
    "encode_header",
    "frame",
    "frame_at",
    "padded",
]

VERSION = 1
ALIGN = 8
"""Headers with their preamble, and frames, are padded to multiples of this."""
MAX_RECORD = 1 << 28
MAX_PREAMBLE = 1 << 24

Part = bytes | bytearray | memoryview | NDArray[Any]
"""What records are made of: anything with a C-contiguous buffer."""

_SEGMENT_MAGIC = b"m3x.segm"
_HEADER = struct.Struct("<8sIIQQQQQI")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size

_RECORD_MAGIC = b"\xf1m3\x1e"
_HEAD = struct.Struct("<4sIQI")
HEAD_BYTES = _HEAD.size + _CRC.size
_PLACE = struct.Struct("<QQ")
_PADDING = tuple(bytes(n) for n in range(ALIGN))


class HeaderError(Exception):
    """Not the header of a segment."""


class ShortHeaderError(HeaderError):
    """The bytes end before the header does; ``need`` are known to belong to it."""

    def __init__(self, have: int, need: int) -> None:
        super().__init__(f"{have} bytes of a header of at least {need}")
        self.need = need


class HeaderVersionError(HeaderError):
    """A header of another version of the format, or a damaged one."""

    def __init__(self, found: int) -> None:
        super().__init__(f"format version {found}, expected {VERSION}")
        self.found = found


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself."""

    number: int
    """Sequence number of its first record, and the name of its file."""
    salt: int
    """64 random bits."""
    previous: int = 0
    """Number of the segment before it; 0: there was none."""
    previous_stop: int = 0
    """The sequence number behind the last record of that segment, as it was when this one was begun."""
    created_ns: int = 0
    """Wall clock, nanoseconds since 1970."""
    preamble: bytes = b""
    """The owner's."""

    @property
    def size(self) -> int:
        """Offset of the first record."""
        return padded(HEADER_BYTES + len(self.preamble))


class Frame(NamedTuple):
    """A whole record in a buffer: its data is ``[start, stop)``, the next frame begins at ``end``."""

    start: int
    stop: int
    end: int
    sequence: int


class Short(NamedTuple):
    """The buffer ends before ``need`` bytes of the frame do."""

    need: int


class Bad(NamedTuple):
    """No record here; none begins before ``next`` (which may be where the buffer ends, within the bytes of a head)."""

    next: int


def padded(size: int) -> int:
    """``size`` up to the next multiple of ``ALIGN``."""
    return -(-size // ALIGN) * ALIGN


def encode_header(header: SegmentHeader) -> bytes:
    """Header, preamble and padding. Raises ``ValueError`` for a preamble above ``MAX_PREAMBLE``."""
    preamble = header.preamble
    if len(preamble) > MAX_PREAMBLE:
        raise ValueError(f"a preamble of {len(preamble)} bytes; at most {MAX_PREAMBLE} are possible")
    fixed = _HEADER.pack(
        _SEGMENT_MAGIC,
        VERSION,
        len(preamble),
        header.salt,
        header.number,
        header.previous,
        header.previous_stop,
        header.created_ns,
        0,
    )
    crc = zlib.crc32(preamble, zlib.crc32(fixed))
    whole = fixed + _CRC.pack(crc) + preamble
    return whole + _PADDING[header.size - len(whole)]


def decode_header(data: bytes) -> SegmentHeader:
    """The header at the begin of ``data``. Raises ``ShortHeaderError``, ``HeaderVersionError`` or another ``HeaderError``."""
    if len(data) < HEADER_BYTES:
        raise ShortHeaderError(len(data), HEADER_BYTES)
    fixed = data[: _HEADER.size]
    magic, version, length, salt, number, previous, previous_stop, created_ns, _ = _HEADER.unpack(fixed)
    if magic != _SEGMENT_MAGIC:
        raise HeaderError("it does not begin as a segment does")
    if version != VERSION:
        raise HeaderVersionError(version)
    if length > MAX_PREAMBLE:
        raise HeaderError(f"a preamble of {length} bytes; at most {MAX_PREAMBLE} are possible")
    if len(data) < HEADER_BYTES + length:
        raise ShortHeaderError(len(data), HEADER_BYTES + length)
    preamble = bytes(data[HEADER_BYTES : HEADER_BYTES + length])
    if zlib.crc32(preamble, zlib.crc32(fixed)) != _CRC.unpack_from(data, _HEADER.size)[0]:
        raise HeaderError("the checksum of its header is wrong")
    return SegmentHeader(number, salt, previous, previous_stop, created_ns, preamble)


def frame(
    parts: Sequence[Part], sequence: int, offset: int, header: SegmentHeader
) -> tuple[list[bytes | memoryview], int]:
    """The buffers to write at ``offset`` for a record made of ``parts`` and their size together, padding included.

    Raises ``ValueError`` for a record above ``MAX_RECORD``.
    """
    length = crc = 0
    views = [part.data if isinstance(part, np.ndarray) else memoryview(part) for part in parts]
    for view in views:
        length += view.nbytes
        crc = crc32(view, crc)
    if length > MAX_RECORD:
        raise ValueError(f"a record of {length} bytes; at most {MAX_RECORD} are possible")
    head = _HEAD.pack(_RECORD_MAGIC, length, sequence, crc)
    head += _CRC.pack(zlib.crc32(head, _seed(header, offset)))
    padding = -length % ALIGN
    return [head, *views, _PADDING[padding]], HEAD_BYTES + length + padding


def frame_at(data: bytes, at: int, base: int, header: SegmentHeader) -> Frame | Short | Bad:
    """What stands at ``at`` of ``data``, which begins at ``base`` of the segment's file; both are multiples of ``ALIGN``."""
    available = len(data) - at
    if available < HEAD_BYTES:
        return Short(HEAD_BYTES)
    head = _head(data, at, base, header)
    if head is None:
        return Bad(_next_head(data, at, base, header))
    length, sequence, crc = head
    start = at + HEAD_BYTES
    stop = start + length
    size = HEAD_BYTES + padded(length)
    if available < size:
        return Short(size)
    if crc32(memoryview(data)[start:stop]) != crc:
        return Bad(at + size)
    return Frame(start, stop, at + size, sequence)


def _head(data: bytes, at: int, base: int, header: SegmentHeader) -> tuple[int, int, int] | None:
    """Length, sequence number and checksum of the data; None if this is no head of this segment."""
    magic, length, sequence, crc = _HEAD.unpack_from(data, at)
    if magic != _RECORD_MAGIC or length > MAX_RECORD or sequence < header.number:
        return None
    found = _CRC.unpack_from(data, at + _HEAD.size)[0]
    if zlib.crc32(data[at : at + _HEAD.size], _seed(header, base + at)) != found:
        return None
    return length, sequence, crc


def _next_head(data: bytes, at: int, base: int, header: SegmentHeader) -> int:
    """Where behind ``at`` the next head stands, or the first place of which too few bytes are there to tell."""
    found = at
    while 0 <= (found := data.find(_RECORD_MAGIC, found + 1)) <= len(data) - HEAD_BYTES:
        if found % ALIGN == 0 and _head(data, found, base, header) is not None:
            return found
    return padded(len(data) - HEAD_BYTES + 1)


def _seed(header: SegmentHeader, offset: int) -> int:
    return zlib.crc32(_PLACE.pack(header.salt, offset))

"""One frame of a call or of its answer (docs/m3/m3db_wire.md, calls).

    first frame     u8 flags   head                     u8 checksum type   checksum   chunks
    further ones    u8 flags                            u8 checksum type   checksum   chunks

    head of a call      u32 TTL in ms   25 bytes tracing   s8 service   u8 n   n × (s8 key, s8 value)
    head of an answer   u8 code         25 bytes tracing                u8 n   n × (s8 key, s8 value)
    chunk               u16 length and bytes

s8 is a byte of length and bytes. A chunk is a piece of an argument: the first one of a further frame continues the argument that was open,
each other one begins the next.
"""

import enum
import struct
import zlib
from dataclasses import dataclass
from functools import cache

from m3db.errors import ProtocolError
from m3db.tchannel.frames import TRACING_BYTES, Frame, FrameType

__all__ = ["CHUNK_HEAD", "Checksum", "Fragment", "RequestHead", "ResponseHead", "read_fragment", "write_fragment"]

CHUNK_HEAD = 2
"""Bytes before those of a chunk."""

_MORE = 1
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_NO_TRACING = bytes(TRACING_BYTES)
_CASTAGNOLI = 0x82F63B78


class Checksum(enum.IntEnum):
    """What guards the arguments. It runs over the bytes of all chunks so far, of earlier frames too."""

    NONE = 0
    CRC32 = 1
    CRC32C = 3

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return 0 if self is Checksum.NONE else 4

    def over(self, data: bytes, before: int = 0) -> int:
        """The checksum of what ``before`` is that of, and ``data`` behind it."""
        if self is Checksum.NONE:
            return 0
        return zlib.crc32(data, before) if self is Checksum.CRC32 else _crc32c(data, before)


@cache
def _castagnoli() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ (_CASTAGNOLI if value & 1 else 0) for value in table]
    return table


def _crc32c(data: bytes, before: int) -> int:
    table, value = _castagnoli(), ~before & 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return ~value & 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The head of a call."""

    ttl_ms: int
    service: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    tracing: bytes = _NO_TRACING

    def written(self) -> bytes:
        """Its bytes."""
        return _U32.pack(self.ttl_ms) + self.tracing + _s8(self.service) + _write_headers(self.headers)


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of an answer. ``code`` is 0, or 1 for an error that the method declares."""

    code: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    tracing: bytes = _NO_TRACING

    def written(self) -> bytes:
        """Its bytes."""
        return bytes([self.code]) + self.tracing + _write_headers(self.headers)


@dataclass(frozen=True, slots=True)
class Fragment:
    """One frame. ``digest`` is the checksum as a number, ``head`` that of a first frame."""

    more: bool
    head: RequestHead | ResponseHead | None
    checksum: Checksum
    digest: int
    chunks: tuple[bytes, ...]


def write_fragment(fragment: Fragment) -> bytes:
    """The payload of a frame."""
    out = bytearray([_MORE if fragment.more else 0])
    if fragment.head is not None:
        out += fragment.head.written()
    out.append(fragment.checksum)
    out += _U32.pack(fragment.digest)[: fragment.checksum.size]
    for chunk in fragment.chunks:
        out += _U16.pack(len(chunk)) + chunk
    return bytes(out)


def read_fragment(frame: Frame) -> Fragment:
    """Reads a frame of a call or answer. Raises ``ProtocolError``; whether the checksum is right is not looked at here."""
    reader = _Reader(frame.payload)
    more = bool(reader.number(1) & _MORE)
    head: RequestHead | ResponseHead | None = None
    if frame.type == FrameType.CALL_REQ:
        ttl_ms, tracing = reader.number(4), reader.take(TRACING_BYTES)
        head = RequestHead(ttl_ms, reader.s8(), reader.headers(), tracing)
    elif frame.type == FrameType.CALL_RES:
        code, tracing = reader.number(1), reader.take(TRACING_BYTES)
        head = ResponseHead(code, reader.headers(), tracing)
    kind = reader.number(1)
    try:
        checksum = Checksum(kind)
    except ValueError:
        raise ProtocolError(f"a checksum of type {kind}") from None
    digest = reader.number(checksum.size)
    return Fragment(more, head, checksum, digest, reader.chunks())


class _Reader:
    """Takes pieces off a payload; raises ``ProtocolError`` where it ends before."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def take(self, size: int) -> bytes:
        piece = self._payload[self._at : self._at + size]
        if len(piece) != size:
            raise ProtocolError(f"a frame of a call that is cut short at byte {len(self._payload)} of its payload")
        self._at += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def s8(self) -> bytes:
        return self.take(self.number(1))

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return tuple((self.s8(), self.s8()) for _ in range(self.number(1)))

    def chunks(self) -> tuple[bytes, ...]:
        found = []
        while self._at < len(self._payload):
            found.append(self.take(self.number(CHUNK_HEAD)))
        return tuple(found)


def _s8(literal: bytes) -> bytes:
    if len(literal) > 0xFF:
        raise ProtocolError(f"{len(literal)} bytes of a name or header, 255 are possible")
    return bytes([len(literal)]) + literal


def _write_headers(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return bytes([len(headers)]) + b"".join(_s8(key) + _s8(value) for key, value in headers)

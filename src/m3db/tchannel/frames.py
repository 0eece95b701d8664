"""Frames and their header (docs/m3/m3db_wire.md, frames).

    u16 size of all of it   u8 type   u8 0   u32 message id   8 zeros   payload

All integers are big-endian.
"""

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from m3db.errors import CallError, CallFailure, ProtocolError

__all__ = [
    "CONNECTION_ID",
    "HEADER_BYTES",
    "MAX_FRAME_BYTES",
    "TRACING_BYTES",
    "Frame",
    "FrameReader",
    "FrameType",
    "failure_of",
    "frame_bytes",
    "read_error",
]

HEADER_BYTES = 16
MAX_FRAME_BYTES = 0xFFFF
CONNECTION_ID = 0xFFFFFFFF
"""The message id of an error frame that is about no call."""
TRACING_BYTES = 25
"""Span, parent and trace id, and a byte of flags: zeros without a tracer."""

_HEADER = struct.Struct(">HBxI8x")
_ERROR = struct.Struct(f">B{TRACING_BYTES}xH")


class FrameType(enum.IntEnum):
    """What a frame is."""

    INIT_REQ = 0x01
    INIT_RES = 0x02
    CALL_REQ = 0x03
    CALL_RES = 0x04
    CALL_REQ_CONTINUE = 0x13
    CALL_RES_CONTINUE = 0x14
    PING_REQ = 0xD0
    PING_RES = 0xD1
    ERROR = 0xFF


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. ``type`` is a ``FrameType``, or a number that is none."""

    type: int
    id: int
    payload: bytes = b""


def frame_bytes(frame: Frame) -> bytes:
    """The bytes of a frame. Raises ``ProtocolError`` for a payload that does not fit."""
    size = HEADER_BYTES + len(frame.payload)
    if size > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {size} bytes, {MAX_FRAME_BYTES} are possible")
    return _HEADER.pack(size, frame.type, frame.id) + frame.payload


class FrameReader:
    """Bytes of a stream, however they are cut → frames. Holds one incomplete frame at most, once all that are complete are taken."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._at = 0

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Frame]:
        """The frames that are complete with ``data``, to be taken all. Raises ``ProtocolError``: nothing can be read any more."""
        self.add(data)
        while (frame := self.next()) is not None:
            yield frame

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """More of the stream."""
        del self._held[: self._at]
        self._held += data
        self._at = 0

    def next(self) -> Frame | None:
        """The next frame; None: it is not complete. Raises ``ProtocolError``: nothing can be read any more."""
        held, at = self._held, self._at
        if len(held) - at < HEADER_BYTES:
            return None
        size, kind, message_id = _HEADER.unpack_from(held, at)
        if size < HEADER_BYTES:
            raise ProtocolError(f"a frame of {size} bytes, at least {HEADER_BYTES} expected")
        if len(held) - at < size:
            return None
        self._at += size
        return Frame(kind, message_id, bytes(held[at + HEADER_BYTES : at + size]))

    def skip_alike(self, kind: int, payload: bytes) -> list[int]:
        """Takes the frames that come next as far as they are complete, of this type, and have these very bytes: their message ids."""
        held, size, ids = self._held, HEADER_BYTES + len(payload), []
        while held.startswith(payload, self._at + HEADER_BYTES):
            found, found_kind, message_id = _HEADER.unpack_from(held, self._at)
            if found != size or found_kind != kind:
                break
            ids.append(message_id)
            self._at += size
        return ids


_FAILURES = {
    0x01: CallFailure.TIMEOUT,
    0x02: CallFailure.CANCELLED,
    0x03: CallFailure.BUSY,
    0x04: CallFailure.DECLINED,
    0x05: CallFailure.UNEXPECTED,
    0x06: CallFailure.BAD_REQUEST,
    0x07: CallFailure.NETWORK,
    0xFF: CallFailure.PROTOCOL,
}


def read_error(payload: bytes) -> tuple[int, str]:
    """Code and text of an error frame. Raises ``ProtocolError``."""
    if len(payload) < _ERROR.size:
        raise ProtocolError(f"an error frame with {len(payload)} bytes, at least {_ERROR.size} expected")
    code, size = _ERROR.unpack_from(payload)
    text = payload[_ERROR.size : _ERROR.size + size]
    if len(text) != size:
        raise ProtocolError(f"an error frame whose text has {len(text)} bytes in place of {size}")
    return code, text.decode(errors="backslashreplace")


def failure_of(code: int, text: str) -> CallError:
    """What an error frame means for its call."""
    return CallError(_FAILURES.get(code, CallFailure.UNEXPECTED), text)

"""The wire format of m3msg in plain Python; the kernels are tested against it. Source: reference/m3msg.md §1.

A frame is four bytes of length N, unsigned and big-endian, and N bytes of protobuf. The producer dials and sends only ``Message``, the
consumer answers only ``Ack``; nothing in a frame says which of the two it is.

| message | field | number | wire |
|---|---|---|---|
| Metadata | shard | 1 | varint, left out if 0 |
| Metadata | id | 2 | varint, left out if 0 |
| Metadata | sentAtNanos | 3 | varint, left out if 0 |
| Message | metadata | 1 | bytes, always written |
| Message | value | 2 | bytes, left out if empty |
| Ack | metadata | 1 | bytes, repeated |

Reading follows M3's generated code, not protobuf's usual leniency: a known field of another wire type is an error, repeated metadata
merges, repeated values replace, unknown fields are skipped, groups included.
"""

from collections.abc import Iterator
from typing import NamedTuple

from m3msg.rows import MAX_FRAME, PREFIX

__all__ = ["FrameError", "Message", "Metadata", "decode_ack", "decode_message", "encode_ack", "encode_message", "split"]

_VARINT, _FIXED64, _BYTES, _START, _END, _FIXED32 = range(6)


class FrameError(ValueError):
    """Bytes that are not m3msg; the connection that sent them cannot be followed any further."""


class Metadata(NamedTuple):
    """What names a message between one producer and one consumer service."""

    shard: int = 0
    """The replicated shard id: replica × number of shards + shard (reference/m3msg.md §11.3)."""
    id: int = 0
    sent_at: int = 0
    """Unix ns of this attempt; 0: not given."""


class Message(NamedTuple):
    """One message."""

    metadata: Metadata
    value: bytes = b""


def encode_message(message: Message) -> bytes:
    """The whole frame, length prefix included."""
    value = b"\x12" + _varint(len(message.value)) + message.value if message.value else b""
    return _frame(_metadata_field(message.metadata) + value)


def encode_ack(metadatas: list[Metadata] | tuple[Metadata, ...]) -> bytes:
    """One ack frame that echoes ``metadatas``."""
    return _frame(b"".join(map(_metadata_field, metadatas)))


def split(data: bytes, max_frame: int = MAX_FRAME) -> tuple[list[bytes], bytes]:
    """Payloads of the complete frames in ``data``, and what is left. Raises ``FrameError`` at a frame longer than ``max_frame``."""
    payloads, at = [], 0
    while at + PREFIX <= len(data):
        size = int.from_bytes(data[at : at + PREFIX], "big")
        if size > max_frame:
            raise FrameError(f"frame of {size} bytes at {at} is longer than {max_frame}, the largest size allowed")
        if at + PREFIX + size > len(data):
            break
        payloads.append(data[at + PREFIX : at + PREFIX + size])
        at += PREFIX + size
    return payloads, data[at:]


def decode_message(payload: bytes) -> Message:
    """The message in a frame's payload. Raises ``FrameError``."""
    metadata, value = Metadata(), b""
    for number, field in _fields(payload, {1: _BYTES, 2: _BYTES}):
        if number == 1:
            metadata = _decode_metadata(bytes(field), metadata)
        elif number == 2:
            value = bytes(field)
    return Message(metadata, value)


def decode_ack(payload: bytes) -> list[Metadata]:
    """The metadatas in an ack frame's payload. Raises ``FrameError``."""
    return [_decode_metadata(bytes(field), Metadata()) for n, field in _fields(payload, {1: _BYTES}) if n == 1]


def _frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(PREFIX, "big") + payload


def _metadata_field(metadata: Metadata) -> bytes:
    content = b"".join(
        bytes([number << 3]) + _varint(value) for number, value in enumerate(metadata, start=1) if value != 0
    )
    return b"\x0a" + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _decode_metadata(content: bytes, before: Metadata) -> Metadata:
    values = list(before)
    for number, field in _fields(content, {1: _VARINT, 2: _VARINT, 3: _VARINT}):
        if number <= 3:
            assert isinstance(field, int)
            values[number - 1] = field
    return Metadata(*values)


def _fields(data: bytes, known: dict[int, int]) -> Iterator[tuple[int, int | bytes]]:
    """Every field of a message: number and value; unknown ones come as ``b""``."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, wire = tag >> 3 & 0xFFFFFFFF, tag & 7
        if wire == _END or not 0 < number < 1 << 31:
            raise FrameError(f"tag {tag:#x} is not a field")
        if number not in known:
            at = _skip(data, at, wire)
            yield number, b""
            continue
        if wire != known[number]:
            raise FrameError(f"field {number} has wire type {wire}, expected {known[number]}")
        value, at = _read_varint(data, at)
        if wire == _VARINT:
            yield number, value
            continue
        if value > len(data) - at:
            raise FrameError(f"field {number} of {value} bytes runs past the end")
        yield number, data[at : at + value]
        at += value


def _skip(data: bytes, at: int, wire: int) -> int:
    depth = 0
    while True:
        if wire == _VARINT:
            _, at = _read_varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        elif wire == _BYTES:
            size, at = _read_varint(data, at)
            at += size
        elif wire in (_START, _END):
            depth += 1 if wire == _START else -1
        else:
            raise FrameError(f"wire type {wire} does not exist")
        if at > len(data) or depth < 0:
            raise FrameError("an unknown field runs past the end")
        if depth == 0:
            return at
        tag, at = _read_varint(data, at)
        wire = tag & 7


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if at + i >= len(data):
            raise FrameError("a varint runs past the end")
        byte = data[at + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + i + 1
    raise FrameError("a varint is longer than ten bytes")

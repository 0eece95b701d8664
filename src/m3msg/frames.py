"""The wire format of m3msg in plain Python; the kernels are tested against it. Source: docs/m3/m3msg.md, frames.

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

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from m3msg.rows import MAX_FRAME, PREFIX
from m3x.protobuf import GENERATED, Field, Kind, MessageValue, marshal, unmarshal
from m3x.protobuf import Message as Table

__all__ = ["FrameError", "Message", "Metadata", "decode_ack", "decode_message", "encode_ack", "encode_message", "split"]


class FrameError(ValueError):
    """Bytes that are not m3msg; the connection that sent them cannot be followed any further."""


class Metadata(NamedTuple):
    """What names a message between one producer and one consumer service."""

    shard: int = 0
    """The replicated shard id: replica × number of shards + shard (docs/m3/m3msg.md, replicated services)."""
    id: int = 0
    sent_at: int = 0
    """Unix ns of this attempt; 0: not given."""


class Message(NamedTuple):
    """One message."""

    metadata: Metadata
    value: bytes = b""


_RULES = replace(GENERATED, error=lambda message, reason, _detail: FrameError(f"{message}: {reason}"))
_METADATA = Table(
    "Metadata", tuple(Field(number, name, Kind.UINT64) for number, name in enumerate(Metadata._fields, 1)), _RULES
)
_MESSAGE = Table(
    "Message", (Field(1, "metadata", Kind.MESSAGE, _METADATA, embedded=True), Field(2, "value", Kind.BYTES)), _RULES
)
_ACK = Table("Ack", (Field(1, "metadata", Kind.MESSAGE, _METADATA, repeated=True),), _RULES)


def encode_message(message: Message) -> bytes:
    """The whole frame, length prefix included."""
    return _frame(_MESSAGE, {"metadata": _values(message.metadata), "value": message.value})


def encode_ack(metadatas: Iterable[Iterable[int]]) -> bytes:
    """One ack frame that echoes ``metadatas``."""
    return _frame(_ACK, {"metadata": [_values(metadata) for metadata in metadatas]})


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
    values = unmarshal(_MESSAGE, payload)
    return Message(Metadata(**values.get("metadata", {})), values.get("value", b""))


def decode_ack(payload: bytes) -> list[Metadata]:
    """The metadatas in an ack frame's payload. Raises ``FrameError``."""
    return [Metadata(**metadata) for metadata in unmarshal(_ACK, payload).get("metadata", ())]


def _values(metadata: Iterable[int]) -> MessageValue:
    return dict(zip(Metadata._fields, metadata, strict=True))


def _frame(table: Table, values: MessageValue) -> bytes:
    payload = marshal(table, values)
    return len(payload).to_bytes(PREFIX, "big") + payload

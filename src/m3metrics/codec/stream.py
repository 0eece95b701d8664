"""Streams of length-prefixed messages, as the raw TCP protocol has them (docs/m3/metrics.md, raw TCP stream).

Each record is the message's size as a *signed zigzag* varint, then a MetricWithMetadatas message.
"""

from collections.abc import Iterator

from m3metrics.codec.unaggregated import Metric, decode_metric, encode_metric
from m3metrics.errors import UnmarshalError, UnrecognizedTypeError
from m3x.protobuf import WireError, read_varint, varint

MAX_MESSAGE_BYTES = 50 << 20
"""M3's default limit on both sides."""


def encode_record(metric: Metric) -> bytes:
    """One record. Raises ``PolicyError`` as ``encode_metric``."""
    body = encode_metric(metric)
    return varint(len(body) << 1) + body


def decode_records(data: bytes, max_message_bytes: int = MAX_MESSAGE_BYTES) -> Iterator[Metric]:
    """The metrics of a whole stream; ends silently at a clean end. Raises ``CodecError`` behind the last good one."""
    at = 0
    while at < len(data):
        size, at = _record_size(data, at)
        if size > max_message_bytes:
            raise UnmarshalError(
                f"decoded message size {size} is larger than supported max message size {max_message_bytes}"
            )
        if size <= 0:
            raise UnmarshalError(f"decoded message size {size} is zero or negative")
        if at == len(data):
            return  # M3 takes a stream that stops behind a size as ended
        if at + size > len(data):
            raise UnmarshalError("unexpected EOF")
        try:
            metric = decode_metric(data[at : at + size])
        except UnrecognizedTypeError as error:
            raise UnrecognizedTypeError(error.number, f"{error}: {error.number}") from None
        yield metric
        at += size


def _record_size(data: bytes, at: int) -> tuple[int, int]:
    if len(data) - at >= 10 and all(byte >= 0x80 for byte in data[at : at + 9]) and data[at + 9] > 1:
        raise UnmarshalError("binary: varint overflows a 64-bit integer")
    try:
        raw, at = read_varint(data, at, len(data))
    except WireError as error:
        raise UnmarshalError(error.reason) from None
    return raw >> 1 ^ -(raw & 1), at

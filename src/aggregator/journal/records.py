"""What is written: one record for each batch that was applied and each command that is carried out.

A record of the log is: length of the header (4 bytes, little-endian), the header (msgpack of one struct below), arrays. The commands are
those of ``aggregator.ipc``: fields may be added to them at the end, with defaults; anything else is another ``FORMAT``. Every segment says
in its preamble which one it has, as JSON.
"""

import struct
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator import ipc
from m3x.segments import Part

__all__ = ["FORMAT", "Batch", "Numbers", "Order", "Preamble", "RecordError", "decode", "encode"]

FORMAT = 1

_LENGTH = struct.Struct("<I")


class RecordError(ValueError):
    """A record that this release cannot read, though it is what was written."""


class Preamble(msgspec.Struct, frozen=True):
    """Of each segment."""

    format: int


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """Base of all headers."""


class Batch(_Record, frozen=True, tag="batch"):
    """A batch of the front. Behind it: rows of ``aggregator.engine.ingest.shorthand``."""

    front: int
    """Which front sent it (``ipc.Batch.front``)."""
    seq: int
    settled: int
    """Of the same front: no message of batches up to here comes again."""
    now_ns: int
    """Its stamp, as it was applied."""
    connections: list[int]
    counts: list[int]
    """Rows of each connection, in order."""


class Order(_Record, frozen=True, tag="order"):
    """A command that was carried out."""

    now_ns: int
    command: ipc.Command


class Numbers(_Record, frozen=True, tag="numbers"):
    """From here on series have other numbers. Behind it: the old ones and the new ones, uint32 each; all others are unknown."""

    count: int


_decode = msgspec.msgpack.Decoder(Batch | Order | Numbers).decode
_encode = msgspec.msgpack.Encoder().encode


def encode(header: Batch | Order | Numbers, *arrays: NDArray[Any]) -> list[Part]:
    """The parts of a record."""
    head = _encode(header)
    return [_LENGTH.pack(len(head)) + head, *(array.view(np.uint8) for array in arrays)]


def decode(data: memoryview) -> tuple[Batch | Order | Numbers, memoryview]:
    """The header of a record, and its arrays. Raises ``RecordError``."""
    if len(data) < _LENGTH.size:
        raise RecordError(f"a record of {len(data)} bytes")
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    try:
        return _decode(data[_LENGTH.size : end]), data[end:]
    except msgspec.MsgspecError as error:
        raise RecordError(f"a record cannot be understood: {error}") from error

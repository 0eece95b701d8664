"""A small value that is always whole on disk: how far a log was consumed, say.

Its file has two slots, written in turn, each in a block of its own: a write that is torn spoils only the slot of the value before the last
one, and the last one is found. A write is one system call without fsync: it survives the death of the process; after a power cut an older
value may be found. So whoever goes on from it may do something again.
"""

import contextlib
import os
import struct
import zlib
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from m3x.segments.directory import set_aside
from m3x.segments.errors import AppendError, DirectoryError

__all__ = ["MAX_CURSOR", "Cursor"]

_MAGIC = b"\xf1m3c"
_SLOT = struct.Struct("<4sIQ")
_CRC = struct.Struct("<I")
_SLOT_BYTES = 4096
_HEAD_BYTES = _SLOT.size + _CRC.size
MAX_CURSOR = _SLOT_BYTES - _HEAD_BYTES
"""The most bytes of an encoded value."""

T = TypeVar("T")


class Cursor(Generic[T]):
    """The value in one file; whoever has the lock of its directory may have it. ``value`` is what was written last, None at first."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        """Opens or makes the file ``path``; its value is a ``kind`` in msgpack. A file without any good value is set aside.

        Raises ``DirectoryError``.
        """
        self.path = path
        self.value: T | None = None
        self.aside = ""
        """The new name of the file that could not be read; empty: it could."""
        self._count = 0
        self._encoder = msgspec.msgpack.Encoder()
        try:
            self._fd = self._open()
            data = os.pread(self._fd, 2 * _SLOT_BYTES, 0)
            self._load(data, msgspec.msgpack.Decoder(kind))
            if not self._count and data.count(0) < len(data):
                os.close(self._fd)
                self.aside = set_aside(path)
                self._fd = self._open()
        except OSError as error:
            raise DirectoryError(path, error) from error

    def write(self, value: T) -> None:
        """Replaces the value. Raises ``AppendError`` (the old one stays) or ``ValueError`` for one above ``MAX_CURSOR`` bytes."""
        data = self._encoder.encode(value)
        if len(data) > MAX_CURSOR:
            raise ValueError(f"a cursor of {len(data)} bytes; at most {MAX_CURSOR} are possible")
        head = _SLOT.pack(_MAGIC, len(data), self._count + 1)
        slot = head + _CRC.pack(zlib.crc32(data, zlib.crc32(head))) + data
        try:
            written = os.pwrite(self._fd, slot, (self._count + 1) % 2 * _SLOT_BYTES)
            if written < len(slot):
                os.pwrite(self._fd, slot[written:], (self._count + 1) % 2 * _SLOT_BYTES + written)
        except OSError as error:
            raise AppendError(self.path, error) from error
        self._count += 1
        self.value = value

    def sync(self) -> None:
        """Makes the value durable. Blocks; may be called in another thread. Raises ``OSError``."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _load(self, data: bytes, decoder: msgspec.msgpack.Decoder[T]) -> None:
        for at in (0, _SLOT_BYTES):
            found = _slot(data[at : at + _SLOT_BYTES])
            if found is None or found[0] <= self._count:
                continue
            with contextlib.suppress(msgspec.MsgspecError):
                self.value = decoder.decode(found[1])
                self._count = found[0]


def _slot(data: bytes) -> tuple[int, bytes] | None:
    """Count and encoded value of a slot; None: there is no good one."""
    if len(data) < _HEAD_BYTES:
        return None
    magic, length, count = _SLOT.unpack_from(data)
    value = data[_HEAD_BYTES : _HEAD_BYTES + length]
    if magic != _MAGIC or len(value) < length:
        return None
    crc = zlib.crc32(value, zlib.crc32(data[: _SLOT.size]))
    return (count, value) if crc == _CRC.unpack_from(data, _SLOT.size)[0] else None

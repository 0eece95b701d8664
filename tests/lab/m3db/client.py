"""A client of a played node for its tests: calls written by hand, so that they are as right or as wrong as a test wants them."""

import asyncio
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from lab.m3db.node import Node
from lab.m3db.series import Tags, quoted_id

__all__ = ["Client", "Heard", "batch", "element", "encoded"]


@dataclass(frozen=True, slots=True)
class Heard:
    """A frame from the node."""

    type: int
    id: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of an answer or of an error frame."""
        return self.payload[1] if self.type == 4 else self.payload[0]

    @property
    def body(self) -> bytes:
        """The struct of an answer whose checksum is CRC-32 and whose one header is ``as`` = ``thrift``."""
        return self.payload[51:]


def encoded(tags: Tags) -> bytes:
    """A tag block."""
    sized = b"".join(len(part).to_bytes(2, "little") + part for tag in tags for part in tag)
    return struct.pack("<HH", 10101, len(tags)) + sized


def element(tags: Tags, timestamp: int, value: float, time_type: int = 0, series_id: bytes | None = None) -> bytes:
    """An element of a batch."""
    series_id = quoted_id(tags) if series_id is None else series_id
    point = b"\x0a\x00\x01" + struct.pack(">q", timestamp) + b"\x04\x00\x02" + struct.pack(">d", value)
    point += b"\x08\x00\x04" + struct.pack(">i", time_type) if time_type else b""
    return _binary(1, series_id) + _binary(2, encoded(tags)) + b"\x0c\x00\x03" + point + b"\x00\x00"


def batch(namespace: str, elements: Sequence[bytes]) -> bytes:
    """The arguments of ``writeTaggedBatchRaw``."""
    listed = b"\x0f\x00\x02\x0c" + struct.pack(">i", len(elements)) + b"".join(elements)
    return b"\x0c\x00\x01" + _binary(1, namespace.encode()) + listed + b"\x00\x00"


def _binary(field: int, data: bytes) -> bytes:
    return struct.pack(">Bhi", 11, field, len(data)) + data


class Client:
    """One connection, greeted."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._next = 2

    @classmethod
    async def connect(cls, node: Node) -> "Client":
        """Connects and shakes hands."""
        client = cls(*await asyncio.open_connection(node.host, node.port))
        pairs = ((b"host_port", b"0.0.0.0:0"), (b"process_name", b"test"))
        headers = b"".join(len(part).to_bytes(2, "big") + part for pair in pairs for part in pair)
        client.send(1, 1, struct.pack(">HH", 2, 2) + headers)
        heard = await client.hear()
        assert (heard.type, heard.id) == (2, 1)
        return client

    def send(self, kind: int, number: int, payload: bytes) -> None:
        """Any frame."""
        self._writer.write(struct.pack(">HBBIQ", 16 + len(payload), kind, 0, number, 0) + payload)

    def ask(self, method: str, body: bytes = b"\x00", ttl_ms: int = 5000) -> int:
        """Sends a call; its id."""
        args = [f"Node::{method}".encode(), b"\x00\x00", body]
        checksum = zlib.crc32(b"".join(args))
        headers = b"\x02\x02as\x06thrift\x02cn\x04test"
        payload = b"\x00" + struct.pack(">I", ttl_ms) + bytes(25) + b"\x04Node" + headers
        payload += b"\x01" + struct.pack(">I", checksum)
        payload += b"".join(len(arg).to_bytes(2, "big") + arg for arg in args)
        number, self._next = self._next, self._next + 1
        self.send(3, number, payload)
        return number

    async def hear(self, timeout_s: float = 5.0) -> Heard:
        """The next frame. Raises ``asyncio.IncompleteReadError`` at the end, ``TimeoutError`` if nothing comes."""
        async with asyncio.timeout(timeout_s):
            size, kind, _, number, _ = struct.unpack(">HBBIQ", await self._reader.readexactly(16))
            return Heard(kind, number, await self._reader.readexactly(size - 16))

    async def call(self, method: str, body: bytes = b"\x00", timeout_s: float = 5.0) -> Heard:
        """Asks and hears the answer of it."""
        number = self.ask(method, body)
        heard = await self.hear(timeout_s)
        assert heard.id == number
        return heard

    async def nothing_comes(self) -> bool:
        """Whether a ping is answered before anything else."""
        self.send(0xD0, 99_999, b"")
        return (await self.hear()).type == 0xD1

    def close(self) -> None:
        """At once."""
        self._writer.transport.abort()

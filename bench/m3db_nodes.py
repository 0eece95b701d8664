"""M3DB nodes that take everything and look at nothing: processes whose CPU is not that of the client under test.

A frame costs them its header: every call is answered with success when its last frame has come. For what nodes really check there is
``lab.m3db``.
"""

import asyncio
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from m3db.tchannel.frames import Frame, FrameType, frame_bytes
from m3db.tchannel.handshake import init_request
from m3db.thrift import METHODS, marshal

__all__ = ["nodes"]

_HEAD = struct.Struct(">HBxI8x")
_MORE = 1
_HEALTH = marshal(METHODS["health"].result, {"success": {"ok": True, "status": b"up", "bootstrapped": True}})


class _Node(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        pending = self._pending
        pending += data
        at, end, out = 0, len(pending), []
        while at + _HEAD.size <= end:
            size, kind, message_id = _HEAD.unpack_from(pending, at)
            if at + size > end:
                break
            if kind == FrameType.INIT_REQ:
                out.append(_renamed(frame_bytes(init_request("node")), FrameType.INIT_RES, message_id))
            elif kind in (FrameType.CALL_REQ, FrameType.CALL_REQ_CONTINUE):
                flags = pending[at + _HEAD.size]
                if kind == FrameType.CALL_REQ and b"Node::health" in pending[at : at + 128]:
                    out.append(_answer(message_id, _HEALTH))
                elif not flags & _MORE:
                    out.append(_answer(message_id, b"\0"))
            at += size
        del pending[:at]
        if out:
            self._transport.write(b"".join(out))


def _answer(message_id: int, body: bytes) -> bytes:
    """A good answer: no checksum, no headers."""
    payload = bytes(2 + 25 + 1 + 1) + struct.pack(">HH", 0, 2) + bytes(2) + struct.pack(">H", len(body)) + body
    return frame_bytes(Frame(FrameType.CALL_RES, message_id, payload))


def _renamed(data: bytes, kind: FrameType, message_id: int) -> bytes:
    return _HEAD.pack(len(data), kind, message_id) + data[_HEAD.size :]


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Node, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def nodes(count: int) -> Iterator[list[str]]:
    """So many processes; yields ``host:port`` of each."""
    processes = [
        subprocess.Popen([sys.executable, "-m", "bench.m3db_nodes"], stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        addresses = []
        for process in processes:
            assert process.stdout is not None
            addresses.append(f"127.0.0.1:{int(process.stdout.readline())}")
        yield addresses
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


if __name__ == "__main__":
    asyncio.run(_serve())

"""The other end of a connection: reads calls and writes what a test wants a node to answer."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from m3db.tchannel.calls import Assembly, fragment_frames
from m3db.tchannel.fragments import Checksum, RequestHead, ResponseHead, read_fragment
from m3db.tchannel.frames import Frame, FrameReader, FrameType, frame_bytes
from m3db.tchannel.handshake import Init, write_init

PARAMETERS = {b"host_port": b"127.0.0.1:9000", b"process_name": b"node[1]"}


@dataclass(frozen=True, slots=True)
class Received:
    """A call as the node sees it."""

    id: int
    method: str
    body: bytes
    head: RequestHead
    checksum: Checksum


class Calls:
    """Bytes of a client after its handshake → calls."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._open: dict[int, Assembly] = {}
        self.others: list[Frame] = []
        """Frames that belong to no call."""

    def feed(self, data: bytes) -> list[Received]:
        found = []
        for frame in self._reader.feed(data):
            if frame.type not in (FrameType.CALL_REQ, FrameType.CALL_REQ_CONTINUE):
                self.others.append(frame)
                continue
            fragment = read_fragment(frame)
            if frame.type == FrameType.CALL_REQ:
                assert frame.id not in self._open, "a message id in use"
                self._open[frame.id] = Assembly(fragment)
            else:
                self._open[frame.id].add(fragment)
            call = self._open[frame.id]
            if call.complete:
                del self._open[frame.id]
                arg1, arg2, body = (bytes(argument) for argument in call.arguments)
                assert isinstance(call.head, RequestHead)
                assert arg2 == b"\0\0"
                service, _, method = arg1.partition(b"::")
                assert service == call.head.service == b"Node"
                found.append(Received(frame.id, method.decode(), body, call.head, fragment.checksum))
        return found


def answer_bytes(message_id: int, body: bytes, code: int = 0, checksum: Checksum = Checksum.NONE) -> bytes:
    """The frames of an answer."""
    head = ResponseHead(code, ((b"as", b"thrift"),))
    return b"".join(map(frame_bytes, fragment_frames(message_id, head, (b"", b"\0\0", body), checksum)))


def error_bytes(message_id: int, code: int, text: str) -> bytes:
    """An error frame."""
    payload = bytes([code]) + bytes(25) + len(text.encode()).to_bytes(2, "big") + text.encode()
    return frame_bytes(Frame(FrameType.ERROR, message_id, payload))


def init_bytes(message_id: int = 1, version: int = 2) -> bytes:
    """The node's answer of the handshake."""
    return frame_bytes(Frame(FrameType.INIT_RES, message_id, write_init(Init(version, PARAMETERS))))


Behaviour = Callable[["Node", Received], Awaitable[bytes | None]]


class Node:
    """Listens on loopback; ``behaviour`` says what is sent for each call."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.greeting = init_bytes()
        self.received: list[Received] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0
        self.connections = itertools.count()
        self.others: list[Frame] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        next(self.connections)
        head = await reader.readexactly(16)
        await reader.readexactly(int.from_bytes(head[:2], "big") - 16)
        writer.write(self.greeting)
        calls = Calls()
        tasks = []
        while data := await reader.read(1 << 16):
            for call in calls.feed(data):
                self.received.append(call)
                tasks.append(asyncio.create_task(self._answer(call, writer)))
            self.others += calls.others
            calls.others.clear()
        for task in tasks:
            task.cancel()
        writer.close()

    async def _answer(self, call: Received, writer: asyncio.StreamWriter) -> None:
        data = await self.behaviour(self, call)
        if data is not None:
            writer.write(data)


@asynccontextmanager
async def node_that(behaviour: Behaviour) -> AsyncIterator[Node]:
    """A node on a port of its own."""
    node = Node(behaviour)
    server = await asyncio.start_server(node.serve, "127.0.0.1", 0)
    node.port = server.sockets[0].getsockname()[1]
    try:
        yield node
    finally:
        server.close()
        for writer in node.writers:
            writer.close()
        await server.wait_closed()

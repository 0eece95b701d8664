"""The m3msg server over real sockets."""

import asyncio
import contextlib
import socket
import struct

import pytest
from lab.waiting import until

from m3msg.consumer import ConsumerOptions, ConsumerServer, ReceivedBatch
from m3msg.frames import Message, Metadata, decode_ack, encode_message, split
from m3x.config import Duration
from m3x.instrument import Registry

MESSAGES = [Message(Metadata(i % 4, i + 1, 1_700_000_000_000_000_000), b"v" * 100) for i in range(50)]
STREAM = b"".join(map(encode_message, MESSAGES))


class Peer:
    """A producer that does as it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.rest = b""

    async def acks(self, count: int) -> list[Metadata]:
        found: list[Metadata] = []
        while len(found) < count:
            data = await self.reader.read(65536)
            if not data:
                break
            frames, self.rest = split(self.rest + data)
            found += [m for frame in frames for m in decode_ack(frame)]
        return found

    async def closed(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return await self.reader.read() == b""
        return True


@contextlib.asynccontextmanager
async def dialled(server: ConsumerServer, **kwargs):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, **kwargs)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def ack_all(batch: ReceivedBatch) -> None:
    batch.ack()


async def test_acks_come_back_when_the_handler_has_returned():
    options = ConsumerOptions(ack_flush_interval=Duration(3600 * 10**9))
    registry = Registry()
    async with (
        ConsumerServer("127.0.0.1:0", ack_all, options, scope=registry.scope()) as server,
        dialled(server) as peer,
    ):
        peer.writer.write(STREAM)
        assert await peer.acks(50) == [m.metadata for m in MESSAGES]
        assert registry.counter("message_received") == 50
        assert registry.counter("ack_sent") == 50


async def test_acks_of_a_handler_that_goes_on_leave_after_the_interval():
    release = asyncio.Event()

    async def handler(batch: ReceivedBatch) -> None:
        batch.ack()
        await release.wait()

    options = ConsumerOptions(ack_flush_interval=Duration(10**7))
    async with ConsumerServer("127.0.0.1:0", handler, options) as server, dialled(server) as peer:
        peer.writer.write(STREAM)
        assert len(await peer.acks(50)) == 50
        release.set()


async def test_ack_buffer_size_sends_at_once():
    release = asyncio.Event()

    async def handler(batch: ReceivedBatch) -> None:
        batch.ack()
        await release.wait()

    options = ConsumerOptions(ack_flush_interval=Duration(3600 * 10**9), ack_buffer_size=1)
    async with ConsumerServer("127.0.0.1:0", handler, options) as server, dialled(server) as peer:
        peer.writer.write(STREAM)
        assert len(await peer.acks(50)) == 50
        release.set()


async def test_what_a_failing_handler_did_not_ack_stays_unacked():
    async def handler(batch: ReceivedBatch) -> None:
        batch.ack(batch.rows["id"] <= 10)
        raise RuntimeError("storage is away")

    registry = Registry()
    async with ConsumerServer("127.0.0.1:0", handler, scope=registry.scope()) as server, dialled(server) as peer:
        peer.writer.write(STREAM)
        assert await peer.acks(10) == [m.metadata for m in MESSAGES[:10]]
        await until(lambda: registry.counter("handler_error") >= 1)
        assert len(server.connections) == 1


@pytest.mark.parametrize("garbage", [b"\xff" * 100, b"\x00\x00\x00\x02\x08\x01", b"GET / HTTP/1.1\r\n\r\n"])
async def test_garbage_closes_only_its_own_connection_and_earlier_messages_are_acked(garbage: bytes):
    async with (
        ConsumerServer("127.0.0.1:0", ack_all) as server,
        dialled(server) as good,
        dialled(server) as bad,
    ):
        bad.writer.write(STREAM + garbage)
        assert len(await bad.acks(50)) == 50
        assert await bad.closed()
        good.writer.write(STREAM)
        assert len(await good.acks(50)) == 50
        assert len(server.connections) == 1


async def test_oversized_frame_closes_before_its_bytes_arrive():
    async with ConsumerServer("127.0.0.1:0", ack_all) as server, dialled(server) as peer:
        peer.writer.write((4 * 1024 * 1024 + 1).to_bytes(4, "big"))
        assert await peer.closed()


async def test_bytes_in_work_are_bounded_and_other_connections_go_on():
    held: list[ReceivedBatch] = []
    release = asyncio.Event()

    async def handler(batch: ReceivedBatch) -> None:
        if batch.rows["shard"][0] != 9:
            batch.ack()
            return
        held.append(batch)
        await release.wait()
        batch.ack()

    limit = 1 << 20
    options = ConsumerOptions(in_flight_size=limit)
    async with (
        ConsumerServer("127.0.0.1:0", handler, options) as server,
        dialled(server) as slow,
        dialled(server) as quick,
    ):
        count = 100_000
        data = b"".join(encode_message(Message(Metadata(9, i + 1, 1), b"v" * 200)) for i in range(count))
        slow.writer.write(data)
        await until(lambda: sum(b.size_bytes for b in held) >= limit)
        for _ in range(20):
            quick.writer.write(STREAM)
            assert len(await quick.acks(50)) == 50
        assert sum(b.size_bytes for b in held) < limit + (1 << 20)
        release.set()
        acks = await slow.acks(count)
        assert [m.id for m in acks] == list(range(1, count + 1))


async def test_peer_that_does_not_read_its_acks_is_closed_and_others_go_on():
    registry = Registry()
    options = ConsumerOptions(connection_write_timeout=Duration(2 * 10**8))
    async with (
        ConsumerServer("127.0.0.1:0", ack_all, options, scope=registry.scope()) as server,
        dialled(server) as quick,
    ):
        deaf = socket.create_connection(("127.0.0.1", server.port))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()

        async def flood() -> None:
            with contextlib.suppress(OSError):
                while True:
                    await loop.sock_sendall(deaf, STREAM * 50)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(flood())
            await until(lambda: registry.counter("ack_write_error") == 1, 60)
            quick.writer.write(STREAM)
            assert len(await quick.acks(50)) == 50
            await until(lambda: len(server.connections) == 1)
            task.cancel()
        deaf.close()


async def test_connections_that_are_reset_are_errors_of_reading():
    registry = Registry()
    async with ConsumerServer("127.0.0.1:0", ack_all, scope=registry.scope("ingest_m3msg")) as server:
        peer = socket.create_connection(("127.0.0.1", server.port))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: len(server.connections) == 1)
        peer.close()
        await until(lambda: registry.counter("ingest_m3msg_message_read_error") == 1)


async def test_close_waits_for_handlers_and_writes_their_acks():
    entered, release = asyncio.Event(), asyncio.Event()

    async def handler(batch: ReceivedBatch) -> None:
        entered.set()
        await release.wait()
        batch.ack()

    server = ConsumerServer("127.0.0.1:0", handler)
    await server.start()
    async with dialled(server) as peer, asyncio.TaskGroup() as group:
        peer.writer.write(STREAM)
        await entered.wait()
        closing = group.create_task(server.close())
        await asyncio.sleep(0)
        assert not closing.done()
        release.set()
        assert len(await peer.acks(50)) == 50
        assert await peer.closed()


async def test_close_does_not_wait_for_ever():
    async def handler(batch: ReceivedBatch) -> None:
        await asyncio.Event().wait()

    server = ConsumerServer("127.0.0.1:0", handler)
    await server.start()
    async with dialled(server) as peer:
        peer.writer.write(STREAM)
        await until(lambda: bool(server.connections))
        async with asyncio.timeout(20):
            await server.close(timeout_s=0.1)
        assert await peer.closed()


async def test_ack_after_the_connection_has_gone_is_counted():
    batches: list[ReceivedBatch] = []

    async def handler(batch: ReceivedBatch) -> None:
        batches.append(batch)

    registry = Registry()
    async with ConsumerServer("127.0.0.1:0", handler, scope=registry.scope()) as server:
        async with dialled(server) as peer:
            peer.writer.write(STREAM)
            await until(lambda: bool(batches))
        await until(lambda: not server.connections)
        batches[0].ack()
        assert registry.counter("ack_after_close") == 1


@pytest.mark.parametrize(
    ("sent", "errors"),
    [
        pytest.param(b"", 0, id="a look whether somebody listens"),
        pytest.param(STREAM, 0, id="an ordinary end"),
        pytest.param(STREAM + b"\0\0", 1, id="an end inside a frame"),
        pytest.param(b"\0\0\0\x05hello", 1, id="no message"),
    ],
)
async def test_only_what_cannot_be_read_counts_as_a_decode_error(sent, errors):
    registry = Registry()
    async with ConsumerServer("127.0.0.1:0", ack_all, scope=registry.scope()) as server:
        async with dialled(server) as peer:
            await until(lambda: len(server.connections) == 1)
            peer.writer.write(sent)
            peer.writer.write_eof()
            await peer.reader.read()
        await until(lambda: not server.connections)
        assert registry.counter("message_decode_error") == errors

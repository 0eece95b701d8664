"""A connection to a node over loopback."""

import asyncio

import pytest
from lab.ports import free_port
from lab.waiting import until
from tests.m3db.node import Node, Received, answer_bytes, error_bytes, init_bytes, node_that

from m3db.connection import Answer, Connection, MessageIds
from m3db.errors import CallError, CallFailure, ConnectError
from m3db.tchannel import Call, Frame, FrameType
from m3db.tchannel.frames import frame_bytes


async def echo(_node: Node, call: Received) -> bytes | None:
    """Answers with the body; says nothing to ``hang``, and an error to ``fail``."""
    if call.method == "hang":
        return None
    if call.method == "fail":
        return error_bytes(call.id, 5, "it failed")
    return answer_bytes(call.id, call.body, 1 if call.method == "declared" else 0, call.checksum)


async def opened(node: Node, ids: MessageIds | None = None) -> Connection:
    return await Connection.open("127.0.0.1", node.port, timeout_s=10, ids=ids)


async def failure(future: "asyncio.Future[Answer]") -> CallError:
    with pytest.raises(CallError) as caught:
        await future
    return caught.value


async def test_calls_run_side_by_side() -> None:
    async with node_that(echo) as node:
        connection = await opened(node)
        assert connection.init.parameters[b"process_name"] == b"node[1]"
        bodies = [bytes([number]) * (number * 3000) for number in range(60)]
        answers = await asyncio.gather(*(connection.call("x", body, 10) for body in bodies))
        assert [answer.body for answer in answers] == bodies
        assert (await connection.call("declared", b"no", 10)).code == 1
        assert {call.head.ttl_ms for call in node.received} == {10_000}
        assert connection.calls_in_flight == 0
        await connection.close()
        assert connection.closed


async def test_an_error_frame_ends_its_call() -> None:
    async with node_that(echo) as node:
        connection = await opened(node)
        with pytest.raises(CallError, match="it failed") as caught:
            await connection.call("fail", b"", 10)
        assert caught.value.kind is CallFailure.UNEXPECTED
        assert (await connection.call("x", b"still", 10)).body == b"still"
        await connection.close()


async def test_prepared_frames_of_several_calls() -> None:
    ids = MessageIds()
    async with node_that(echo) as one, node_that(echo) as other:
        connections = [await opened(one, ids), await opened(other, ids)]
        first = connections[0].reserve(3)
        frames = b"".join(Call(first + k, b"x", bytes([k]), 1000).frames() for k in range(3))
        for connection in connections:
            futures = connection.send(memoryview(frames), first, 3, 10)
            assert [answer.body for answer in await asyncio.gather(*futures)] == [b"\0", b"\1", b"\2"]
            await connection.drain()
            assert connection.unsent_bytes == 0
        assert connections[1].reserve(1) == first + 3
        assert connections[0].send(b"", first, 0, 10) == []
        for connection in connections:
            await connection.close()


async def test_deadlines() -> None:
    async with node_that(echo) as node:
        connection = await opened(node)
        with pytest.raises(CallError, match=r"no answer within 0\.02 s") as caught:
            await connection.call("hang", b"", 0.02)
        assert caught.value.kind is CallFailure.TIMEOUT
        first = connection.reserve(2)
        frames = Call(first, b"hang", b"", 20).frames() + Call(first + 1, b"x", b"y", 20).frames()
        hanging, answered = connection.send(frames, first, 2, 0.05)
        assert (await failure(hanging)).kind is CallFailure.TIMEOUT
        assert (await answered).body == b"y"
        assert connection.calls_in_flight == 0
        node.writers[0].write(answer_bytes(first, b"late"))
        await until(lambda: connection.ignored_frames == 1)
        assert not connection.closed
        await connection.close()


async def test_cancelled_calls_are_forgotten() -> None:
    async with node_that(echo) as node:
        connection = await opened(node)
        task = asyncio.create_task(connection.call("hang", b"", 60))
        first = connection.reserve(1)
        (future,) = connection.send(Call(first, b"hang", b"", 1000).frames(), first, 1, 60)
        await until(lambda: len(node.received) == 2)
        task.cancel()
        future.cancel()
        await asyncio.wait([task])
        await until(lambda: connection.calls_in_flight == 0)
        await connection.close()


@pytest.mark.parametrize("how", ["close", "protocol", "garbage"])
async def test_calls_fail_with_their_connection(how: str) -> None:
    async def behaviour(node: Node, call: Received) -> bytes | None:
        if how == "close":
            node.writers[0].close()
            return None
        return error_bytes(0xFFFFFFFF, 0xFF, "bad frame") if how == "protocol" else bytes(100)

    async with node_that(behaviour) as node:
        connection = await opened(node)
        with pytest.raises(CallError) as caught:
            await connection.call("x", b"", 10)
        kind = CallFailure.NETWORK if how == "close" else CallFailure.PROTOCOL
        assert caught.value.kind is kind
        assert connection.closed
        with pytest.raises(CallError) as caught:
            await connection.call("x", b"", 10)
        assert caught.value.kind is CallFailure.NETWORK
        with pytest.raises(CallError):
            await connection.drain()
        await connection.close()


async def test_calls_fail_when_this_side_closes() -> None:
    async with node_that(echo) as node:
        connection = await opened(node)
        first = connection.reserve(1)
        (future,) = connection.send(Call(first, b"hang", b"", 1000).frames(), first, 1, 60)
        await connection.close()
        assert (await failure(future)).text.endswith("closed on this side")


async def test_pings_are_answered() -> None:
    async with node_that(echo) as node:
        connection = await opened(node)
        node.writers[0].write(frame_bytes(Frame(FrameType.PING_REQ, 5)))
        await until(lambda: Frame(FrameType.PING_RES, 5) in node.others or connection.closed)
        await connection.close()


async def test_a_node_that_reads_nothing_holds_up_who_drains() -> None:
    async def stop(node: Node, call: Received) -> bytes | None:
        await asyncio.Event().wait()
        return None

    async with node_that(stop) as node:
        connection = await opened(node)
        first = connection.reserve(1)
        # The node's loop is this one, so what is written in one go is not read meanwhile.
        (future,) = connection.send(Call(first, b"hang", bytes(32 << 20), 60_000).frames(), first, 1, 60)
        assert connection.unsent_bytes > 8 << 20
        await connection.drain()
        assert connection.unsent_bytes <= 1 << 20
        await connection.close()
        assert (await failure(future)).kind is CallFailure.NETWORK


@pytest.mark.parametrize(
    ("greeting", "text"),
    [
        (init_bytes(version=1), "version 1 of TChannel"),
        (init_bytes(message_id=3), "id 3 in place of"),
        (error_bytes(1, 0xFF, "not you"), "refused with code 0xff: not you"),
        (init_bytes() + answer_bytes(2, b""), "nobody asked for"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "within"),
        (bytes(20), "at least 16"),
        (b"", "within"),
    ],
)
async def test_handshakes_that_fail(greeting: bytes, text: str) -> None:
    async with node_that(echo) as node:
        node.greeting = greeting
        with pytest.raises(ConnectError, match=text):
            await Connection.open("127.0.0.1", node.port, timeout_s=0.2)


async def test_nobody_listens() -> None:
    with pytest.raises(ConnectError, match="127.0.0.1"):
        await Connection.open("127.0.0.1", free_port(), timeout_s=5)


def test_message_ids_begin_again() -> None:
    ids = MessageIds(0xFFFFFFF0)
    assert ids.reserve(15) == 0xFFFFFFF0
    assert ids.reserve(1) == 2
    assert ids.reserve(1) == 3

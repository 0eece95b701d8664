"""A connection to a node over loopback."""

import asyncio
from collections.abc import Sequence

import pytest
from lab.ports import free_port
from lab.waiting import until
from tests.m3db.node import Node, Received, answer_bytes, error_bytes, init_bytes, node_that

from m3db.connection import Answer, Connection, Done, MessageIds
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


class Ends:
    """How the calls of one ``send`` have ended, by their place; each may end once."""

    def __init__(self) -> None:
        self.found: dict[int, Answer | CallError] = {}

    def __call__(self, places: Sequence[int], result: Answer | CallError) -> None:
        assert len(places)
        for place in places:
            assert self.found.setdefault(place, result) is result

    async def of(self, place: int) -> Answer | CallError:
        await until(lambda: place in self.found)
        return self.found[place]

    async def bodies(self, count: int) -> list[bytes]:
        """Of answers to so many calls."""
        await until(lambda: len(self.found) == count)
        ends = [self.found[place] for place in range(count)]
        return [end.body for end in ends if isinstance(end, Answer)]

    async def failure(self, place: int) -> CallError:
        end = await self.of(place)
        assert isinstance(end, CallError)
        return end


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
            connection.send(memoryview(frames), first, 3, 10, ends := Ends())
            assert await ends.bodies(3) == [b"\0", b"\1", b"\2"]
            await connection.drain()
            assert connection.unsent_bytes == 0
        assert connections[1].reserve(1) == first + 3
        connections[0].send(b"", first, 0, 10, nothing := Ends())
        for connection in connections:
            await connection.close()
        assert not nothing.found


async def test_calls_that_are_answered_alike_are_told_together() -> None:
    """In whatever order nodes answer, and to whichever batch the calls belong."""
    held: list[bytes] = []

    async def behaviour(node: Node, call: Received) -> bytes | None:
        held.append(answer_bytes(call.id, b"no" if call.id == first + 3 else b"\0"))
        if len(held) == 8:
            chosen = [0, 2, 1, 3, 5, 4, 7, 6]
            node.writers[0].write(b"".join(held[k] for k in chosen) + answer_bytes(first, b"\0"))
        return None

    async with node_that(behaviour) as node:
        connection = await opened(node)
        first = connection.reserve(8)
        told: list[tuple[str, list[int], bytes]] = []

        def telling(name: str) -> Done:
            def tell(places: Sequence[int], result: Answer | CallError) -> None:
                assert isinstance(result, Answer)
                told.append((name, list(places), result.body))

            return tell

        for name, begin in (("a", first), ("b", first + 5)):
            count = 5 if name == "a" else 3
            frames = b"".join(Call(begin + k, b"x", b"", 1000).frames() for k in range(count))
            connection.send(frames, begin, count, 10, telling(name))
        await until(lambda: connection.calls_in_flight == 0)
        assert sorted(place for name, places, _ in told if name == "a" for place in places) == [0, 1, 2, 3, 4]
        assert sorted(place for name, places, _ in told if name == "b" for place in places) == [0, 1, 2]
        assert {(name, place) for name, places, body in told if body == b"no" for place in places} == {("a", 3)}
        assert len(told) < 8
        await connection.close()


async def test_deadlines() -> None:
    async with node_that(echo) as node:
        connection = await opened(node)
        with pytest.raises(CallError, match=r"no answer within 0\.02 s") as caught:
            await connection.call("hang", b"", 0.02)
        assert caught.value.kind is CallFailure.TIMEOUT
        first = connection.reserve(2)
        frames = Call(first, b"hang", b"", 20).frames() + Call(first + 1, b"x", b"y", 20).frames()
        connection.send(frames, first, 2, 0.05, ends := Ends())
        assert (await ends.failure(0)).kind is CallFailure.TIMEOUT
        assert isinstance(answered := await ends.of(1), Answer)
        assert answered.body == b"y"
        assert connection.calls_in_flight == 0
        node.writers[0].write(answer_bytes(first, b"late"))
        await until(lambda: connection.ignored_frames == 1)
        assert not connection.closed
        await connection.close()


async def test_cancelled_calls_are_forgotten() -> None:
    async with node_that(echo) as node:
        connection = await opened(node)
        task = asyncio.create_task(connection.call("hang", b"", 60))
        await until(lambda: len(node.received) == 1)
        task.cancel()
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
        frames = Call(first, b"hang", b"", 1000).frames()
        connection.send(frames, first, 1, 60, ends := Ends())
        await connection.close()
        assert (await ends.failure(0)).text.endswith("closed on this side")
        connection.send(frames, first, 1, 60, later := Ends())
        assert not later.found  # whoever sends is told afterwards
        assert (await later.failure(0)).kind is CallFailure.NETWORK


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
        connection.send(Call(first, b"hang", bytes(32 << 20), 60_000).frames(), first, 1, 60, ends := Ends())
        assert connection.unsent_bytes > 8 << 20
        await connection.drain()
        assert connection.unsent_bytes <= 1 << 20
        await connection.close()
        assert (await ends.failure(0)).kind is CallFailure.NETWORK


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

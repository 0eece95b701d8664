"""A played node: what it stores, what it finds fault with, and each way in which it fails."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from lab.errors import LabError
from lab.m3db.faults import Error, Fault, Kind
from lab.m3db.namespaces import SECOND_NS
from lab.m3db.node import ALL, Node
from lab.m3db.series import shard_of
from tests.lab.m3db.client import Client, batch, element

TAGS = [(b"__name__", b"up"), (b"host", b"a")]
ID = b'{__name__="up",host="a"}'
WRITE = "writeTaggedBatchRaw"


@asynccontextmanager
async def node_and_client(node: Node) -> AsyncIterator[tuple[Node, Client]]:
    async with node:
        client = await Client.connect(node)
        try:
            yield node, client
        finally:
            client.close()


def good(value: float = 1.0) -> bytes:
    """One point of now."""
    return batch("default", [element(TAGS, int(time.time()), value)])


def stored(node: Node) -> list[float]:
    return [point.value for _, point in node.storage.values("default")]


async def test_a_point_is_stored() -> None:
    async with node_and_client(Node()) as (node, client):
        heard = await client.call(WRITE, good(2.5))
        assert (heard.type, heard.code, heard.body) == (4, 0, b"\x00")
        assert stored(node) == [2.5]
        assert node.state.calls == {WRITE: 1}


async def test_a_client_that_errs_fails_the_test() -> None:
    wrong = batch("default", [element(TAGS, int(time.time()), 1.0, series_id=b"{}")])
    with pytest.raises(LabError, match="id b'{}' of tags whose id is"):
        async with node_and_client(Node()) as (_, client):
            await client.call(WRITE, wrong)


async def test_other_errors_are_not_hidden_behind_it() -> None:
    async def fail() -> None:
        async with Node() as node:
            node.judge.note("something")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


async def test_a_cut_tag_block_ends_the_node() -> None:
    node = Node()
    async with node_and_client(node) as (_, client):
        body = good().replace(b"\x01\x00a", b"\x09\x00a")
        client.ask(WRITE, body)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.hear()
        assert node.crashed
        with pytest.raises(OSError, match="Connect call failed"):
            await Client.connect(node)
        assert any("a node ends of it" in text for text in node.judge.take())


async def test_only_its_shards_are_taken() -> None:
    async with node_and_client(Node(num_shards=4)) as (node, client):
        shard = shard_of(ID, 4)
        node.own({0, 1, 2, 3} - {shard})
        heard = await client.call(WRITE, good())
        assert heard.code == 1
        assert f"not responsible for shard {shard}".encode() in heard.body
        # A moment ago it was its own.
        assert node.judge.take() == []
        node.own({shard})
        assert (await client.call(WRITE, good())).code == 0


async def test_a_shard_that_was_never_its_own_is_a_fault() -> None:
    async with node_and_client(Node(num_shards=4, shards=[])) as (node, client):
        assert (await client.call(WRITE, good())).code == 1
        assert node.judge.take() == [f"shard {shard_of(ID, 4)}, which is not its own"]


async def test_the_clock_decides_what_is_too_old() -> None:
    async with node_and_client(Node()) as (node, client):
        assert (await client.call(WRITE, good())).code == 0
        node.clock_offset_ns = -3600 * SECOND_NS
        heard = await client.call(WRITE, good(2.0))
        assert heard.code == 1
        assert b"datapoint too far in future: id=" + ID in heard.body


async def test_errors_of_new_series_are_reported_only_when_asked_for() -> None:
    async with node_and_client(Node()) as (node, client):
        node.clock_offset_ns = 3600 * SECOND_NS
        assert (await client.call(WRITE, good())).code == 0
        assert len(node.writer.dropped) == 1
        node.writer.new_series_async = False
        assert (await client.call(WRITE, good())).code == 1
        assert stored(node) == []


async def test_tags_that_the_index_does_not_take_are_always_reported() -> None:
    async with node_and_client(Node()) as (node, client):
        elements = [element(tags, int(time.time()), 1.0) for tags in ([(b"a", b"\xff")], [(b"_m3ninx_id", b"x")], TAGS)]
        heard = await client.call(WRITE, batch("default", elements))
        assert heard.body.count(b"\x08\x00\x01\x00\x00\x00\x00") == 2
        assert b"document has invalid non-UTF8 field value: value=[255], value_hex=ff" in heard.body
        assert b"unable to parse metric using reserved field name: _m3ninx_id" in heard.body
        assert stored(node) == [1.0]


async def test_what_it_stores_survives_it() -> None:
    async with node_and_client(Node()) as (node, client):
        await client.call(WRITE, good(7.0))
        await node.hang_up()
        with pytest.raises(OSError, match="Connect call failed"):
            await Client.connect(node)
        await node.listen()
        again = await Client.connect(node)
        assert (await again.call("health")).code == 0
        assert stored(node) == [7.0]
        again.close()


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("kind", [Kind.HANG, Kind.FRAME, Kind.EMPTY_ERROR, Kind.GARBAGE, Kind.CLOSE])
async def test_faults_without_the_answer(kind: Kind, applied: bool) -> None:
    async with node_and_client(Node()) as (node, client):
        node.fault(WRITE, Fault(kind, code=3, applied=applied))
        number = client.ask(WRITE, good())
        if kind is Kind.CLOSE:
            with pytest.raises(asyncio.IncompleteReadError):
                await client.hear()
        elif kind is Kind.HANG:
            assert await client.nothing_comes()
        else:
            heard = await client.hear()
            assert heard.id == number
            expected = {Kind.FRAME: (0xFF, 3), Kind.EMPTY_ERROR: (4, 1), Kind.GARBAGE: (4, 0)}
            assert (heard.type, heard.code) == expected[kind]
        assert stored(node) == ([1.0] if applied else [])


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 7, 0xFF])
async def test_error_frames(code: int) -> None:
    async with node_and_client(Node()) as (node, client):
        node.fault(ALL, Fault(Kind.FRAME, code=code))
        heard = await client.call("health")
        assert (heard.type, heard.code) == (0xFF, code)
        if code == 0xFF:
            with pytest.raises(asyncio.IncompleteReadError):
                await client.hear()


@pytest.mark.parametrize("error", list(Error))
async def test_errors_of_elements(error: Error) -> None:
    async with node_and_client(Node()) as (node, client):
        node.fault(WRITE, Fault(Kind.ELEMENTS, error=error, indices=(1,), text="no room"))
        now = int(time.time())
        heard = await client.call(WRITE, batch("default", [element(TAGS, now + k, float(k)) for k in range(3)]))
        kind, flags = error.numbers
        wanted = b"\x0a\x00\x01" + (1).to_bytes(8, "big") + b"\x0c\x00\x02\x08\x00\x01" + kind.to_bytes(4, "big")
        wanted += b"\x0b\x00\x02\x00\x00\x00\x07no room"
        wanted += b"\x0a\x00\x03" + flags.to_bytes(8, "big") if flags else b""
        assert heard.code == 1
        assert wanted + b"\x00\x00" in heard.body
        assert stored(node) == [0.0, 2.0]


async def test_half_an_answer() -> None:
    async with node_and_client(Node()) as (node, client):
        node.fault(WRITE, Fault(Kind.HALF))
        client.ask(WRITE, good())
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await client.hear()
        assert len(caught.value.partial) > 0
        node.fault(WRITE, Fault(Kind.HALF_HANG))
        again = await Client.connect(node)
        again.ask(WRITE, good())
        with pytest.raises(TimeoutError):
            await again.hear(0.2)
        again.close()


async def test_answers_with_wrong_ids_and_twice() -> None:
    async with node_and_client(Node()) as (node, client):
        node.fault("health", Fault(Kind.WRONG_ID, times=1))
        number = client.ask("health")
        assert (await client.hear()).id != number
        node.fault("health", Fault(Kind.TWICE, times=1))
        number = client.ask("health")
        assert [(await client.hear()).id, (await client.hear()).id] == [number, number]
        assert (await client.call("health")).code == 0
        assert await client.nothing_comes()


async def test_answers_in_reverse_order() -> None:
    async with node_and_client(Node()) as (node, client):
        node.fault("health", Fault(Kind.REVERSED))
        asked = [client.ask("health") for _ in range(5)]
        assert [(await client.hear()).id for _ in range(5)] == asked[::-1]


@pytest.mark.parametrize("kind", [Kind.TRICKLE, Kind.FRAGMENTS])
async def test_answers_in_pieces(kind: Kind) -> None:
    async with node_and_client(Node()) as (node, client):
        whole = await client.call("health")
        node.fault("health", Fault(kind))
        heard = await client.call("health")
        if kind is Kind.TRICKLE:
            assert heard.payload == whole.payload
            return
        pieces = []
        while heard.payload[0] & 1:
            heard = await client.hear()
            assert heard.type == 0x14
            pieces.append(heard.payload[6:])
        # Each begins with the chunk of the argument that was open, perhaps an empty one.
        assert all(len(piece) <= 5 for piece in pieces)
        assert sum(int.from_bytes(piece[-3:-1], "big") for piece in pieces) == len(whole.body) + 2


async def test_a_slow_node() -> None:
    async with node_and_client(Node()) as (node, client):
        node.fault("health", Fault(Kind.SLOW, delay_s=0.05, times=1))
        slow = client.ask("health")
        quick = client.ask("health")
        assert [(await client.hear()).id, (await client.hear()).id] == [quick, slow]


async def test_a_silent_node() -> None:
    async with node_and_client(Node()) as (node, client):
        node.be_silent(True)
        client.ask("health")
        with pytest.raises(TimeoutError):
            await client.hear(0.1)
        node.be_silent(False)
        assert (await client.hear()).code == 0


async def test_health_that_is_not_ok() -> None:
    async with node_and_client(Node()) as (node, client):
        well = await client.call("health")
        node.fault("health", Fault(Kind.NOT_OK))
        sick = await client.call("health")
        assert sick.code == 0
        assert sick.body == well.body.replace(b"\x02\x00\x01\x01", b"\x02\x00\x01\x00")


def test_faults_travel_as_json() -> None:
    fault = Fault(Kind.ELEMENTS, error=Error.EXHAUSTED, indices=(1, 2), times=3)
    assert Fault.from_json(fault.to_json()) == fault

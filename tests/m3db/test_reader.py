"""Reads from several nodes: levels, failures, retries; and from played nodes, over connections."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from lab.m3db.faults import Error, Fault, Kind
from lab.m3db.namespaces import Namespace
from lab.m3db.node import Node
from lab.m3db.series import quoted_id
from lab.m3db.storage import Point
from tests.m3db.m3tsz.streams import START, bits_of
from tests.m3db.read.tagged import METHOD, SECOND, body_of, element_of
from tests.m3db.test_topology import MOVING

from m3db.connection import Answer, Connection
from m3db.consistency import ReadLevel
from m3db.errors import CallError, CallFailure
from m3db.options import RetryOptions, SessionOptions
from m3db.read.aggregate import Aggregated
from m3db.read.index_query import AllQuery, IndexMatcher, MatchKind, marshal_query, query_of
from m3db.reader import Reader, ReadError
from m3db.session import FixedTopology, open_session
from m3db.thrift import marshal
from m3db.topology import Host, Topology
from m3metrics.ids import encode_tags
from m3x.instrument import Registry
from m3x.retry import Backoff

ALL = marshal_query(AllQuery())
RANGE = (START, START + 3600 * SECOND)
THREE = Topology.static([Host(name, f"{name}:1") for name in "abc"], 4, 3)
NEVER = RetryOptions(Backoff(), 0)
AT_ONCE = RetryOptions(Backoff(0.0), 2)

Say = Callable[[], Awaitable[Answer]]


@dataclass
class Hosts:
    """Hosts that say what they are told to, and the session that has them."""

    says: Sequence[Say]
    topology: Topology = THREE
    options: SessionOptions = field(default_factory=lambda: SessionOptions(fetch_retry=NEVER))
    calls: list[tuple[int, str]] = field(default_factory=list)
    open: bool = True

    def hosts_for_reading(self) -> "Hosts | None":
        return self if self.open else None

    async def call(self, host: int, method: str, body: bytes, timeout_s: float) -> Answer:
        self.calls.append((host, method))
        return await self.says[host]()

    def at(self, level: ReadLevel, retry: RetryOptions = NEVER) -> "Hosts":
        self.options = replace(self.options, read_level=level, fetch_retry=retry)
        return self


async def hangs() -> Answer:
    return await asyncio.Event().wait()  # type: ignore[return-value]


async def fails() -> Answer:
    raise CallError(CallFailure.NETWORK, "refused")


async def refuses() -> Answer:
    return Answer(1, marshal(METHOD.result, {"err": {"type": 1, "message": b"query exceeded limit", "flags": 1}}))


async def garbles() -> Answer:
    return Answer(0, b"\x0c\0\0\x7f")


def has(value: float, ident: bytes = b"a") -> Say:
    async def say() -> Answer:
        return Answer(0, body_of([element_of(ident, [[[(0, float(value))]]])]))

    return say


async def read(hosts: Hosts, **options: float) -> list[float]:
    """The values of the one series."""
    fetched = await Reader(hosts, Registry().scope()).fetch_tagged(b"ns", ALL, *RANGE, **options)  # type: ignore[arg-type]
    return fetched.values.tolist()


@pytest.mark.parametrize(
    ("level", "says", "good"),
    [
        (ReadLevel.ONE, (has(1), hangs, hangs), True),
        (ReadLevel.ONE, (fails, has(1), fails), True),
        (ReadLevel.ONE, (fails, fails, garbles), False),
        (ReadLevel.MAJORITY, (has(1), has(1), hangs), True),
        (ReadLevel.MAJORITY, (has(1), garbles, has(1)), True),
        (ReadLevel.MAJORITY, (has(1), fails, fails), False),
        (ReadLevel.UNSTRICT_MAJORITY, (has(1), has(1), hangs), True),
        (ReadLevel.UNSTRICT_MAJORITY, (has(1), fails, refuses), True),
        (ReadLevel.UNSTRICT_MAJORITY, (fails, fails, fails), False),
        (ReadLevel.ALL, (has(1), has(1), has(1)), True),
        (ReadLevel.ALL, (has(1), has(1), fails), False),
        (ReadLevel.UNSTRICT_ALL, (has(1), fails, fails), True),
    ],
)
async def test_levels(level: ReadLevel, says: Sequence[Say], good: bool) -> None:
    hosts = Hosts(says).at(level)
    async with asyncio.timeout(10):
        if good:
            assert await read(hosts) == [1.0]
        else:
            with pytest.raises(ReadError):
                await read(hosts)
    assert sorted(hosts.calls) == [(n, "fetchTagged") for n in range(3)]


async def test_nothing_is_needed_at_level_none() -> None:
    assert await read(Hosts((fails, fails, fails)).at(ReadLevel.NONE)) == []


async def test_texts_of_failures() -> None:
    with pytest.raises(ReadError) as caught:
        await read(Hosts((fails, has(1), refuses)).at(ReadLevel.MAJORITY))
    assert str(caught.value) == (
        "unable to satisfy consistency requirements, shards=4: failed to meet consistency level majority with 1/3 success, "
        "3 nodes responded, errors: [error fetching tagged from host a: network: refused, error fetching tagged from host c: "
        "query exceeded limit]"
    )
    assert caught.value.bad_request
    assert [host for host, _ in caught.value.errors] == ["a", "c"]


async def test_copies_that_are_not_available_do_not_count_but_give_what_they_have() -> None:
    moving = Topology.of_placement(MOVING)
    says = [fails if n else has(1) for n in range(len(moving.hosts))]
    with pytest.raises(ReadError):
        await read(Hosts(says, moving).at(ReadLevel.MAJORITY))
    everyone = Hosts([has(1, b"%d" % n) for n in range(len(moving.hosts))], moving).at(ReadLevel.UNSTRICT_ALL)
    assert len(await read(everyone)) == len(moving.hosts)


async def test_the_last_host_wins_at_equal_times() -> None:
    hosts = Hosts((has(1), has(3), has(2))).at(ReadLevel.ALL)
    assert await read(hosts) == [2.0]
    hosts.options = replace(hosts.options, equal_timestamps="iterate_highest_value")
    assert await read(hosts) == [3.0]


async def test_a_read_is_retried() -> None:
    says = iter([fails, fails, has(1)])

    async def third() -> Answer:
        return await next(says)()

    hosts = Hosts((third, fails, fails)).at(ReadLevel.ONE, AT_ONCE)
    registry = Registry()
    fetched = await Reader(hosts, registry.scope("m3db")).fetch_tagged(b"ns", ALL, *RANGE)
    assert fetched.values.tolist() == [1.0]
    assert len(hosts.calls) == 9
    assert registry.counter("m3db_fetch_retries") == 2
    assert registry.counter("m3db_fetch_success") == 1


async def test_when_a_read_is_not_retried() -> None:
    refused = Hosts((refuses, fails, fails)).at(ReadLevel.ONE, AT_ONCE)
    with pytest.raises(ReadError):
        await read(refused)
    assert len(refused.calls) == 3
    failed = Hosts((fails, fails, fails)).at(ReadLevel.ONE, AT_ONCE)
    with pytest.raises(ReadError):
        await read(failed)
    assert len(failed.calls) == 9
    late = Hosts((fails, fails, fails)).at(ReadLevel.ONE, RetryOptions(Backoff(60.0), 3))
    with pytest.raises(ReadError):
        await read(late, timeout_s=5.0)
    assert len(late.calls) == 3


async def test_without_a_topology() -> None:
    with pytest.raises(ReadError, match="^M3DB session not yet initialized$"):
        await read(Hosts((), open=False))


async def test_too_many_points() -> None:
    reader = Reader(Hosts((has(1), has(1), has(1))), Registry().scope(), max_points=0)
    with pytest.raises(ReadError, match="more than 0 points"):
        await reader.fetch_tagged(b"ns", ALL, *RANGE)


async def test_a_reader_that_is_cancelled_leaves_nobody_asking() -> None:
    task = asyncio.create_task(read(Hosts((hangs, hangs, hangs))))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- played nodes

TAGS = [[(b"__name__", b"up"), (b"host", b"h%d" % n)] for n in range(40)]
SPACE = Namespace("default", retention_ns=10**6 * SECOND)


@dataclass
class Cluster:
    """Played nodes and connections to them."""

    nodes: list[Node]
    connections: list[Connection]
    topology: Topology
    options: SessionOptions = field(default_factory=lambda: SessionOptions(fetch_retry=NEVER))

    def hosts_for_reading(self) -> "Cluster":
        return self

    async def call(self, host: int, method: str, body: bytes, timeout_s: float) -> Answer:
        return await self.connections[host].call(method, body, timeout_s)

    def store(self, node: int, series: int, second: int, value: float) -> None:
        tags = TAGS[series]
        point = Point(START + second * SECOND, bits_of(value))
        self.nodes[node].storage.write("default", quoted_id(tags), encode_tags(tags), tags, point, SPACE.block_ns)


@asynccontextmanager
async def cluster(count: int = 3) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(Node(f"n{n}", namespaces=[SPACE])) for n in range(count)]
        connections = []
        for node in nodes:
            connection = await Connection.open(node.host, node.port, timeout_s=10)
            stack.push_async_callback(connection.close)
            connections.append(connection)
        hosts = [Host(node.name, node.address) for node in nodes]
        yield Cluster(nodes, connections, Topology.static(hosts, 16, count))


def up(name: str = "host", kind: MatchKind = MatchKind.REGEXP, value: bytes = b".+") -> bytes:
    return marshal_query(
        query_of([IndexMatcher(MatchKind.EQUAL, b"__name__", b"up"), IndexMatcher(kind, name.encode(), value)])
    )


async def test_reading_from_nodes() -> None:
    async with cluster() as nodes:
        for series in range(40):
            for second in (10, 30, 20, 7300, 30):
                for node in range(3):
                    if (series + second) % 3 != node:  # every point is on two of three
                        nodes.store(node, series, second, float(series + second))
        fetched = await Reader(nodes, Registry().scope()).fetch_tagged(
            b"default", up(), START + 15 * SECOND, START + 7301 * SECOND
        )
        assert sorted(fetched.ids[n] for n in range(len(fetched))) == sorted(map(quoted_id, TAGS))
        for n in range(40):
            series = next(series for series in range(40) if quoted_id(TAGS[series]) == fetched.ids[n])
            assert fetched.tags[n] == encode_tags(TAGS[series])
            rows = slice(fetched.offsets[n], fetched.offsets[n + 1])
            assert ((fetched.time_ns[rows] - START) // SECOND).tolist() == [20, 30, 7300]
            assert fetched.values[rows].tolist() == [float(series + second) for second in (20, 30, 7300)]
        assert fetched.exhaustive


async def test_limits_of_nodes() -> None:
    async with cluster() as nodes:
        for series in range(40):
            for node in range(3):
                nodes.store(node, series, 10, 1.0)
        reader = Reader(nodes, Registry().scope())
        with pytest.raises(ReadError, match="query exceeded limit: require_exhaustive=true, series_limit=5") as caught:
            await reader.fetch_tagged(b"default", up(), *RANGE, series_limit=5)
        assert caught.value.bad_request
        fetched = await reader.fetch_tagged(b"default", up(), *RANGE, series_limit=5, require_exhaustive=False)
        assert (len(fetched), fetched.exhaustive) == (5, False)
        bare = await reader.fetch_tagged(b"default", up(value=b"h1."), *RANGE, fetch_data=False)
        assert (len(bare), len(bare.time_ns), bare.exhaustive) == (10, 0, True)


async def test_names_and_values_from_nodes() -> None:
    async with cluster() as nodes:
        for series in range(3):
            nodes.store(series, series, 10, 1.0)
        nodes.options = replace(nodes.options, read_level=ReadLevel.ALL)
        reader = Reader(nodes, Registry().scope())
        every = await reader.aggregate(b"default", ALL, *RANGE)
        assert every == Aggregated({b"__name__": [b"up"], b"host": [b"h0", b"h1", b"h2"]}, True)
        hosts = await reader.aggregate(b"default", up(kind=MatchKind.NOT_EQUAL, value=b"h1"), *RANGE, names=[b"host"])
        assert hosts == Aggregated({b"host": [b"h0", b"h2"]}, True)
        only = await reader.aggregate(b"default", ALL, *RANGE, names_only=True)
        assert only == Aggregated({b"__name__": [], b"host": []}, True)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Kind.HANG),
        Fault(Kind.FRAME, code=5),
        Fault(Kind.FRAME, code=3),
        Fault(Kind.ELEMENTS, error=Error.INTERNAL),
        Fault(Kind.EMPTY_ERROR),
        Fault(Kind.CLOSE),
        Fault(Kind.HALF),
        Fault(Kind.HALF_HANG),
        Fault(Kind.WRONG_ID),
        Fault(Kind.TWICE),
        Fault(Kind.FRAGMENTS),
        Fault(Kind.GARBAGE),
    ],
    ids=lambda fault: fault.kind,
)
async def test_a_node_that_does_not_answer_well(fault: Fault) -> None:
    async with cluster() as nodes:
        for node in range(3):
            nodes.store(node, 0, 10, 1.0)
        nodes.nodes[0].fault("fetchTagged", fault)
        reader = Reader(nodes, Registry().scope())
        for level in (ReadLevel.ONE, ReadLevel.MAJORITY):
            nodes.options = replace(nodes.options, read_level=level)
            fetched = await reader.fetch_tagged(b"default", up(), *RANGE, timeout_s=5.0)
            assert fetched.values.tolist() == [1.0]


async def test_through_a_session() -> None:
    """A session's hosts are what a reader reads from, also while one of them is gone."""
    async with cluster() as nodes:
        for node in range(3):
            nodes.store(node, 0, 10, 1.0)
        options = SessionOptions(fetch_retry=RetryOptions(Backoff(0.05, 1.0), None))
        scope = Registry().scope()
        async with open_session(options, FixedTopology(nodes.topology), scope) as session:
            reader = Reader(session, scope)
            for gone in (False, True):
                if gone:
                    await nodes.nodes[1].hang_up()
                fetched = await reader.fetch_tagged(b"default", up(), *RANGE, timeout_s=30.0)
                assert fetched.values.tolist() == [1.0]

"""A session over sockets with the played nodes of the laboratory, which judge every byte, in each way in which nodes can fail."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace

import numpy as np
import pytest
from lab.kv import ENVIRONMENT
from lab.m3db.faults import Error, Fault, Kind
from lab.m3db.node import Node
from lab.m3db.placements import SERVICE, Nodes
from lab.m3db.series import shard_of
from lab.waiting import until
from tests.m3db.played import Series

from m3cluster.kv import Memory, open_store
from m3cluster.kv.sqlite.memory import MemoryServer
from m3cluster.placement import ShardState
from m3db.consistency import RowState
from m3db.following import FollowedTopology
from m3db.options import HostOptions, RetryOptions, SessionOptions
from m3db.session import FixedTopology, Session, WriteResult, open_session
from m3db.topology import Host, Topology
from m3x.instrument import Registry
from m3x.retry import Backoff

WRITTEN, RETRY, REFUSED = RowState
SHARDS = 16
WRITE = "writeTaggedBatchRaw"
SERIES = Series(300, SHARDS)
ONCE = SessionOptions(
    write_retry=RetryOptions(Backoff(0.05, 2.0), 0), write_timeout_s=60.0,
    host=HostOptions(health_interval_s=0.3, health_jitter_s=0.1, health_timeout_s=0.3),
)  # fmt: skip
"""One attempt, which may take as long as a busy machine needs."""
BRIEF = replace(ONCE, write_timeout_s=0.5)
"""One attempt; who does not answer is not waited for long."""
FOREVER = replace(BRIEF, write_retry=RetryOptions(Backoff(0.05, 1.2), None))


@dataclass
class Cluster:
    """Three nodes that have all shards, and a session."""

    nodes: list[Node]
    session: Session

    async def write(self) -> WriteResult:
        """All series at the present second."""
        rows = SERIES.rows()
        return await self.session.write(
            replace(rows, timestamp=np.full(len(rows), int(time.time()), np.int64), namespaces=(b"default",))
        )

    def fault(self, count: int, fault: Fault | None) -> None:
        """Writes of the first nodes fail so."""
        for node in self.nodes[:count]:
            node.fault(WRITE, fault)

    def stored(self) -> list[int]:
        """Values by node."""
        return [sum(1 for _ in node.storage.values("default")) for node in self.nodes]


@contextlib.asynccontextmanager
async def moving(spare: str = "d") -> AsyncIterator[tuple[Cluster, Nodes, Node]]:
    """A cluster whose placement is in a KV, and a node that is not in it yet."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(Node(name, num_shards=SHARDS)) for name in ("a", "b", "c", spare)]
        store = await open_store(Memory(MemoryServer()))
        stack.push_async_callback(store.close)
        placed = Nodes(nodes[:3], store, num_shards=SHARDS)
        await placed.write()
        source = FollowedTopology(store, ENVIRONMENT, SERVICE)
        session = await stack.enter_async_context(open_session(FOREVER, source, Registry().scope("m3db-client")))
        await until(lambda: session.topology is not None)
        yield Cluster(nodes, session), placed, nodes[3]


@contextlib.asynccontextmanager
async def cluster(options: SessionOptions = ONCE) -> AsyncIterator[Cluster]:
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(Node(name, num_shards=SHARDS)) for name in ("a", "b", "c")]
        topology = Topology.static([Host(node.name, node.address) for node in nodes], SHARDS, 3)
        scope = Registry().scope("m3db-client")
        session = await stack.enter_async_context(open_session(options, FixedTopology(topology), scope))
        await until(lambda: all(host.connections for host in session.hosts) and session.topology)
        yield Cluster(nodes, session)


def all_of(result: WriteResult, state: RowState) -> bool:
    return bool((result.states == state).all())


async def test_all_copies_are_written() -> None:
    async with cluster() as at:
        assert all_of(await at.write(), WRITTEN)
        await until(lambda: at.stored() == [300, 300, 300])


FAILURES = [
    Fault(Kind.HANG), Fault(Kind.EMPTY_ERROR), Fault(Kind.CLOSE), Fault(Kind.HALF), Fault(Kind.HALF_HANG), Fault(Kind.WRONG_ID),
    Fault(Kind.GARBAGE), Fault(Kind.HANG, applied=True), Fault(Kind.ELEMENTS, error=Error.INTERNAL),
    Fault(Kind.ELEMENTS, error=Error.SERVER_TIMEOUT), Fault(Kind.ELEMENTS, error=Error.EXHAUSTED),
    *(Fault(Kind.FRAME, code=code) for code in (1, 2, 3, 4, 5, 6, 7, 0xFF)),
]  # fmt: skip
REFUSAL = Fault(Kind.ELEMENTS, error=Error.BAD_REQUEST)
ODDITIES = [
    Fault(Kind.TWICE), Fault(Kind.REVERSED), Fault(Kind.TRICKLE), Fault(Kind.FRAGMENTS), Fault(Kind.SLOW, delay_s=0.2),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """What a session calls is there before anybody looks at a clock."""

    async def write() -> None:
        async with cluster() as at:
            at.fault(1, Fault(Kind.ELEMENTS))
            await at.write()

    asyncio.run(write())


def named(fault: Fault) -> str:
    return f"{fault.kind}-{fault.code if fault.kind is Kind.FRAME else fault.error}{'-applied' * fault.applied}"


@pytest.mark.parametrize("fault", [*FAILURES, REFUSAL, *ODDITIES], ids=named)
async def test_one_node_that_fails_delays_nothing(fault: Fault) -> None:
    async with cluster() as at:
        at.fault(1, fault)
        begun = time.monotonic()
        assert all_of(await at.write(), WRITTEN)
        assert time.monotonic() - begun < 0.5 * ONCE.write_timeout_s
        assert at.stored()[1:] == [300, 300]


@pytest.mark.parametrize("fault", FAILURES, ids=named)
async def test_two_nodes_that_fail_are_tried_again_until_they_do_not(fault: Fault) -> None:
    async with cluster(BRIEF) as at:
        at.fault(2, fault)
        assert all_of(await at.write(), RETRY)
    async with cluster(FOREVER) as at:
        at.fault(2, replace(fault, times=1))
        assert all_of(await at.write(), WRITTEN)
        assert sum(stored == 300 for stored in at.stored()) >= 2


async def test_two_nodes_that_refuse_decide() -> None:
    async with cluster(FOREVER) as at:
        at.fault(2, REFUSAL)
        result = await at.write()
        assert all_of(result, REFUSED)
        assert REFUSAL.text in result.errors[0].text


@pytest.mark.parametrize("failure", [*FAILURES, None], ids=lambda fault: named(fault) if fault else "down")
async def test_one_that_refuses_and_one_that_fails_decide_nothing(failure: Fault | None) -> None:
    async with cluster(BRIEF) as at:
        at.nodes[0].fault(WRITE, REFUSAL)
        if failure is None:
            await at.nodes[1].hang_up()
        else:
            at.nodes[1].fault(WRITE, failure)
        assert all_of(await at.write(), RETRY)


async def test_only_the_elements_that_fail_are_tried_again() -> None:
    async with cluster(FOREVER) as at:
        at.fault(2, Fault(Kind.ELEMENTS, error=Error.INTERNAL, indices=(0, 5), times=1))
        assert all_of(await at.write(), WRITTEN)
        # Once all, and then few.
        assert [node.storage.writes for node in at.nodes][2] < 330


async def test_odd_answers_of_all_nodes_are_understood() -> None:
    async with cluster() as at:
        for fault in ODDITIES:
            at.fault(3, fault)
            assert all_of(await at.write(), WRITTEN), fault


async def all_down(at: Cluster) -> None:
    for node in at.nodes:
        await node.hang_up()


async def all_silent(at: Cluster) -> None:
    for node in at.nodes:
        node.be_silent(True)


@pytest.mark.parametrize("away", [all_down, all_silent])
async def test_nothing_is_given_up_while_all_nodes_are_away(away: Callable[[Cluster], object]) -> None:
    async with cluster(FOREVER) as at:
        await away(at)  # type: ignore[misc]
        writing = asyncio.create_task(at.write())
        await asyncio.sleep(1.5)
        assert not writing.done()
        for node in at.nodes:
            node.be_silent(False)
            await node.listen()
        async with asyncio.timeout(60):
            assert all_of(await writing, WRITTEN)


async def test_nodes_that_are_not_healthy_are_written_to_when_they_are() -> None:
    async with cluster(FOREVER) as at:
        for node in at.nodes:
            node.fault("health", Fault(Kind.NOT_OK))
            await node.break_connections()
        await until(lambda: not any(host.connections for host in at.session.hosts))
        for node in at.nodes:
            node.fault("health", None)
        async with asyncio.timeout(60):
            assert all_of(await at.write(), WRITTEN)


def holders(at: Cluster, placed: Nodes) -> list[int]:
    """How many nodes that have a series' shard AVAILABLE hold each of the values that any node holds."""
    found: dict[tuple[bytes, int], int] = {}
    for node in at.nodes:
        instance = placed.placement.instance(node.name)
        shards = instance.shards if instance is not None else ()
        available = {shard.id for shard in shards if shard.state is ShardState.AVAILABLE}
        for series_id, point in node.storage.values("default"):
            counts = shard_of(series_id, SHARDS) in available
            found[series_id, point.time_ns] = found.get((series_id, point.time_ns), 0) + counts
    return list(found.values())


@pytest.mark.parametrize("begin", ["replace", "add", "remove"])
async def test_shards_that_move_are_written_to_both_and_count_where_they_are_available(begin: str) -> None:
    async with moving() as (at, placed, spare):
        changes: dict[str, Callable[[], Coroutine[None, None, None]]] = {
            "replace": lambda: placed.replace("b", spare), "add": lambda: placed.add(spare), "remove": lambda: placed.remove("b"),
        }  # fmt: skip
        if begin == "remove":
            await placed.add(spare)
            await placed.settle()
        await changes[begin]()
        await until(lambda: at.session.topology is not None and at.session.topology.version == placed.version)
        assert all_of(await at.write(), WRITTEN)
        counts = holders(at, placed)
        assert len(counts) == 300
        assert min(counts) >= 2
        initializing = [one for one in placed.placement.instances for shard in one.shards if shard.source_id]
        new = next(node for node in at.nodes if node.name == initializing[0].id)
        await until(lambda: any(new.storage.values("default")))
        # From here on the nodes that shards have left do not take them any more; who sends them there is at fault.
        await placed.settle()
        await until(lambda: at.session.topology is not None and at.session.topology.version == placed.version)
        for node in at.nodes:
            node.storage.clear()
        assert all_of(await at.write(), WRITTEN)
        await until(lambda: min(holders(at, placed)) == 3)
        assert sum(at.stored()) == 900


async def test_a_new_address_of_a_node_is_followed() -> None:
    async with moving() as (at, placed, _):
        await at.nodes[0].hang_up()
        at.nodes[0].port = 0
        await at.nodes[0].listen()
        await placed.move("a")
        await until(lambda: at.session.topology is not None and at.session.topology.version == placed.version)
        assert all_of(await at.write(), WRITTEN)
        await until(lambda: at.stored()[0] == 300)

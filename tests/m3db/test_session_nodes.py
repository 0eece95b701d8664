"""Sessions over loopback against nodes of their own kind (``lab.m3db``): what was written is there, whatever nodes do meanwhile."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
from lab.kv import ENVIRONMENT
from lab.m3db.faults import Error, Fault, Kind
from lab.m3db.node import Node
from lab.m3db.placements import Nodes
from lab.waiting import until
from tests.m3db.played import Series

from m3cluster.kv import MemoryServer, Store
from m3db.consistency import ConnectLevel, RowState
from m3db.following import FollowedTopology
from m3db.options import HostOptions, RetryOptions, SessionOptions
from m3db.session import Session, open_session
from m3db.write import WriteRows
from m3x.instrument import Registry
from m3x.retry import Backoff

SHARDS = 16
SERIES = Series(300, SHARDS)
OPTIONS = SessionOptions(
    connect_level=ConnectLevel.ALL,
    write_timeout_s=2.0,
    write_retry=RetryOptions(Backoff(0.05, 2.0), 2),
    elements_per_call=64,
    host=HostOptions(health_interval_s=0.2, health_jitter_s=0.1, reconnect=Backoff(0.02, 2.0, 0.2)),
)
WRITE = "writeTaggedBatchRaw"


def rows_of_now() -> WriteRows:
    rows = SERIES.rows()
    return replace(rows, timestamp=np.full(len(rows), int(time.time()), np.int64))


@contextlib.asynccontextmanager
async def cluster(count: int, options: SessionOptions = OPTIONS) -> AsyncIterator[tuple[list[Node], Nodes, Session]]:
    """So many nodes of which three have the shards, and a session that follows their placement."""
    async with contextlib.AsyncExitStack() as stack:
        found = [await stack.enter_async_context(Node(f"node{n}", num_shards=SHARDS)) for n in range(1, count + 1)]
        server = MemoryServer()
        stack.callback(server.close)
        store: Store = server.client()
        stack.push_async_callback(store.close)
        nodes = Nodes(found[:3], store, num_shards=SHARDS)
        await nodes.write()
        source = FollowedTopology(store, ENVIRONMENT, "m3db")
        session = await stack.enter_async_context(open_session(options, source, Registry().scope()))
        await until(lambda: session.topology is not None)
        yield found, nodes, session


def stored(node: Node) -> dict[bytes, float]:
    return {series_id: point.value for series_id, point in node.storage.values("default")}


EXPECTED = {SERIES.id(number): float(number) for number in range(300)}


async def test_values_are_on_all_nodes_and_a_node_that_restarts_costs_its_copies_only() -> None:
    async with cluster(3) as (nodes, _, session):
        result = await session.write(rows_of_now())
        assert (result.states == RowState.WRITTEN).all()
        await until(lambda: all(stored(node) == EXPECTED for node in nodes))
        await nodes[1].hang_up()
        for _ in range(5):
            assert (await session.write(rows_of_now())).states.tolist() == [RowState.WRITTEN] * 300
        await nodes[1].listen()
        await until(lambda: all(host.connections == 2 for host in session.hosts))
        await until(lambda: not session.trouble())
        nodes[1].storage.clear()
        await session.write(rows_of_now())
        await until(lambda: stored(nodes[1]) == EXPECTED)


async def test_a_node_that_says_nothing_delays_nothing() -> None:
    async with cluster(3) as (nodes, _, session):
        nodes[2].be_silent(True)
        for _ in range(20):
            begun = time.monotonic()
            assert (await session.write(rows_of_now())).states.tolist() == [RowState.WRITTEN] * 300
            assert time.monotonic() - begun < OPTIONS.write_timeout_s  # which it would have waited for
        nodes[2].be_silent(False)


async def test_errors_of_nodes() -> None:
    async with cluster(3) as (nodes, _, session):
        for node in nodes:
            node.fault(WRITE, Fault(Kind.ELEMENTS, error=Error.BAD_REQUEST, indices=(0,)))
        result = await session.write(rows_of_now())
        # Calls have 64 elements: the first of each is refused.
        assert result.rows(RowState.REFUSED).tolist() == [0, 64, 128, 192, 256]
        assert len(result.rows(RowState.WRITTEN)) == 295
        for node in nodes:
            node.fault(WRITE, Fault(Kind.FRAME, code=5, times=5))
        assert (await session.write(rows_of_now())).states.tolist() == [RowState.WRITTEN] * 300
        for kind in (Kind.EMPTY_ERROR, Kind.GARBAGE, Kind.CLOSE):
            for node in nodes[:2]:
                node.fault(WRITE, Fault(kind))
            result = await session.write(rows_of_now())
            assert result.states.tolist() == [RowState.RETRY] * 300
            await until(lambda: all(host.connections for host in session.hosts))
        for node in nodes[:2]:
            node.fault(WRITE, None)
        assert (await session.write(rows_of_now())).states.tolist() == [RowState.WRITTEN] * 300


async def test_a_node_is_replaced_under_load() -> None:
    async with cluster(4) as (nodes, placement, session):
        written: list[int] = []

        async def write_on() -> None:
            while True:
                written.append(len((await session.write(rows_of_now())).rows(RowState.WRITTEN)))

        writing = asyncio.create_task(write_on())
        try:
            await until(lambda: len(written) > 3)
            await placement.replace("node1", nodes[3])
            await until(lambda: stored(nodes[3]) == EXPECTED)
            await placement.settle()
            await until(lambda: {host.id for host in session.hosts} == {"node2", "node3", "node4"})
            seen = len(written)
            await until(lambda: len(written) > seen + 3)
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        assert set(written) == {300}

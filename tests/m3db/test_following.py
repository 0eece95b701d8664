"""Placement and registry in the KV: good values are told, bad ones are said and change nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from tests import virtual_time
from tests.m3db.test_namespaces import ready
from tests.m3db.test_topology import instance, placement, shards

from m3cluster.kv import MemoryServer, Store
from m3cluster.placement import encode_placement
from m3db.following import FollowedNamespaces, FollowedTopology
from m3db.namespaces import Aggregation, Namespaces, encode_registry
from m3db.topology import Topology

GOOD = placement(1, 1, instance("a", *shards(0)))
OTHER = placement(1, 1, instance("b", *shards(0)))
BAD = placement(2, 1, instance("a", *shards(0)))


@contextlib.asynccontextmanager
async def running(work: asyncio.Future[None] | asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
        assert not work.done()
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


@contextlib.asynccontextmanager
async def a_store() -> AsyncIterator[Store]:
    server = MemoryServer()
    store = server.client()
    yield store
    await store.close()
    server.close()


def test_topology(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with a_store() as store:
            followed = FollowedTopology(store, "prod", "m3db", seed=5)
            assert followed.key == "_sd.placement/prod/m3db"
            told: list[Topology] = []
            async with running(asyncio.create_task(followed.run(told.append))):
                await asyncio.sleep(3)
                assert followed.trouble() == "there is no placement of M3DB's nodes yet: _sd.placement/prod/m3db"
                assert "waiting for dynamic topology initialization" in capsys.readouterr().err
                await store.set(followed.key, encode_placement(BAD))
                await asyncio.sleep(1)
                assert "nothing can be written until it is put right" in (followed.trouble() or "")
                await store.set(followed.key, encode_placement(GOOD))
                await asyncio.sleep(1)
                assert [(one.hosts[0].id, one.version, one.seed) for one in told] == [("a", 2, 5)]
                assert followed.trouble() is None
                await store.set(followed.key, encode_placement(BAD))
                await asyncio.sleep(1)
                said = followed.trouble() or ""
                assert "version 3: replicas of shard is less than expected" in said
                assert "the one before it stays" in said
                assert "dynamic topology received invalid update" in capsys.readouterr().err
                await store.delete(followed.key)
                await asyncio.sleep(1)
                assert followed.topology is told[-1]
                await store.set(followed.key, encode_placement(OTHER))
                await asyncio.sleep(1)
                assert [one.hosts[0].id for one in told] == ["a", "b"]

    virtual_time.run(scenario())


def test_nothing_is_said_where_the_placement_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with a_store() as store:
            followed = FollowedTopology(store, "prod", "m3db")
            await store.set(followed.key, encode_placement(GOOD))
            async with running(asyncio.create_task(followed.run(lambda _: None))):
                await asyncio.sleep(10)

    virtual_time.run(scenario())
    assert "waiting" not in capsys.readouterr().err


def test_namespaces(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with a_store() as store:
            followed = FollowedNamespaces(store, "prod")
            assert followed.key == "_kv/prod/m3db.node.namespaces"
            told: list[Namespaces | None] = []
            async with running(asyncio.create_task(followed.run(told.append))):
                await asyncio.sleep(1)
                assert not told
                await store.set(followed.key, encode_registry([ready("x", Aggregation())]))
                await asyncio.sleep(1)
                assert [list(one.by_name) for one in told if one is not None] == [["x"]]
                await store.set(followed.key, b"")
                await asyncio.sleep(1)
                assert followed.namespaces is told[0]
                assert followed.fault is not None
                assert str(followed.fault[1]) == "no namespace metadata provided"
                assert "invalid update, skipping" in capsys.readouterr().err
                await store.delete(followed.key)
                await asyncio.sleep(1)
                assert told[-1] is None
                assert (followed.namespaces, followed.fault) == (None, None)

    virtual_time.run(scenario())

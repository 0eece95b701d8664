"""Reads of several keys that begin in the same turn of the loop are one call."""

import asyncio
from collections import Counter

import pytest

from m3cluster.kv import Etcd, KVError, open_store
from m3cluster.kv.etcd.channel import RPCError
from m3cluster.kv.etcd.connection import TXN, Connection

PREFIXES = ("a/", "b/", "c/")


@pytest.fixture
async def store(own_etcd):
    store = await open_store(Etcd((own_etcd.address,), request_timeout_s=30))
    for prefix in PREFIXES:
        await store.set(f"{prefix}key", prefix.encode())
    yield store
    await store.close()


@pytest.fixture
def calls(monkeypatch):
    """How many there were, by method."""
    count, call = Counter(), Connection.call

    async def counted(self, rpc, request, **options):
        count[rpc.method.rpartition("/")[2]] += 1
        return await call(self, rpc, request, **options)

    monkeypatch.setattr(Connection, "call", counted)
    return count


def of(found):
    return [value.data.decode() for _, value in found]


async def test_what_begins_together_is_one_call(store, calls) -> None:
    found = await asyncio.gather(*map(store.keys, PREFIXES))
    assert [of(one) for one in found] == [["a/"], ["b/"], ["c/"]]
    assert calls == {"Txn": 1}


async def test_a_read_alone_is_a_read(store, calls) -> None:
    for prefix in PREFIXES:
        assert of(await store.keys(prefix)) == [prefix]
    assert calls == {"Range": 3}


async def test_where_one_is_refused_each_asks_by_itself(store, monkeypatch) -> None:
    call = Connection.call

    async def refused(self, rpc, request, **options):
        ranges = [one["range"] for one in request["success"]] if rpc is TXN else [request]
        if any(one["key"] == b"b/" for one in ranges):
            raise RPCError("etcd", rpc.method, "PERMISSION_DENIED", "etcdserver: permission denied")
        return await call(self, rpc, request, **options)

    monkeypatch.setattr(Connection, "call", refused)
    found = await asyncio.gather(*map(store.keys, PREFIXES), return_exceptions=True)
    assert isinstance(found[1], RPCError)
    assert [of(found[0]), of(found[2])] == [["a/"], ["c/"]]


async def test_all_are_told_that_nobody_answers(store, calls, monkeypatch) -> None:
    async def unreachable(self, rpc, request, **options):
        calls["tried"] += 1
        raise RPCError("etcd", rpc.method, "UNAVAILABLE", "nobody listens")

    monkeypatch.setattr(Connection, "call", unreachable)
    found = await asyncio.gather(*map(store.keys, PREFIXES), return_exceptions=True)
    assert [isinstance(one, KVError) for one in found] == [True] * 3
    assert calls == {"tried": 1}


@pytest.mark.parametrize("ended", [0, 1])
async def test_one_that_is_given_up_takes_no_other_along(store, ended: int) -> None:
    tasks = [asyncio.create_task(store.keys(prefix)) for prefix in PREFIXES]
    await asyncio.sleep(0)
    tasks[ended].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[ended], asyncio.CancelledError)
    assert [of(one) for number, one in enumerate(found) if number != ended] == [
        [prefix] for number, prefix in enumerate(PREFIXES) if number != ended
    ]

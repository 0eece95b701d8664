"""Election on a real ZooKeeper, in M3's layout of one set of candidates per shard set."""

import asyncio
import itertools
import os
import signal

import pytest
from lab.processes import stop
from tests.m3cluster.kv.candidates import Candidates

from m3cluster.election import Election
from m3cluster.keys import election_prefix
from m3cluster.kv import ConditionFailedError, KVError, ZooKeeper, open_store
from m3cluster.kv.zookeeper.session import Session
from m3x.clock import boot_ns

LONG_S = 30
TTL_S = 2
PREFIX = election_prefix("prod", "m3aggregator", "shardset/0/election")


async def test_processes_lead_one_after_the_other_and_never_at_the_same_time(own_zookeeper, tmp_path):
    config = ZooKeeper((own_zookeeper.address,), session_timeout_s=2, connect_timeout_s=1)
    async with Candidates(config, tmp_path / "acts", PREFIX, TTL_S) as candidates:
        await candidates.start("a")
        await candidates.leads("a")
        await candidates.start("b")
        await candidates.number(2)
        # Killed: the other one leads once the session is over.
        candidates.kill("a")
        await candidates.leads("b")
        assert await candidates.observer.leader() == "b"
        # Stopped, and woken when the other one leads: whatever it still does must have been judged before.
        await candidates.start("c")
        await candidates.number(2)
        stopped = candidates.processes["b"]
        stop(stopped.pid)
        await candidates.leads("c")
        stopped.send_signal(signal.SIGCONT)
        await candidates.number(2)
        assert await candidates.observer.leader() == "c"
        # Whoever leads after a restart of ZooKeeper.
        own_zookeeper.kill()
        own_zookeeper.start()
        await candidates.somebody_acts()
    assert candidates.terms()[:3] == ["a", "b", "c"]
    # Every term is one stretch of time, and the terms are in the order of their revisions.
    terms = [term for term, _ in itertools.groupby(term for _, _, term in sorted(candidates.acts()))]
    assert terms == sorted(set(terms))


@pytest.fixture
async def candidates(shared_zookeeper, tmp_path):
    """Two candidates, each with a client of its own."""
    config = ZooKeeper((shared_zookeeper.address,), chroot=f"/{tmp_path.name}", session_timeout_s=2)
    stores = [await open_store(config) for _ in range(2)]
    elections = [Election(store, PREFIX, TTL_S) for store in stores]
    yield stores, elections
    for election in elections:
        await election.close()
    for store in stores:
        await store.close()


async def in_line(election, name):
    """Campaigns behind somebody else, and waits until it is in line."""
    campaign = asyncio.ensure_future(election.campaign(name))
    async with asyncio.timeout(LONG_S):
        while (await election.candidates())[1:] != [name]:  # noqa: ASYNC110 - the state of a server has no event
            await asyncio.sleep(0.01)
    return campaign


async def test_resigning_hands_over_at_once(candidates):
    (store, other_store), (first, second) = candidates
    await first.campaign("first")
    assert first.is_leader
    campaign = await in_line(second, "second")
    await store.put_if("flush", b"1", first.key, first.revision)
    key, revision = first.key, first.revision
    await first.resign()
    assert not first.is_leader
    async with asyncio.timeout(LONG_S):
        await campaign
    assert second.is_leader
    with pytest.raises(ConditionFailedError):
        await store.put_if("flush", b"of the old one", key, revision)
    await other_store.put_if("flush", b"2", second.key, second.revision)
    # The lease stays, and with it the key's name: the new term has another revision.
    campaign = await in_line(first, "first")
    await second.resign()
    async with asyncio.timeout(LONG_S):
        await campaign
    assert first.key == key
    assert first.revision > revision
    with pytest.raises(ConditionFailedError):
        await store.put_if("flush", b"of the old term", key, revision)
    assert (await store.get("flush")).data == b"2"


async def test_an_expired_session_ends_the_leadership(candidates, shared_zookeeper):
    (store, _), (first, second) = candidates
    await first.campaign("first")
    campaign = await in_line(second, "second")
    key, revision = first.key, first.revision
    lease = next(iter(store._leases))
    thief = Session(ZooKeeper((shared_zookeeper.address,)), TTL_S, credentials=lease.session.credentials)
    async with asyncio.timeout(LONG_S):
        await thief.connected()
        await thief.close()
        await first.lost()
        await campaign
    assert not first.is_leader
    assert first.deadline_ns() == 0
    assert second.is_leader
    assert second.deadline_ns() > boot_ns()
    with pytest.raises(ConditionFailedError, match="no such key"):
        await store.put_if("flush", b"of the old one", key, revision)
    # It may campaign again, under a new lease.
    again = asyncio.ensure_future(first.campaign("first"))
    await second.resign()
    async with asyncio.timeout(LONG_S):
        await again
    assert first.key != key


async def test_an_operator_may_delete_the_leaders_node(candidates):
    (_, other_store), (first, second) = candidates
    await first.campaign("first")
    campaign = await in_line(second, "second")
    await other_store._session.call(lambda client: client.delete_async(other_store._paths.value(first.key)), "")
    async with asyncio.timeout(LONG_S):
        await first.lost()
        await campaign
    assert second.is_leader


async def test_candidates_lie_side_by_side_as_ephemeral_nodes(candidates):
    (store, _), (first, _) = candidates
    await first.campaign("first")
    folder = store._paths.folder(PREFIX.split("/"))
    assert folder.endswith("/_ld/prod/m3aggregator/shardset/0/election")
    names = await store._session.call(lambda client: client.get_children_async(folder), folder)
    assert names == [f"{next(iter(store._leases)).id:x}="]
    data, stat = await store._session.call(lambda client: client.get_async(f"{folder}/{names[0]}"), folder)
    assert (data, stat.version) == (b"first", 0)
    assert stat.ephemeralOwner == next(iter(store._leases)).session.credentials[0]
    with pytest.raises(KVError, match="NoChildrenForEphemerals"):
        await store._session.call(lambda client: client.create_async(f"{folder}/{names[0]}/x"), folder)
    assert os.path.basename(names[0]).removesuffix("=") == first.key.rsplit("/", 1)[1]

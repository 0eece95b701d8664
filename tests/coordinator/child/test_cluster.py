"""The cluster of one: made, made anew elsewhere, and cleared of the dead."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.child.cluster import NUM_SHARDS, make_cluster, take_away_candidates
from coordinator.child.settings import INSTANCE_ID, Places
from m3cluster import kv
from m3cluster.election import Election
from m3cluster.kv.sqlite.memory import MemoryServer
from m3cluster.placement import decode_placement, decode_staged_placement
from m3cluster.topic import decode_topic

AGGREGATORS, COORDINATORS = "/placement/default_env/m3aggregator", "_sd.placement/default_env/m3coordinator"
PLACES = Places(Path("/tmp/run"), Path("/tmp/data"))


@pytest.fixture
async def store() -> AsyncIterator[kv.Store]:
    found = await kv.open_store(kv.Memory(MemoryServer()))
    yield found
    await found.close()


async def test_all_shards_are_there_at_once(store: kv.Store) -> None:
    await make_cluster(store, PLACES)
    value = await store.get(AGGREGATORS)
    placement = decode_staged_placement(value.data, value.version)
    (instance,) = placement.instances
    assert (instance.id, instance.endpoint) == (INSTANCE_ID, PLACES.samples)
    assert {shard.state.name for shard in instance.shards} == {"AVAILABLE"}
    assert placement.num_shards == len(instance.shards) == NUM_SHARDS
    assert not any(shard.cutover_ns for shard in instance.shards)
    value = await store.get(COORDINATORS)
    assert decode_placement(value.data, value.version).instances[0].endpoint == PLACES.values
    for name, service in (("aggregator_ingest", "m3aggregator"), ("aggregated_metrics", "m3coordinator")):
        value = await store.get(f"/topic/default_env/{name}")
        topic = decode_topic(value.data, value.version)
        assert [consumer.service_id.name for consumer in topic.consumer_services] == [service]
        assert topic.number_of_shards == NUM_SHARDS


async def test_a_second_start_changes_endpoints_only(store: kv.Store) -> None:
    await make_cluster(store, PLACES)
    await make_cluster(store, PLACES)
    assert (await store.get(AGGREGATORS)).version == 1
    moved = Places(Path("/tmp/other"), PLACES.data)
    await make_cluster(store, moved)
    value = await store.get(AGGREGATORS)
    assert value.version == 2
    assert decode_staged_placement(value.data, 2).instances[0].endpoint == moved.samples
    assert (await store.get("/topic/default_env/aggregator_ingest")).version == 1


async def test_a_topic_that_nobody_can_read_is_written_anew(store: kv.Store) -> None:
    await store.check_and_set("/topic/default_env/aggregated_metrics", 0, b"\xff")
    await make_cluster(store, PLACES)
    value = await store.get("/topic/default_env/aggregated_metrics")
    assert decode_topic(value.data, value.version).number_of_shards == NUM_SHARDS


async def test_a_dead_candidate_holds_nobody_up(store: kv.Store) -> None:
    dead = Election(store, "_ld/default_env/m3aggregator/shardset/1/lock", 60)
    await dead.campaign(INSTANCE_ID)
    lease = await store.grant(60)
    await store.put_with_lease("_kv/default_env/shardset/1/complete-since/flush/other", b"1", lease)
    await take_away_candidates(store)
    living = Election(store, "_ld/default_env/m3aggregator/shardset/1/lock", 60)
    await living.campaign(INSTANCE_ID)
    assert await living.candidates() == [INSTANCE_ID]
    assert await store.keys("_kv/default_env/shardset/1/complete-since/") == []
    await living.close()
    await dead.close()
    await lease.revoke()

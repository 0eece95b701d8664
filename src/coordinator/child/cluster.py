"""The aggregator's cluster of one: made by the coordinator itself before the aggregator starts, in a KV that nobody else uses.

All shards are available at once, so that nothing waits for a cutover. Endpoints are sockets in a directory that is another one after
each start: the placements are written anew then. What a dead aggregator has left of the election would hold its successor up until
its lease ends, and is taken away.
"""

import msgspec

from coordinator.child.settings import AGGREGATOR, COORDINATOR, INGEST_TOPIC, INSTANCE_ID, OUTPUT_TOPIC, Places
from m3cluster.keys import DEFAULT_ENVIRONMENT, DEFAULT_ZONE, election_prefix, kv_key, topic_key
from m3cluster.kv import KeyNotFoundError, Store
from m3cluster.placement import (
    Instance,
    NoPlacementError,
    Placement,
    PlacementOptions,
    PlacementService,
    Shard,
    ShardState,
)
from m3cluster.proto import DecodeError
from m3cluster.topic import ConsumerService, ConsumptionType, ServiceID, Topic, TopicError, decode_topic, encode_topic

__all__ = ["NUM_SHARDS", "make_cluster", "take_away_candidates"]

NUM_SHARDS = 64
"""More than there are ever workers; it must not change, as journals are kept by shard."""
_SHARD_SET = 1


async def make_cluster(store: Store, places: Places) -> None:
    """Writes placements and topics where they are not as they have to be. Raises ``KVError``."""
    shards = tuple(Shard(number, ShardState.AVAILABLE) for number in range(NUM_SHARDS))
    ours = Instance(
        INSTANCE_ID, isolation_group=INSTANCE_ID, zone=DEFAULT_ZONE, weight=1, endpoint=places.samples, shards=shards,
        shard_set_id=_SHARD_SET, hostname="localhost",
    )  # fmt: skip
    aggregators = Placement(
        (ours,), num_shards=NUM_SHARDS, replica_factor=1, is_sharded=True, is_mirrored=True, max_shard_set_id=_SHARD_SET
    )
    await _put_placement(store, AGGREGATOR, PlacementOptions(is_mirrored=True, is_staged=True), aggregators)
    taker = Instance(INSTANCE_ID, zone=DEFAULT_ZONE, endpoint=places.values, hostname="localhost")
    await _put_placement(store, COORDINATOR, PlacementOptions(is_sharded=False), Placement((taker,), replica_factor=1))
    await _put_topic(store, INGEST_TOPIC, AGGREGATOR, ConsumptionType.REPLICATED)
    await _put_topic(store, OUTPUT_TOPIC, COORDINATOR, ConsumptionType.SHARED)


async def _put_placement(store: Store, service: str, options: PlacementOptions, wanted: Placement) -> None:
    service_placement = PlacementService(store, DEFAULT_ENVIRONMENT, service, options)
    try:
        found = await service_placement.placement()
    except NoPlacementError:
        await service_placement.put(wanted, 0)
        return
    if msgspec.structs.replace(found, version=0) != wanted:
        await service_placement.put(wanted, found.version)


async def _put_topic(store: Store, name: str, service: str, consumption: ConsumptionType) -> None:
    # What is sent never expires: there is nobody else who could have taken it.
    consumer = ConsumerService(ServiceID(service, DEFAULT_ENVIRONMENT, DEFAULT_ZONE), consumption)
    wanted, key, version = Topic(name, NUM_SHARDS, (consumer,)), topic_key(DEFAULT_ENVIRONMENT, name), 0
    try:
        value = await store.get(key)
        version = value.version
        if msgspec.structs.replace(decode_topic(value.data, 0), version=0) == wanted:
            return
    except (KeyNotFoundError, DecodeError, TopicError):
        # What cannot be understood is overwritten.
        pass
    await store.check_and_set(key, version, encode_topic(wanted))


async def take_away_candidates(store: Store) -> None:
    """What an aggregator that is dead has left in the KV by its leases. Raises ``KVError``."""
    prefixes = (
        election_prefix(DEFAULT_ENVIRONMENT, AGGREGATOR, f"shardset/{_SHARD_SET}/lock"),
        kv_key(DEFAULT_ENVIRONMENT, f"shardset/{_SHARD_SET}/complete-since/flush"),
    )
    for prefix in prefixes:
        for key, value in await store.keys(f"{prefix}/"):
            await store.delete_if(key, value.create_revision)

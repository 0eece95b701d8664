"""What M3's processes have written into the KV of a pair: placements, topics, the election, flush times."""

import asyncio

import msgspec
from tests.m3ctl.conftest import ENV, FakeCluster

from m3cluster.flush_times import ShardFlushTimes, ShardSetFlushTimes, encode_flush_times
from m3cluster.keys import election_prefix, flush_times_key, placement_key, topic_key
from m3cluster.kv import Store, StoreConfig, open_store
from m3cluster.placement import Instance, Placement, Shard, ShardState, encode_placement, encode_staged_placement
from m3cluster.topic import ConsumerService, ConsumptionType, ServiceID, Topic, encode_topic

SECOND_NS = 1_000_000_000
TOPICS = ("aggregator_ingest", "aggregated_metrics")
PLACEMENT = placement_key(ENV, "m3aggregator")
ELECTION = election_prefix(ENV, "m3aggregator", "shardset/1/lock")


def stored(config: StoreConfig, values: dict[str, bytes]) -> None:
    """The KV has these values, and no other ones below the keys that M3 uses."""

    async def write() -> None:
        store: Store = await open_store(config)
        try:
            for prefix in ("/placement/", "_sd.placement/", "/topic/", "_ld/", "_kv/"):
                for key, _ in await store.keys(prefix):
                    if key not in values:
                        await store.delete(key)
            for key, value in values.items():
                await store.set(key, value)
        finally:
            await store.close()

    asyncio.run(write())


class Situation:
    """A pair of M3's aggregators that is well: what is in the KV, to be changed by tests."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.placement = Placement(
            tuple(self._instance(n) for n in range(2)), num_shards=4, replica_factor=2, is_sharded=True, is_mirrored=True,
            cutover_time_ns=cluster.cutover_ns, max_shard_set_id=1,
        )  # fmt: skip
        self.consumers = {
            TOPICS[0]: (ConsumerService(ServiceID("m3aggregator", ENV, "embedded"), ConsumptionType.REPLICATED, 300 * SECOND_NS),),
            TOPICS[1]: (ConsumerService(ServiceID("m3coordinator", ENV, "embedded"), ConsumptionType.SHARED, 300 * SECOND_NS),),
        }  # fmt: skip
        self.topic_shards = 4
        self.candidates = [cluster.ids[1], cluster.ids[0]]
        """The leader's first."""
        self.flushed_ns = cluster.now_ns - 20 * SECOND_NS
        self.more: dict[str, bytes] = {}

    def _instance(self, number: int) -> Instance:
        port = self.cluster.ports[number]
        return Instance(
            self.cluster.ids[number], self.cluster.groups[number], "embedded", 100, f"127.0.0.1:{port}",
            tuple(Shard(n, ShardState.INITIALIZING, cutover_ns=self.cluster.cutover_ns) for n in range(4)),
            shard_set_id=1, hostname="127.0.0.1", port=port, debug_port=self.cluster.aggregators[number].port,
        )  # fmt: skip

    def values(self) -> dict[str, bytes]:
        output = Instance("m3coordinator01", "", "embedded", 0, f"127.0.0.1:{self.cluster.ports[2]}")
        times = ShardFlushTimes(standard={10 * SECOND_NS: self.flushed_ns}, timed={60 * SECOND_NS: self.flushed_ns})
        found = {
            PLACEMENT: encode_staged_placement(self.placement),
            placement_key(ENV, "m3coordinator"): encode_placement(Placement((output,))),
            flush_times_key(ENV, 1): encode_flush_times(ShardSetFlushTimes(dict.fromkeys(range(4), times))),
        }
        for name in TOPICS:
            found[topic_key(ENV, name)] = encode_topic(Topic(name, self.topic_shards, self.consumers[name]))
        for number, candidate in enumerate(self.candidates):
            found[f"{ELECTION}/7ed8a204a530f{number:03}"] = candidate.encode()
        return found | self.more

    def change(self, number: int, **changes) -> None:
        """Another instance of the placement."""
        instances = list(self.placement.instances)
        instances[number] = msgspec.structs.replace(instances[number], **changes)
        self.placement = msgspec.structs.replace(self.placement, instances=tuple(instances))

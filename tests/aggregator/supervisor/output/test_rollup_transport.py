"""Forwarded metrics from the queue of the supervisor over a real producer to the consumers of ``aggregator_ingest``."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from aggregator.config import load_config
from aggregator.supervisor.output.forwarder import Forwarder, Part
from aggregator.supervisor.output.sinks import Sinks
from m3cluster.keys import placement_key, topic_key
from m3cluster.kv import Embedded, Store, open_store
from m3cluster.placement.codec import encode_staged_placement
from m3cluster.placement.model import Instance, Placement, Shard, ShardState
from m3cluster.topic import ConsumerService, ConsumptionType, ServiceID, Topic, encode_topic
from m3msg.batch import MessageBatch
from m3msg.consumer import ConsumerServer, ReceivedBatch
from m3x.instrument import Registry

ROOT = Path(__file__).resolve().parents[4]
ENVIRONMENT = "namespace/m3db-cluster-name"
SHARDS = 4
BUFFER = {"maxBufferSize": 8192, "maxMessageSize": 4096, "forwardedBufferSize": 4096}


class Replica:
    """A consumer that acks nothing before it is told to."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.acks = asyncio.Event()

    async def take(self, batch: ReceivedBatch) -> None:
        self.got += [batch.value(i) for i in range(len(batch))]
        await self.acks.wait()
        batch.ack()


class Rig:
    """The sinks of an instance whose placement has itself and another one, both replicas of all shards."""

    def __init__(self, store: Store, ports: list[int], folder: Path) -> None:
        self.done: list[tuple[int, frozenset[int]]] = []
        self.fenced = 0
        self.credit = 0
        self.allowed = True
        overlay = folder / "overlay.yml"
        overlay.write_text(yaml.safe_dump({"aggregator": {"client": {"m3msg": {"producer": {"buffer": BUFFER}}}}}))
        config = load_config([ROOT / "configs/local/m3aggregator.yml", overlay], {}).value
        self.registry = Registry()
        scope = self.registry.scope("it")
        self.rollups = Forwarder(self._settled, self._fence, self._credited, scope, "forwarded")
        final = Forwarder(self._settled, self._fence, self._credited, scope)
        self.sinks = Sinks(
            config,
            store,
            final,
            self.rollups,
            lambda: self.allowed,
            scope,
            local=lambda: frozenset([f"127.0.0.1:{ports[0]}"]),
            unroutable=lambda: None,
        )

    def _settled(self, flush_id: int, part: int, awaited: frozenset[int], _owed: frozenset[int] = frozenset()) -> None:
        assert part == flush_id
        self.done.append((flush_id, awaited))

    def _fence(self) -> None:
        self.fenced += 1

    def _credited(self, _worker: int, _epoch: int, nbytes: int) -> None:
        self.credit += nbytes

    def offer(self, flush_id: int, count: int = 20) -> int:
        """A part of 4 kB; returns its size."""
        values = [b"%04d-%04d" % (flush_id, i) * 22 for i in range(count)]
        offsets = np.cumsum([0, *map(len, values)])
        shards = np.arange(count, dtype=np.uint32) % SHARDS
        batch = MessageBatch(np.frombuffer(b"".join(values), np.uint8), offsets, shards)
        self.rollups.offer(Part(0, 1, flush_id, flush_id, batch))
        return batch.size_bytes

    async def until(self, condition) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self.rollups.pump()
                await asyncio.sleep(0.01)


@pytest.fixture
async def replicas() -> AsyncIterator[list[tuple[Replica, int]]]:
    own, other = Replica(), Replica()
    async with ConsumerServer("127.0.0.1:0", own.take) as one, ConsumerServer("127.0.0.1:0", other.take) as two:
        yield [(own, one.port), (other, two.port)]
        own.acks.set()
        other.acks.set()


@pytest.fixture
async def rig(tmp_path: Path, replicas: list[tuple[Replica, int]]) -> AsyncIterator[Rig]:
    store = await open_store(Embedded(tmp_path / "kv.sqlite"))
    shards = tuple(Shard(s, ShardState.AVAILABLE, cutover_ns=1) for s in range(SHARDS))
    ports = [port for _, port in replicas]
    instances = tuple(
        Instance(id=f"i{k}", endpoint=f"127.0.0.1:{port}", shards=shards, shard_set_id=1, weight=1)
        for k, port in enumerate(ports)
    )
    placement = Placement(instances, num_shards=SHARDS, replica_factor=2, is_sharded=True, is_mirrored=True)
    service = ConsumerService(
        ServiceID("m3aggregator", ENVIRONMENT, "embedded"), ConsumptionType.REPLICATED, 300 * 10**9
    )
    await store.set(placement_key(ENVIRONMENT, "m3aggregator"), encode_staged_placement(placement))
    await store.set(
        topic_key(ENVIRONMENT, "aggregator_ingest"), encode_topic(Topic("aggregator_ingest", SHARDS, (service,)))
    )
    made = Rig(store, ports, tmp_path)
    task = asyncio.create_task(made.sinks.run())
    try:
        yield made
    finally:
        await made.sinks.close(0.1)
        task.cancel()
        await asyncio.wait([task])
        await store.close()


def connected(rig: Rig, count: int) -> bool:
    status = rig.sinks.rollup_status()
    return status is not None and sum(i.connected for s in status.services for i in s.instances) == count


async def test_our_own_replica_is_never_waited_for_and_loses_nothing(rig: Rig, replicas) -> None:
    """Fifty times the budget, before anybody has acked: flushing goes on, so the workers can get to what they are to ack."""
    (own, _), (other, _) = replicas
    await rig.until(lambda: connected(rig, 2))
    size = sum(rig.offer(flush_id) for flush_id in range(50))
    await rig.until(lambda: rig.credit == size)
    assert rig.done == []
    own.acks.set()
    other.acks.set()
    await rig.until(lambda: len(rig.done) == 50)
    assert sorted(flush_id for flush_id, _ in rig.done) == list(range(50))
    assert not any(awaited for _, awaited in rig.done)
    assert not rig.registry.counter("it_lost", output="forwarded")
    assert len(set(own.got)) == 50 * 20
    assert rig.registry.counter("it_lost", output="forwarded") == 0


async def test_done_is_what_every_reachable_replica_has_acked(rig: Rig, replicas) -> None:
    (own, _), (other, _) = replicas
    await rig.until(lambda: connected(rig, 2))
    rig.offer(1, count=4)
    own.acks.set()
    await rig.until(lambda: len(own.got) == len(other.got) == 4)
    assert rig.done == []
    other.acks.set()
    await rig.until(lambda: rig.done == [(1, frozenset())])
    assert not rig.registry.counter("it_lost", output="forwarded")


async def test_nothing_is_written_once_the_lease_has_ended(rig: Rig, replicas) -> None:
    (own, _), (other, _) = replicas
    await rig.until(lambda: connected(rig, 2))
    rig.allowed = False
    rig.offer(7, count=4)
    await rig.until(lambda: rig.fenced)
    assert rig.done == []
    assert (own.got, other.got) == ([], [])

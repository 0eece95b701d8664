"""The producer over real sockets and a real (in-memory) KV store."""

import asyncio
import contextlib
import socket
import time
import weakref
from collections import Counter

import numpy as np
from lab.waiting import until

from m3cluster.keys import placement_key, topic_key
from m3cluster.kv.sqlite.memory import MemoryServer
from m3cluster.placement import Instance, Placement, Shard, ShardState, encode_placement, encode_staged_placement
from m3cluster.topic import ConsumerService, ConsumptionType, Filters, ServiceID, Topic, encode_topic
from m3msg.batch import MessageBatch
from m3msg.consumer import ConsumerServer, ReceivedBatch
from m3msg.producer import Done, Producer, ProducerClosedError, ProducerOptions
from m3msg.producer.options import (
    BufferOptions,
    ConnectionOptions,
    MessageRetryOptions,
    PlacementOptions,
    WriterOptions,
)
from m3x.config import Duration
from m3x.instrument import Registry, Scope
from m3x.tls import ClientTLSConfig, ServerTLS

import pytest  # isort: skip

SHARDS = 8
SERVICE = ServiceID("svc", "env", "zone")
MS = 1_000_000


def batch_of(n: int, size: int = 100, token: object = None, first: int = 0) -> MessageBatch:
    values = [(b"%08d" % (first + i)).ljust(size, b".") for i in range(n)]
    offsets = np.arange(n + 1, dtype=np.int64) * size
    return MessageBatch(
        np.frombuffer(b"".join(values), np.uint8), offsets, (np.arange(n) % SHARDS).astype(np.uint32), token=token
    )


class Recorder:
    """A consumer instance."""

    def __init__(self, tls: ServerTLS | None = None, scope: Scope | None = None) -> None:
        self.acks = True
        self.numbers: Counter[int] = Counter()
        self.server = ConsumerServer("127.0.0.1:0", self.handle, tls=tls, scope=scope)

    async def handle(self, batch: ReceivedBatch) -> None:
        self.numbers.update(int(batch.value(i)[:8]) for i in range(len(batch)))
        if self.acks:
            batch.ack()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.server.port}"


class Cluster:
    """A KV store with a topic, and what the tests start on it."""

    def __init__(self) -> None:
        self.kv = MemoryServer()
        self.store = self.kv.client()
        self.registry = Registry()
        self.done: list[Done] = []
        self.stack = contextlib.AsyncExitStack()

    async def topic(self, kind: ConsumptionType, shards: int = SHARDS) -> None:
        topic = Topic("t", shards, (ConsumerService(SERVICE, kind),))
        await self.store.set(topic_key("env", "t"), encode_topic(topic))

    async def place(self, *endpoints: str, staged: bool = False) -> None:
        shards = tuple(Shard(s, ShardState.AVAILABLE) for s in range(SHARDS))
        instances = tuple(Instance(f"i{k}", endpoint=e, shards=shards) for k, e in enumerate(endpoints))
        placement = Placement(instances=instances, is_sharded=True, num_shards=SHARDS, replica_factor=len(endpoints))
        data = encode_staged_placement(placement) if staged else encode_placement(placement)
        await self.store.set(placement_key("env", "svc"), data)

    async def recorder(self, tls: ServerTLS | None = None) -> Recorder:
        recorder = Recorder(tls, self.registry.scope("consumer"))
        await self.stack.enter_async_context(recorder.server)
        return recorder

    def producer(
        self,
        *,
        connections: int = 2,
        buffer: dict | None = None,
        staged: bool = False,
        retry_ms: int = 200,
        tls: ClientTLSConfig | None = None,
        **kwargs,
    ) -> Producer:
        writer = WriterOptions(
            topic_name="t",
            topic_watch_init_timeout=Duration(100 * MS),
            placement_watch_init_timeout=Duration(100 * MS),
            placement=PlacementOptions(is_staged=staged),
            connection=ConnectionOptions(num_connections=connections, **({} if tls is None else {"tls": tls})),
            message_retry=MessageRetryOptions(initial_backoff=Duration(retry_ms * MS)),
        )
        options = ProducerOptions(writer=writer, buffer=BufferOptions(**(buffer or {})))
        producer = Producer(
            options, self.store, scope=self.registry.scope(), on_done=self.done.append, environment="env", **kwargs
        )
        self.stack.push_async_callback(producer.close, 0.1)
        return producer

    @property
    def acked(self) -> int:
        return sum(d.acked for d in self.done)


@pytest.fixture
async def cluster():
    cluster = Cluster()
    try:
        yield cluster
    finally:
        await cluster.stack.aclose()
        await cluster.store.close()
        cluster.kv.close()


async def test_delivers_to_every_replica(cluster: Cluster):
    a, b = await cluster.recorder(), await cluster.recorder()
    await cluster.topic(ConsumptionType.REPLICATED)
    await cluster.place(a.endpoint, b.endpoint, staged=True)
    # Nothing is sent twice unless its acknowledgement takes longer than this.
    producer = cluster.producer(staged=True, retry_ms=60_000)
    assert await producer.start()
    assert producer.num_shards == SHARDS
    await until(lambda: all(i.connected for i in producer.status().services[0].instances))
    for i in range(20):
        assert producer.produce(batch_of(500, first=i * 500))
    await until(lambda: cluster.acked == 10_000)
    assert len(a.numbers) == len(b.numbers) == 10_000
    assert max(a.numbers.values()) == max(b.numbers.values()) == 1
    await producer.close()
    assert (
        cluster.registry.counter(
            "message_acked", consumer_service_name="svc", consumer_service_env="env", consumer_service_zone="zone"
        )
        == 20_000
    )


async def test_at_rest_it_looks_seldom_until_something_happens(cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("m3msg.producer.shell._REST_S", 3600.0)
    a = await cluster.recorder()
    await cluster.topic(ConsumptionType.REPLICATED)
    await cluster.place(a.endpoint)
    producer = cluster.producer(retry_ms=60_000)
    assert await producer.start()
    await until(lambda: producer._rests)
    assert producer.produce(batch_of(10))
    labels = {f"consumer_service_{name}": value for name, value in (("name", "svc"), ("env", "env"), ("zone", "zone"))}
    # What was counted since is reported, before it rests again.
    await until(lambda: cluster.registry.counter("message_acked", **labels) == 10)
    await until(lambda: producer._rests)
    await a.server.close()
    (lane,) = producer.core.lanes()
    await until(lambda: not lane.reachable)
    # Time counts from there on, for who asks whether anybody can be reached.
    await until(lambda: lane._gone_ns > 0)
    assert not producer._rests


async def test_a_consumer_that_never_acks_costs_bounded_memory_and_delays_nobody(cluster: Cluster):
    good, bad = await cluster.recorder(), await cluster.recorder()
    bad.acks = False
    await cluster.topic(ConsumptionType.REPLICATED)
    await cluster.place(good.endpoint, bad.endpoint)
    limit = 2 << 20
    producer = cluster.producer(buffer={"max_buffer_size": limit})
    await producer.start()
    for i in range(100):
        assert producer.produce(batch_of(1000, first=i * 1000))
        await until(lambda i=i: len(good.numbers) >= (i + 1) * 1000)
    status = {s.endpoint: s for s in producer.status().services[0].instances}
    assert status[bad.endpoint].queued_bytes <= limit
    assert status[bad.endpoint].dropped > 50_000
    assert status[good.endpoint].dropped == 0
    await until(lambda: {i.endpoint: i.unacked for i in producer.status().services[0].instances}[good.endpoint] == 0)


@pytest.mark.parametrize("listens", [True, False])
async def test_a_consumer_that_reads_nothing_delays_nobody_and_costs_bounded_memory(cluster: Cluster, listens: bool):
    good = await cluster.recorder()
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # connects, but nobody accepts or reads
        endpoint = f"127.0.0.1:{deaf.getsockname()[1]}"
        if not listens:
            deaf.close()
        await cluster.topic(ConsumptionType.REPLICATED)
        await cluster.place(good.endpoint, endpoint)
        producer = cluster.producer(buffer={"max_buffer_size": 4 << 20})
        await producer.start()
        payloads = []
        for i in range(60):
            batch = batch_of(1000, size=1000, first=i * 1000)
            payloads.append(weakref.ref(batch.payload))
            assert producer.produce(batch)
            del batch
            await until(lambda i=i: len(good.numbers) >= (i + 1) * 1000)
        status = {i.endpoint: i for i in producer.status().services[0].instances}
        await until(
            lambda: {i.endpoint: i.unacked for i in producer.status().services[0].instances}[good.endpoint] == 0
        )
        assert status[endpoint].dropped > 50_000
        # Dropped messages are gone from memory, too: a megabyte each, at most twice the limit.
        assert sum(payload() is not None for payload in payloads) <= 8


async def gone_after(cluster: Cluster, count: int) -> tuple[Recorder, str, Producer]:
    """A consumer that had so many messages and is gone, its address, and who would send it more."""
    recorder = Recorder()
    await recorder.server.start()
    address = f"127.0.0.1:{recorder.server.port}"
    await cluster.topic(ConsumptionType.SHARED)
    await cluster.place(recorder.endpoint)
    producer = cluster.producer()
    await producer.start()
    producer.produce(batch_of(count))
    await until(lambda: cluster.acked == count)
    await recorder.server.close()
    await until(lambda: not producer.status().services[0].instances[0].connected)
    return recorder, address, producer


async def test_a_consumer_that_dies_and_returns_gets_its_backlog(cluster: Cluster):
    recorder, address, producer = await gone_after(cluster, 100)
    producer.produce(batch_of(5000, first=100, token="backlog"))
    await until(lambda: "cannot connect" in producer.status().services[0].instances[0].last_error)
    returned = ConsumerServer(address, recorder.handle)
    async with returned:
        await until(lambda: cluster.acked == 5100)
        assert len(recorder.numbers) == 5100
        # The other connection may come back later.
        await until(lambda: producer.status().services[0].instances[0].last_error == "")
        await producer.close()


@pytest.mark.parametrize("away_s", [0.3, 60.0])
async def test_the_end_waits_for_no_instance_that_has_been_away_for_long(cluster: Cluster, away_s: float):
    good = await cluster.recorder()
    with socket.create_server(("127.0.0.1", 0)) as gone:
        endpoint = f"127.0.0.1:{gone.getsockname()[1]}"
    await cluster.topic(ConsumptionType.REPLICATED)
    await cluster.place(good.endpoint, endpoint)
    producer = cluster.producer()
    await producer.start()
    producer.produce(batch_of(100))
    await until(lambda: len(good.numbers) == 100 and producer.core.pending == 100)
    began = time.monotonic()
    await producer.close(2.0, away_s)
    assert (time.monotonic() - began < 1.9) == (away_s < 2.0)
    service = {f"consumer_service_{key}": value for key, value in (("name", "svc"), ("env", "env"), ("zone", "zone"))}
    assert cluster.registry.counter("message_dropped", reason="instance-away", **service) == 100


async def test_an_instance_that_comes_back_before_the_end_gets_what_is_left(cluster: Cluster):
    recorder, address, producer = await gone_after(cluster, 10)
    producer.produce(batch_of(100, first=10))
    closing = asyncio.create_task(producer.close(10.0, 5.0))
    async with ConsumerServer(address, recorder.handle):
        await closing
    assert len(recorder.numbers) == 110


async def test_garbage_from_a_consumer_closes_only_that_connection(cluster: Cluster):
    good = await cluster.recorder()
    peers: list[asyncio.StreamWriter] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer)
        writer.write(b"\xff" * 100)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    await cluster.topic(ConsumptionType.REPLICATED)
    await cluster.place(good.endpoint, f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    producer = cluster.producer()
    await producer.start()
    await until(lambda: len(peers) > 2)
    producer.produce(batch_of(1000))
    await until(lambda: len(good.numbers) == 1000)
    errors = {i.endpoint: i.last_error for i in producer.status().services[0].instances}
    assert errors[good.endpoint] == ""
    await producer.close(0.1)
    server.close()


async def test_unacked_messages_are_sent_again(cluster: Cluster):
    recorder = await cluster.recorder()
    recorder.acks = False
    await cluster.topic(ConsumptionType.SHARED)
    await cluster.place(recorder.endpoint)
    producer = cluster.producer()
    await producer.start()
    producer.produce(batch_of(10))
    await until(lambda: len(recorder.numbers) == 10)
    recorder.acks = True
    await until(lambda: cluster.acked == 10)
    # More than twice if the machine has stood still for longer than a retry takes.
    assert min(recorder.numbers.values()) >= 2


async def test_nothing_fenced_is_written_once_the_right_is_lost(cluster: Cluster):
    recorder = await cluster.recorder()
    await cluster.topic(ConsumptionType.SHARED)
    await cluster.place(recorder.endpoint)
    leader = True
    producer = cluster.producer(may_write=lambda: leader)
    await producer.start()
    producer.produce(batch_of(10, token="before"), fenced=True)
    await until(lambda: len(cluster.done) == 1)
    leader = False
    producer.produce(batch_of(1000, first=10, token="after"), fenced=True)
    producer.produce(batch_of(5, first=5000, token="free"))
    await until(lambda: len(cluster.done) == 3)
    ends = {d.token: d for d in cluster.done}
    assert ends["after"] == Done("after", 0, 0, 0, fenced=1000)
    assert ends["free"] == Done("free", 5, 0, 0)
    assert len(recorder.numbers) == 15


async def test_backlog_of_a_lost_leader_never_reaches_a_returning_consumer(cluster: Cluster):
    await cluster.topic(ConsumptionType.SHARED)
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        port = placeholder.getsockname()[1]
    await cluster.place(f"127.0.0.1:{port}")
    leader = True
    producer = cluster.producer(may_write=lambda: leader)
    await producer.start()
    producer.produce(batch_of(100, token="leader"), fenced=True)
    leader = False
    await until(lambda: cluster.done == [Done("leader", 0, 0, 0, fenced=100)])
    recorder = Recorder()
    async with ConsumerServer(f"127.0.0.1:{port}", recorder.handle):
        producer.produce(batch_of(1, token="free"))
        await until(lambda: len(cluster.done) == 2)
        assert len(recorder.numbers) == 1
        await producer.close()


async def test_what_is_missing_is_said_and_found_when_it_comes(cluster: Cluster):
    producer = cluster.producer()
    assert not await producer.start()
    assert producer.room() == 0
    assert not producer.produce(batch_of(1))
    assert "topic/init" in producer.status().problems[0]
    await cluster.topic(ConsumptionType.REPLICATED)
    await until(lambda: producer.num_shards == SHARDS)
    await until(lambda: "no placement" in " ".join(producer.status().problems))
    recorder = await cluster.recorder()
    await cluster.place(recorder.endpoint)
    await until(lambda: producer.problems() == [])
    producer.produce(batch_of(10))
    await until(lambda: cluster.acked == 10)


async def test_bad_values_in_kv_change_nothing(cluster: Cluster):
    recorder = await cluster.recorder()
    await cluster.topic(ConsumptionType.SHARED)
    await cluster.place(recorder.endpoint)
    producer = cluster.producer()
    assert await producer.start()
    await cluster.store.set(topic_key("env", "t"), b"\xff\xff")
    await cluster.store.set(placement_key("env", "svc"), b"\xff\xff")
    await until(lambda: len(producer.problems()) == 2)
    await cluster.store.delete(topic_key("env", "t"))
    producer.produce(batch_of(10))
    await until(lambda: cluster.acked == 10)
    await cluster.topic(ConsumptionType.SHARED, shards=SHARDS * 2)
    await until(lambda: any("restart to follow" in problem for problem in producer.problems()))
    await cluster.topic(ConsumptionType.SHARED)
    await cluster.place(recorder.endpoint)
    await until(lambda: producer.problems() == [])


async def test_a_topic_that_m3_would_refuse_changes_nothing(cluster: Cluster):
    recorder = await cluster.recorder()
    await cluster.topic(ConsumptionType.SHARED)
    await cluster.place(recorder.endpoint)
    producer = cluster.producer()
    assert await producer.start()
    await cluster.topic(ConsumptionType.UNKNOWN)
    await until(lambda: "invalid consumption type" in " ".join(producer.problems()))
    producer.produce(batch_of(10))
    await until(lambda: cluster.acked == 10)


async def test_a_service_that_can_be_followed_at_last_has_its_placement(cluster: Cluster):
    recorder = await cluster.recorder()
    broken = ConsumerService(SERVICE, ConsumptionType.SHARED, filters=Filters(shard_set="nonsense"))
    await cluster.store.set(topic_key("env", "t"), encode_topic(Topic("t", SHARDS, (broken,))))
    await cluster.place(recorder.endpoint)
    producer = cluster.producer()
    assert await producer.start()
    await until(lambda: SERVICE in producer.topology.placements)
    assert [problem for problem in producer.problems() if "consumer service" in problem] == producer.problems() != []
    await cluster.topic(ConsumptionType.SHARED)
    await until(lambda: producer.problems() == [])
    producer.produce(batch_of(10))
    await until(lambda: cluster.acked == 10)


async def test_room_shrinks_and_comes_back(cluster: Cluster):
    recorder = await cluster.recorder()
    recorder.acks = False
    await cluster.topic(ConsumptionType.SHARED)
    await cluster.place(recorder.endpoint)
    producer = cluster.producer(buffer={"max_buffer_size": 1 << 20, "on_full_strategy": "returnError"})
    await producer.start()
    assert producer.room() == 1 << 20
    assert producer.full == 0
    while producer.produce(batch_of(1000)):  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert producer.room() < 200_000
    assert 0.8 < producer.full <= 1
    recorder.acks = True
    async with asyncio.timeout(30):
        await producer.wait_room(1 << 20)
    assert producer.produce(batch_of(1000))


async def test_close_waits_for_acks_then_gives_up(cluster: Cluster):
    recorder = await cluster.recorder()
    await cluster.topic(ConsumptionType.SHARED)
    await cluster.place(recorder.endpoint)
    producer = cluster.producer()
    await producer.start()
    producer.produce(batch_of(10_000))
    await producer.close(30)
    assert cluster.acked == 10_000
    assert not producer.produce(batch_of(1))
    await producer.wait()
    with pytest.raises(ProducerClosedError):
        await producer.wait_room()
    recorder.acks = False
    stuck = cluster.producer()
    await stuck.start()
    stuck.produce(batch_of(10, token="stuck"))
    await until(lambda: sum(recorder.numbers.values()) >= 10_010)
    async with asyncio.timeout(20):
        await stuck.close(0.2)
    assert cluster.done[-1] == Done("stuck", acked=0, lost=10, filtered=0)


async def test_placement_changes_are_followed(cluster: Cluster):
    a, b = await cluster.recorder(), await cluster.recorder()
    await cluster.topic(ConsumptionType.REPLICATED)
    await cluster.place(a.endpoint)
    producer = cluster.producer()
    await producer.start()
    producer.produce(batch_of(100))
    await until(lambda: cluster.acked == 100)
    await cluster.place(b.endpoint)
    await until(lambda: [i.endpoint for i in producer.status().services[0].instances] == [b.endpoint])
    producer.produce(batch_of(100, first=100))
    await until(lambda: cluster.acked == 200)
    assert len(b.numbers) == 100
    await until(lambda: not a.server.connections)

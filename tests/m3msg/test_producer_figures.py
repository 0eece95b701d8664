"""What producers count under M3's names, in each of the scopes in which the services have one; by event (docs/metrics.md)."""

import asyncio
import socket
import struct

from lab.waiting import until
from tests.m3msg.test_producer_shell import SERVICE, SHARDS, Cluster, batch_of

from aggregator.supervisor.m3_names import show_m3_names
from coordinator import m3_names as coordinator_names
from m3cluster.keys import placement_key, topic_key
from m3cluster.placement import Instance, Placement, Shard, ShardState, encode_placement
from m3cluster.topic import ConsumerService, ConsumptionType, Topic, encode_topic
from m3msg.producer import Producer, ProducerOptions
from m3msg.producer.options import BufferOptions, ConnectionOptions, MessageRetryOptions, WriterOptions
from m3x.config import Duration
from m3x.instrument import Registry, Scope

MS = 1_000_000
S = 1000 * MS
HANDLER, CLIENT = "m3aggregator_aggregator_flush_handler_", "m3aggregator_aggregator_client_"
LISTS, COORDINATOR = "m3aggregator_aggregator_list_", "coordinator_downsampler_remote_aggregator_client_"


class Three:
    """The producers of final output, of rollups and of a coordinator, on one cluster."""

    def __init__(self, cluster: Cluster, ttl_s: int = 0, **buffer: int) -> None:
        self.cluster = cluster
        self.ttl_s = ttl_s
        self.registries = Registry(), Registry()
        show_m3_names(self.registries[0], "m3aggregator")
        coordinator_names.show_m3_names(self.registries[1], "coordinator")
        aggregator = self.registries[0].scope("m3aggregator.aggregator")
        scopes = (
            aggregator.sub("flush-handler").tagged(backend="m3msg", component="producer"),
            aggregator.sub("client"),
            self.registries[1].scope("coordinator.producer"),
        )
        self.producers = [self._producer(scope, buffer) for scope in scopes]

    def _producer(self, scope: Scope, buffer: dict[str, int]) -> Producer:
        writer = WriterOptions(
            topic_name="t",
            topic_watch_init_timeout=Duration(100 * MS),
            placement_watch_init_timeout=Duration(100 * MS),
            connection=ConnectionOptions(num_connections=1),
            message_retry=MessageRetryOptions(initial_backoff=Duration(100 * MS)),
        )
        options = ProducerOptions(writer=writer, buffer=BufferOptions(**buffer))
        return Producer(options, self.cluster.store, scope=scope, environment="env")

    async def __aenter__(self) -> "Three":
        topic = Topic("t", SHARDS, (ConsumerService(SERVICE, ConsumptionType.REPLICATED, self.ttl_s * S),))
        await self.cluster.store.set(topic_key("env", "t"), encode_topic(topic))
        for producer in self.producers:
            await producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for producer in self.producers:
            await producer.close(0.05)
        await self.cluster.stack.aclose()

    async def place(self, endpoint: str, shard: Shard | None = None) -> None:
        """All shards at one address; ``shard``: what the first of them is like."""
        shards = [Shard(number, ShardState.AVAILABLE) for number in range(SHARDS)]
        shards[0] = shard or shards[0]
        one = Instance("i0", endpoint=endpoint, shards=tuple(shards))
        placement = Placement((one,), is_sharded=True, num_shards=SHARDS, replica_factor=1)
        await self.cluster.store.set(placement_key("env", "svc"), encode_placement(placement))
        # What is produced before has nowhere to go.
        await asyncio.gather(*(until(lambda p=p: p.core.links(), 60) for p in self.producers))

    def produce(self, n: int = 8, size: int = 100, first_shard: int = 0) -> None:
        for producer in self.producers:
            batch = batch_of(n, size)
            batch.shards += first_shard
            producer.produce(batch)

    async def moved(self, *names: str) -> None:
        """Returns when each of them is shown other than 0."""
        try:
            await until(lambda: set(names) <= self._shown(), 60)
        except TimeoutError:
            raise TimeoutError(f"still 0 or not there: {sorted(set(names) - self._shown())}") from None

    def _shown(self) -> set[str]:
        lines = "".join(registry.render().decode() for registry in self.registries).splitlines()
        found = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name.partition("{")[0] for name, value in found if float(value)}


def each(names: str, *prefixes: str) -> list[str]:
    return [prefix + name for name in names.split() for prefix in prefixes]


def listening() -> tuple[socket.socket, str]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener, f"127.0.0.1:{listener.getsockname()[1]}"


async def test_a_consumer_that_is_not_there() -> None:
    listener, endpoint = listening()
    listener.close()
    async with Three(Cluster(), ttl_s=3, max_buffer_size=8000, max_message_size=1000) as three:
        await three.place(endpoint)
        three.produce()
        await three.moved(
            *each("queue_size byte_buffered message_buffered", HANDLER, COORDINATOR),
            *each("reset_error write_invalid_conn", HANDLER),
            *each(
                "writer_manager_writer_buffers writer_manager_writer_queue_queue_length_sum "
                "writer_manager_writer_queue_connection_errors writer_manager_writer_queue_connection_retries",
                CLIENT,
            ),
        )
        for _ in range(20):
            three.produce()
        dropped = "buffer_byte_dropped message_dropped drop_oldest_sync"
        await three.moved(
            *each(dropped, HANDLER, COORDINATOR), *each("buffer_message_dropped m3msg_queue_enqueue_errors", HANDLER),
            *each("writer_manager_writer_queue_dropped", CLIENT),
        )  # fmt: skip
        await three.moved(*each("drop_oldest_async", HANDLER, COORDINATOR))


async def test_messages_that_can_go_nowhere() -> None:
    listener, endpoint = listening()
    with listener:
        async with Three(Cluster(), max_buffer_size=100_000, max_message_size=1000) as three:
            await three.place(endpoint, Shard(0, ShardState.INITIALIZING, cutover_ns=2**62))
            three.produce()
            three.produce(size=2000)
            three.produce(first_shard=SHARDS)
            await three.moved(
                *each("encode_error", HANDLER), *each("writer_encode_errors writer_route_errors", LISTS),
                *each("shard_not_owned shard_not_writeable", CLIENT),
            )  # fmt: skip
            await three.cluster.store.set(placement_key("env", "svc"), b"no placement")
            await three.moved(*each("placement_error", HANDLER))
            for producer in three.producers:
                await producer.close(0.05)
            await three.moved(*each("message_closed", HANDLER))


async def test_consumers_that_break_connections(monkeypatch) -> None:
    loop, send = asyncio.get_running_loop(), socket.socket.send
    listener, endpoint = listening()

    def broken(sock: socket.socket, *args: object) -> int:
        if sock.family == socket.AF_INET and sock.getpeername()[1] == listener.getsockname()[1]:
            raise BrokenPipeError("told to fail")
        return send(sock, *args)

    async def spoil(way: str) -> None:
        """Ends all connections that way: with what is no ack, with an end, with a reset."""
        while True:
            peer, _ = await loop.sock_accept(listener)
            with peer:
                if way == "no ack":
                    await loop.sock_sendall(peer, b"\xff" * 64)
                    await asyncio.sleep(0.05)
                elif way == "reset":
                    # When all that waited is written, so that it is met in reading.
                    await asyncio.sleep(0.2)
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with listener:
        async with Three(Cluster(), max_buffer_size=100_000, max_message_size=1000) as three:
            await three.place(endpoint)
            three.produce()
            for way, name in (("no ack", "decode_error"), ("end", "read_invalid_conn"), ("reset", "ack_error")):
                spoiling = asyncio.create_task(spoil(way))
                await three.moved(*each(name, HANDLER))
                spoiling.cancel()
            spoiling = asyncio.create_task(spoil("end"))
            await three.moved(*each("reset_success reset_too_soon message_retry", HANDLER))
            monkeypatch.setattr(socket.socket, "send", broken)
            three.produce()
            await three.moved(*each("write_error", HANDLER), *each("writer_manager_writer_queue_errors", CLIENT))
            spoiling.cancel()


async def test_consumers_that_answer() -> None:
    cluster = Cluster()
    recorder = await cluster.recorder()
    async with Three(cluster, max_buffer_size=100_000, max_message_size=1000) as three:
        await three.place(recorder.endpoint)
        recorder.acks = False
        three.produce()
        await three.moved(*each("message_retry write_success", HANDLER))
        recorder.acks = True
        await three.moved(
            *each("message_acked message_consume_latency_bucket", HANDLER),
            *each("message_write_delay_count", COORDINATOR),
        )

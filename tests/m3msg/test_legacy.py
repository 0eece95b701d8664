"""The client of raw TCP: records, queues, which instance gets what, and what happens while one is away."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.ports import free_port
from lab.waiting import until
from tests.strangers import Certificates

from m3cluster import kv
from m3cluster.placement import Instance, Placement, Shard, ShardState, encode_staged_placement
from m3cluster.placement.model import NEVER_NS
from m3msg.batch import MessageBatch
from m3msg.legacy import LegacyClient, LegacyOptions
from m3msg.legacy.kernels import PREFIX_BOUND, put_records
from m3msg.legacy.lane import Queue
from m3x.instrument import Registry
from m3x.retry import Backoff
from m3x.tls import ClientTLSConfig, ServerTLS

SHARDS = 4
KEY = "placement"
NOW = 1_000_000_000_000
OPTIONS = LegacyOptions(
    placement_key=KEY, warmup_ns=100, linger_ns=200, max_message_bytes=1 << 20, queue_bytes=1 << 20, drop="oldest",
    connect_timeout_s=10.0, write_timeout_s=10.0, keep_alive=True, max_reconnect_s=0.1, write_retries=1,
    retry=Backoff(0.01, 2.0, 0.1), tls=ClientTLSConfig(enabled=False),
)  # fmt: skip


def batch_of(messages: Sequence[bytes], shards: Sequence[int]) -> MessageBatch:
    offsets = np.cumsum([3, *map(len, messages)], dtype=np.int64)
    return MessageBatch(np.frombuffer(b"xyz" + b"".join(messages), np.uint8), offsets, np.array(shards, np.uint32))


def records_of(stream: bytes) -> list[bytes]:
    """The records of a stream, in plain Python."""
    found = []
    while stream:
        size = shift = 0
        while True:
            byte, stream = stream[0], stream[1:]
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        assert size & 1 == 0, "sizes are zigzag"
        found.append(stream[: size >> 1])
        stream = stream[size >> 1 :]
    return found


@given(
    st.lists(st.tuples(st.binary(max_size=300), st.integers(0, SHARDS + 1))),
    st.binary(min_size=SHARDS, max_size=SHARDS),
)
def test_records_of_the_shards_that_are_taken(messages: list[tuple[bytes, int]], takes: bytes) -> None:
    bodies, shards = [body for body, _ in messages], [shard for _, shard in messages]
    batch = batch_of(bodies, shards)
    out = np.empty(batch.size_bytes + PREFIX_BOUND * len(batch), np.uint8)
    taken = np.frombuffer(takes, np.uint8)
    nbytes, count = put_records(batch.payload, batch.offsets, batch.shards, taken, out)
    expected = [body for body, shard in messages if shard < SHARDS and takes[shard]]
    assert (records_of(out[:nbytes].tobytes()), count) == (expected, len(expected))


def test_a_full_queue_gives_up_its_oldest() -> None:
    queue = Queue(1_000_000, "oldest")
    dropped = sum(queue.put(bytes([k]) * 300_000, 10) for k in range(10))
    kept = []
    while queue:
        kept.append(queue.take())
    assert dropped + sum(count for _, count in kept) == 100
    assert kept[-1][0][-1] == 9
    assert sum(len(block) for block, _ in kept) <= 1_000_000
    assert queue.nbytes == 0


def test_a_full_queue_leaves_what_comes() -> None:
    queue = Queue(1_000_000, "current")
    assert [queue.put(b"x" * 300_000, 10) for _ in range(4)] == [0, 0, 0, 10]
    assert queue.nbytes == 900_000


class Listener:
    """An instance that remembers what it was sent."""

    def __init__(self, port: int = 0, tls: ServerTLS | None = None) -> None:
        self.port = port or free_port()
        self.endpoint = f"127.0.0.1:{self.port}"
        self.streams: list[bytearray] = []
        self._tls = tls
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        context = None if self._tls is None else self._tls.context()
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port, ssl=context)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    def reset(self) -> None:
        """Ends its connections as the system does for a process that was killed before it had read everything."""
        for writer in self._writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    @property
    def records(self) -> list[bytes]:
        return [record for stream in self.streams for record in records_of(bytes(stream))]

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = bytearray()
        self.streams.append(stream)
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                stream += data


def placed(*owned: tuple[Listener, Sequence[Shard]]) -> bytes:
    instances = [
        Instance(id=f"i{k}", endpoint=listener.endpoint, shards=tuple(shards), shard_set_id=1)
        for k, (listener, shards) in enumerate(owned)
    ]
    return encode_staged_placement(
        Placement(tuple(instances), num_shards=SHARDS, replica_factor=2, is_sharded=True, is_mirrored=True)
    )


def shards(cutover_ns: int = 0, cutoff_ns: int = NEVER_NS, *ids: int) -> list[Shard]:
    return [Shard(number, ShardState.AVAILABLE, "", cutover_ns, cutoff_ns) for number in ids or range(SHARDS)]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[kv.Store]:
    opened = await kv.open_store(kv.Embedded(tmp_path / "kv.sqlite"))
    yield opened
    await opened.close()


@contextlib.asynccontextmanager
async def running(
    store: kv.Store, options: LegacyOptions = OPTIONS, registry: Registry | None = None, now_ns: int = NOW
) -> AsyncIterator[LegacyClient]:
    client = LegacyClient(options, store, (registry or Registry()).scope("client"), lambda: now_ns)
    task = asyncio.create_task(client.run())
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_both_replicas_get_everything(store: kv.Store) -> None:
    one, two = Listener(), Listener()
    await one.start()
    await two.start()
    async with running(store) as client:
        assert (client.trouble() or "").startswith("no placement")
        await store.set(KEY, placed((one, shards()), (two, shards())))
        await until(lambda: client.trouble() is None, what="the placement")
        messages = [b"m%d" % k * (k % 7 + 1) for k in range(1000)]
        for k in range(0, 1000, 10):
            assert client.produce(batch_of(messages[k : k + 10], [n % SHARDS for n in range(10)])) == 0
        await until(lambda: one.records == two.records == messages, what="both have all")
        await client.close(10.0)
        assert client.problems() == []
    await one.stop()
    await two.stop()


async def test_a_shard_is_sent_to_from_before_its_cutover_until_after_its_cutoff(store: kv.Store) -> None:
    owners = [Listener() for _ in range(4)]
    for owner in owners:
        await owner.start()
    windows = [(NOW + 100, NEVER_NS), (NOW + 101, NEVER_NS), (0, NOW - 200), (0, NOW - 201)]
    registry = Registry()
    async with running(store, registry=registry) as client:
        await store.set(
            KEY, placed(*((owner, shards(*window, 1)) for owner, window in zip(owners, windows, strict=True)))
        )
        await until(lambda: client.num_shards == SHARDS, what="the placement")
        assert client.produce(batch_of([b"a", b"b", b"c"], [1, 2, 1])) == 1, "nobody takes shard 2"
        await until(lambda: owners[0].records == owners[2].records == [b"a", b"c"], what="those that are open")
        assert owners[1].records == owners[3].records == []
    assert dict(registry.report().counters)["client_dropped", ()] == 1
    for owner in owners:
        await owner.stop()


async def test_while_one_is_away_its_metrics_wait_and_the_other_s_go_on(store: kv.Store) -> None:
    here, away = Listener(), Listener()
    await here.start()
    async with running(store) as client:
        await store.set(KEY, placed((here, shards()), (away, shards())))
        await until(lambda: client.trouble() is None, what="the placement")
        client.produce(batch_of([b"first"], [0]))
        await until(lambda: here.records == [b"first"], what="the one that is there")
        await until(lambda: away.endpoint in "".join(client.problems()), what="the other one is named")
        await away.start()
        await until(lambda: away.records == [b"first"], what="the other one")
        # Where it restarts what waits goes over the next connection.
        await away.stop()
        await until(lambda: client.problems() != [], what="its end is seen")
        client.produce(batch_of([b"second"], [0]))
        await until(lambda: here.records == [b"first", b"second"], what="the one that is there")
        await away.start()
        await until(lambda: away.records == [b"first", b"second"], what="the other one")
        # One that leaves the placement gets nothing more.
        await store.set(KEY, placed((here, shards())))
        await until(lambda: client.endpoints == {here.endpoint}, what="the placement")
        client.produce(batch_of([b"third"], [0]))
        await until(lambda: here.records[2:] == [b"third"], what="the one that is left")
        assert away.records == [b"first", b"second"]
    await here.stop()
    await away.stop()


async def test_a_connection_that_is_reset_is_made_anew_before_there_is_anything_to_send(store: kv.Store) -> None:
    listener = Listener()
    await listener.start()
    async with running(store) as client:
        await store.set(KEY, placed((listener, shards())))
        await until(lambda: client.trouble() is None, what="the placement")
        client.produce(batch_of([b"before"], [0]))
        await until(lambda: listener.records == [b"before"], what="the first connection")
        listener.reset()
        await until(lambda: len(listener.streams) == 2, what="the second one")
        client.produce(batch_of([b"after"], [0]))
        await until(lambda: listener.records == [b"before", b"after"], what="what came after it")
    await listener.stop()


async def test_an_endpoint_that_is_none_is_named_and_holds_nothing_back(store: kv.Store) -> None:
    nowhere, listener = Listener(), Listener()
    nowhere.endpoint = "nonsense"
    await listener.start()
    async with running(store) as client:
        await store.set(KEY, placed((nowhere, shards()), (listener, shards())))
        await until(lambda: "'nonsense' is not an address" in "".join(client.problems()), what="it is named")
        client.produce(batch_of([b"a"], [0]))
        await until(lambda: listener.records == [b"a"], what="the other one")
    await listener.stop()


async def test_instances_behind_one_endpoint_get_the_shards_of_all(store: kv.Store) -> None:
    listener = Listener()
    await listener.start()
    async with running(store) as client:
        await store.set(KEY, placed((listener, shards(0, NEVER_NS, 1)), (listener, shards(0, NEVER_NS, 2))))
        await until(lambda: client.trouble() is None, what="the placement")
        assert client.produce(batch_of([b"a", b"b", b"c"], [1, 2, 3])) == 1
        await until(lambda: listener.records == [b"a", b"b"], what="both")
    await listener.stop()


async def test_tls(store: kv.Store, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    listener = Listener(tls=ServerTLS(certificates.config(mutual=True)))
    await listener.start()
    tls = ClientTLSConfig(
        ca_file=str(certificates.authority.cert),
        cert_file=str(certificates.client.cert),
        key_file=str(certificates.client.key),
    )
    await store.set(KEY, placed((listener, shards())))
    async with running(store, replace(OPTIONS, tls=tls)) as client:
        await until(lambda: client.trouble() is None, what="the placement")
        client.produce(batch_of([b"x" * 1_000_000, b"y"], [0, 1]))
        await until(lambda: listener.records == [b"x" * 1_000_000, b"y"], what="all")
    await listener.stop()

"""A producer core and its consumers joined in memory, with a clock that only tests move."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from m3cluster.placement.model import Instance, Placement, Shard, ShardState
from m3cluster.topic import ConsumerService, ConsumptionType, Filters, ServiceID, Topic
from m3msg.batch import MessageBatch
from m3msg.consumer import ConsumerCore
from m3msg.producer import Done, Moment, ProducerCore, ProducerOptions
from m3msg.producer.link import Link

START = Moment(1_700_000_000_000_000_000, 1_000_000_000)
SERVICE = ServiceID("svc", "env", "zone")


def make_batch(values: Sequence[bytes], shards: Sequence[int], token: object = None, **kwargs: object) -> MessageBatch:
    """Columns of the given values."""
    payload = np.frombuffer(b"".join(values), np.uint8)
    offsets = np.concatenate([[0], np.cumsum([len(v) for v in values])]).astype(np.int64)
    return MessageBatch(payload, offsets, np.array(shards, np.uint32), token=token, **kwargs)


def make_placement(owners: dict[str, Sequence[int]], *, sharded: bool = True, **shard_options: int) -> Placement:
    """Instances by endpoint with the shards that each owns."""
    instances = tuple(
        Instance(
            id=f"id-{endpoint}",
            endpoint=endpoint,
            shards=tuple(Shard(s, ShardState.AVAILABLE, **shard_options) for s in shards) if sharded else (),
        )
        for endpoint, shards in sorted(owners.items())
    )
    return Placement(instances=instances, is_sharded=sharded, num_shards=4)


@dataclass
class FakeConsumer:
    """One instance: everything it received as (writer, id, value), and what it does with it."""

    acks: bool = True
    refuses: Callable[[bytes], bool] = lambda _: False
    """Values that it takes and never acks, as M3's ingest server does with what it cannot write."""
    received: list[tuple[int, int, bytes]] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    cores: dict[int, ConsumerCore] = field(default_factory=dict)
    held: list[tuple[Link, object]] = field(default_factory=list)
    """Batches not acked, with the link that they came from."""

    @property
    def values(self) -> Counter[bytes]:
        return Counter(value for _, _, value in self.received)


class Joined:
    """The producer core, fake consumers by endpoint, and the wires between them."""

    def __init__(self, options: ProducerOptions, shards: int, **kwargs: object) -> None:
        self.core = ProducerCore(options, **kwargs)
        self.shards = shards
        self.now = START
        self.consumers: dict[str, FakeConsumer] = {}
        self.done: list[Done] = []

    def topic(self, *services: ConsumerService) -> list[str]:
        return self.core.set_topic(Topic("t", self.shards, services), self.now)

    def service(
        self, kind: ConsumptionType, ttl_s: float = 0, filters: Filters | None = None, name: ServiceID = SERVICE
    ) -> ConsumerService:
        return ConsumerService(name, kind, int(ttl_s * 1e9), filters)

    def place(self, owners: dict[str, Sequence[int]], service: ServiceID = SERVICE, **options: int) -> None:
        """A new placement; all instances connect unless told otherwise."""
        self.core.set_placement(service, make_placement(owners, **options), self.now)
        self.collect()

    def links(self, endpoint: str) -> list[Link]:
        return [link for link in self.core.links() if link.lane.endpoint == endpoint]

    def connect(self, *endpoints: str) -> None:
        for endpoint in endpoints:
            consumer = self.consumers.setdefault(endpoint, FakeConsumer())
            for link in self.links(endpoint):
                consumer.cores[link.index] = ConsumerCore()
                link.on_connected()
        self.core.react(self.now)

    def disconnect(self, *endpoints: str) -> None:
        for endpoint in endpoints:
            self.consumers[endpoint].held.clear()
            for link in self.links(endpoint):
                link.on_disconnected("cut")
        self.core.react(self.now)
        self.collect()

    def produce(self, batch: MessageBatch, *, flush: bool = True, **kwargs: bool) -> bool:
        taken = self.core.produce(batch, self.now, **kwargs)
        if flush:
            self.core.flush(self.now)
        self.collect()
        return taken

    def write(self, link: Link, limit: int | None = None) -> bytes:
        """What the link has to write now."""
        if link.reset_reason or not link.fill(self.now):
            return b""
        data = link.unwritten[:limit].tobytes()
        link.wrote(len(data))
        return data

    def step(self) -> None:
        """Wires carry until nothing is left."""
        moved = True
        while moved:
            moved = False
            for link in self.core.links():
                data = self.write(link)
                if data:
                    moved = True
                    self.deliver(link, data)
        self.collect()

    def deliver(self, link: Link, data: bytes) -> None:
        consumer = self.consumers[link.lane.endpoint]
        core = consumer.cores[link.index]
        for batch in core.feed(data, self.now.wall_ns):
            for i, row in enumerate(batch.rows):
                consumer.received.append((int(row["shard"]), int(row["id"]), batch.value(i)))
                consumer.stamps.append(int(row["sent_at"]))
            if consumer.acks:
                batch.ack(np.array([not consumer.refuses(batch.value(i)) for i in range(len(batch.rows))]))
            else:
                consumer.held.append((link, batch))
        acks = core.take_acks()
        if acks:
            link.on_received(acks, self.now)
        assert not core.error

    def release(self, endpoint: str) -> None:
        """The consumer acks what it held back."""
        consumer = self.consumers[endpoint]
        for link, batch in consumer.held:
            batch.ack()
            link.on_received(consumer.cores[link.index].take_acks(), self.now)
        consumer.held.clear()
        self.collect()

    def advance(self, seconds: float, *, step: bool = True) -> None:
        ns = int(seconds * 1e9)
        self.now = Moment(self.now.wall_ns + ns, self.now.steady_ns + ns)
        self.core.tick(self.now)
        if step:
            self.step()
        self.collect()

    def collect(self) -> None:
        while self.core.events:
            self.done.append(self.core.events.popleft())

    def figure(self, name: str, tag: str = "") -> int:
        """A counter of the core and all services."""
        return self.core.figures[name, tag] + sum(s.figures[name, tag] for s in self.core.services.values())

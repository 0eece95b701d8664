"""One instance and what it puts out, in a time that only tests move: what can be stuck, and whom that holds up.

Real are the engine, the flush machine, the forwarder, the sinks and the cores of their producers, with consumers joined in memory.
Models are the KV (a message) and the election (whoever is told to leads).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tests.m3msg.producer_pair import Joined

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.engine.options import EngineOptions, forwarding_delay_ns
from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, ListId
from aggregator.supervisor.flushing.commands import Flushing, Send
from aggregator.supervisor.flushing.flush_times import FlushTimes
from aggregator.supervisor.flushing.schedule import ScheduleOptions
from aggregator.supervisor.output.forwarder import Forwarder, Part
from aggregator.supervisor.output.sinks import ProducerSink
from m3cluster.flush_times import ShardSetFlushTimes
from m3cluster.placement.model import NEVER_NS
from m3cluster.topic import ConsumptionType, ServiceID
from m3metrics.codec import CounterWithMetadatas, decode_aggregated, decode_metric, encode_metric
from m3metrics.metadata import PipelineMetadata, StagedMetadata
from m3metrics.pipeline import RollupOp
from m3metrics.policy import StoragePolicy
from m3metrics.shard import shard_of
from m3msg.batch import MessageBatch
from m3msg.frames import Message, Metadata, encode_message
from m3msg.producer import Awaited, Mark, Moment, ProducerOptions
from m3msg.producer.lane import Lane
from m3msg.producer.options import BufferOptions, ConnectionOptions, WriterOptions
from m3x.instrument import Registry

S = 1_000_000_000
NOON = 1_767_355_200 * S
SHARDS = 4
ALL = range(SHARDS)
STANDARD = ListId(KIND_STANDARD, 10 * S)
ROLLED_UP = ListId(KIND_FORWARDED, 10 * S, 1)
SINGLE_NS = 5 * S
"""``forwarding.maxSingleDelay``; the constant delay is 0."""
SUM = 1 << 7
STEP_NS = S // 5


def service(name: str) -> ServiceID:
    return ServiceID(name, "env", "zone")


def ids_of(shard: int, prefix: str = "c", count: int = 3) -> list[bytes]:
    """Some ids that belong to a shard."""
    found = (b"%s%d" % (prefix.encode(), k) for k in range(1000))
    return [ident for ident in found if shard_of(ident, SHARDS) == shard][:count]


EVERY_SHARD = [ident for shard in ALL for ident in ids_of(shard)]


def counter(ident: bytes, value: int, policy: str = "10s:2d", rollup: bytes = b"") -> bytes:
    """A sample; with ``rollup`` it is summed into that id and put out only there."""
    pipeline = PipelineMetadata(
        aggregation_id=SUM,
        storage_policies=(StoragePolicy.parse(policy),),
        pipeline=(RollupOp(rollup, SUM),) if rollup else (),
    )
    return encode_metric(
        CounterWithMetadatas(id=ident, value=value, metadatas=(StagedMetadata(pipelines=(pipeline,)),))
    )


class Wire:
    """A producer as ``ProducerSink`` sees it, its consumers, and what they have got; services: name → instance → its shards."""

    def __init__(
        self,
        services: Mapping[str, tuple[ConsumptionType, Mapping[str, Sequence[int]]]],
        *,
        ttl_s: float = 0,
        buffer_bytes: int = 1 << 20,
    ) -> None:
        self.buffer = BufferOptions(max_buffer_size=buffer_bytes, max_message_size=1 << 12)
        self.pair = Joined(
            ProducerOptions(
                writer=WriterOptions(topic_name="t", connection=ConnectionOptions(num_connections=2)),
                buffer=self.buffer,
            ),
            SHARDS,
            stall_ns=10 * S,
        )
        self.on_done: Callable[[Any], None] = lambda _: None
        self.on_awaited: Callable[[Any], None] = lambda _: None
        self.arrived: dict[str, int] = defaultdict(int)
        """Instance → how many of its messages have been looked at."""
        self.instances = {i for _, instances in services.values() for i in instances}
        topic = [self.pair.service(kind, ttl_s, name=service(name)) for name, (kind, _) in services.items()]
        if topic:
            assert self.pair.topic(*topic) == []
        for name, (_, instances) in services.items():
            self.pair.place(instances, service(name))
        self.pair.connect(*self.instances)

    @property
    def num_shards(self) -> int:
        return self.pair.core.num_shards

    @property
    def away(self) -> bool:
        return self.pair.core.away

    @property
    def saturated(self) -> bool:
        return self.pair.core.saturated(self.pair.now)

    def room(self, *, forwarded: bool = False) -> int:
        return self.pair.core.room(forwarded)

    def produce(self, batch: MessageBatch, *, fenced: bool, forwarded: bool) -> bool:
        return self.pair.core.produce(batch, self.pair.now, fenced=fenced, forwarded=forwarded)

    def lanes(self, instance: str) -> list[Lane]:
        """The queues of an instance."""
        return [s.lanes[instance] for s in self.pair.core.services.values() if instance in s.lanes]

    def mark(self) -> Mark:
        return self.pair.core.mark(self.pair.now)

    def have(self, mark: Mark) -> bool:
        return self.pair.core.have(mark, self.pair.now)

    def turn(self, now_ns: int) -> None:
        """Everything goes as far as it can."""
        self.pair.now = Moment(now_ns, now_ns)
        self.pair.core.flush(self.pair.now)
        self.pair.core.tick(self.pair.now)
        self.pair.step()
        events, self.pair.done = self.pair.done, []
        for event in events:
            (self.on_awaited if isinstance(event, Awaited) else self.on_done)(event)

    def news(self) -> list[tuple[str, bytes]]:
        """Instance and value of every message that came since the last call."""
        found = []
        for instance in self.instances:
            received = self.pair.consumers[instance].received
            found += [(instance, value) for _, _, value in received[self.arrived[instance] :]]
            self.arrived[instance] = len(received)
        return found


class Tier:
    """See the module. ``output``: a wire per flush handler; ``rollups``: where forwarded metrics go, by default to this very instance."""

    def __init__(
        self,
        *output: Wire,
        rollups: Wire | None = None,
        workers: Sequence[Sequence[int]] = (ALL,),
        single_ns: int = SINGLE_NS,
    ) -> None:
        self.now = NOON
        self.single_ns = single_ns
        self.times = ShardSetFlushTimes()
        self.registry = Registry()
        self.begin(output, rollups or Wire({"aggregator": (ConsumptionType.REPLICATED, {"self": ALL})}))
        self.owned = [[ipc.OwnedShard(shard, 0, NEVER_NS) for shard in shards] for shards in workers]
        self.engines: dict[int, Engine] = {}
        for worker in range(len(workers)):
            self.start_worker(worker)
        self.values: dict[tuple[str, bytes, int], list[tuple[int, float]]] = defaultdict(list)
        """(instance, id, end of the window) → when values arrived, and which."""
        self._epochs = 1

    def begin(self, output: Sequence[Wire], rollups: Wire) -> None:
        """A supervisor, without workers."""
        single_ns = self.single_ns
        self.flushing = Flushing(
            ScheduleOptions(
                timed_delay_ns=lambda r: 5 * S + r,
                forwarding_delay_ns=lambda r, n: forwarding_delay_ns((), single_ns, 0, r, n),
                max_jitter_ns=lambda _: 0,
            )
        )
        self.wires = list(output)
        self.rollup_wire = rollups
        self.output, self.rollups = (
            Forwarder(self.flushing.done, lambda: None, lambda *_: None, self.registry.scope("out"), name)
            for name in ("final", "forwarded")
        )
        for forwarder, wires in ((self.output, self.wires), (self.rollups, [self.rollup_wire])):
            for wire in wires:
                producer: Any = wire
                sink = ProducerSink(producer, forwarder, wire.buffer, topic="t", forwarded=forwarder is self.rollups)
                sink.started = True
                forwarder.sinks.append(sink)

    def start_worker(self, worker: int) -> None:
        """A process of that worker, with nothing in it."""
        owned = self.owned[worker]
        engine = Engine(
            EngineOptions(
                num_shards=SHARDS, topic_shards=SHARDS, default_storage_policies=("10s:2d",), counter_transform="empty",
                retained_bytes=1 << 30, forwarding_max_single_delay_ns=self.single_ns,
            ),
            max_series=1 << 10,
        )  # fmt: skip
        engine.set_shards(ipc.Shards(SHARDS, SHARDS, owned), self.now)
        self.engines[worker] = engine
        self.flushing.worker_up(worker, 1, owned)

    def lead(self) -> None:
        self.flushing.lead(self.times, self.now)

    # --- time

    def run(self, seconds: float, each_second: Callable[[], None] = lambda: None) -> None:
        """Everything that goes on; ``each_second`` sends samples."""
        for _ in range(round(seconds * S / STEP_NS)):
            if self.now % S == 0:
                each_second()
            self.now += STEP_NS
            self.turn()

    def turn(self) -> None:
        """As far as everything goes at this moment."""
        self.carry_out(self.flushing.tick(self.now))
        for forwarder, wires in ((self.output, self.wires), (self.rollups, [self.rollup_wire])):
            forwarder.pump()
            for wire in wires:
                wire.turn(self.now)
        for wire in self.wires:
            for instance, value in wire.news():
                metric = decode_aggregated(value)
                self.values[instance, metric.id, metric.time_ns].append((self.now, metric.value))
        for instance, value in self.rollup_wire.news():
            self.forward(instance, value)
        if self.flushing.save_due(self.now):
            self.save()

    def forward(self, instance: str, value: bytes) -> None:
        """A forwarded metric has arrived at an instance."""
        if instance == "self":
            self.take(value)

    def save(self) -> None:
        """The flush times go to the KV."""
        self.times = self.flushing.message(ALL)
        self.carry_out(self.flushing.saved(self.times, self.now))

    def take(self, *metrics: bytes) -> None:
        """Samples, or forwarded metrics, that arrive now."""
        for worker, engine in self.engines.items():
            mine = {shard.id for shard in self.owned[worker]}
            taken = [m for m in metrics if shard_of(decode_metric(m).id, SHARDS) in mine]
            data = b"".join(encode_message(Message(Metadata(1, k + 1), m)) for k, m in enumerate(taken))
            engine.ingest(np.frombuffer(data, np.uint8), np.array([len(data)], np.int64), self.now)
            if lists := engine.new_lists():
                self.made(worker, lists)

    def made(self, worker: int, lists: list[ipc.NewList]) -> None:
        """A worker has made lists."""
        self.carry_out(self.flushing.new_lists(worker, lists, self.now))

    def carry_out(self, sends: list[Send]) -> None:
        for send in sends:
            engine, command = self.engines.get(send.worker), send.command
            if engine is None:
                continue
            if isinstance(command, ipc.Reopen):
                engine.reopen(command)
                self.flushing.last(send.worker, command.id, self.now)
            elif isinstance(command, ipc.Commit):
                engine.commit(command)
            elif isinstance(command, ipc.Grace):
                engine.set_grace(command)
            elif isinstance(command, ipc.Flush):
                self._flush(send, command, engine)

    def _flush(self, send: Send, command: ipc.Flush, engine: Engine) -> None:
        for part in engine.flush(command, self.now):
            if part.batch is not None:
                answer = ipc.Flushed(command.id, part.last, len(part.batch), part.forwarded, [])
                if number := self.flushing.part(send.worker, answer):
                    forwarder = self.rollups if part.forwarded else self.output
                    forwarder.offer(Part(send.worker, send.epoch, command.id, number, part.batch))
        self.carry_out(self.flushing.last(send.worker, command.id, self.now))

    # --- what came of it

    def behind(self, list_id: ListId = STANDARD) -> dict[int, float]:
        """Shard → by how many seconds the time of a list in the KV lies behind the last window that is due."""
        known = FlushTimes(self.times)
        delay_ns = self.flushing.schedule.options.delay_ns(list_id)
        due_ns = (self.now - delay_ns) // list_id.resolution_ns * list_id.resolution_ns
        return {shard: (due_ns - known.time(list_id, shard)) / S for shard in known.shards(list_id, ALL)}

    def got(self, instance: str, ident: bytes) -> dict[int, set[float]]:
        """End of the window, in seconds since noon → the values of a series that an instance has got."""
        return {
            (end - NOON) // S: {value for _, value in values}
            for (where, name, end), values in sorted(self.values.items())
            if (where, name) == (instance, ident)
        }

    def latest_s(self, instance: str, ident: bytes) -> float:
        """The largest delay with which values of a series came to an instance."""
        return max(
            (values[0][0] - end) / S
            for (where, name, end), values in self.values.items()
            if (where, name) == (instance, ident)
        )

"""Where output goes: a sink for each of ``flush.handlers``, and the producer that carries rollups to the instances that own them.

The producer of rollups (``aggregator.client``) runs from the start, as in M3, so that the first rollup finds its connections up. Until one
comes, nobody is troubled with what is wrong with it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from aggregator.config import DynamicBackendConfig, HandlerConfig, ServiceConfig, ServiceIDConfig
from aggregator.supervisor.output.forwarder import Blackhole, Ended, Forwarder, LoggingSink, Nowhere, Part, Sink
from m3cluster.kv import Store
from m3cluster.topic import ServiceID
from m3metrics.codec.aggregated import decode_aggregated
from m3metrics.codec.unaggregated import ForwardedMetricWithMetadata, decode_metric
from m3metrics.errors import CodecError
from m3metrics.ids import readable_id
from m3msg.batch import MessageBatch
from m3msg.legacy import LegacyClient
from m3msg.producer import (
    Awaited,
    Done,
    Filter,
    Loss,
    Mark,
    PercentageFilter,
    Producer,
    ProducerOptions,
    ProducerStatus,
    ShardSetFilter,
    StoragePolicyFilter,
)
from m3msg.producer.options import BufferOptions
from m3msg.producer.status import Overtaken
from m3x.instrument import Scope
from m3x.log import logger

__all__ = ["ProducerSink", "RawTCPSink", "Sinks", "describe"]

log = logger(__name__)

_RAW_QUEUE_BYTES = 512 << 20
"""Of rollups that wait for one instance over raw TCP, at most."""


class ProducerSink:
    """A producer as a sink; only a leader's batches come here, so all of them are fenced.

    Forwarded metrics are owed to every replica that has their shard: one that is away for a moment gets them when it is back, and if the
    leader is not there any more then, whoever leads next sends them again (docs/architecture.md §4, "Rollups of a pair").
    """

    def __init__(
        self, producer: Producer, forwarder: Forwarder, buffer: BufferOptions, *, topic: str, forwarded: bool
    ) -> None:
        self.producer = producer
        self.started = False
        """Whether topic and placements have been waited for."""
        self.topic = topic
        self.forwarded = forwarded
        self._buffer = buffer
        self._awaited: set[Part] = set()
        """Batches of which messages are awaited."""
        self._owing: deque[tuple[Mark, Part]] = deque()
        """Batches that are done, and which some replica lacks."""
        self._forwarder = forwarder
        producer.on_done = self._done
        producer.on_awaited = self._narrowed

    @property
    def pending(self) -> int:
        """Batches of which messages are awaited; those that consumers leave aside are not."""
        return len(self._awaited)

    @property
    def away(self) -> bool:
        """Whether no consumer has been reached for a while, or there is no topic though it has been waited for."""
        return self.producer.away and self.started

    @property
    def saturated(self) -> bool:
        """Whether nobody gains by being given more. Forwarded metrics are too late soon: they never wait for that."""
        return not self.forwarded and self.producer.saturated

    def room(self, nbytes: int) -> bool:
        """Whether the producer takes that much more without giving up anything older.

        Its bookkeeping counts too, per message: half of the payload is more than that. What exceeds the whole buffer waits until it
        is empty. Forwarded metrics wait for the start of the producer, but not for a topic that is not there: they would be too late,
        and the final output of their lists would wait with them.
        """
        if self.forwarded and not (self.started and self.producer.num_shards):
            return self.started
        buffer = self._buffer
        limit = buffer.forwarded_bytes if self.forwarded else buffer.max_buffer_size
        return self.producer.room(forwarded=self.forwarded) >= min(nbytes + nbytes // 2, limit)

    def deliver(self, batch: MessageBatch) -> None:
        """Gives it to the producer; what that does not take is lost."""
        self._awaited.add(batch.token)
        if not self.producer.produce(batch, fenced=True, forwarded=self.forwarded):
            reason = "the producer takes nothing" if self.producer.num_shards else "the topic does not exist"
            first = batch.payload[int(batch.offsets[0]) : int(batch.offsets[1])].tobytes() if len(batch) else b""
            self._done(Done(batch.token, acked=0, lost=len(batch), filtered=0, loss=Loss(reason, "", first)))

    def look(self) -> bool:
        """Tells of what replicas have got since the last call; whether something is still owed to one."""
        while self._owing:
            mark, part = self._owing[0]
            if mark.drops != self.producer.mark().drops:
                self.forget()
                self._forwarder.fenced()
            elif not self.producer.have(mark):
                return True
            else:
                self._owing.popleft()
                self._forwarder.arrived(part)
        return False

    def forget(self) -> None:
        """The lead is lost: nothing is owed any more."""
        self._owing.clear()

    def _done(self, done: Done) -> None:
        self._awaited.discard(done.token)
        if self.forwarded and not done.fenced and not self.producer.have(mark := self.producer.mark()):
            done.token.owed = _distinct(done.token.origins)
            self._owing.append((mark, done.token))
        example = {} if done.loss is None else self._example(done.loss)
        self._forwarder.ended(
            self, done.token, Ended(done.acked + done.filtered + done.closed, done.lost, done.fenced, example)
        )

    def _example(self, loss: Loss) -> dict[str, str]:
        where = {"topic": self.topic, "consumer": loss.consumer or "none", "reason": loss.reason}
        return {**where, **describe(loss.payload, forwarded=self.forwarded)}

    def _narrowed(self, awaited: Awaited) -> None:
        if awaited.origins:
            self._awaited.add(awaited.token)
        else:
            self._awaited.discard(awaited.token)
        self._forwarder.awaits(self, awaited.token, awaited.origins)


class RawTCPSink:
    """Rollups over M3's raw TCP (``m3msg.legacy``): nobody acknowledges them, so they are done when they are in its queues, as in M3."""

    away = False
    saturated = False

    def __init__(self, client: LegacyClient, forwarder: Forwarder) -> None:
        self._client = client
        self._forwarder = forwarder

    @property
    def pending(self) -> int:
        """Instances that can be reached, and have not been written everything."""
        return self._client.writing

    def room(self, _nbytes: int) -> bool:
        """Once there is a placement: what is too much for a queue is dropped, counted."""
        return self._client.num_shards > 0

    def deliver(self, batch: MessageBatch) -> None:
        """Gives it to the instances that own its shards."""
        lost = self._client.produce(batch)
        example = {"topic": "none, over raw TCP", "reason": "no instance takes the shard"} if lost else {}
        self._forwarder.ended(self, batch.token, Ended(len(batch) - lost, lost, example=example))

    def look(self) -> bool:
        """Nothing is owed: nobody knows what has arrived."""
        return False

    async def close(self, timeout_s: float) -> None:
        """Waits until instances that can be reached have been written everything; what is left then is lost, and said."""
        await self._client.close(timeout_s)


class Sinks:
    """All sinks of an instance; they are made by ``run``, which lives as long as they do."""

    def __init__(
        self,
        config: ServiceConfig,
        store: Store,
        output: Forwarder,
        rollups: Forwarder,
        may_write: Callable[[], bool],
        scope: Scope,
        *,
        local: Callable[[], frozenset[str]],
        unroutable: Callable[[], None],
    ) -> None:
        """``local``: our own endpoints, once a placement is known; ``unroutable`` hears of rollups that have nowhere to go."""
        self._config = config
        self._store = store
        self._output = output
        self._rollups = rollups
        self._may_write = may_write
        self._scope = scope
        self._local = local
        self._unroutable = unroutable
        self._producers: list[ProducerSink] = []
        self._rollup_sink: ProducerSink | None = None
        self._raw_sink: RawTCPSink | None = None

    @property
    def pending(self) -> int:
        """Batches on their way; over raw TCP instances that they wait for."""
        raw = self._raw_sink.pending if self._raw_sink is not None else 0
        return raw + sum(sink.pending for sink in self._producers)

    @property
    def pending_rollups(self) -> int:
        """Those of forwarded metrics."""
        sink = self._rollup_sink or self._raw_sink
        return sink.pending if sink is not None else 0

    def drop(self) -> None:
        """The lead is lost: nothing of it is sent any more, nor sent again."""
        for sink in self._producers:
            sink.producer.drop_unsent_fenced()
            sink.forget()

    def status(self) -> list[ProducerStatus]:
        """The producers' own view, those of final output."""
        return [sink.producer.status() for sink in self._producers if sink is not self._rollup_sink]

    def rollup_status(self) -> ProducerStatus | None:
        """The view of the producer towards other instances; None: it is not configured."""
        return self._rollup_sink.producer.status() if self._rollup_sink is not None else None

    def left_aside(self) -> dict[str, str]:
        """What consumers take and do not acknowledge, though they acknowledge what comes after it: subject → a line that says so."""
        return {
            f"{sink.topic} {aside.instance} {aside.policy}": _left_aside(sink, aside)
            for sink in self._producers
            for aside in sink.producer.overtaken()
        }

    async def run(self) -> None:
        """Makes the sinks and keeps the producers running; raises what ends one of them."""
        self._output.sinks += [sink for sink in map(self._static, self._config.aggregator.flush.handlers) if sink]
        async with asyncio.TaskGroup() as group:
            for handler in self._config.aggregator.flush.handlers:
                if handler.dynamic_backend is not None:
                    sink = self._producer(handler.dynamic_backend)
                    self._output.sinks.append(sink)
                    group.create_task(self._keep(sink))
            section = self._config.aggregator.client
            client = section.m3msg if section.type == "m3msg" else None
            if (legacy := section.legacy(self._config.kv_client.environment, _RAW_QUEUE_BYTES)) is not None:
                raw = LegacyClient(legacy, self._store, self._scope.sub("client"))
                self._raw_sink = RawTCPSink(raw, self._rollups)
                self._rollups.sinks.append(self._raw_sink)
                group.create_task(raw.run())
                return
            if client is None:
                self._rollups.sinks.append(Nowhere(self._rollups.ended, self._unroutable))
                return
            producer = self._make(client.producer, self._scope.sub("client"), {}, local=self._local())
            sink = ProducerSink(
                producer,
                self._rollups,
                client.producer.buffer,
                topic=client.producer.writer.topic_name,
                forwarded=True,
            )
            self._rollup_sink = sink
            self._producers.append(sink)
            self._rollups.sinks.append(sink)
            group.create_task(self._keep(sink))

    async def _keep(self, sink: ProducerSink) -> None:
        await sink.producer.start()
        sink.started = True
        await sink.producer.wait()

    async def close(self, timeout_s: float = 1.0) -> None:
        """Gives up what is left and disconnects."""
        for sink in self._producers:
            await sink.producer.close(timeout_s)
        if self._raw_sink is not None:
            await self._raw_sink.close(timeout_s)

    def _static(self, handler: HandlerConfig) -> Sink | None:
        if handler.static_backend is None:
            return None
        if handler.static_backend.type == "blackhole":
            return Blackhole(self._output.ended)
        return LoggingSink(self._output.ended, _logged)

    def _producer(self, backend: DynamicBackendConfig) -> ProducerSink:
        scope = self._scope.sub("flush-handler").tagged(backend=backend.name, component="producer")
        named = [f.service_id for f in backend.filters]
        named += [f.service_id for f in backend.storage_policy_filters]
        named += [f.service_id for f in backend.percentage_filters]
        filters: dict[ServiceID, list[Filter]] = {_service(name): [] for name in named}
        producer = self._make(backend.producer, scope, filters)
        for shards in backend.filters:
            filters[_service(shards.service_id)].append(ShardSetFilter.parse(shards.shard_set))
        for policies in backend.storage_policy_filters:
            table = producer.core.policies
            filters[_service(policies.service_id)].append(StoragePolicyFilter(policies.storage_policies, table))
        for share in backend.percentage_filters:
            filters[_service(share.service_id)].append(PercentageFilter(share.percentage))
        topic = backend.producer.writer.topic_name
        sink = ProducerSink(producer, self._output, backend.producer.buffer, topic=topic, forwarded=False)
        self._producers.append(sink)
        return sink

    def _make(
        self,
        options: ProducerOptions,
        scope: Scope,
        filters: Mapping[ServiceID, list[Filter]],
        *,
        local: frozenset[str] = frozenset(),
    ) -> Producer:
        return Producer(
            options,
            self._store,
            may_write=self._may_write,
            scope=scope,
            environment=self._config.kv_client.environment,
            static_filters=filters,
            local=local,
        )


def _distinct(origins: NDArray[np.uint32] | None) -> frozenset[int]:
    return frozenset() if origins is None else frozenset(np.unique(origins).tolist())


def _service(config: ServiceIDConfig) -> ServiceID:
    return ServiceID(config.name, config.environment, config.zone)


def _left_aside(sink: ProducerSink, aside: Overtaken) -> str:
    metric = describe(aside.example, forwarded=sink.forwarded)["metric"]
    return (
        f"topic {sink.topic}: {aside.instance} does not acknowledge messages of storage policy {aside.policy or '(none)'}, "
        f"such as {metric}, while it acknowledges later ones; they are sent again until the topic's messageTtlNanos have passed "
        "and hold nothing back: does it have a namespace of exactly that resolution and retention?"
    )


def describe(payload: bytes, *, forwarded: bool) -> dict[str, str]:
    """Metric and policy of a message of ours, as people write them; of bytes that are none, the bytes."""
    try:
        if not forwarded:
            metric = decode_aggregated(payload)
            return {"metric": readable_id(metric.id), "policy": str(metric.storage_policy)}
        rollup = decode_metric(payload)
    except CodecError as error:
        return {"metric": f"{payload[:32].hex()} ({error})"}
    policy = str(rollup.metadata.storage_policy) if isinstance(rollup, ForwardedMetricWithMetadata) else ""
    return {"metric": readable_id(rollup.id), "policy": policy}


def _logged(payload: bytes) -> dict[str, object]:
    metric = decode_aggregated(payload)
    return {**describe(payload, forwarded=False), "timestamp_ns": metric.time_ns, "value": metric.value}

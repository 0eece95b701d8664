"""Where output goes: a sink for each of ``flush.handlers``, and the producer that carries rollups to the instances that own them.

The producer of rollups (``aggregator.client``) runs from the start, as in M3, so that the first rollup finds its connections up. Until one
comes, nobody is troubled with what is wrong with it.
"""

import asyncio
from collections.abc import Callable, Mapping

from aggregator.config import DynamicBackendConfig, HandlerConfig, ServiceConfig, ServiceIDConfig
from aggregator.supervisor.forwarder import Blackhole, Ended, Forwarder, LoggingSink, Nowhere, Part, Sink
from m3cluster.kv import Store
from m3cluster.topic import ServiceID
from m3metrics.codec.aggregated import decode_aggregated
from m3msg.batch import MessageBatch
from m3msg.producer import (
    Done,
    Filter,
    PercentageFilter,
    Producer,
    ProducerOptions,
    ProducerStatus,
    ShardSetFilter,
    StoragePolicyFilter,
)
from m3msg.producer.options import BufferOptions
from m3x.instrument import Scope
from m3x.log import logger

__all__ = ["ProducerSink", "Sinks"]

log = logger(__name__)


class ProducerSink:
    """A producer as a sink; only a leader's batches come here, so all of them are fenced."""

    def __init__(
        self, producer: Producer, ended: Callable[[Part, Ended], None], buffer: BufferOptions, *, forwarded: bool
    ) -> None:
        self.producer = producer
        self.started = False
        """Whether topic and placements have been waited for."""
        self._buffer = buffer
        self.pending = 0
        """Batches that are not done."""
        self._forwarded = forwarded
        self._ended = ended
        producer.on_done = self._done

    def room(self, nbytes: int) -> bool:
        """Whether the producer takes that much more without giving up anything older.

        Its bookkeeping counts too, per message: half of the payload is more than that. What exceeds the whole buffer waits until it
        is empty. Forwarded metrics wait for the start of the producer, but not for a topic that is not there: they would be too late,
        and the final output of their lists would wait with them.
        """
        if self._forwarded and not (self.started and self.producer.num_shards):
            return self.started
        buffer = self._buffer
        limit = buffer.forwarded_bytes if self._forwarded else buffer.max_buffer_size
        return self.producer.room(forwarded=self._forwarded) >= min(nbytes + nbytes // 2, limit)

    def deliver(self, batch: MessageBatch) -> None:
        """Gives it to the producer; what that does not take is lost."""
        self.pending += 1
        if not self.producer.produce(batch, fenced=True, forwarded=self._forwarded):
            self._done(Done(batch.token, acked=0, lost=len(batch), filtered=0))

    def _done(self, done: Done) -> None:
        self.pending -= 1
        self._ended(done.token, Ended(done.acked + done.filtered, done.lost, done.fenced))


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

    @property
    def pending(self) -> int:
        """Batches on their way."""
        return sum(sink.pending for sink in self._producers)

    @property
    def pending_rollups(self) -> int:
        """Batches of forwarded metrics on their way."""
        return self._rollup_sink.pending if self._rollup_sink is not None else 0

    def drop(self) -> None:
        """The lead is lost: nothing of it is sent any more, nor sent again."""
        for sink in self._producers:
            sink.producer.drop_unsent_fenced()

    def status(self) -> list[ProducerStatus]:
        """The producers' own view, those of final output."""
        return [sink.producer.status() for sink in self._producers if sink is not self._rollup_sink]

    def rollup_status(self) -> ProducerStatus | None:
        """The view of the producer towards other instances; None: it is not configured."""
        return self._rollup_sink.producer.status() if self._rollup_sink is not None else None

    async def run(self) -> None:
        """Makes the sinks and keeps the producers running; raises what ends one of them."""
        self._output.sinks += [sink for sink in map(self._static, self._config.aggregator.flush.handlers) if sink]
        async with asyncio.TaskGroup() as group:
            for handler in self._config.aggregator.flush.handlers:
                if handler.dynamic_backend is not None:
                    sink = self._producer(handler.dynamic_backend)
                    self._output.sinks.append(sink)
                    group.create_task(self._keep(sink))
            client = self._config.aggregator.client.m3msg
            if client is None:
                self._rollups.sinks.append(Nowhere(self._rollups.ended, self._unroutable))
                return
            producer = self._make(client.producer, self._scope.sub("client"), {}, local=self._local())
            sink = ProducerSink(producer, self._rollups.ended, client.producer.buffer, forwarded=True)
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

    def _static(self, handler: HandlerConfig) -> Sink | None:
        if handler.static_backend is None:
            return None
        if handler.static_backend.type == "blackhole":
            return Blackhole(self._output.ended)
        return LoggingSink(self._output.ended, _describe)

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
        sink = ProducerSink(producer, self._output.ended, backend.producer.buffer, forwarded=False)
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


def _service(config: ServiceIDConfig) -> ServiceID:
    return ServiceID(config.name, config.environment, config.zone)


def _describe(payload: bytes) -> dict[str, object]:
    metric = decode_aggregated(payload)
    return {
        "metric": metric.id.decode(errors="replace"),
        "timestamp_ns": metric.time_ns,
        "value": metric.value,
        "policy": str(metric.storage_policy),
    }

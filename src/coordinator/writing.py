"""What takes writes, of a coordinator that is one process as of a process that does nothing else (``coordinator.writers``): rules, the way
to the aggregators, series cache, writer.

``Writing`` is what both are: parts that run beside each other, their figures, and what they have to say in ``/ready``.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from starlette.routing import BaseRoute

from coordinator.child import producer_options
from coordinator.config import CoordinatorConfig
from coordinator.config.workers import Shares
from coordinator.downsample import Downsampler, RulesInEffect, rule_set_of
from coordinator.downsample.kv_rules import KVRules, RuleWatcher, create_namespaces
from coordinator.downsample.rule_file import DEFAULT_NAMESPACE
from coordinator.memory import MemoryUse
from coordinator.write import (
    Acks,
    AggregatorSink,
    BodyRoom,
    DirectStore,
    Door,
    Forwarding,
    IngestTopic,
    Limiter,
    RawTCP,
    RemoteWriter,
    SeriesCache,
    remote_write_routes,
    sender_routes,
)
from coordinator.write.declared import Declare
from coordinator.write.repeats import Elsewhere
from m3cluster import kv
from m3cluster.keys import DEFAULT_ENVIRONMENT
from m3msg.legacy import LegacyClient, LegacyOptions
from m3msg.producer import Producer, ProducerOptions
from m3x.config import Places
from m3x.instrument import Registry
from m3x.log import logger

__all__ = ["REMOTE_WRITE", "STATES", "TAKEN", "ServiceError", "Writing"]

DRAIN_S = 10.0
"""How long the end waits for the aggregators' acks of what the producer still holds."""
AWAY_S = 5.0
"""An instance that has had no connection for so long then is not waited for; one that is started again is back sooner."""
STATES = ("_version", "_broken", "_num_consumer_services")
"""How gauges end that several processes have alike."""
_LEAST_BUFFER_BYTES = 8 << 20
"""Of a producer, however many there are: a request has to fit in (``largest_batch``)."""
TAKEN = ("downsample.rules", "writeLimits")
"""Keys whose changes ``Writing.take`` takes."""
REMOTE_WRITE = {"handler": "remote-write"}
"""Tags of its figures."""

log = logger(__name__)


class ServiceError(Exception):
    """The coordinator cannot go on; the message says why."""


class Writing:
    """Parts of a process that takes writes. ``shares``: what of the coordinator's limits it may take."""

    def __init__(
        self, config: CoordinatorConfig, data_dir: Path, places: Places, shares: Shares, processes: int = 1
    ) -> None:
        """``processes``: among which the memory limit is shared out."""
        self.config = config
        self.registry = Registry(STATES)
        self._data_dir = data_dir
        self._places = places
        self._shares = shares
        self._of_connections = shares
        """What it may take of limits on what comes over connections, which not all processes may have."""
        self._problems: list[Callable[[], list[str]]] = []
        """What has something to say in ``/ready``."""
        self._scope = self.registry.scope(config.metrics.scope.prefix)
        if config.metrics.scope.tags:
            self._scope = self._scope.tagged(**config.metrics.scope.tags)
        self.memory = MemoryUse(config.memory, self._scope, processes)
        self._environment = config.cluster_state.environment
        self._tasks: list[asyncio.Task[object]] = []
        self._rules: RulesInEffect | None = None
        """What the rules of the file are put into; None: there are none in the file."""
        self._writer: RemoteWriter | None = None
        self._limits: Limiter | None = None
        self._body_room: BodyRoom | None = None
        self._forwarding: Forwarding | None = None
        self._producer: Producer | None = None

    def share_connections(self, shares: Shares) -> None:
        """What it may take from now on of limits on what comes over connections: rates of tenants, bodies in work, what is forwarded."""
        if shares == self._of_connections:
            return
        self._of_connections = shares
        if self._limits is not None:
            self._limits.share(shares.parts or 1)
        if self._body_room is not None:
            self._body_room.most_bytes = shares.of(self._most_bodies)
        if self._forwarding is not None:
            self._forwarding.share(shares.parts or 1)

    @property
    def full(self) -> float:
        """Which part of what it may hold for aggregators it holds; 1: all of it."""
        return 0.0 if self._producer is None else self._producer.full

    def problems(self) -> list[str]:
        """What its parts have to say, one line each."""
        return [line for problems in self._problems for line in problems()]

    async def wait(self, stop: asyncio.Event) -> None:
        """Returns when ``stop`` is set; raises what ended a part of the coordinator before that."""
        stopped = asyncio.create_task(stop.wait(), name="stop")
        waiting: set[asyncio.Task[Any]] = {stopped, *self._tasks}
        try:
            while not stopped.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            stopped.cancel()

    @contextlib.asynccontextmanager
    async def background(self, work: Coroutine[Any, Any, object], name: str) -> AsyncIterator[None]:
        """Runs ``work`` beside the context; ``wait`` tells if it fails."""
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def start_forwarding(
        self, stack: contextlib.AsyncExitStack, identity: str = "", elsewhere: Elsewhere | None = None
    ) -> Forwarding | None:
        """Where remote writes go as well, ended after HTTP; None: nowhere. ``identity``: of the coordinator; empty: a new one."""
        section = self.config.write_forwarding.prom_remote_write
        if not section.targets:
            return None
        forwarding = self._forwarding = Forwarding(
            section, self._scope.tagged(**REMOTE_WRITE), identity, self._of_connections.parts or 1, elsewhere
        )
        stack.push_async_callback(forwarding.close)
        self._problems.append(forwarding.problems)
        return forwarding

    async def start_rules(
        self, stack: contextlib.AsyncExitStack, store: kv.Store, rules: RulesInEffect, *, first: bool = True
    ) -> KVRules | None:
        """Rules of the file, or else those in KV from now on, which it answers. ``first``: it makes the list of namespaces in KV, if there
        is none, and logs what the file asks for in vain."""
        section = self.config.downsample
        if section is None:
            return None
        self._problems.append(rules.warnings)
        if section.rules is not None:
            self._rules = rules
            rules.put(DEFAULT_NAMESPACE, rule_set_of(section.rules, time.time_ns()), self._places)
            if not first:
                return None
            for warning in rules.warnings():
                log.warning(warning)
            if not section.matcher.require_namespace_watch_on_init:
                try:
                    await create_namespaces(store, self._environment)
                except kv.KVError as error:
                    log.warning("the empty list of namespaces of rules could not be written to KV", error=str(error))
            return None
        require = section.matcher.require_namespace_watch_on_init
        kv_rules = KVRules(rules, self._scope.sub("rules"))
        self._problems.append(kv_rules.problems)
        watcher = RuleWatcher(store, self._environment, kv_rules, require=require)
        await watcher.load()
        await stack.enter_async_context(self.background(watcher.run(), "rules"))
        return kv_rules

    async def start_producer(
        self,
        stack: contextlib.AsyncExitStack,
        store: kv.Store,
        inside: kv.Store | None,
        elsewhere: Elsewhere | None = None,
    ) -> tuple[AggregatorSink | None, Producer | None, Acks | None]:
        """The way to the aggregators, if there is any. ``inside``: the KV of the aggregator inside; None: there is no such one."""
        environment, options = self._environment, self.config.remote_producer
        if inside is not None:
            store, environment, options = inside, DEFAULT_ENVIRONMENT, producer_options(self.config.memory_shares)
        elif (legacy := self.config.remote_legacy) is not None:
            return await self._start_legacy(stack, store, legacy), None, None
        if options is None:
            return None, None, None
        options = _shared(options, self._shares, self.config.memory_shares.buffer)
        acks = None
        if self.config.waits_for_aggregators:
            acks = Acks(self.config.writes.ack_timeout.seconds, self._scope.tagged(**REMOTE_WRITE), elsewhere)
        producer = self._producer = Producer(
            options, store, scope=self._scope.sub("producer"), environment=environment,
            on_done=None if acks is None else acks.on_done, on_secured=None if acks is None else acks.on_secured,
        )  # fmt: skip
        topic = IngestTopic(options, producer)
        if acks is not None:
            acks.behind = topic.behind
        stack.push_async_callback(_close_producer, producer)
        await stack.enter_async_context(self.background(_run_producer(producer, topic, acks), "producer"))
        await stack.enter_async_context(self.background(topic.run(), "ingest topic"))
        return topic, producer, acks

    async def _start_legacy(self, stack: contextlib.AsyncExitStack, store: kv.Store, options: LegacyOptions) -> RawTCP:
        """The way over raw TCP."""
        options = replace(options, queue_bytes=self._shares.of(options.queue_bytes, _LEAST_BUFFER_BYTES))
        client = LegacyClient(options, store, self._scope.sub("downsampler.remote-aggregator-client"))
        self._problems.append(client.problems)
        await stack.enter_async_context(self.background(client.run(), "aggregators over raw TCP"))
        stack.push_async_callback(client.close, DRAIN_S)
        return RawTCP(options, client)

    def cache(self) -> SeriesCache:
        """Of this process."""
        section, share = self.config.write_cache, self.config.memory_shares.write_cache
        nbytes = section.max_bytes or share
        if self.config.aggregates_inside:
            nbytes = min(nbytes, share)
        cache = SeriesCache(section.max_series, self._shares.of(nbytes))
        self.memory.watch(cache)
        return cache

    def writer(
        self,
        downsampler: Downsampler,
        cache: SeriesCache,
        topic: AggregatorSink | None,
        direct: DirectStore | None,
        acks: Acks | None,
        door: Door | None,
        forwarding: Forwarding | None,
        elsewhere: Elsewhere | None = None,
        declare: Declare | None = None,
    ) -> tuple[RemoteWriter, list[BaseRoute]]:
        """The writer, and the routes of all writes over HTTP. ``declare``: see ``RemoteWriter``."""
        self._limits = self._limiter()
        self._writer = writer = RemoteWriter(
            downsampler, cache, topic, self._scope.tagged(**REMOTE_WRITE), tag_options=self.config.tag_options,
            store_metrics_type=self.config.store_metrics_type, direct=direct, acks=acks, door=door,
            forwarding=forwarding, elsewhere=elsewhere, limiter=self._limits,
            classic_histograms=self.config.remote_write.native_histograms == "classic", bodies=self._bodies(),
            declare=declare,
        )  # fmt: skip
        return writer, [*remote_write_routes(writer), *sender_routes(writer, self._scope, self.config.otlp)]

    def _bodies(self) -> BodyRoom:
        """For those of this process."""
        self._body_room = BodyRoom(self._of_connections.of(self._most_bodies), self._scope.tagged(**REMOTE_WRITE))
        return self._body_room

    @property
    def _most_bodies(self) -> int:
        """Of all processes, bytes; 0: without a memory limit there is no bound."""
        return self.config.memory_shares.bodies if self.config.memory.nbytes else 0

    def take(self, config: CoordinatorConfig, places: Places) -> None:
        """The configuration has changed, in the keys of ``TAKEN``."""
        before, self.config, self._places = self.config, config, places
        self._take_rules(before)
        if config.write_limits != before.write_limits:
            self._take_limits()

    def _take_rules(self, before: CoordinatorConfig) -> None:
        old, new = before.downsample, self.config.downsample
        if new is None or new.rules is None or old is None or old.rules == new.rules:
            return
        assert self._rules is not None
        self._rules.put(DEFAULT_NAMESPACE, rule_set_of(new.rules, time.time_ns()), self._places)
        log.info(
            "rules of the file changed",
            mapping_rules=len(new.rules.mapping_rules),
            rollup_rules=len(new.rules.rollup_rules),
        )
        for warning in self._rules.warnings():
            log.warning(warning)

    def _take_limits(self) -> None:
        limits = self.config.write_limits
        if self._writer is None:
            return
        if limits is not None and self._limits is not None:
            self._limits.take(limits)
        else:
            self._limits = self._limiter()
            self._writer.set_limiter(self._limits)
        log.info("limits of tenants changed")

    def _limiter(self) -> Limiter | None:
        """What tenants may send to this process."""
        limits = self.config.write_limits
        if limits is None:
            return None
        return Limiter(limits, self._scope.sub("write"), processes=self._of_connections.parts or 1)


def _shared(options: ProducerOptions, shares: Shares, most_bytes: int) -> ProducerOptions:
    """With this process's share of the buffer, which has room for a message of the largest size in any case. ``most_bytes``: what the
    memory limit has for it, whatever the file says."""
    buffer = options.buffer
    wanted = min(buffer.max_buffer_size, most_bytes)
    most = max(shares.of(wanted, _LEAST_BUFFER_BYTES), buffer.max_message_size)
    return msgspec.structs.replace(options, buffer=msgspec.structs.replace(buffer, max_buffer_size=most))


async def _run_producer(producer: Producer, topic: IngestTopic, acks: Acks | None) -> None:
    """Starts the producer and stays until it is closed. Raises ``ServiceError`` where it ends by itself."""
    await producer.start()
    try:
        await producer.wait()
    except Exception as error:
        # At once: a producer that has ended still takes batches, but nobody sends them.
        reason = f"the producer towards the aggregators has failed: {_first(error)!r}"
        topic.fail(reason)
        if acks is not None:
            acks.fail(reason)
        raise ServiceError(f"{reason}; what it held is lost, start the coordinator again") from error


async def _close_producer(producer: Producer) -> None:
    try:
        await producer.close(DRAIN_S, AWAY_S)
    except Exception as error:
        # ``_run_producer`` has told why; the rest of the coordinator ends as usual.
        log.error("the producer ended with an error", error=repr(_first(error)))


def _first(error: BaseException) -> BaseException:
    """What failed first, out of its groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

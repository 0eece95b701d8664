"""The coordinator process: one event loop with every listener, in the order in which they depend on each other.

KV → storage → ingest (7507) → the aggregator inside, if there is one → producer → HTTP (7201) and metrics (7203) → carbon (7204). It ends
in the opposite order: first nothing new comes in, then the producer hands over what it holds (bounded), the aggregator inside delivers what
it has emitted, and storage commits. It starts without topics and placements: they are made through its own admin API, and until then
writes are refused with the reason.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from coordinator.api import admin_routes, not_found, routes_route
from coordinator.child import SEVERAL, Inside, child_routes, inside, producer_options
from coordinator.config import CoordinatorConfig, IngestConfig
from coordinator.config.ingest import NO_NAMESPACE_GRACE_NS
from coordinator.downsample import Downsampler, RulesInEffect, rule_set_of
from coordinator.downsample.kv_rules import KVRules, RuleInitError, RuleWatcher, create_namespaces
from coordinator.downsample.policies import policy_of, storage_judge, writable_policies
from coordinator.downsample.routes import rule_sets_route, rules_routes
from coordinator.downsample.rule_file import DEFAULT_NAMESPACE
from coordinator.ingest import IngestOptions, IngestServer
from coordinator.namespaces import NamespacesNow
from coordinator.reading import reading_routes
from coordinator.ready import Readiness, ready_route
from coordinator.sinks.records import RecordError
from coordinator.sinks.routes import sinks_route
from coordinator.storage import Storage, open_storage
from coordinator.store import StoreError
from coordinator.warmup import warm
from coordinator.write import (
    Acks,
    CarbonIngester,
    CarbonServer,
    DirectStore,
    Door,
    Forwarding,
    IngestTopic,
    Limiter,
    RemoteWriter,
    SeriesCache,
    remembered_routes,
    remote_write_routes,
    sender_routes,
)
from coordinator.write.carbon_follow import CarbonRules
from coordinator.write.carbon_rules import CarbonRulesError, rules_in
from m3cluster import kv
from m3cluster.following import follow
from m3cluster.keys import DEFAULT_ENVIRONMENT, DEFAULT_ZONE, placement_key
from m3msg.producer import Producer
from m3x.config import Places, parse_address
from m3x.instrument import Registry, Scope
from m3x.log import logger
from m3x.process import few_open_files
from m3x.segments import SegmentError
from m3x.service_manager import ServiceManager
from m3x.tls import ServerTLS, TLSError
from m3x.web import metrics_app
from m3x.web import serve as serve_http

DRAIN_S = 10.0
"""How long the end waits for the aggregators' acks of what the producer still holds."""
AWAY_S = 5.0
"""An instance that has had no connection for so long then is not waited for; one that is started again is back sooner."""

_REMOTE_WRITE = {"handler": "remote-write"}
"""Tags of its figures."""
_START_ERRORS = (
    kv.KVError, StoreError, SegmentError, RecordError, TLSError, RuleInitError, CarbonRulesError, OSError,
)  # fmt: skip

log = logger(__name__)


class ServiceError(Exception):
    """The coordinator cannot go on; the message says why."""


class StartError(ServiceError):
    """The coordinator cannot start; the message says why and what to do."""


async def serve(config: CoordinatorConfig, data_dir: Path, places: Places | None = None) -> None:
    """Runs until SIGTERM or SIGINT; ``places`` are those of the configuration's sections.

    Raises ``StartError``, and ``ServiceError`` where a part ended that nothing works without.
    """
    manager = ServiceManager()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Nothing is listened on yet, so that no first sample waits for it; after scripts/run this only loads what numba keeps.
    await asyncio.to_thread(warm, lambda step: log.debug("preparing kernels", part=step))
    async with running(config, data_dir, places) as coordinator:
        log.info("the coordinator is up")
        async with manager.told(coordinator.in_short):
            await coordinator.wait(stop)
        log.info("ending: no more is accepted; waiting for what is under way")
    log.info("the coordinator has ended")


@contextlib.asynccontextmanager
async def running(
    config: CoordinatorConfig, data_dir: Path, places: Places | None = None
) -> AsyncIterator["Coordinator"]:
    """A coordinator that listens, until the context ends. Raises ``StartError``."""
    coordinator = Coordinator(config, data_dir, places or Places())
    async with contextlib.AsyncExitStack() as stack:
        try:
            await coordinator.start(stack)
        except _START_ERRORS as error:
            raise StartError(str(error)) from error
        yield coordinator


class Coordinator:
    """The parts of one coordinator; ``ports`` has the bound ones by listener: http, metrics, carbon, ingest."""

    def __init__(self, config: CoordinatorConfig, data_dir: Path, places: Places) -> None:
        self.config = config
        self.registry = Registry()
        self.ports: dict[str, int] = {}
        self._data_dir = data_dir
        self._places = places
        self._problems: list[Callable[[], list[str]]] = []
        """What has something to say in ``/ready``."""
        self._scope = self.registry.scope(config.metrics.scope.prefix)
        if config.metrics.scope.tags:
            self._scope = self._scope.tagged(**config.metrics.scope.tags)
        self._environment = config.cluster_state.environment
        self._zone = config.cluster_state.zone
        self._tasks: list[asyncio.Task[object]] = []
        self._carbon: CarbonIngester | None = None
        self._readiness: Readiness | None = None

    def in_short(self) -> str:
        """One line on how it is."""
        reasons = self._readiness.reasons() if self._readiness is not None else []
        return f"not ready: {'; '.join(reasons)}" if reasons else "takes samples"

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
    async def _background(self, work: Coroutine[Any, Any, object], name: str) -> AsyncIterator[None]:
        """Runs ``work`` beside the context; ``wait`` tells if it fails."""
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Starts everything; ``stack`` ends it. Raises what ``running`` makes a ``StartError`` of."""
        config = self.config
        if (few := few_open_files()) is not None:
            log.warning(few)
            self._problems.append(lambda: [few])
        store = await kv.open_store(config.cluster_state.store(self._data_dir))
        stack.push_async_callback(store.close)
        routes: list[BaseRoute] = []
        rules = RulesInEffect(storage_judge(config))
        storage = await self._start_storage(stack, store, rules)
        namespaces = NamespacesNow(config.namespaces) if storage is None else storage.namespaces
        own = await self._start_inside(stack, storage, rules)
        topic, producer, acks = await self._start_producer(stack, store, own)
        if producer is None or own is not None:
            await self._start_asking(stack, store)
        kv_rules = await self._start_rules(stack, store, rules)
        cache_bytes = config.write_cache.limit_bytes
        if own is not None:
            cache_bytes = min(cache_bytes, config.memory_shares.write_cache)
            routes += child_routes(own.watching)
        cache = SeriesCache(config.write_cache.max_series, cache_bytes)
        downsampler = Downsampler.of(config, rules, time.time_ns())
        routes += [*rules_routes(downsampler), rule_sets_route(None if kv_rules is None else kv_rules.stored)]
        direct = storage.direct if storage is not None else None
        door = None if config.past_limits is None else Door(config.past_limits)
        if storage is not None:
            routes += [sinks_route(storage.hub)]
        routes += reading_routes(config, storage)
        obstacle: Callable[[], str | None] | None = None
        if config.takes_samples:
            writer = RemoteWriter(
                downsampler, cache, topic, self._scope.tagged(**_REMOTE_WRITE),
                tag_options=config.tag_options, store_metrics_type=config.store_metrics_type, direct=direct, acks=acks,
                door=door, forwarding=self._forwarding(stack),
                limiter=None if config.write_limits is None else Limiter(config.write_limits, self._scope.sub("write")),
            )  # fmt: skip
            routes += [*remote_write_routes(writer), *sender_routes(writer, self._scope, config.otlp)]
            routes += remembered_routes(writer, cache, downsampler, lambda: self._carbon)
            obstacle = writer.refusal
            if (reason := obstacle()) is not None:
                log.warning("remote writes are answered with 503", reason=reason)
        self._readiness = readiness = Readiness(
            namespaces.current,
            topic,
            producer,
            store,
            lambda: [line for problems in self._problems for line in problems()],
            obstacle,
            list if own is None else own.reasons,
            lambda: [*([] if own is None else own.notes()), *filter(None, (cache.full(),))],
        )
        routes += [ready_route(readiness)]

        def changed() -> None:
            downsampler.set_namespaces(namespaces.current)
            readiness.set_namespaces(namespaces.current)
            rules.judge_with(storage_judge(config, namespaces.current))

        changed()
        namespaces.follow(changed)
        routes += admin_routes(
            store, environment=self._environment, zone=self._zone, zones=tuple({self._zone, DEFAULT_ZONE}),
            window_ns=lambda: max((n.resolution_ns for n in namespaces.current if n.aggregated), default=60 * 10**9),
        )  # fmt: skip
        await self._start_http(stack, [*routes, routes_route(routes)], None if own is None else own.watching.figures)
        if acks is not None:
            # Before HTTP ends: that waits for requests in hand, though not for long.
            stack.callback(acks.end)
        await self._start_carbon(stack, downsampler, cache, topic, direct, namespaces, door)

    def _forwarding(self, stack: contextlib.AsyncExitStack) -> Forwarding | None:
        """Where remote writes go as well, ended after HTTP; None: nowhere."""
        section = self.config.write_forwarding.prom_remote_write
        if not section.targets:
            return None
        forwarding = Forwarding(section, self._scope.tagged(**_REMOTE_WRITE))
        stack.push_async_callback(forwarding.close)
        self._problems.append(forwarding.problems)
        return forwarding

    async def _start_asking(self, stack: contextlib.AsyncExitStack, store: kv.Store) -> None:
        """Watches a key of a KV that nothing else follows, so that the log and ``/ready`` say that it is away before it is needed."""
        if isinstance(self.config.cluster_state.store(self._data_dir), kv.Embedded):
            return
        watching = follow(store, placement_key(self._environment, "m3aggregator"), lambda value: value, lambda _: None)
        await stack.enter_async_context(self._background(watching, "KV"))

    async def _start_rules(
        self, stack: contextlib.AsyncExitStack, store: kv.Store, rules: RulesInEffect
    ) -> KVRules | None:
        """Rules of the file, or else those in KV from now on, which it answers."""
        section = self.config.downsample
        if section is None:
            return None
        self._problems.append(rules.warnings)
        if section.rules is not None:
            rules.put(DEFAULT_NAMESPACE, rule_set_of(section.rules, time.time_ns()), self._places)
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
        await stack.enter_async_context(self._background(watcher.run(), "rules"))
        return kv_rules

    async def _start_storage(
        self, stack: contextlib.AsyncExitStack, store: kv.Store, rules: RulesInEffect
    ) -> Storage | None:
        config = self.config
        if not config.takes_samples:
            return None
        storage = await stack.enter_async_context(open_storage(config, self._data_dir, self._scope, store))
        self._problems.append(storage.problems)
        if config.ingest is None:
            log.info("no m3msg server configured: aggregated metrics are not taken")
            return storage
        section = config.ingest
        server = await self._serve_ingest(stack, storage, rules, section.m3msg.server.listen_address, section)
        self.ports["ingest"] = server.port
        log.info("taking aggregated metrics", port=server.port)
        return storage

    async def _serve_ingest(
        self,
        stack: contextlib.AsyncExitStack,
        storage: Storage,
        rules: RulesInEffect,
        endpoint: str,
        section: IngestConfig | None,
        *,
        inside: bool = False,
    ) -> IngestServer:
        """Takes aggregated metrics at ``endpoint``; ``section`` says how, if the file has it. ``inside``: of the aggregator inside."""
        options = _ingest_options(section, fixed_namespaces=bool(self.config.namespaces))
        options = msgspec.structs.replace(options, suffix_labels=inside)
        namespaces = storage.namespaces
        server = IngestServer(
            endpoint, storage.outlet, writable_policies(namespaces.current), options,
            self._scope.sub("ingest-m3msg"), asked_by=rules.asking_for,
        )  # fmt: skip

        def changed() -> None:
            known = [policy_of(n.resolution_ns, n.retention_ns) for n in namespaces.current if n.aggregated]
            server.set_namespaces(writable_policies(namespaces.current), known)

        if namespaces.known and not namespaces.fixed:
            changed()
        namespaces.follow(changed)
        await stack.enter_async_context(server)
        self._problems.append(server.problems)
        return server

    async def _start_inside(
        self, stack: contextlib.AsyncExitStack, storage: Storage | None, rules: RulesInEffect
    ) -> Inside | None:
        """Starts the aggregator inside; None: there is none with this file."""
        if storage is None or not self.config.aggregates_inside:
            return None
        own = await stack.enter_async_context(inside(self.config, self._data_dir))
        await self._serve_ingest(stack, storage, rules, own.places.values, self.config.ingest, inside=True)
        await stack.enter_async_context(self._background(own.run(), "aggregator"))
        stack.push_async_callback(own.end)
        log.info(SEVERAL)
        return own

    async def _start_producer(
        self, stack: contextlib.AsyncExitStack, store: kv.Store, own: Inside | None
    ) -> tuple[IngestTopic | None, Producer | None, Acks | None]:
        environment, options = self._environment, self.config.remote_producer
        if own is not None:
            store, environment, options = own.store, DEFAULT_ENVIRONMENT, producer_options(self.config.memory_shares)
        if options is None:
            return None, None, None
        acks = None
        if self.config.waits_for_aggregators:
            acks = Acks(self.config.writes.ack_timeout.seconds, self._scope.tagged(**_REMOTE_WRITE))
        producer = Producer(
            options, store, scope=self._scope.sub("producer"), environment=environment,
            on_done=None if acks is None else acks.on_done, on_secured=None if acks is None else acks.on_secured,
        )  # fmt: skip
        topic = IngestTopic(options, producer)
        if acks is not None:
            acks.behind = topic.behind
        stack.push_async_callback(_close_producer, producer)
        await stack.enter_async_context(self._background(_run_producer(producer, topic, acks), "producer"))
        await stack.enter_async_context(self._background(topic.run(), "ingest topic"))
        return topic, producer, acks

    async def _start_http(
        self,
        stack: contextlib.AsyncExitStack,
        routes: list[BaseRoute],
        more_figures: Callable[[], Awaitable[bytes]] | None,
    ) -> None:
        prometheus = self.config.metrics.prometheus
        page = metrics_app(self.registry, prometheus.handler_path, more_figures)
        self.ports["metrics"] = await stack.enter_async_context(serve_http(page, prometheus.listen_address))
        app = Starlette(routes=routes, exception_handlers={404: not_found})
        app.router.redirect_slashes = False
        self.ports["http"] = await stack.enter_async_context(serve_http(app, self.config.listen_address))
        log.info("listening", http=self.ports["http"], metrics=self.ports["metrics"])

    async def _start_carbon(
        self,
        stack: contextlib.AsyncExitStack,
        downsampler: Downsampler,
        cache: SeriesCache,
        topic: IngestTopic | None,
        direct: DirectStore | None,
        namespaces: NamespacesNow,
        door: Door | None,
    ) -> None:
        ingester = self.config.carbon.ingester
        if ingester is None or not self.config.takes_samples:
            return
        scope: Scope = self._scope.sub("ingest-carbon")
        rules = rules_in(self.config) if namespaces.fixed else None
        core = CarbonIngester(
            rules, downsampler, cache, topic, scope, cleanup=ingester.rewrite.cleanup, direct=direct, door=door
        )
        self._carbon = core
        follower = CarbonRules(self.config, self._places, core, rules)
        self._problems.append(follower.problems)
        if not namespaces.fixed:
            namespaces.follow(lambda: follower.put(namespaces.current))
            if namespaces.known:
                follower.put(namespaces.current)
        host, port = parse_address(ingester.listen_address)
        tls = None if ingester.tls.mode == "disabled" else ServerTLS(ingester.tls)
        self.ports["carbon"] = await stack.enter_async_context(CarbonServer(core, scope).serve(host, port, tls))
        log.info("taking carbon lines", port=self.ports["carbon"])


def _ingest_options(section: IngestConfig | None, *, fixed_namespaces: bool) -> IngestOptions:
    """What a file says of its m3msg server; without one, M3's defaults."""
    if section is None:
        return IngestOptions(no_namespace_grace_ns=0 if fixed_namespaces else NO_NAMESPACE_GRACE_NS)
    return IngestOptions(
        retry=section.ingester.retry.backoff(),
        max_retries=section.ingester.retry.max_retries or 2,
        retry_forever=bool(section.ingester.retry.forever),
        blackhole_policies=section.m3msg.handler.blackholes,
        # Namespaces of the file do not change while it runs.
        no_namespace_grace_ns=0 if fixed_namespaces else int(section.no_namespace_grace),
        consumer=section.m3msg.consumer,
        keep_alive_ns=int(section.m3msg.server.keep_alive_period),
    )


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

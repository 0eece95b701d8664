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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route

from coordinator.api import admin_routes, not_found, routes_route
from coordinator.child import SEVERAL, Inside, child_routes, inside
from coordinator.config import CoordinatorConfig, IngestConfig
from coordinator.config.ingest import NO_NAMESPACE_GRACE_NS
from coordinator.config.workers import ALL
from coordinator.downsample import Downsampler, RulesInEffect
from coordinator.downsample.kv_rules import RuleInitError
from coordinator.downsample.policies import policy_of, storage_judge, writable_policies
from coordinator.downsample.routes import rule_sets_route, rules_routes
from coordinator.ingest import IngestOptions, IngestServer
from coordinator.m3_names import show_m3_names
from coordinator.namespaces import NamespacesNow
from coordinator.pages import FIGURES, Shown, page_routes
from coordinator.reading import read_defaults, readable, reading_routes
from coordinator.ready import Readiness, ready_route
from coordinator.rights import rights
from coordinator.sinks.records import RecordError
from coordinator.sinks.routes import sinks_route
from coordinator.storage import Storage, open_storage
from coordinator.store import StoreError
from coordinator.warmup import warm
from coordinator.write import (
    AggregatorSink,
    CarbonIngester,
    CarbonServer,
    DirectStore,
    Door,
    Grown,
    RemoteWriteShortcut,
    SeriesCache,
    growth_routes,
    writes_first,
)
from coordinator.write.carbon_follow import CarbonRules
from coordinator.write.carbon_rules import CarbonRulesError, rules_in
from coordinator.write.remembered import Page, Remembered, remembered_route
from coordinator.writers.fleet import Fleet, Owner
from coordinator.writers.options import LONGEST_RUN_DIRECTORY
from coordinator.writers.series import paged
from coordinator.writing import TAKEN, ServiceError, Writing
from m3cluster import kv
from m3cluster.following import follow
from m3cluster.keys import DEFAULT_ZONE, placement_key
from m3msg.producer import Producer
from m3x.access import Access, AccessError, Right, exposed
from m3x.config import ConfigError, Loaded, Places, parse_address
from m3x.diagnosis.routes import debug_routes
from m3x.gate import Gate
from m3x.instrument import Scope
from m3x.live_config import NeedsRestartError, Part, Reloads, lifecycle_routes
from m3x.log import logger
from m3x.log import set_level as log_level
from m3x.pages import History
from m3x.process import few_open_files
from m3x.processes import Zygote, run_directory
from m3x.runtime_figures import show_runtime
from m3x.segments import SegmentError
from m3x.service_manager import ServiceManager
from m3x.tls import ServerTLS, ServerTLSConfig, TLSError
from m3x.web import metrics_app
from m3x.web import serve as serve_http

__all__ = ["Coordinator", "ServiceError", "StartError", "running", "serve"]

_START_ERRORS = (
    kv.KVError, StoreError, SegmentError, RecordError, TLSError, AccessError, RuleInitError, CarbonRulesError, OSError,
)  # fmt: skip

log = logger(__name__)


class StartError(ServiceError):
    """The coordinator cannot start; the message says why and what to do."""


async def serve(
    config: CoordinatorConfig,
    data_dir: Path,
    places: Places,
    zygote: Zygote | None = None,
    workers: int = 1,
    *,
    read: Callable[[], Loaded[CoordinatorConfig]],
) -> None:
    """Runs until SIGTERM or SIGINT; ``places`` are those of the configuration's sections. ``zygote``: what ``workers`` write processes are
    forked from; None: this process takes writes itself. ``read`` reads the configuration again, at SIGHUP or ``/-/reload``.

    Raises ``StartError``, and ``ServiceError`` where a part ended that nothing works without.
    """
    manager = ServiceManager()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Nothing is listened on yet, so that no first sample waits for it; after scripts/run this only loads what numba keeps.
    await asyncio.to_thread(warm, lambda step: log.debug("preparing kernels", part=step))
    async with contextlib.AsyncExitStack() as stack:
        fleet = None
        if zygote is not None:
            fleet = await _fleet(stack, zygote, config, data_dir, places, workers)
        coordinator = await stack.enter_async_context(running(config, data_dir, places, fleet, read, manager))
        log.info("the coordinator is up")
        async with manager.told(coordinator.in_short):
            with coordinator.reloads.hearing():
                await coordinator.wait(stop)
        log.info("ending: no more is accepted; waiting for what is under way")
    log.info("the coordinator has ended")


async def _fleet(
    stack: contextlib.AsyncExitStack,
    zygote: Zygote,
    config: CoordinatorConfig,
    data_dir: Path,
    places: Places,
    workers: int,
) -> Fleet:
    """The write processes that are to be started. Raises ``StartError``."""
    try:
        run_dir = stack.enter_context(
            run_directory(
                config.embedded_aggregator.run_directory,
                key="embeddedAggregator.runDirectory",
                prefix="m3write-",
                longest=LONGEST_RUN_DIRECTORY,
            )
        )
    except ConfigError as error:
        raise StartError(str(error)) from error
    await stack.enter_async_context(zygote)
    return Fleet(zygote, run_dir, config, data_dir, places, workers)


@contextlib.asynccontextmanager
async def running(
    config: CoordinatorConfig,
    data_dir: Path,
    places: Places | None = None,
    fleet: Fleet | None = None,
    read: Callable[[], Loaded[CoordinatorConfig]] | None = None,
    manager: ServiceManager | None = None,
) -> AsyncIterator["Coordinator"]:
    """A coordinator that listens, until the context ends. ``fleet``: the processes that take writes; None: this one does. ``read`` reads
    the configuration again; None: it stays as it is. ``manager``: who is told of that.

    Raises ``StartError``.
    """
    coordinator = Coordinator(config, data_dir, places or Places(), fleet, read, manager or ServiceManager())
    async with contextlib.AsyncExitStack() as stack:
        try:
            await coordinator.start(stack)
        except _START_ERRORS as error:
            raise StartError(str(error)) from error
        yield coordinator


class Coordinator(Writing):
    """The parts of one coordinator; ``ports`` has the bound ones by listener: http, metrics, carbon, ingest.

    ``fleet``: the processes that take writes; None: this one does.
    """

    def __init__(
        self,
        config: CoordinatorConfig,
        data_dir: Path,
        places: Places,
        fleet: Fleet | None,
        read: Callable[[], Loaded[CoordinatorConfig]] | None,
        manager: ServiceManager,
    ) -> None:
        shares, processes = (ALL, 1) if fleet is None else (fleet.main_shares, len(fleet.members) + 1)
        super().__init__(config, data_dir, places, shares, processes)
        self.reloads = Reloads(
            config,
            read or (lambda: Loaded(config, [], places)),
            [
                Part(("logging.level",), lambda loaded: log_level(loaded.value.logging.level)),
                Part(TAKEN, self._take),
                Part(("carbon.ingester.rules",), self._take_carbon_rules),
            ],
            self._scope.sub("config-reload"),
            manager,
        )
        self._carbon_rules: CarbonRules | None = None
        self._namespaces: NamespacesNow | None = None
        self.ports: dict[str, int] = {}
        self._zone = config.cluster_state.zone
        self._fleet = fleet
        self._carbon: CarbonIngester | None = None
        self._readiness: Readiness | None = None

    def in_short(self) -> str:
        """One line on how it is."""
        reasons = self._readiness.reasons() if self._readiness is not None else []
        return f"not ready: {'; '.join(reasons)}" if reasons else "takes samples"

    async def _take(self, loaded: Loaded[CoordinatorConfig]) -> None:
        before, after = self.config.downsample, loaded.value.downsample
        in_file = [section is not None and section.rules is not None for section in (before, after)]
        if in_file[0] != in_file[1]:
            raise NeedsRestartError("rules of the file in the place of those in KV, or the other way round")
        self.take(loaded.value, loaded.places)
        if self._fleet is not None:
            await self._fleet.take(loaded.value, loaded.places)

    def _take_carbon_rules(self, loaded: Loaded[CoordinatorConfig]) -> None:
        if self._carbon_rules is not None and self._namespaces is not None:
            self._carbon_rules.take(loaded.value, loaded.places, self._namespaces.current)
        self.config = loaded.value

    def _state(self) -> dict[str, object]:
        return {
            "reasons": [] if self._readiness is None else self._readiness.reasons(),
            "problems": self.problems(),
            "needsRestart": self.reloads.needs_restart,
            "ports": self.ports,
        }

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Starts everything; ``stack`` ends it. Raises what ``running`` makes a ``StartError`` of."""
        config, fleet = self.config, self._fleet
        limit = config.memory
        log.info("memory limit", bytes=limit.nbytes or "none", source=limit.source)
        await stack.enter_async_context(self.background(self.memory.run(), "memory"))
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
        topic, producer, acks = await self.start_producer(stack, store, None if own is None else own.store)
        if producer is None or own is not None:
            await self._start_asking(stack, store)
        kv_rules = await self.start_rules(stack, store, rules)
        if own is not None:
            routes += child_routes(own.watching)
        cache = self.cache()
        downsampler = Downsampler.of(config, rules, time.time_ns())
        routes += [*rules_routes(downsampler), rule_sets_route(None if kv_rules is None else kv_rules.stored)]
        direct = storage.direct if storage is not None else None
        door = None if config.past_limits is None else Door(config.past_limits)
        if storage is not None:
            routes += [sinks_route(storage.hub)]
        routes += reading_routes(config, storage, self._scope)
        obstacle: Callable[[], str | None] | None = None
        write_paths: set[str] = set()
        new_names: Callable[[], Awaitable[Iterable[Grown]]] = _none
        met: Callable[[int], Awaitable[Page]] | None = None
        if config.takes_samples:
            forwarding = self.start_forwarding(stack) if fleet is None else None
            types = None if storage is None else storage.types
            declare = None if types is None else types.declare
            writer, write_routes = self.writer(
                downsampler, cache, topic, direct, acks, door, forwarding, declare=declare
            )
            remembered = Remembered(writer, cache, downsampler, lambda: self._carbon)

            async def own_page(after: int) -> Page:
                return remembered.page(after)

            pages = paged([own_page, *([] if fleet is None else fleet.pages())])

            async def grown() -> list[Grown]:
                if fleet is None:
                    return [Grown(cache.series, cache.new.report())]
                await fleet.refresh()
                return fleet.grown()

            routes += [*write_routes, remembered_route(pages), *growth_routes(grown)]
            new_names, met = grown, pages
            write_paths = {route.path for route in write_routes if isinstance(route, Route)}
            obstacle = writer.refusal
            if (reason := obstacle()) is not None:
                log.warning("remote writes are answered with 503", reason=reason)
        self._readiness = readiness = Readiness(
            namespaces.current,
            topic,
            producer,
            store,
            self.problems,
            obstacle,
            lambda: [*([] if own is None else own.reasons()), *([] if fleet is None else fleet.reasons())],
            lambda: [
                *([] if own is None else own.notes()),
                *([] if fleet is None else fleet.notes()),
                *filter(None, (cache.full(),)),
                *self.memory.notes(),
            ],
        )
        routes += [
            ready_route(readiness, None if fleet is None else fleet.refresh),
            *lifecycle_routes("m3coordinator", self.reloads.reload, readiness.reasons),
            *debug_routes("coordinator", dict if fleet is None else fleet.pids, self._state),
        ]

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
        routes += await self._start_pages(
            stack, store, storage, downsampler, producer, readiness, namespaces, new_names, met
        )
        await self._start_metrics(stack, None if own is None else own.watching.figures)
        app = Starlette(routes=[*routes, routes_route(routes)], exception_handlers={404: not_found})
        app.router.redirect_slashes = False
        scope = self._scope.sub("http")
        gate = Gate("HTTP", scope, ServerTLS.of(config.security.tls))
        access = Access(config.security, scope)
        for warning in exposed(config.security, config.listen_address, "listenAddress"):
            log.warning(warning)
        if fleet is None:
            first = app if self._writer is None else writes_first(app, self._writer)
            guarded = access.guarding(first, rights(write_paths))
            shortcut = None
            if self._writer is not None:
                shortcut = RemoteWriteShortcut(self._writer, partial(access.allows, Right.WRITES))
            self.ports["http"] = await stack.enter_async_context(
                serve_http(guarded, config.listen_address, gate, shortcut)
            )
        else:
            # Write processes have looked whether a call is allowed.
            assert storage is not None
            await stack.enter_async_context(serve_http(app, fleet.sockets.main))
            inside_kv = None if own is None else own.places.kv
            owner = Owner(self.registry, storage.direct, namespaces, inside_kv, storage.types)
            await self._start_fleet(stack, fleet, owner)
        log.info("listening", http=self.ports["http"], metrics=self.ports["metrics"])
        if acks is not None:
            # Before HTTP ends: that waits for requests in hand, though not for long.
            stack.callback(acks.end)
        await self._start_carbon(stack, downsampler, cache, topic, direct, namespaces, door)

    async def _start_asking(self, stack: contextlib.AsyncExitStack, store: kv.Store) -> None:
        """Watches a key of a KV that nothing else follows, so that the log and ``/ready`` say that it is away before it is needed."""
        if isinstance(self.config.cluster_state.store(self._data_dir), kv.Embedded):
            return
        watching = follow(store, placement_key(self._environment, "m3aggregator"), lambda value: value, lambda _: None)
        await stack.enter_async_context(self.background(watching, "KV"))

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
        if inside:
            options = msgspec.structs.replace(options, suffix_labels=True, tls=ServerTLSConfig())
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
        await stack.enter_async_context(self.background(own.run(), "aggregator"))
        stack.push_async_callback(own.end)
        log.info(SEVERAL)
        return own

    async def _start_pages(
        self,
        stack: contextlib.AsyncExitStack,
        store: kv.Store,
        storage: Storage | None,
        downsampler: Downsampler,
        producer: Producer | None,
        readiness: Readiness,
        namespaces: NamespacesNow,
        grown: Callable[[], Awaitable[Iterable[Grown]]],
        met: Callable[[int], Awaitable[Page]] | None,
    ) -> list[Route]:
        """Pages for people, and what they keep."""
        before = None if self._fleet is None else self._fleet.refresh
        history = History(self.registry, self.config.metrics.scope.prefix, FIGURES, before)
        await stack.enter_async_context(history.kept())
        return page_routes(
            Shown(
                history=history,
                downsampler=downsampler,
                store=store,
                environment=self._environment,
                reasons=readiness.reasons,
                problems=lambda: readiness.problems(not readiness.reasons()),
                notes=readiness.notes,
                producer=producer,
                hub=storage.hub if storage is not None else None,
                source=readable(storage),
                read_options=read_defaults(self.config, self.config.limits),
                config=self.config,
                remembered=met,
                grown=grown,
                namespaces=lambda: [namespace.name for namespace in namespaces.current],
            )
        )

    async def _start_metrics(
        self, stack: contextlib.AsyncExitStack, more_figures: Callable[[], Awaitable[bytes]] | None
    ) -> None:
        prometheus = self.config.metrics.prometheus
        before = None if self._fleet is None else self._fleet.refresh
        show_runtime(self.registry, self.config.metrics.scope.prefix)
        show_m3_names(self.registry, self.config.metrics.scope.prefix)
        page = metrics_app(self.registry, prometheus.handler_path, more_figures, before)
        gate = Gate("metrics page", self._scope.sub("http"), ServerTLS.of(self.config.security.metrics_tls))
        self.ports["metrics"] = await stack.enter_async_context(serve_http(page, prometheus.listen_address, gate))

    async def _start_fleet(self, stack: contextlib.AsyncExitStack, fleet: Fleet, owner: Owner) -> None:
        """The processes that take writes, and hand everything else to this one."""
        self.ports["http"] = await stack.enter_async_context(fleet.serving(self.config.listen_address, owner))
        await stack.enter_async_context(self.background(fleet.run(), "write processes"))
        stack.push_async_callback(fleet.end)
        self._problems.append(fleet.problems)

    async def _start_carbon(
        self,
        stack: contextlib.AsyncExitStack,
        downsampler: Downsampler,
        cache: SeriesCache,
        topic: AggregatorSink | None,
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
        follower = self._carbon_rules = CarbonRules(self.config, self._places, core, rules)
        self._namespaces = namespaces
        self._problems.append(follower.problems)
        if not namespaces.fixed:
            namespaces.follow(lambda: follower.put(namespaces.current))
            if namespaces.known:
                follower.put(namespaces.current)
        host, port = parse_address(ingester.listen_address)
        tls = None if ingester.tls.mode == "disabled" else ServerTLS(ingester.tls)
        self.ports["carbon"] = await stack.enter_async_context(CarbonServer(core, scope).serve(host, port, tls))
        log.info("taking carbon lines", port=self.ports["carbon"])


async def _none() -> list[Grown]:
    """What a coordinator has to say of new series that takes none."""
    return []


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
        tls=section.m3msg.server.tls,
    )

"""The supervisor process from its first line to its exit code."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

from starlette.routing import BaseRoute

from aggregator.config import LONGEST_RUN_DIRECTORY, ServiceConfig, instance_memory
from aggregator.http import create_app, rights
from aggregator.supervisor.instance import Instance
from aggregator.supervisor.m3_names import show_m3_names
from aggregator.supervisor.picture import FIGURES, Picture
from aggregator.supervisor.status import InstanceStatus
from aggregator.warmup import PACKAGES
from m3cluster.kv import KVError, StoreConfig, open_store
from m3x import kernel_cache, log, process
from m3x.access import Access, AccessError, exposed
from m3x.config import ConfigError, Loaded
from m3x.diagnosis import stacks
from m3x.diagnosis.routes import debug_routes
from m3x.endpoints import bound
from m3x.gate import Gate
from m3x.instrument import Registry
from m3x.live_config import NeedsRestartError, Part, Reloads, lifecycle_routes
from m3x.pages import History
from m3x.processes import Zygote, run_directory
from m3x.runtime_figures import show_runtime
from m3x.service_manager import ServiceManager
from m3x.tls import ServerTLS, TLSError
from m3x.web import metrics_app, serve

__all__ = ["parts", "run"]

_log = log.logger(__name__)

_LARGE_BLOCK = 1 << 16


def run(
    loaded: Loaded[ServiceConfig],
    instance_id: str,
    *,
    read: Callable[[], Loaded[ServiceConfig]],
    workers: int | None,
    data_dir: Path | None,
    is_child: bool = False,
) -> int:
    """Runs an instance until SIGTERM or SIGINT; a second signal ends it at once. Raises ``ConfigError`` for a wrong set-up.

    ``read`` reads the configuration again, at SIGHUP or ``/-/reload``. ``workers``: whatever the configuration says; None: as it says.
    ``is_child``: of a process that decides what signals mean, and closes our standard input when it is time to end.
    """
    stacks.register_service()
    # Until it is heard; one that is lost so early would have asked for what is read now.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    config = loaded.value
    log.configure(config.logging.level, **{**config.logging.fields, "process": "supervisor"})
    for path in loaded.meaningless:
        _log.debug("this key has no effect here", key=path)
    kernel_cache.prepare("m3aggregator", PACKAGES)
    manager = ServiceManager()
    process.raise_open_files()
    zygote = Zygote("aggregator.preload")
    # Before the first thread and the first socket.
    zygote.fork()
    # Output comes in such blocks, from one thread to another, in bursts.
    process.map_large_blocks(_LARGE_BLOCK)
    store = config.kv_client.store(data_dir)
    directory = run_directory(
        config.instance.run_directory, key="instance.runDirectory", prefix="m3agg-", longest=LONGEST_RUN_DIRECTORY
    )
    with directory as run_dir:
        made = _main(config, read, store, instance_id, workers, zygote, run_dir, data_dir, is_child, manager)
        return asyncio.run(made)


async def _main(
    config: ServiceConfig,
    read: Callable[[], Loaded[ServiceConfig]],
    store_options: StoreConfig,
    instance_id: str,
    workers: int | None,
    zygote: Zygote,
    run_dir: Path,
    data_dir: Path | None,
    is_child: bool,
    manager: ServiceManager,
) -> int:
    registry = Registry()
    show_runtime(registry, config.metrics.scope.prefix)
    show_m3_names(registry, config.metrics.scope.prefix)
    early: list[str] = []
    """Signals of before the instance runs, which is seen over HTTP by then."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _ignored if is_child else early.append, number.name)
    try:
        store = await open_store(store_options)
    except KVError as error:
        raise ConfigError([f"kvClient: the store cannot be opened: {error}"]) from error
    try:
        count = workers or _workers_of(config)
        _log.info("starting", instance=instance_id, pid=os.getpid(), workers=count)
        limit = instance_memory(config)
        _log.info("memory limit for series and windows", bytes=limit.nbytes or "none", source=limit.source)
        try:
            with contextlib.ExitStack() as stack:
                listeners = [stack.enter_context(bound(address)) for address in config.listen_addresses]
                instance = Instance(
                    config, store, instance_id,
                    workers=count, zygote=zygote, listeners=listeners, run_dir=run_dir, data_dir=data_dir,
                    registry=registry,
                )  # fmt: skip
                instance.problems.set("open files", process.few_open_files(), serious=False)
                history = History(registry, config.metrics.scope.prefix, FIGURES)
                status = InstanceStatus(instance, Picture(instance, history))
                scope = registry.scope(".".join(filter(None, (config.metrics.scope.prefix, "config-reload"))))
                scope = scope.tagged(**config.metrics.scope.tags)
                reloads = Reloads(config, read, parts(instance, workers), scope, manager)
                routes = _routes(instance, status, None if is_child else reloads)
                async with (
                    history.kept(),
                    zygote,
                    _servers(config, status, registry, routes),
                    manager.told(lambda: _in_short(status)),
                ):
                    with contextlib.nullcontext() if is_child else reloads.hearing():
                        return await _until_stopped(instance, is_child, early)
        except (TLSError, AccessError, OSError) as error:
            _log.error("cannot start", error=str(error))
            return 1
        except BaseExceptionGroup as group:
            for cause in _leaves(group):
                _log.error("the instance failed", exception=cause)
            return 1
    finally:
        await store.close()


def _workers_of(config: ServiceConfig) -> int:
    return config.instance.workers or os.cpu_count() or 1


def parts(instance: Instance, workers: int | None) -> list[Part[ServiceConfig]]:
    """What of the configuration may change while it runs; ``workers``: whatever it says."""

    def resize(loaded: Loaded[ServiceConfig]) -> None:
        if workers is not None:
            raise NeedsRestartError(f"the command line has --workers {workers}")
        instance.resize(_workers_of(loaded.value))

    return [
        Part(("instance.workers",), resize),
        Part(
            (
                "instance.memoryLimitBytes",
                "instance.timerSamplesPerSeriesCap",
                "instance.journalSync",
                "aggregator.entryTTL",
                "aggregator.entryCheckInterval",
            ),
            lambda loaded: instance.renew(loaded.value),
        ),
        Part(("logging.level",), lambda loaded: log.set_level(loaded.value.logging.level)),
        Part(
            (
                "runtimeOptions.writeValuesPerMetricLimitPerSecond",
                "runtimeOptions.writeNewMetricLimitClusterPerSecond",
                "aggregator.shutdownWaitTimeout",
                "instance.shutdownTimeout",
                "instance.handOverTimeout",
            ),
            lambda loaded: instance.take(loaded.value),
        ),
    ]


def _routes(instance: Instance, status: InstanceStatus, reloads: Reloads[ServiceConfig] | None) -> list[BaseRoute]:
    """Those that every service has; ``reloads`` None: our parent has made the configuration."""

    def processes() -> dict[str, int]:
        serving = instance.serving
        return {} if serving is None else {one.name: one.pid for one in (serving.fleet.front, *serving.fleet.workers)}

    def state() -> dict[str, object]:
        return {
            "instanceId": status.instance_id,
            "electionState": status.election_state(),
            "canLead": status.can_lead(),
            "readiness": status.readiness(),
            "facts": dict(status.facts()),
            "lists": status.lists(),
            "shards": status.shards(),
            "needsRestart": [] if reloads is None else reloads.needs_restart,
        }

    return [
        *lifecycle_routes(
            "m3aggregator", None if reloads is None else reloads.reload, lambda: status.readiness().reasons
        ),
        *debug_routes("supervisor", processes, state),
    ]


def _in_short(status: InstanceStatus) -> str:
    """One line on how it is."""
    found = status.readiness()
    return "; ".join(found.notes) if found.ready else f"not ready: {'; '.join(found.reasons)}"


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _until_stopped(instance: Instance, is_child: bool, early: Sequence[str]) -> int:
    """Runs the instance; the first signal stops it, the second ends it at once; ``early``: those that have come. A child hears its
    standard input only."""
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(instance.run(), name="instance")
    signals = 0

    def on_signal(name: str) -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            _log.info("stopping; the same signal again ends at once", signal=name)
            instance.stop()
        else:
            _log.warning("ending at once", signal=name)
            running.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _ignored if is_child else on_signal, number.name)
    for name in early:
        on_signal(name)
    told = asyncio.create_task(_end_of_input(lambda: on_signal("end of input"))) if is_child else None
    try:
        await running
    except asyncio.CancelledError:
        return 1
    finally:
        if told is not None:
            told.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    _log.info("ended")
    return 0


def _ignored(name: str) -> None:
    _log.debug("our parent decides what a signal means", signal=name)


async def _end_of_input(then: Callable[[], None]) -> None:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(0, "rb", closefd=False)
    )
    try:
        while await reader.read(1024):
            pass
        then()
    finally:
        transport.close()


@contextlib.asynccontextmanager
async def _servers(
    config: ServiceConfig, status: InstanceStatus, registry: Registry, routes: Sequence[BaseRoute]
) -> AsyncIterator[None]:
    """The HTTP servers: status, and metrics where they have an address of their own."""
    prometheus = config.metrics.prometheus
    own = prometheus is not None and bool(prometheus.listen_address)
    path = prometheus.handler_path if prometheus is not None and not own else None
    async with contextlib.AsyncExitStack() as stack:
        named = config.metrics.scope
        scope = registry.scope(".".join(filter(None, (named.prefix, "http")))).tagged(**named.tags)
        gate = Gate("HTTP", scope, ServerTLS.of(config.security.tls))
        app = Access(config.security, scope).guarding(create_app(status, registry, path, routes), rights(path))
        for warning in exposed(config.security, config.http.listen_address, "http.listenAddress"):
            _log.warning(warning)
        await stack.enter_async_context(serve(app, config.http.listen_address, gate))
        if prometheus is not None and own:
            page = metrics_app(registry, prometheus.handler_path)
            gate = Gate("metrics page", scope, ServerTLS.of(config.security.metrics_tls))
            await stack.enter_async_context(serve(page, prometheus.listen_address, gate))
        _log.info("HTTP", status=config.http.listen_address, metrics=prometheus.listen_address if prometheus else "")
        yield

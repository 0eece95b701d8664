"""A write process: its parts, from its options to its end."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.routing import Route

from coordinator.config import CoordinatorConfig
from coordinator.config.workers import share_in_use, shares_of
from coordinator.downsample import Downsampler, RulesInEffect
from coordinator.downsample.kv_rules import RuleInitError
from coordinator.downsample.policies import storage_judge
from coordinator.namespaces import NamespacesNow
from coordinator.ready import Readiness
from coordinator.rights import rights
from coordinator.write import Door, Grown, Remembered, RemoteWriteShortcut, SeriesCache, writes_first
from coordinator.writers import told
from coordinator.writers.board import Board, Place
from coordinator.writers.direct import HandedStore
from coordinator.writers.handing import Handing, handed_over
from coordinator.writers.link import Link, LinkError
from coordinator.writers.options import Sockets, read, read_configuration
from coordinator.writers.passing import Passing
from coordinator.writing import ServiceError, Writing
from m3cluster import kv
from m3x import log
from m3x.access import Access, AccessError, Right
from m3x.beats import beat
from m3x.config import Places
from m3x.gate import Gate
from m3x.output import complain
from m3x.processes import FIRST_FILE
from m3x.tls import ServerTLS, TLSError
from m3x.web import serve, serve_shared

__all__ = ["run"]

_log = log.logger(__name__)
_LIVE_S = 0.5
_START_ERRORS = (kv.KVError, RuleInitError, TLSError, AccessError, OSError)


def run(options_file: Path) -> int:
    """Runs until the main process says that it is to end; returns the exit code."""
    config, places, options = read(options_file)
    log.configure(config.logging.level, **{**config.logging.fields, "process": f"writer {options.index}"})
    # Signals to all processes of a service mean the main process, which ends this one.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=FIRST_FILE) as listener:
        board = Board(FIRST_FILE + 1, options.workers)
        try:
            asyncio.run(_main(config, places, options, listener, board))
        except ServiceError as error:
            complain(f"m3coordinator: {error}")
            return 1
    return 0


async def _main(
    config: CoordinatorConfig, places: Places, options: told.WorkerOptions, listener: socket.socket, board: Board
) -> None:
    process = WriteProcess(config, places, options, board)
    async with contextlib.AsyncExitStack() as stack:
        try:
            await process.start(stack, listener)
        except _START_ERRORS as error:
            raise ServiceError(f"write process {options.index}: {error}") from error
        _log.info("taking writes", epoch=options.epoch)
        await process.wait(process.stop)
        _log.info("ending: waiting for what is under way")
    await process.say_last()


class WriteProcess(Writing):
    """The parts of one."""

    def __init__(self, config: CoordinatorConfig, places: Places, options: told.WorkerOptions, board: Board) -> None:
        _, shares = shares_of(config, options.workers)
        super().__init__(config, Path(options.data_dir), places, shares, options.workers + 1)
        self.stop = asyncio.Event()
        self._options = options
        self._board = board
        self._place = Place(board, options.index, config.next_worker_at)
        self._sockets = Sockets(Path(options.run_dir))
        self._namespaces = NamespacesNow(fixed=False)
        self._link: Link | None = None
        self._readiness: Readiness | None = None
        self._remembered: Remembered | None = None
        self._cache: SeriesCache | None = None
        self._declared: list[tuple[bytes, bytes, bytes]] = []
        """What the main process has not been told yet."""

    async def start(self, stack: contextlib.AsyncExitStack, listener: socket.socket) -> None:
        """Starts everything; ``stack`` ends it. Raises what is in ``_START_ERRORS``."""
        config, options = self.config, self._options
        store = await kv.open_store(config.cluster_state.store(self._data_dir))
        stack.push_async_callback(store.close)
        inside = None
        if options.inside_kv:
            inside = await kv.open_store(kv.Embedded(Path(options.inside_kv)))
            stack.push_async_callback(inside.close)
        await stack.enter_async_context(self.background(self.memory.run(), "memory"))
        link = self._link = await self._linked()
        self._tasks.append(asyncio.create_task(self._linger(link), name="link"))
        handing = Handing(self._board, options.index, self._sockets.writes)
        rules = RulesInEffect(storage_judge(config))
        topic, producer, acks = await self.start_producer(stack, store, inside, handing)
        await self.start_rules(stack, store, rules, first=False)
        cache = self._cache = self.cache()
        downsampler = Downsampler.of(config, rules, time.time_ns())
        direct = HandedStore(link, options.workers)
        door = None if config.past_limits is None else Door(config.past_limits)
        forwarding = self.start_forwarding(stack, options.identity, handing)
        declare = self._declare if config.sends_metadata else None
        writer, routes = self.writer(downsampler, cache, topic, direct, acks, door, forwarding, handing, declare)
        self._remembered = Remembered(writer, cache, downsampler)
        self._readiness = Readiness((), topic, producer, store, self.problems, writer.refusal)
        namespaces = self._namespaces

        def changed() -> None:
            downsampler.set_namespaces(namespaces.current)
            direct.set_namespaces(namespaces.current)
            rules.judge_with(storage_judge(config, namespaces.current))

        namespaces.follow(changed)
        # Answered with the namespaces of storage.
        await self._told_namespaces(
            await link.ask(told.HELLO, msgspec.msgpack.encode(told.Hello(options.index, options.epoch)))
        )
        app = Starlette(routes=routes)
        app.router.redirect_slashes = False
        writes = {route.path for route in routes if isinstance(route, Route)}
        await stack.enter_async_context(serve(handed_over(app), self._sockets.writes(options.index)))
        door_app = _Front(writes_first(app, writer), writes, Passing(self._sockets.main), self._place)
        scope = self._scope.sub("http")
        access = Access(config.security, scope)
        guarded = access.guarding(door_app, rights(writes))
        shortcut = RemoteWriteShortcut(writer, partial(access.allows, Right.WRITES), self._place.has_too_many)
        gate = Gate("HTTP", scope, ServerTLS.of(config.security.tls))
        await stack.enter_async_context(serve_shared(guarded, listener, self._place, gate, shortcut))
        await stack.enter_async_context(self.background(self._live(), "alive"))
        if acks is not None:
            # Before HTTP ends: that waits for requests in hand, though not for long.
            stack.callback(acks.end)

    async def _linked(self) -> Link:
        reader, writer = await asyncio.open_unix_connection(self._sockets.link)
        return Link(
            reader,
            writer,
            {
                told.STATE: self._answer_state,
                told.NAMESPACES: self._told_namespaces,
                told.SERIES: self._answer_series,
                told.CONFIGURATION: self._configured,
                told.END: self._end,
            },
        )

    async def _linger(self, link: Link) -> None:
        """Nothing works without the main process, which takes this one along when it ends."""
        await link.run()
        if not self.stop.is_set():
            raise ServiceError("the main process has closed its link")

    async def _live(self) -> None:
        """Says again and again that this process takes connections."""
        try:
            self._say_live()
            # So that the first figure is not of a moment.
            await asyncio.sleep(_LIVE_S)
            while True:
                await beat(every_s=_LIVE_S)
                self._say_live()
        finally:
            self._place.live(takes=False)

    def _say_live(self) -> None:
        self._place.live(self.full)
        self.share_connections(share_in_use(self.config, self._board.in_use))

    def _declare(self, family: bytes, help_text: bytes, unit: bytes) -> None:
        """Of a metric family."""
        self._declared.append((family, help_text, unit))

    # --- what the main process asks

    def _state(self) -> told.State:
        readiness = self._readiness
        reasons = [] if readiness is None else readiness.reasons()
        problems = [] if readiness is None else readiness.problems(not reasons)
        declared, self._declared = self._declared, []
        if (cache := self._cache) is None:
            return told.State(self.registry.report(), reasons, problems, declared=declared)
        notes = [*filter(None, (cache.full(),)), *self.memory.notes()]
        grown = Grown(cache.series, cache.new.report())
        return told.State(self.registry.report(), reasons, problems, notes, grown, declared)

    async def _answer_state(self, _: bytes) -> bytes:
        return msgspec.msgpack.encode(self._state())

    async def _told_namespaces(self, body: bytes) -> bytes:
        namespaces = msgspec.msgpack.decode(body, type=told.ToldNamespaces)
        if namespaces.known:
            self._namespaces.put(namespaces.namespaces)
        return b""

    async def _answer_series(self, body: bytes) -> bytes:
        assert self._remembered is not None
        return msgspec.msgpack.encode(self._remembered.page(int(body)))

    async def _configured(self, _: bytes) -> bytes:
        self.take(*read_configuration(Path(self._options.run_dir)))
        return b""

    async def _end(self, _: bytes) -> bytes:
        self.stop.set()
        return b""

    async def say_last(self) -> None:
        """What it has counted until its end."""
        if self._link is not None:
            with contextlib.suppress(LinkError, TimeoutError):
                await self._link.ask(told.STATE, msgspec.msgpack.encode(self._state()), 1.0)


class _Front:
    """Writes here, everything else to the main process."""

    def __init__(self, writes: Any, paths: set[str], others: Any, place: Place) -> None:
        self._writes = writes
        self._paths = paths
        self._others = others
        self._place = place

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answers one request."""
        if scope["method"] != "POST" or scope["path"] not in self._paths:
            await self._others(scope, receive, send)
            return

        async def answered(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and self._place.has_too_many():
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._writes(scope, receive, answered)

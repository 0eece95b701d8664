"""An HTTP server inside a service's own event loop, and the metrics page.

Who may ask for what is a matter of ``m3x.access``, what a connection has to speak one of ``m3x.gate``.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from m3x.beats import beat
from m3x.endpoints import bound, is_unix
from m3x.gate import Gate
from m3x.instrument import Registry
from m3x.log import logger
from m3x.web_protocol import HTTP, MAX_HEAD_BYTES, NO_HTTP, Config, Shortcut

__all__ = ["MAX_HEAD_BYTES", "Sharing", "metrics_app", "serve", "serve_shared"]

log = logger(__name__)

_NO_ROOM_S = 1.0
"""So long after a connection could not be accepted the next one is tried: there are too many open files."""


class _Warnings(logging.Handler):
    """uvicorn's own complaints as our log lines."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == NO_HTTP:
            return
        log.warning_limited("HTTP server", detail=record.getMessage())


def _quieten() -> None:
    complaints = logging.getLogger("uvicorn.error")
    if not any(isinstance(handler, _Warnings) for handler in complaints.handlers):
        complaints.addHandler(_Warnings(logging.WARNING))
        complaints.propagate = False


class _Server(uvicorn.Server):
    """uvicorn without signal handlers (the service decides what SIGTERM means), which looks around once a second instead of ten times."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Takes no more requests."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Writes the header ``Date`` anew."""
        while not await self.on_tick(0):
            await beat(self._ending)

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


class Sharing(Protocol):
    """What several processes with one listening socket know of each other."""

    def pause_s(self, connections: int) -> float:
        """How long a process that has so many connections leaves the next one to the others; 0: it is this one's turn."""

    def have(self, connections: int) -> None:
        """It has so many connections now."""

    def cannot_take(self) -> None:
        """It could not take a connection, as too many files are open."""


class _Counted(set[Any]):
    """The connections of a server; tells how many there are."""

    def __init__(self, told: Callable[[int], None]) -> None:
        super().__init__()
        self._told = told

    def add(self, one: Any) -> None:
        super().add(one)
        self._told(len(self))

    def discard(self, one: Any) -> None:
        super().discard(one)
        self._told(len(self))


class _Alone:
    """``Sharing`` of a process whose listener no other one has."""

    def pause_s(self, connections: int) -> float:
        return 0.0

    def have(self, connections: int) -> None:
        pass

    def cannot_take(self) -> None:
        pass


class _AcceptingServer(_Server):
    """A server that takes connections itself, one at a time, through a gate; and only when it is its turn where other processes have the
    listener as well."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, gate: Gate, sharing: Sharing) -> None:
        super().__init__(config)
        self._listener = listener
        self._gate = gate
        self._sharing = sharing
        self._opening: set[asyncio.Task[Any]] = set()
        self._next: asyncio.TimerHandle | None = None
        self._closed = False
        self.server_state.connections = _Counted(self._have)

    def _have(self, connections: int) -> None:
        self._sharing.have(connections + len(self._opening))

    @property
    def _connections(self) -> int:
        return len(self.server_state.connections) + len(self._opening)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens by itself; ``sockets`` is empty."""
        await super().startup(sockets=[])
        self._sharing.have(0)
        self._watch()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no more connections; those that wait are the other processes'."""
        self._closed = True
        asyncio.get_running_loop().remove_reader(self._listener)
        if self._next is not None:
            self._next.cancel()
        if self._gate.tls is not None:
            # They may take long over their handshakes.
            for task in self._opening:
                task.cancel()
        await super().shutdown(sockets=[])

    def _watch(self) -> None:
        self._next = None
        if not self._closed:
            asyncio.get_running_loop().add_reader(self._listener, self._waits)

    def _waits(self) -> None:
        """A connection waits."""
        pause_s = self._sharing.pause_s(self._connections)
        if not pause_s:
            self._accept()
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        self._next = loop.call_later(pause_s, self._accept_late)

    def _accept_late(self) -> None:
        """The others have not taken it."""
        self._watch()
        self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            log.error_limited("a connection could not be accepted", error=str(error))
            self._sharing.cannot_take()
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            self._next = loop.call_later(_NO_ROOM_S, self._watch)
            return
        task = asyncio.get_running_loop().create_task(self._gate.open(self._protocol, connection))
        self._opening.add(task)
        self._have(len(self.server_state.connections))
        task.add_done_callback(self._opened)

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    def _opened(self, task: "asyncio.Task[Any]") -> None:
        self._opening.discard(task)
        self._have(len(self.server_state.connections))


_BACKLOG = 2048


@contextlib.asynccontextmanager
async def serve(
    app: Any, endpoint: str, gate: Gate | None = None, shortcut: Shortcut | None = None
) -> AsyncIterator[int]:
    """Serves ``app`` until the context ends; yields the bound port (that of ``endpoint`` may be 0), 0 for a socket in the file system.

    ``gate``: what connections have to speak; None: plain text. ``shortcut``: is asked before ``app``. Raises ``OSError`` naming the
    endpoint if it cannot be bound. Ending waits up to three seconds for requests in hand.
    """
    with bound(endpoint) as listener:
        config = _config(app, gate, shortcut)
        port = 0 if is_unix(endpoint) else listener.getsockname()[1]
        if gate is None or gate.tls is None:
            async with _running(_Server(config), [listener], endpoint):
                yield port
        else:
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            async with _running(_AcceptingServer(config, listener, gate, _Alone()), [], endpoint):
                yield port


@contextlib.asynccontextmanager
async def serve_shared(
    app: Any, listener: socket.socket, sharing: Sharing, gate: Gate, shortcut: Shortcut | None = None
) -> AsyncIterator[None]:
    """``serve`` for one of several processes that have this listening socket, which stays open."""
    listener.setblocking(False)
    async with _running(_AcceptingServer(_config(app, gate, shortcut), listener, gate, sharing), [], "shared"):
        yield


def _config(app: Any, gate: Gate | None, shortcut: Shortcut | None) -> uvicorn.Config:
    config = Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=3,
        server_header=False,
        http=HTTP,
        ws="none",
    )
    config.gate, config.shortcut = gate, shortcut
    return config


@contextlib.asynccontextmanager
async def _running(server: _Server, sockets: list[socket.socket], name: str) -> AsyncIterator[None]:
    _quieten()
    task = asyncio.create_task(server.serve(sockets=sockets), name=f"http {name}")
    try:
        while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn offers only a flag
            await asyncio.sleep(0.005)
        if task.done():
            task.result()
        yield
    finally:
        server.end()
        await task


def metrics_app(
    registry: Registry,
    path: str = "/metrics",
    more: Callable[[], Awaitable[bytes]] | None = None,
    before: Callable[[], Awaitable[None]] | None = None,
) -> Starlette:
    """An application with the Prometheus page of ``registry`` under ``path``; ``more``: of another process, under other names; ``before``:
    brings the registry up to date."""

    async def page(_request: Request) -> Response:
        if before is not None:
            await before()
        text = registry.render() + (b"" if more is None else await more())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return Starlette(routes=[Route(path, page)])

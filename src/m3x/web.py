"""An HTTP server inside a service's own event loop, and the metrics page."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from m3x.endpoints import bound, is_unix
from m3x.instrument import Registry
from m3x.log import logger

__all__ = ["NOTHING_FROM_ELSEWHERE", "metrics_app", "serve"]

log = logger(__name__)

NOTHING_FROM_ELSEWHERE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Cache-Control": "no-store",
}
"""Headers of pages: what the browser is told to allow them, their own style."""
_TICK_S = 1.0


class _Warnings(logging.Handler):
    """uvicorn's own complaints (requests that are not HTTP …) as our log lines."""

    def emit(self, record: logging.LogRecord) -> None:
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
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._ending.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@contextlib.asynccontextmanager
async def serve(app: Any, endpoint: str) -> AsyncIterator[int]:
    """Serves ``app`` until the context ends; yields the bound port (that of ``endpoint`` may be 0), 0 for a socket in the file system.

    Raises ``OSError`` naming the endpoint if it cannot be bound. Ending waits up to three seconds for requests in hand.
    """
    listener = bound(endpoint)
    _quieten()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=3,
        server_header=False,
        http="httptools",
        ws="none",
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"http {endpoint}")
    try:
        while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn offers only a flag
            await asyncio.sleep(0.005)
        if task.done():
            task.result()
        yield 0 if is_unix(endpoint) else listener.getsockname()[1]
    finally:
        server.end()
        await task
        listener.close()


def metrics_app(
    registry: Registry, path: str = "/metrics", more: Callable[[], Awaitable[bytes]] | None = None
) -> Starlette:
    """An application with the Prometheus page of ``registry`` under ``path``; ``more``: of another process, under other names."""

    async def page(_request: Request) -> Response:
        text = registry.render() + (b"" if more is None else await more())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return Starlette(routes=[Route(path, page)])

"""A remote write endpoint that records what it gets, and answers as it is told."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import cramjam
from aiohttp import web

from lab.prometheus import decode_write

__all__ = ["Received", "Receiver", "Reply", "Sample"]

Sample = tuple[float, int]
"""Value and time in ms."""
Answers = Callable[["Received"], "Reply | Awaitable[Reply]"]
Series = tuple[list[tuple[bytes, bytes]], list[Sample]]


@dataclass(frozen=True, slots=True)
class Received:
    """One request."""

    method: str
    path: str
    """With the query."""
    headers: list[tuple[str, str]]
    proto: bytes
    """The body, decompressed; empty where there was none."""

    @property
    def series(self) -> list[Series]:
        """Labels and samples, decoded."""
        return decode_write(self.proto)

    def header(self, name: str) -> str | None:
        """The first one of that name."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    close: bool = False
    """The connection is closed without an answer."""


class Receiver:
    """Listens on loopback inside ``async with``. ``answer``: what to say to a request, at once or later; default: 200."""

    def __init__(self, answer: Answers = lambda _: Reply(), tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.requests: list[Received] = []
        self.connections: set[tuple[str, int]] = set()
        """Addresses of those that sent something."""
        self._tls = tls
        self._port = 0

    @property
    def host(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """Where to send to, without a path."""
        return f"{'http' if self._tls is None else 'https'}://{self.host}"

    async def __aenter__(self) -> "Receiver":
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        # Not request.read(), which takes a megabyte at most.
        body = await request.content.read()
        received = Received(
            request.method,
            request.raw_path,
            [(name.decode(), value.decode()) for name, value in request.raw_headers],
            bytes(cramjam.snappy.decompress_raw(body)) if body else b"",
        )
        self.requests.append(received)
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername"))
        answer = self.answer(received)
        reply = answer if isinstance(answer, Reply) else await answer
        await asyncio.sleep(reply.delay_s)
        if reply.close:
            request.transport.close()
        return web.Response(status=reply.status, text=reply.body or None, headers=reply.headers)

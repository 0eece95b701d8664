"""What an HTTP server (``m3x.web``) does with the bytes of one connection: uvicorn's protocol, and a way past it.

To bring a request through an application and its answer back costs as much as hundreds of samples. So a ``Shortcut`` may answer requests
of one path as soon as their bodies have come. Whatever it leaves goes to the application as if there was none, and so does whatever is
unusual about HTTP: a request behind one that is not answered yet, a body without a length, ``Expect``, an old version, a sender that reads
no answers or goes away within a body.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import uvicorn
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from m3x.endpoints import accepted_from
from m3x.gate import Gate
from m3x.log import logger
from m3x.tls import TLS_BYTE, Refusal

__all__ = ["HTTP", "MAX_HEAD_BYTES", "NO_HTTP", "Config", "Reply", "Shortcut"]

NO_HTTP = "Invalid HTTP request received."
"""What uvicorn says of it; ``HTTP`` says whose it was."""
MAX_HEAD_BYTES = 64 << 10
"""Of a request line with its headers; the rest of one read more is kept at most."""
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_CLOSES = (b"connection", b"close")

log = logger(__name__)

Headers = list[tuple[bytes, bytes]]
"""Names in lower case."""


class Reply(Protocol):
    """Where the answer to one request goes."""

    def answer(self, response: Response) -> None:
        """Once. Nothing happens where the sender has gone away."""

    async def gone(self) -> None:
        """Returns when the sender has gone away."""


class Shortcut(Protocol):
    """Answers requests (POST) of one path. Nothing here raises."""

    path: bytes

    def opens(self, headers: Headers, length: int) -> bool:
        """Whether a request whose body will have so many bytes may be taken at all; nothing is counted."""

    def came(self, nbytes: int) -> bool:
        """So many bytes of a body of which more is to come are kept until ``let_go``; False: there is no room for them."""

    def let_go(self, nbytes: int) -> None:
        """They are not kept any more."""

    def take(self, headers: Headers, body: bytes, reply: Reply) -> Mapping[str, Any] | None:
        """Takes a request, and answers it now or later; otherwise nothing is done, and it returns what is to be added to the scope of the
        application."""

    def closes(self) -> bool:
        """Whether the connection that is being answered is to end with that answer."""


class Config(uvicorn.Config):
    """With what belongs to the port."""

    gate: Gate | None = None
    """None: nobody counts there."""
    shortcut: Shortcut | None = None


class _Short:
    """A request on the short way: a ``Reply``, and what uvicorn's protocol asks of the request in hand."""

    __slots__ = ("_gone", "_protocol", "chunks", "disconnected", "keep_alive", "length", "response_complete", "size")

    def __init__(self, protocol: "HTTP", length: int) -> None:
        self.length = length
        self.chunks: list[bytes] = []
        self.size = 0
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False
        self._protocol = protocol
        self._gone: asyncio.Event | None = None

    @property
    def message_event(self) -> "_Short":
        """Set when the connection has ended."""
        return self

    def set(self) -> None:
        """The connection has ended."""
        if self._gone is not None:
            self._gone.set()

    async def gone(self) -> None:
        """See ``Reply``."""
        if not self.disconnected:
            self._gone = self._gone or asyncio.Event()
            await self._gone.wait()

    def answer(self, response: Response) -> None:
        """See ``Reply``."""
        self._protocol.answer(self, response)


class HTTP(HttpToolsProtocol):
    """uvicorn's own, which says of a TLS handshake on a port without TLS what it is, and bounds what comes before a body."""

    _begun = False
    _in_head = True
    _head_bytes = 0
    """Of a request line with headers that is not whole yet."""
    _ended_head = False

    def __init__(self, config: Config, *arguments: Any, **more: Any) -> None:
        super().__init__(config, *arguments, **more)
        self._gate = config.gate
        self._shortcut = config.shortcut
        self._short: _Short | None = None
        """The request whose body is coming on the short way."""

    def data_received(self, data: bytes) -> None:
        """What has come over the connection."""
        if not self._begun:
            self._begun = True
            if data[0] == TLS_BYTE:
                if self._gate is not None:
                    self._gate.refused(Refusal.TLS_ON_PLAIN_PORT, accepted_from(self.client))
                self.transport.close()
                return
        was_in_head, self._ended_head = self._in_head, False
        super().data_received(data)
        if was_in_head and not self._ended_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                if self._gate is not None:
                    self._gate.too_long(accepted_from(self.client), MAX_HEAD_BYTES)
                self.transport.write(_TOO_LONG)
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        if self._short is not None:
            self._leave()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What came is no request."""
        if self._gate is not None:
            self._gate.no_http(accepted_from(self.client))
        else:
            log.warning_limited("HTTP server: what came is not HTTP", peer=accepted_from(self.client))
        super().send_400_response(msg)

    def on_headers_complete(self) -> None:
        """Request line and headers are whole."""
        self._in_head, self._ended_head, self._head_bytes = False, True, 0
        if self._shortcut is not None and self.url == self._shortcut.path:
            length = self._short_length()
            if length and self._shortcut.opens(self.headers, length):
                self.cycle = self._short = _Short(self, length)  # type: ignore[assignment]
                return
        super().on_headers_complete()

    def _short_length(self) -> int:
        """How long the body of a request is that is usual enough for the short way; 0: it is not."""
        if self.parser.get_method() != b"POST" or self.expect_100_continue or self.flow.write_paused:
            return 0
        if self.cycle is not None and not self.cycle.response_complete:
            return 0
        if (
            self.parser.get_http_version() != "1.1"
            or not self.parser.should_keep_alive()
            or self.parser.should_upgrade()
        ):
            return 0
        lengths = [value for name, value in self.headers if name == b"content-length"]
        return int(lengths[0][:20]) if len(lengths) == 1 and lengths[0].isdigit() else 0

    def on_body(self, body: bytes) -> None:
        """Some of the body has come."""
        short = self._short
        if short is None:
            super().on_body(body)
            return
        assert self._shortcut is not None
        whole = len(body) == short.length
        if whole or self._shortcut.came(len(body)):
            short.chunks.append(body)
            short.size += 0 if whole else len(body)
        else:
            self._leave()
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is whole, and the next request may come."""
        self._in_head = True
        short = self._short
        if short is not None:
            assert self._shortcut is not None
            body = b"".join(short.chunks)
            self._let_go(short)
            added = self._shortcut.take(self.headers, body, short)
            if added is None:
                self._short = None
                return
            short.chunks = [body]
            self.scope.update(added)  # type: ignore[typeddict-item]
            self._leave()
        super().on_message_complete()

    def _leave(self) -> None:
        """What has come of the request on the short way goes the long one."""
        short, self._short = self._short, None
        assert short is not None
        self.cycle = None  # type: ignore[assignment]
        super().on_headers_complete()
        # The server may have begun to end meanwhile.
        self.cycle.keep_alive &= short.keep_alive
        self._let_go(short)
        if short.chunks:
            super().on_body(b"".join(short.chunks))

    def _let_go(self, short: _Short) -> None:
        """Of bytes that the shortcut has counted."""
        if short.size:
            assert self._shortcut is not None
            self._shortcut.let_go(short.size)
            short.size = 0

    def answer(self, short: _Short, response: Response) -> None:
        """The answer to a request on the short way."""
        short.response_complete = True
        if short.disconnected or self.transport.is_closing():
            return
        assert self._shortcut is not None
        parts = [STATUS_LINE[response.status_code]]
        headers = [*self.server_state.default_headers, *response.raw_headers]
        closes = not short.keep_alive
        if self._shortcut.closes() or closes:
            headers.append(_CLOSES)
            closes = True
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n", bytes(response.body))
        self.transport.write(b"".join(parts))
        if closes:
            self.transport.close()
        self.on_response_complete()

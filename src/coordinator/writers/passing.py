"""An HTTP request handed on to a server behind a socket in the file system as it is, and its answer handed back, both as they come.

What belongs to a connection instead of a request is left out (RFC 9110, 7.6.1), as is ``Date``, which the server of this process writes.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, MutableMapping
from typing import Any

import httptools

from m3x.endpoints import connect

__all__ = ["Answer", "NoAnswerError", "Passing", "exchange", "target_of"]

_OF_A_CONNECTION = {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"upgrade", b"proxy-connection"}
_NOT_PASSED = _OF_A_CONNECTION | {b"expect"}
_NOT_PASSED_BACK = _OF_A_CONNECTION | {b"date"}
_READ_BYTES = 1 << 18
_AWAY = b"the main process of this coordinator does not answer\n"

Headers = Iterable[tuple[bytes, bytes]]


class NoAnswerError(Exception):
    """There was no answer, or not the whole of it."""


class Answer:
    """An answer whose head has come."""

    def __init__(self, reader: asyncio.StreamReader, *, has_body: bool) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._reader = reader
        self._has_body = has_body
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._begun = False
        self._ended = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of the parser."""
        if name.lower() not in _NOT_PASSED_BACK:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Of the parser."""
        self.status = self._parser.get_status_code()
        self._begun = True

    def on_body(self, data: bytes) -> None:
        """Of the parser."""
        self._chunks.append(data)

    def on_message_complete(self) -> None:
        """Of the parser."""
        self._ended = True

    async def head(self) -> None:
        """Waits for status and headers. Raises ``NoAnswerError``."""
        while not self._begun:
            await self._read()

    async def body(self) -> AsyncIterator[bytes]:
        """What follows, as it comes. Raises ``NoAnswerError``."""
        while self._has_body:
            for chunk in self._chunks:
                yield chunk
            self._chunks.clear()
            if self._ended:
                return
            await self._read()

    async def _read(self) -> None:
        try:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                raise NoAnswerError("the connection was closed before the end of the answer")
            self._parser.feed_data(data)
        except (OSError, httptools.HttpParserError) as error:
            raise NoAnswerError(str(error)) from error


@contextlib.asynccontextmanager
async def exchange(
    endpoint: str, method: str, target: bytes, headers: Headers, body: AsyncIterator[bytes] | bytes
) -> AsyncIterator[Answer]:
    """The answer to a request, of which ``headers`` say how long ``body`` is, or do not; the request is sent while it is awaited.

    Raises ``NoAnswerError``; what reading ``body`` raises is raised here as well.
    """
    kept = [(name, value) for name, value in headers if name.lower() not in _NOT_PASSED]
    sized = any(name.lower() == b"content-length" for name, _ in kept)
    if isinstance(body, bytes) and not sized:
        kept.append((b"content-length", b"%d" % len(body)))
        sized = True
    chunked = not sized and any(name.lower() == b"transfer-encoding" for name, _ in headers)
    lines = [b"%b %b HTTP/1.1" % (method.encode(), target), *(b"%b: %b" % header for header in kept)]
    lines += [b"transfer-encoding: chunked"] if chunked else []
    head = b"\r\n".join([*lines, b"connection: close", b"", b""])
    try:
        reader, writer = await asyncio.open_connection(sock=await connect(endpoint), limit=_READ_BYTES)
    except OSError as error:
        raise NoAnswerError(str(error)) from error
    sending = asyncio.create_task(_send(writer, head, body, chunked=chunked), name="request that is handed on")
    try:
        answer = Answer(reader, has_body=method != "HEAD")
        begun = asyncio.create_task(answer.head())
        try:
            # A server may answer before it has read everything; a sender may go away before it has sent everything.
            await asyncio.wait((begun, sending), return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and not begun.done():
                sending.result()
            await begun
        finally:
            begun.cancel()
        yield answer
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()


async def _send(
    writer: asyncio.StreamWriter, head: bytes, body: AsyncIterator[bytes] | bytes, *, chunked: bool
) -> None:
    # Whoever closes in the middle may have answered.
    with contextlib.suppress(OSError):
        writer.write(head)
        if isinstance(body, bytes):
            writer.write(body)
        else:
            async for part in body:
                if part:
                    writer.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                    await writer.drain()
            if chunked:
                writer.write(b"0\r\n\r\n")
        await writer.drain()


def target_of(scope: MutableMapping[str, Any]) -> bytes:
    """Path and query of a request, as they were sent."""
    path: bytes = scope["raw_path"]
    return path + b"?" + scope["query_string"] if scope["query_string"] else path


class _SenderGoneError(Exception):
    """Nobody waits for the answer any more."""


class Passing:
    """An ASGI application that hands every request on to ``endpoint``."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answers one request."""
        ended = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _SenderGoneError
                if message.get("body"):
                    yield message["body"]
                if not message.get("more_body"):
                    ended.set()
                    return

        async def gone() -> None:
            await ended.wait()
            while (await receive())["type"] != "http.disconnect":
                pass

        work = asyncio.create_task(self._exchange(scope["method"], target_of(scope), scope["headers"], body(), send))
        watching = asyncio.create_task(gone())
        try:
            await asyncio.wait((work, watching), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, watching):
                task.cancel()
            await asyncio.gather(work, watching, return_exceptions=True)

    async def _exchange(
        self, method: str, target: bytes, headers: Headers, body: AsyncIterator[bytes], send: Any
    ) -> None:
        begun = False
        try:
            async with exchange(self._endpoint, method, target, headers, body) as answer:
                begun = True
                await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
                async for part in answer.body():
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except _SenderGoneError:
            pass
        except NoAnswerError:
            if begun:
                # Half an answer must not look like a whole one: the connection is closed.
                raise
            await send(
                {
                    "type": "http.response.start",
                    "status": 503,
                    "headers": [
                        (b"content-type", b"text/plain; charset=utf-8"),
                        (b"content-length", b"%d" % len(_AWAY)),
                    ],
                }
            )
            await send({"type": "http.response.body", "body": _AWAY})

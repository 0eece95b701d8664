"""Calls in both directions over one connection between a write process and the main process.

A frame is its length (u32, little endian) and as many bytes of MessagePack: ``[kind, number, name, body]``. A call is answered with its
number, in whatever order; what comes first is begun first.
"""

import asyncio
import contextlib
import itertools
import struct
from collections.abc import Awaitable, Callable, Mapping
from enum import IntEnum

import msgspec

from m3x.log import logger

__all__ = ["Handler", "Link", "LinkError"]

log = logger(__name__)

_LENGTH = struct.Struct("<I")
_ENDED = "the other process has ended"

Handler = Callable[[bytes], Awaitable[bytes]]
"""Answers a call. What it does before it first waits is done in the order of the calls."""


class LinkError(Exception):
    """The other process has not answered."""


class _Kind(IntEnum):
    CALL = 0
    ANSWER = 1
    FAILURE = 2


class _Frame(msgspec.Struct, array_like=True):
    kind: int
    number: int
    name: str
    """Of a call; the text of a failure."""
    body: bytes = b""


_decode = msgspec.msgpack.Decoder(_Frame).decode
_encode = msgspec.msgpack.Encoder().encode


class Link:
    """One end; ``run`` it. ``handlers``: what the other end may call, by name."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handlers: Mapping[str, Handler]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handlers = handlers
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = False

    async def run(self) -> None:
        """Until the other end closes, or this one."""
        try:
            while True:
                (size,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
                self._take(_decode(await self._reader.readexactly(size)))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._ended = True
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(LinkError(_ENDED))
            self._waiting.clear()
            for task in list(self._tasks):
                task.cancel()
            self._writer.close()

    async def ask(self, name: str, body: bytes = b"", timeout_s: float | None = None) -> bytes:
        """The answer. Raises ``LinkError``, ``TimeoutError``."""
        if self._ended:
            raise LinkError(_ENDED)
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send(_Frame(_Kind.CALL, number, name, body))
        try:
            async with asyncio.timeout(timeout_s):
                with contextlib.suppress(OSError):
                    await self._writer.drain()
                answer: bytes = await future
                return answer
        finally:
            self._waiting.pop(number, None)

    def tell(self, name: str, body: bytes) -> None:
        """A call whose answer does not matter."""
        if not self._ended:
            self._send(_Frame(_Kind.CALL, next(self._numbers), name, body))

    def close(self) -> None:
        """``run`` returns soon."""
        self._writer.close()

    def _take(self, frame: _Frame) -> None:
        if frame.kind == _Kind.CALL:
            task = asyncio.get_running_loop().create_task(self._answer(frame), name=f"call {frame.name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        future = self._waiting.get(frame.number)
        if future is None or future.done():
            return
        if frame.kind == _Kind.ANSWER:
            future.set_result(frame.body)
        else:
            future.set_exception(LinkError(frame.name))

    async def _answer(self, call: _Frame) -> None:
        try:
            body = await self._handlers[call.name](call.body)
        except Exception as error:
            # A mistake of ours; whoever asked must not wait for ever.
            log.error("a call of another process failed", exception=error, call=call.name)
            self._send(_Frame(_Kind.FAILURE, call.number, f"unexpected {type(error).__name__}"))
            return
        self._send(_Frame(_Kind.ANSWER, call.number, "", body))

    def _send(self, frame: _Frame) -> None:
        data = _encode(frame)
        if not self._writer.is_closing():
            self._writer.write(_LENGTH.pack(len(data)))
            self._writer.write(data)

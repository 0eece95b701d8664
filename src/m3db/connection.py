"""One connection to a node: handshake, calls that run side by side, their deadlines (docs/m3/m3db_wire.md, frames).

A shell around ``m3db.tchannel``. It ends once, and is not opened again: that is the business of whoever owns it.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from m3db.errors import CallError, CallFailure, ConnectError, ProtocolError
from m3db.tchannel.calls import MAX_HELD_BYTES, Answered, Call, Failed, Inbound, Pinged
from m3db.tchannel.frames import CONNECTION_ID, FrameReader, frame_bytes
from m3db.tchannel.handshake import INIT_ID, Init, check_answer, init_request

__all__ = ["Answer", "Connection", "MessageIds"]

_LONGEST_TTL_MS = 0xFFFFFFFF
_MOST_UNSENT_BYTES = 1 << 20
"""What ``drain`` lets pass: a few calls, so that the node does not wait for this side."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method answered."""

    code: int
    """0, or 1 where the body is an error that the method declares."""
    body: bytes = field(repr=False)
    """The struct of the result."""


class MessageIds:
    """Numbers calls. Connections that share one can be sent the same prepared frames."""

    def __init__(self, first: int = INIT_ID + 1) -> None:
        self._next = first

    def reserve(self, count: int) -> int:
        """The first of ``count`` ids in a row that nobody else gets, until all have been used once."""
        if self._next + count > CONNECTION_ID:
            self._next = INIT_ID + 1
        first = self._next
        self._next += count
        return first


class Connection:
    """See the module; ``open`` makes one. All of it belongs to the event loop's thread."""

    def __init__(self, ids: MessageIds | None = None, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self.peer = ""
        """Who answers, for texts."""
        self.init = Init()
        """What the node said of itself."""
        self._ids = ids or MessageIds()
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._inbound = Inbound(self._waiting, max_held_bytes)
        self._greeting = FrameReader()
        self._greeted: asyncio.Future[Init] = asyncio.get_running_loop().create_future()
        self._link = _Link(self._received, self._lost)

    @classmethod
    async def open(cls, host: str, port: int, *, timeout_s: float, ids: MessageIds | None = None) -> "Connection":
        """Connects and shakes hands. ``ids``: shared with other connections; else it has its own. Raises ``ConnectError``."""
        connection = cls(ids)
        connection.peer = f"{host}:{port}"
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().create_connection(lambda: connection._link, host, port)
                await connection._shake_hands()
        except TimeoutError:
            raise ConnectError(f"{connection.peer}: no connection within {timeout_s:g} s") from None
        except (OSError, ProtocolError) as error:
            raise ConnectError(f"{connection.peer}: {error}") from error
        finally:
            if not connection.init.parameters:
                connection._link.end("not connected")
        return connection

    @property
    def closed(self) -> bool:
        """Whether it has ended, by whichever side."""
        return self._link.ended

    @property
    def calls_in_flight(self) -> int:
        """Calls that wait for their answers."""
        return len(self._waiting)

    @property
    def unsent_bytes(self) -> int:
        """What the system has not taken yet."""
        return self._link.unsent_bytes

    @property
    def ignored_frames(self) -> int:
        """Answers that came too late, and frames of unknown types."""
        return self._inbound.ignored_frames

    def reserve(self, count: int) -> int:
        """The first of ``count`` message ids in a row, for prepared frames."""
        return self._ids.reserve(count)

    async def call(self, method: str, body: bytes, timeout_s: float) -> Answer:
        """Calls a method; ``body`` is argument 3. Raises ``CallError``."""
        message_id = self.reserve(1)
        ttl_ms = max(1, min(int(timeout_s * 1000), _LONGEST_TTL_MS))
        frames = Call(message_id, method.encode(), body, ttl_ms).frames()
        (future,) = self.send(frames, message_id, 1, timeout_s)
        try:
            return await future
        finally:
            self._drop((message_id,))

    def send(
        self, frames: memoryview | bytes, first: int, count: int, timeout_s: float
    ) -> list[asyncio.Future[Answer]]:
        """Sends prepared frames of ``count`` calls whose ids begin with ``first``, without waiting. Each future gets its ``Answer``, or
        a ``CallError``; all of them are done ``timeout_s`` from now. ``frames`` must not change any more."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Answer]] = [loop.create_future() for _ in range(count)]
        if self.closed:
            _fail(futures, self._gone())
            return futures
        if not count:
            return futures
        ids = range(first, first + count)
        self._waiting.update(zip(ids, futures, strict=True))
        batch = _Batch(loop.call_later(timeout_s, self._expire, ids, timeout_s), count)
        for message_id, future in zip(ids, futures, strict=True):
            future.add_done_callback(partial(self._done, message_id, batch))
        self._link.write(frames)
        return futures

    async def drain(self) -> None:
        """Waits while much of what was sent has not been taken by the system. Raises ``CallError`` if the connection ends."""
        await self._link.writable.wait()
        if self.closed:
            raise self._gone()

    async def wait_closed(self) -> None:
        """Returns when it has ended, by whichever side."""
        await self._link.gone.wait()

    async def close(self) -> None:
        """Ends it; calls in flight fail. Returns when the socket is closed."""
        self._link.end("closed on this side")
        await self._link.gone.wait()

    async def _shake_hands(self) -> None:
        self._link.write(frame_bytes(init_request(f"{Path(sys.argv[0]).name or 'python'}[{os.getpid()}]")))
        self.init = await self._greeted

    def _greet(self, data: bytes) -> None:
        """Bytes before the end of the handshake, which is one frame."""
        try:
            frames = list(self._greeting.feed(data))
            if len(frames) > 1:
                raise ProtocolError("frames behind the answer of the handshake that nobody asked for")
            if frames and not self._greeted.done():
                self._greeted.set_result(check_answer(frames[0]))
        except ProtocolError as error:
            self._link.end(str(error))

    def _received(self, data: bytes) -> None:
        if not self._greeted.done():
            self._greet(data)
            return
        for event in self._inbound.feed(data):
            if isinstance(event, Answered):
                future = self._waiting.pop(event.id, None)
                if future is not None and not future.done():
                    future.set_result(Answer(event.code, event.body))
            elif isinstance(event, Failed):
                _fail(self._drop((event.id,)), event.error)
            elif isinstance(event, Pinged):
                self._link.write(event.reply)
            else:
                _fail(self._drop(list(self._waiting)), event.error)
                self._link.end(event.error.text)

    def _lost(self) -> None:
        if not self._greeted.done():
            self._greeted.set_exception(ProtocolError(self._link.reason))
            self._greeted.exception()
        _fail(self._drop(list(self._waiting)), self._gone())

    def _gone(self) -> CallError:
        return CallError(CallFailure.NETWORK, f"{self.peer}: {self._link.reason}")

    def _done(self, message_id: int, batch: "_Batch", future: asyncio.Future[Answer]) -> None:
        if future.cancelled():
            self._drop((message_id,))
        batch.left -= 1
        if not batch.left:
            batch.timer.cancel()

    def _expire(self, ids: Iterable[int], timeout_s: float) -> None:
        _fail(self._drop(ids), CallError(CallFailure.TIMEOUT, f"{self.peer}: no answer within {timeout_s:g} s"))

    def _drop(self, ids: Iterable[int]) -> list[asyncio.Future[Answer]]:
        """Nobody waits for these calls any more; their futures, where they had not been done."""
        found = []
        for message_id in ids:
            future = self._waiting.pop(message_id, None)
            if future is not None:
                self._inbound.forget(message_id)
                found.append(future)
        return found


def _fail(futures: list[asyncio.Future[Answer]], error: CallError) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(CallError(error.kind, error.text))
            future.exception()  # Nobody has to look at it: whoever sent may have been cancelled.


@dataclass(slots=True)
class _Batch:
    """Calls that were sent together and share a deadline."""

    timer: asyncio.TimerHandle
    left: int


class _Link(asyncio.Protocol):
    """The socket: bytes go out and come in, and it ends once, for the first reason that is known."""

    def __init__(self, received: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        self.reason = ""
        self.ended = False
        self.writable = asyncio.Event()
        self.writable.set()
        self.gone = asyncio.Event()
        self._received = received
        self._lost = lost
        self._transport: asyncio.Transport | None = None

    @property
    def unsent_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def write(self, data: bytes | memoryview) -> None:
        if self._transport is not None and not self.ended:
            self._transport.write(data)

    def end(self, reason: str) -> None:
        """Ends it at once; what was not sent is dropped."""
        if self.ended:
            return
        self.ended, self.reason = True, reason
        self.writable.set()
        self._lost()
        if self._transport is None:
            self.gone.set()
        else:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_MOST_UNSENT_BYTES)
        if self.ended:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self.ended:
            self._received(data)

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(str(exc) if exc is not None else "closed by the node")
        self.gone.set()

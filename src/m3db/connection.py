"""One connection to a node: handshake, calls that run side by side, their deadlines (docs/m3/m3db_wire.md, frames).

A shell around ``m3db.tchannel``. It ends once, and is not opened again: that is the business of whoever owns it.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from m3db.errors import CallError, CallFailure, ConnectError, ProtocolError
from m3db.tchannel.calls import MAX_HELD_BYTES, Answered, Call, Failed, Inbound, Pinged, Repeated
from m3db.tchannel.frames import CONNECTION_ID, FrameReader, frame_bytes
from m3db.tchannel.handshake import INIT_ID, Init, check_answer, init_request

__all__ = ["Answer", "Connection", "Done", "MessageIds"]

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


Done = Callable[[Sequence[int], Answer | CallError], None]
"""Is told that calls have ended in the same way: their places among those that were sent together, at least one."""


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
        self._waiting: dict[int, _Batch] = {}
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
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def ended(_: Sequence[int], result: Answer | CallError) -> None:
            if future.done():
                return
            if isinstance(result, Answer):
                future.set_result(result)
            else:
                # One of its own: others fail with the same error.
                future.set_exception(CallError(result.kind, result.text))
                future.exception()  # Nobody has to look at it: whoever called may have been cancelled meanwhile.

        self.send(frames, message_id, 1, timeout_s, ended)
        try:
            return await future
        finally:
            self._take((message_id,))

    def send(self, frames: memoryview | bytes, first: int, count: int, timeout_s: float, done: Done) -> None:
        """Sends prepared frames of ``count`` calls whose ids begin with ``first``, without waiting. ``frames`` must not change any more.

        ``done`` is told of each call once, at the latest ``timeout_s`` from now, but never before this returns; it must not raise.
        """
        loop = asyncio.get_running_loop()
        if not count:
            return
        if self.closed:
            loop.call_soon(done, range(count), self._gone())
            return
        ids = range(first, first + count)
        batch = _Batch(first, count, done)
        batch.timer = loop.call_later(timeout_s, self._expire, ids, timeout_s)
        self._waiting.update(dict.fromkeys(ids, batch))
        self._link.write(frames)

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
            if isinstance(event, Repeated):
                self._tell(self._take(event.ids), Answer(event.code, event.body))
            elif isinstance(event, Answered):
                self._tell(self._take((event.id,)), Answer(event.code, event.body))
            elif isinstance(event, Failed):
                self._tell(self._take((event.id,)), event.error)
            elif isinstance(event, Pinged):
                self._link.write(event.reply)
            else:
                self._tell(self._take(list(self._waiting)), event.error)
                self._link.end(event.error.text)

    def _lost(self) -> None:
        if not self._greeted.done():
            self._greeted.set_exception(ProtocolError(self._link.reason))
            self._greeted.exception()
        self._tell(self._take(list(self._waiting)), self._gone())

    def _gone(self) -> CallError:
        return CallError(CallFailure.NETWORK, f"{self.peer}: {self._link.reason}")

    def _expire(self, ids: Iterable[int], timeout_s: float) -> None:
        error = CallError(CallFailure.TIMEOUT, f"{self.peer}: no answer within {timeout_s:g} s")
        self._tell(self._take(ids), error)

    def _take(self, ids: Iterable[int]) -> "list[tuple[_Batch, list[int]]]":
        """Nobody waits for these calls any more: those that somebody waited for, by their place in their batch."""
        found: list[tuple[_Batch, list[int]]] = []
        waiting, last, places = self._waiting, None, list[int]()
        for message_id in ids:
            batch = waiting.pop(message_id, None)
            if batch is None:
                continue
            if batch is not last:
                last, places = batch, []
                found.append((batch, places))
            places.append(message_id - batch.first)
            self._inbound.forget(message_id)
        for batch, ended in found:
            batch.left -= len(ended)
            if not batch.left and batch.timer is not None:
                batch.timer.cancel()
        return found

    @staticmethod
    def _tell(found: "list[tuple[_Batch, list[int]]]", result: Answer | CallError) -> None:
        for batch, places in found:
            batch.done(places, result)


@dataclass(slots=True, eq=False)
class _Batch:
    """Calls that were sent together and share a deadline."""

    first: int
    """The message id of the first of them."""
    left: int
    done: Done
    timer: asyncio.TimerHandle | None = None


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

"""The m3msg server: listens, reads every connection into a ``ConsumerCore``, calls a handler for each batch, writes acks.

Handlers of one connection start in the order of arrival and may overlap. While those of a connection hold more than ``inFlightSize``
bytes, or its acks are not read, that connection is not read: TCP pushes back, and the others go on.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Self

import numpy as np
from numpy.typing import NDArray

from m3msg.consumer.core import ConsumerCore, ReceivedBatch
from m3msg.consumer.options import ConsumerOptions
from m3x.clock import wall_ns
from m3x.endpoints import accepted_from, bound, configure, is_unix
from m3x.gate import Accepting, Gate
from m3x.instrument import Registry, Scope
from m3x.log import logger
from m3x.tls import Refusal, ServerTLS

__all__ = ["ConsumerServer", "Handler"]

log = logger(__name__)

Handler = Callable[[ReceivedBatch], Awaitable[None]]
"""Works on a batch and acks it, all or in part, before or after it returns. What it raises is logged and counted; the rest of the batch
stays unacked then, and the producer sends it again."""

_ACK_BACKLOG_BYTES = 1 << 20
_BACKLOG = 1024


class ConsumerServer:
    """Use ``start`` and ``close``, or ``async with``. ``endpoint``: ``host:port``, where port 0 takes a free one, or ``unix:PATH``.
    ``port`` is the bound one; 0 of a socket in the file system."""

    def __init__(
        self,
        endpoint: str,
        handler: Handler,
        options: ConsumerOptions | None = None,
        *,
        scope: Scope | None = None,
        keep_alive_ns: int = 10_000_000_000,
        tls: ServerTLS | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.port = 0
        self.options = options or ConsumerOptions()
        self.scope = scope if scope is not None else Registry().scope()
        self.gate = Gate("m3msg", self.scope, tls)
        self.connections: set[_Connection] = set()
        self._handler = handler
        self._keep_alive_s = keep_alive_ns // 1_000_000_000
        self._server: asyncio.Server | None = None
        self._accepting: Accepting | None = None
        """Takes connections where there is TLS."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._runner: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._lost = asyncio.Event()

    async def start(self) -> None:
        """Listens. Raises ``OSError`` where the address cannot be had."""
        loop = asyncio.get_running_loop()
        listener = bound(self.endpoint)
        self.port = 0 if is_unix(self.endpoint) else listener.getsockname()[1]
        if self.gate.tls is None:
            self._server = await loop.create_server(lambda: _Connection(self), sock=listener, backlog=_BACKLOG)
        else:
            self._accepting = Accepting(listener, lambda: _Connection(self), self.gate, _BACKLOG)
            self._accepting.start(f"m3msg listener {self.endpoint}")
        started = loop.create_future()
        self._runner = asyncio.create_task(self._run(started), name=f"m3msg server {self.endpoint}")
        await started

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, started: asyncio.Future[None]) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            started.set_result(None)
            await self._stop.wait()

    async def close(self, timeout_s: float = 5.0) -> None:
        """Stops listening and reading, waits up to ``timeout_s`` for handlers, writes their acks, closes all connections."""
        if self._runner is None or self._stop.is_set():
            return
        if self._server is not None:
            self._server.close()
        if self._accepting is not None:
            await self._accepting.close()
        for connection in list(self.connections):
            connection.stop_reading()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            if late:
                log.warning("closed while handlers were at work; their messages stay unacked", handlers=len(late))
        self._stop.set()
        await self._runner
        for connection in list(self.connections):
            connection.finish()
        try:
            async with asyncio.timeout(timeout_s):
                while self.connections:
                    self._lost.clear()
                    await self._lost.wait()
        except TimeoutError:
            for connection in list(self.connections):
                connection.abort()

    def work(self, connection: "_Connection", batch: ReceivedBatch) -> None:
        """Starts the handler of a batch."""
        assert self._group is not None
        task = self._group.create_task(self._handle(connection, batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, connection: "_Connection", batch: ReceivedBatch) -> None:
        try:
            await self._handler(batch)
        except Exception as error:
            self.scope.count("handler-error")
            log.error(
                "a batch could not be handled; what it did not ack will be sent again", peer=batch.peer, exception=error
            )
        finally:
            connection.worked(batch)

    def configure(self, sock: socket.socket) -> None:
        """Options of an accepted socket (docs/m3/m3msg.md, server sockets)."""
        configure(sock, self._keep_alive_s)

    def counted(self) -> None:
        """The number of connections has changed."""
        self._lost.set()
        self.scope.gauge("open-connections", len(self.connections))


class _Connection(asyncio.BufferedProtocol):
    """One accepted connection."""

    def __init__(self, server: ConsumerServer) -> None:
        self._server = server
        options = server.options
        self._core = ConsumerCore(
            max_frame=options.decoder.max_message_size, max_ack_frame=options.encoder.max_message_size
        )
        self._core.acker = self._ack
        self._transport: asyncio.Transport | None = None
        self._in_flight = 0
        self._stopped = False
        self._clogged = False
        """The peer does not read its acks."""
        self._timer: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None

    # --- transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_ACK_BACKLOG_BYTES)
        self._server.configure(transport.get_extra_info("socket"))
        self._core.peer = accepted_from(transport.get_extra_info("peername"))
        self._server.connections.add(self)
        self._server.counted()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._core.space()

    def buffer_updated(self, nbytes: int) -> None:
        scope = self._server.scope
        batch = self._core.received(nbytes, wall_ns())
        if batch is not None:
            scope.count("message-received", len(batch))
            sent_at = int(batch.rows["sent_at"][-1])
            if sent_at:
                scope.record("receive-latency", max(batch.now_ns - sent_at, 0) / 1e9)
            self._in_flight += batch.size_bytes
            self._server.work(self, batch)
        if self._core.error:
            if self._core.begins_tls and self._server.gate.tls is None:
                self._server.gate.refused(Refusal.TLS_ON_PLAIN_PORT, self._core.peer)
            else:
                log.warning_limited(
                    "a connection is closed: its bytes are not m3msg", peer=self._core.peer, reason=self._core.error
                )
            self.stop_reading()
            if self._in_flight == 0:
                self.finish()
        self._throttle()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if exc is not None:
            self._server.scope.count("message-read-error")
        # Other than in M3 (docs/m3/m3msg.md, consumer) an ordinary end is no error, nor is a connection that says nothing: a look
        # whether somebody listens.
        if self._core.error or self._core.unfinished:
            self._server.scope.count("message-decode-error")
        for timer in (self._timer, self._patience):
            if timer is not None:
                timer.cancel()
        self._server.connections.discard(self)
        self._server.counted()

    def pause_writing(self) -> None:
        self._clogged = True
        patience = self._server.options.connection_write_timeout.seconds
        if patience > 0:
            self._patience = asyncio.get_running_loop().call_later(patience, self._give_up)
        self._throttle()

    def resume_writing(self) -> None:
        self._clogged = False
        if self._patience is not None:
            self._patience.cancel()
        self._throttle()

    def _give_up(self) -> None:
        if self._transport is not None:
            self._server.scope.count("ack-write-error")
            log.warning_limited("a connection is closed: its peer does not read its acks", peer=self._core.peer)
            self.abort()

    def _throttle(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        full = self._in_flight >= self._server.options.in_flight_size
        if self._stopped or self._clogged or full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # --- acks ---

    def _ack(self, batch: ReceivedBatch, mask: NDArray[np.bool_] | None = None) -> None:
        if self._transport is None:
            self._server.scope.count("ack-after-close")
            return
        self._core.ack(batch, mask)
        if self._core.pending_acks >= self._server.options.ack_buffer_size:
            self._flush()
        elif self._timer is None:
            seconds = self._server.options.ack_flush_interval.seconds
            self._timer = asyncio.get_running_loop().call_later(seconds, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        count = self._core.pending_acks
        if count and self._transport is not None:
            self._transport.write(self._core.take_acks())
            self._server.scope.count("ack-sent", count)

    def worked(self, batch: ReceivedBatch) -> None:
        """The handler of ``batch`` has returned."""
        self._in_flight -= batch.size_bytes
        self._flush()
        if self._core.error and self._in_flight == 0:
            self.finish()
        self._throttle()

    # --- end ---

    def stop_reading(self) -> None:
        """No more messages are taken."""
        self._stopped = True
        self._throttle()

    def finish(self) -> None:
        """Writes what acks there are and closes."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Closes without waiting for the peer to read."""
        if self._transport is not None:
            self._transport.abort()

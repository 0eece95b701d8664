"""The asyncio side of one link: dials, reads acks, writes what the link has, dials again.

Writes go straight to a non-blocking socket, not through a transport, because the right to write is checked directly before every
single socket write (docs/architecture.md §4, Fencing), and because nothing may be buffered behind the link's back.
"""

import asyncio
import socket
from typing import Protocol

from m3msg.frames import FrameError
from m3msg.producer.block import Moment
from m3msg.producer.link import Link
from m3msg.producer.options import ConnectionOptions
from m3x.config import parse_address
from m3x.endpoints import configure, connect, is_unix
from m3x.retry import Backoff
from m3x.secure_socket import SecureSocket, ready
from m3x.tls import ClientTLS, trouble_of

__all__ = ["Connection", "Host", "dial_backoff"]

_READ_BYTES = 256 << 10
_ROUNDS = 8
"""Output buffers written in one go before other connections have their turn."""
_RECORDS = 16
"""With TLS a write is a record; so many have the bytes of an output buffer."""
_STUCK_FACTOR = 12
_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 1.0
"""What a restarted instance holds it knows when its producers are back: it is not to wait long for them."""


class Host(Protocol):
    """What a connection needs of its producer."""

    def now(self) -> Moment: ...

    def may_write(self) -> bool: ...

    def drop_unsent_fenced(self) -> None:
        """The right to write is gone: called instead of a write."""

    def changed(self) -> None:
        """The link's state has changed: look at events and dirty links."""

    def reached(self, link: Link) -> None:
        """The connection stands, or has ended: for logs."""


def dial_backoff(options: ConnectionOptions) -> Backoff:
    """Delays between attempts: the first retry is quick, since a consumer that comes back is to get its backlog at once."""
    configured = options.retry.backoff()
    longest = min(configured.max_s, max(_LONGEST_RETRY_S, configured.initial_s))
    return Backoff(min(_FIRST_RETRY_S, configured.initial_s), max(configured.factor, 1.0), longest, configured.jitter)


class Connection:
    """Keeps one link connected until it is closed or ``run`` is cancelled."""

    def __init__(self, link: Link, host: Host, options: ConnectionOptions, tls: ClientTLS | None = None) -> None:
        self.link = link
        self._host = host
        self._options = options
        self._backoff = dial_backoff(options)
        self._tls = tls
        self._rounds = _ROUNDS if tls is None else _ROUNDS * _RECORDS
        self._socket: socket.socket | SecureSocket | None = None
        self._broken: asyncio.Future[str] | None = None
        self._writing = False
        """Whether the loop tells us when the socket takes more."""
        self._blocked_ns = 0
        """Steady time of the first refused write since the last progress; 0: not blocked."""

    async def run(self) -> None:
        """Dials, serves, dials again."""
        attempt = 0
        while not self.link.closed:
            started = self._host.now().steady_ns
            try:
                sock = await self._dial()
            except (OSError, ValueError, TimeoutError) as error:
                self._count("connect-error")
                self._count("reset-error")
                text = trouble_of(error) if isinstance(error, OSError) else str(error)
                self._ended(f"cannot connect to {self.link.lane.endpoint}: {text or type(error).__name__}")
            else:
                self._count("reset-success")
                await self._serve(sock)
                if self._host.now().steady_ns - started >= self._options.reset_delay:
                    attempt = 0
                else:
                    self._count("reset-too-soon")
            if self.link.closed:
                return
            attempt += 1
            await asyncio.sleep(self._backoff.delay(attempt))
            self._count("connect-retry")

    def _count(self, name: str, tag: str = "") -> None:
        self.link.lane.count(name, 1, tag)

    def _ended(self, reason: str) -> None:
        self.link.on_disconnected(reason)
        self._host.reached(self.link)
        self._host.changed()

    async def _dial(self) -> socket.socket | SecureSocket:
        endpoint = self.link.lane.endpoint
        async with asyncio.timeout(self._options.dial_timeout.seconds or None):
            sock = await connect(endpoint)
            configure(sock, int(self._options.keep_alive_period.seconds))
            if self._tls is None or is_unix(endpoint):
                return sock
            name = self._tls.server_name or parse_address(endpoint)[0]
            secure = SecureSocket(sock, self._tls.context(), name)
            try:
                while events := secure.shake():
                    await ready(secure, events)
            except BaseException:
                secure.close()
                raise
            return secure

    async def _serve(self, sock: socket.socket | SecureSocket) -> None:
        loop = asyncio.get_running_loop()
        self._socket = sock
        self._broken = loop.create_future()
        self._blocked_ns = 0
        self.link.on_connected()
        loop.add_reader(sock, self._on_readable)
        self._host.reached(self.link)
        self._host.changed()
        reason = "the producer was closed"
        try:
            reason = await self._broken
        finally:
            loop.remove_reader(sock)
            if self._writing:
                loop.remove_writer(sock)
                self._writing = False
            self._socket = None
            self._broken = None
            sock.close()
            self._ended(reason)

    def _break(self, reason: str) -> None:
        if self._broken is not None and not self._broken.done():
            self._broken.set_result(reason)

    def _on_readable(self) -> None:
        if self._socket is None or self._broken is None or self._broken.done():
            return
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._count("ack-error")
            self._break(f"reading acks failed: {trouble_of(error)}")
            return
        if not data:
            self._count("read-invalid-conn")
            self._break("the consumer closed the connection")
            return
        try:
            self.link.on_received(data, self._host.now())
        except FrameError as error:
            self._count("decode-error")
            self._break(f"the consumer sent something else than acks: {error}")
        if self._blocked_ns:
            self._blocked_ns = self._host.now().steady_ns
        self._host.changed()

    def pump(self) -> bool:
        """Writes what the link has until it has nothing or the socket is full; whether there is more to do at once."""
        link = self.link
        if link.reset_reason:
            self._break(link.reset_reason)
            return False
        if self._socket is None or self._broken is None or self._broken.done() or self._writing:
            return False
        now = self._host.now()
        for _ in range(self._rounds):
            if not link.fill(now):
                return False
            if link.out_fenced and not self._host.may_write():
                self._host.drop_unsent_fenced()
                return False
            try:
                # With TLS what was refused is offered again as it was: nothing changes ``unwritten`` but what ends the connection.
                link.wrote(self._socket.send(link.unwritten))
            except (BlockingIOError, InterruptedError):
                self._block()
                return False
            except OSError as error:
                self._count("write-error", f"error-type={type(error).__name__}")
                self._break(f"writing failed: {trouble_of(error)}")
                return False
        return True

    def _block(self) -> None:
        assert self._socket is not None
        self._writing = True
        self._blocked_ns = self._blocked_ns or self._host.now().steady_ns
        asyncio.get_running_loop().add_writer(self._socket, self._on_writable)

    def _on_writable(self) -> None:
        assert self._socket is not None
        asyncio.get_running_loop().remove_writer(self._socket)
        self._writing = False
        self._blocked_ns = 0
        self.link.lane.touch(self.link)
        self._host.changed()

    def tick(self, now: Moment) -> None:
        """Breaks a connection that has taken nothing and acked nothing for very long."""
        patience = self._options.write_timeout * _STUCK_FACTOR
        if patience and self._blocked_ns and now.steady_ns - self._blocked_ns > patience:
            self._break(f"the consumer has read nothing and acked nothing for {patience / 1e9:g} s")

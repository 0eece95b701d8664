"""What a connection has to speak to be taken: TLS, plain text, or either of them, told apart by its first byte.

A ``Gate`` belongs to one listening port. Whoever does not get in is named in the log once a second and reason, counted under M3's name
(``upgrade-to-tls-errors``, with the reason), and concerns no other connection. Each handshake has the certificates that are in use then.
"""

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Any

from m3x.clock import monotonic_ns
from m3x.endpoints import accepted_from
from m3x.instrument import Scope
from m3x.log import logger
from m3x.pace import Pace, handshakes
from m3x.secure_socket import ready
from m3x.tls import HANDSHAKE_S, TLS_BYTE, Refusal, ServerTLS, log_refusal, refusal_of

__all__ = ["Accepting", "Gate"]

_log = logger(__name__)

_NO_ROOM_S = 1.0
"""So long after a connection could not be accepted the next one is tried: there are too many open files."""

Factory = Callable[[], asyncio.BaseProtocol]


class Gate:
    """That of a port which is called ``port`` in logs. ``tls`` None: plain text only; ``scope`` has the counter."""

    def __init__(self, port: str, scope: Scope, tls: ServerTLS | None = None) -> None:
        self.tls = tls
        self._port = port
        self._scope = scope
        self._pace: Pace[asyncio.Future[None]] = handshakes()
        self._turns: asyncio.Task[None] | None = None

    def refused(self, refusal: Refusal, peer: str, detail: str = "") -> None:
        """A connection was not taken, or ended at once. ``peer``: for the log."""
        self._scope.tagged(reason=refusal.value).count("upgrade-to-tls-errors")
        log_refusal(self._port, refusal, peer, detail)

    def too_long(self, peer: str, most_bytes: int) -> None:
        """What comes before the body of a request has more than ``most_bytes``; the connection ends."""
        self._scope.count("http-heads-refused")
        _log.warning_limited(f"{self._port}: a request's headers are too long", peer=peer, most=most_bytes)

    def no_http(self, peer: str) -> None:
        """What came cannot be read as a request; the connection ends."""
        _log.warning_limited(f"{self._port}: what came is not HTTP", peer=peer)

    async def open(self, factory: Factory, connection: socket.socket) -> None:
        """Makes the protocol of an accepted connection, once it has shown what it speaks; closes it if that is not taken."""
        peer = ""
        try:
            connection.setblocking(False)
            peer = accepted_from(connection.getpeername())
            await self._open(factory, connection, peer)
        except OSError as error:
            connection.close()
            if self.tls is not None and peer:
                refusal, detail = refusal_of(error)
                self.refused(refusal, peer, detail)
        except BaseException:
            connection.close()
            raise

    async def _open(self, factory: Factory, connection: socket.socket, peer: str) -> None:
        loop = asyncio.get_running_loop()
        if self.tls is None:
            await loop.connect_accepted_socket(factory, connection)
            return
        # A plain connection may be silent for as long as it likes; one that is to speak TLS has no reason to be.
        async with asyncio.timeout(None if self.tls.plain_too else HANDSHAKE_S):
            first = await _first_byte(connection)
        if not first:
            connection.close()
        elif first[0] == TLS_BYTE:
            await self._turn(peer.rpartition(":")[0])
            async with asyncio.timeout(HANDSHAKE_S):
                await loop.connect_accepted_socket(factory, connection, ssl=self.tls.context())
        elif self.tls.plain_too:
            await loop.connect_accepted_socket(factory, connection)
        else:
            connection.close()
            self.refused(Refusal.PLAIN_TEXT, peer)

    async def _turn(self, host: str) -> None:
        """Returns when a handshake with ``host`` may begin."""
        turn = asyncio.get_running_loop().create_future()
        if self._pace.enter(host, turn, monotonic_ns()):
            return
        self._scope.count("handshakes-delayed")
        if self._turns is None:
            self._turns = asyncio.create_task(self._give_turns(), name="handshakes")
        try:
            await turn
        finally:
            self._pace.leave(host, turn)

    async def _give_turns(self) -> None:
        """As long as somebody waits."""
        while self._pace:
            await asyncio.sleep(self._pace.wait_ns(monotonic_ns()) / 1e9)
            for turn in self._pace.turns(monotonic_ns()):
                if not turn.done():
                    turn.set_result(None)
        self._turns = None


async def _first_byte(connection: socket.socket) -> bytes:
    """It stays where it is; empty: the peer has closed. Raises ``OSError``."""
    while True:
        try:
            return connection.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            await ready(connection, select.EPOLLIN)


class Accepting:
    """Takes the connections of ``listener`` through a gate, from ``start`` to ``close``."""

    def __init__(self, listener: socket.socket, factory: Factory, gate: Gate, backlog: int = 1024) -> None:
        listener.setblocking(False)
        listener.listen(backlog)
        self._listener = listener
        self._factory = factory
        self._gate = gate
        self._task: asyncio.Task[None] | None = None

    def start(self, name: str) -> None:
        """Takes connections from now on; ``name``: of its task."""
        self._task = asyncio.create_task(self._run(), name=name)

    async def close(self) -> None:
        """Takes no more; connections that are open stay so."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._listener.close()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        opening: set[asyncio.Task[Any]] = set()
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(self._listener)
                except OSError as error:
                    _log.error_limited("a connection could not be accepted", error=str(error))
                    await asyncio.sleep(_NO_ROOM_S)
                    continue
                task = loop.create_task(self._gate.open(self._factory, connection))
                opening.add(task)
                task.add_done_callback(opening.discard)
        finally:
            for task in opening:
                task.cancel()
            await asyncio.gather(*opening, return_exceptions=True)

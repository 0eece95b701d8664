"""TLS of the front: what connections have to speak, which their first byte shows, and handshakes that do not end.

A listener without TLS knows nothing of all this: its connections have plain sockets from the first one on. With TLS each begins with an
``Unproven`` in the place of its socket, which puts the right one there when the first byte is read.
"""

import socket
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec

from m3x.clock import monotonic_ns
from m3x.config import Duration
from m3x.pace import Pace, handshakes
from m3x.secure_socket import RECORD_BYTES, SecureSocket
from m3x.tls import HANDSHAKE_S, TLS_BYTE, Refusal, ServerTLS, ServerTLSConfig, refusal_of

__all__ = ["FrontTLS", "Handshakes", "Unproven"]

_HANDSHAKE_NS = int(HANDSHAKE_S * 1e9)


class FrontTLS(msgspec.Struct, frozen=True, kw_only=True):
    """``m3msg.server.tls`` as a front is told it."""

    cert_file: str
    key_file: str
    client_ca_file: str = ""
    mutual: bool = False
    plain_too: bool = False
    look_ns: int = 0

    @classmethod
    def of(cls, config: ServerTLSConfig) -> "FrontTLS | None":
        """None: there is none."""
        if config.mode == "disabled":
            return None
        return cls(
            cert_file=config.cert_file,
            key_file=config.key_file,
            client_ca_file=config.client_ca_file,
            mutual=config.m_tls_enabled,
            plain_too=config.mode == "permissive",
            look_ns=int(config.certificates_ttl),
        )

    def opened(self) -> ServerTLS:
        """Raises ``TLSError``."""
        return ServerTLS(
            ServerTLSConfig(
                mode="permissive" if self.plain_too else "enforced",
                cert_file=self.cert_file,
                key_file=self.key_file,
                client_ca_file=self.client_ca_file,
                m_tls_enabled=self.mutual,
                certificates_ttl=Duration(self.look_ns),
            )
        )


class Shaking(Protocol):
    """What a connection has that its socket is changed for."""

    sock: Any
    slack: int

    @property
    def host(self) -> str:
        """Of its peer."""


class _PlainTextError(OSError):
    """Plain text where TLS is wanted."""


class Unproven:
    """Stands for the socket of a connection that has shown nothing yet."""

    def __init__(self, connection: Shaking, handshakes: "Handshakes", tls: ServerTLS) -> None:
        self._sock: socket.socket = connection.sock
        self._connection = connection
        self._handshakes = handshakes
        self._tls = tls
        self.family = self._sock.family
        self.getsockopt = self._sock.getsockopt
        self.close = self._sock.close

    def recv_into(self, target: memoryview) -> int:
        """Looks at the first byte, and reads over what the connection has now. Raises ``OSError``."""
        first = self._sock.recv(1, socket.MSG_PEEK)
        # What waits for its turn is read only because its peer has ended.
        if not first or self._handshakes.holds(self._connection):
            return 0
        connection = self._connection
        if first[0] == TLS_BYTE:
            if not self._handshakes.may_begin(connection):
                raise BlockingIOError
            secure = connection.sock = SecureSocket(self._sock, self._tls.context())
            connection.slack = RECORD_BYTES - 1
            return secure.recv_into(target)
        if not self._tls.plain_too:
            raise _PlainTextError
        connection.sock = self._sock
        return self._sock.recv_into(target)


class Handshakes:
    """The connections that have not shown that they may be here.

    So many handshakes begin in a second (``m3x.pace``); ``hold`` is called with a connection that is not to be read before its turn.
    """

    def __init__(self, tls: ServerTLS, hold: Callable[[Any], None]) -> None:
        self._tls = tls
        self._hold = hold
        self._since_ns: dict[Shaking, int] = {}
        self._pace: Pace[Shaking] = handshakes()
        self._held: set[Shaking] = set()
        """Those that wait for their turn."""
        self._granted: set[Shaking] = set()
        """Those whose turn has come."""

    def begin(self, connection: Shaking, mono_ns: int) -> None:
        """A connection was accepted."""
        connection.sock = Unproven(connection, self, self._tls)
        self._since_ns[connection] = mono_ns

    def forget(self, connection: Shaking) -> None:
        """It is closed."""
        self._since_ns.pop(connection, None)
        self._granted.discard(connection)
        if connection in self._held:
            self._held.remove(connection)
            self._pace.leave(connection.host, connection)

    @property
    def waiting(self) -> bool:
        """Whether some wait for their turn."""
        return bool(self._held)

    def holds(self, connection: Shaking) -> bool:
        """Whether it waits for its turn."""
        return connection in self._held

    def may_begin(self, connection: Shaking) -> bool:
        """Whether a handshake may begin that a peer has asked for; otherwise it waits for its turn."""
        if connection in self._granted:
            self._granted.remove(connection)
            return True
        if self._pace.enter(connection.host, connection, monotonic_ns()):
            return True
        self._held.add(connection)
        self._hold(connection)
        return False

    def turns(self, mono_ns: int) -> list[Any]:
        """Connections that are to be read again: it is their turn."""
        begin = self._pace.turns(mono_ns)
        for connection in begin:
            self._held.remove(connection)
            self._granted.add(connection)
            self._since_ns[connection] = mono_ns
        return begin

    def refusal(self, connection: Shaking, error: OSError) -> tuple[Refusal, str] | None:
        """Why reading failed; None: not for want of TLS."""
        if isinstance(error, _PlainTextError):
            return Refusal.PLAIN_TEXT, ""
        if isinstance(connection.sock, SecureSocket) and not connection.sock.shaken:
            return refusal_of(error)
        return None

    def overdue(self, mono_ns: int) -> Iterator[Any]:
        """Those that take too long."""
        for connection, since_ns in tuple(self._since_ns.items()):
            sock = connection.sock
            if isinstance(sock, Unproven) and (self._tls.plain_too or self.holds(connection)):
                # One that speaks plainly may be silent for as long as it likes, and one that waits cannot help it.
                self._since_ns[connection] = mono_ns
            elif not isinstance(sock, Unproven | SecureSocket) or (isinstance(sock, SecureSocket) and sock.shaken):
                self.forget(connection)
            elif mono_ns - since_ns >= _HANDSHAKE_NS:
                yield connection

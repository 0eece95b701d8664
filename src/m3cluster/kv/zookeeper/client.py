"""What kazoo does not offer by itself: the socket and the terms of a session.

kazoo runs three threads per client. These classes are called on them and touch nothing of the event loop.

* A connection on which nothing is answered must be broken by us: kazoo pings only when it has sent nothing else for a third of the session
  timeout, so a client that asks often never notices the silence.
* kazoo keeps the session timeout that was granted to itself, and when the request for the session was sent.
* A host that swallows packets would hold the attempt to connect for a whole session timeout; so would a server that takes the connection
  and swallows the request for a session, as ZooKeeper may do while it starts: a lease would not outlive a restart.
* kazoo trusts the authorities of the system beside those that it is told, looks at no name, and does not see what of a TLS record is left:
  connections get their TLS here.
* What is asked of kazoo while it has no connection waits there for one, however long that takes: a write would be made long after its
  caller was told that it had failed.

That takes privates of kazoo; tests/m3cluster/kv/zookeeper/test_client.py names them, for the day when a release moves one.
"""

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.connection import ConnectionHandler
from kazoo.protocol.serialization import Connect
from kazoo.protocol.states import KeeperState
from kazoo.retry import KazooRetry

from m3x.clock import boot_ns
from m3x.log import logger
from m3x.tls import ClientTLS, trouble_of

__all__ = ["Client", "Handler"]

log = logger(__name__)


class _Forward(logging.Handler):
    """kazoo's own warnings, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        log.warning_limited("kazoo reports", per_second=0.2, text=record.getMessage())


_kazoo_log = logging.Logger("kazoo", logging.WARNING)
_kazoo_log.addHandler(_Forward())


class Handler(SequentialThreadingHandler):  # type: ignore[misc]  # kazoo has no types
    """kazoo's threads and connections; ``drop`` and ``refuse`` may be called from any thread.

    ``connect_timeout_s`` is how long a server may take over a connection, and over its answer to the request for a session.
    ``on_death``: a thread has failed. ``tls``: of connections; None: plain text.
    """

    def __init__(self, connect_timeout_s: float, on_death: Callable[[], None], tls: ClientTLS | None = None) -> None:
        super().__init__()
        self._tls = tls
        self._on_death = on_death
        self.connect_timeout_s = connect_timeout_s
        self._lock = threading.Lock()
        self._socket: Any = None
        self._refusing = False

    def create_connection(self, *arguments: Any, timeout: float, hostname: str | None = None, **options: Any) -> Any:
        """A connection to one server. Raises ``OSError``."""
        if not self._refusing:
            made = super().create_connection(*arguments, timeout=min(timeout, self.connect_timeout_s), **options)
            if self._tls is not None:
                made = self._secured(made, self._tls, hostname)
            with self._lock:
                self._socket = made
            if not self._refusing:
                return made
            made.close()
        raise ConnectionRefusedError("the client has been closed")

    def _secured(self, made: socket.socket, tls: ClientTLS, hostname: str | None) -> ssl.SSLSocket:
        made.settimeout(self.connect_timeout_s)
        try:
            return tls.context().wrap_socket(made, server_hostname=tls.server_name or hostname)
        except OSError as error:
            made.close()
            log.warning_limited("no TLS with ZooKeeper", per_second=0.2, server=hostname, reason=trouble_of(error))
            raise

    def select(self, *arguments: Any, **options: Any) -> Any:
        """What of the descriptors has something; what TLS has decrypted already no descriptor tells of."""
        held = [one for one in arguments[0] if isinstance(one, ssl.SSLSocket) and one.fileno() >= 0 and one.pending()]
        return (held, [], []) if held else super().select(*arguments, **options)

    def drop(self) -> None:
        """Breaks the connection; kazoo makes a new one."""
        with self._lock, contextlib.suppress(OSError):
            if self._socket is not None:
                # Not that of TLS, which would send in plain text from then on.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def refuse(self) -> None:
        """Breaks the connection and lets no other one be made: the session is left to its timeout."""
        self._refusing = True
        self.drop()

    def spawn(self, func: Callable[..., Any], *arguments: Any, **options: Any) -> threading.Thread:
        """A thread; what it raises, such as on an answer that makes no sense, ends this client and nothing else."""

        def guarded() -> None:
            try:
                func(*arguments, **options)
            except Exception as error:
                log.warning_limited("a thread of kazoo ended", error=f"{type(error).__name__}: {error}")
                self._on_death()

        thread: threading.Thread = super().spawn(guarded)
        return thread


class _Connection(ConnectionHandler):  # type: ignore[misc]  # kazoo has no types
    """Asks for the session, and notes when it was asked for, and its timeout."""

    asked_ns = 0
    granted_ms = 0

    def _invoke(self, timeout: float, request: Any, xid: int | None = None) -> Any:
        if not isinstance(request, Connect):
            return super()._invoke(timeout, request, xid)
        sent_ns = boot_ns()
        answer = super()._invoke(min(timeout, self.handler.connect_timeout_s), request, xid)
        self.granted_ms = answer[0].time_out
        self.asked_ns = sent_ns
        return answer


class Client(KazooClient):  # type: ignore[misc]  # kazoo has no types
    """A client that tries to connect, at most a second apart, until it is stopped; without a connection it takes no requests."""

    def __init__(self, hosts: str, timeout_s: float, handler: Handler, session: tuple[int, bytes] | None) -> None:
        retry = KazooRetry(max_tries=-1, delay=0.05, max_delay=1.0, sleep_func=handler.sleep_func)
        super().__init__(
            hosts, timeout=timeout_s, handler=handler, connection_retry=retry, client_id=session, logger=_kazoo_log
        )
        self._connection = _Connection(self, self._conn_retry.copy(), logger=_kazoo_log)
        self._state_lock = threading.RLock()
        """Between seeing that there is a connection and the queue whose requests fail when it breaks."""

    def _session_callback(self, state: str) -> None:
        with self._state_lock:
            super()._session_callback(state)

    def _call(self, request: Any, async_object: Any) -> Any:
        with self._state_lock:
            if self._state == KeeperState.CONNECTING:
                async_object.set_exception(ConnectionLoss())
                return False
            return super()._call(request, async_object)

    @property
    def asked_ns(self) -> int:
        """When the present session was asked for, or asked to be continued, on ``CLOCK_BOOTTIME``."""
        return int(self._connection.asked_ns)

    @property
    def granted_ms(self) -> int:
        """The session timeout that the server granted."""
        return int(self._connection.granted_ms)

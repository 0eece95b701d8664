"""The consumer of ``aggregated_metrics``: remembers every value by id, resolution and time, and acks it, unless it is to be cut off.

One that is cut off takes values for a while, acks none of them, and closes its connections: they come again.
"""

import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from m3metrics.codec import decode_aggregated
from m3metrics.errors import IdError
from m3metrics.ids import decode_tags
from m3msg.frames import decode_message, encode_ack, split

__all__ = ["Sink", "Window"]

_POLL_S = 0.02


@dataclass(slots=True)
class Window:
    """What came for one window of one id."""

    values: list[float] = field(default_factory=list)
    """Different ones, in the order of their first arrival."""
    times: list[int] = field(default_factory=list)
    """When each of them first came (Unix ns)."""
    count: int = 0


class Sink:
    """Listens on a port of loopback until it is closed."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.setblocking(False)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.received = 0
        self._first_ns: list[int] = []
        """When each window first came (Unix ns)."""
        self._windows: dict[tuple[bytes, int], dict[int, Window]] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._rest: dict[socket.socket, bytes] = {}
        self._deaf_until = 0.0
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sink", daemon=True)
        self._thread.start()

    def windows(self, ident: bytes, resolution_ns: int) -> dict[int, Window]:
        """By the time that came with the values (Unix ns)."""
        with self._lock:
            return dict(self._windows.get((ident, resolution_ns), {}))

    def first_after_s(self, since_ns: int) -> float | None:
        """How long after a time (Unix ns) the first window came that had not come before; None: none has."""
        with self._lock:
            return min(((at - since_ns) / 1e9 for at in self._first_ns if at >= since_ns), default=None)

    def idents(self) -> Iterator[bytes]:
        """All that came."""
        with self._lock:
            return iter({ident for ident, _ in self._windows})

    def cut(self, seconds: float) -> None:
        """Acks nothing for a while, and then closes its connections."""
        self._deaf_until = time.monotonic() + seconds

    def close(self) -> None:
        """Ends everything."""
        self._end.set()
        self._thread.join(10)
        for connection in [*self._rest, self._listener]:
            connection.close()

    # --- thread

    def _run(self) -> None:
        while not self._end.is_set():
            for key, _ in self._selector.select(_POLL_S):
                found = key.fileobj
                assert isinstance(found, socket.socket)
                if found is self._listener:
                    self._accept()
                elif not self._read(found):
                    self._hang_up(found)
            if self._deaf_until and time.monotonic() >= self._deaf_until:
                self._deaf_until = 0.0
                for connection in [*self._rest]:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self._hang_up(connection)

    def _accept(self) -> None:
        try:
            made, _ = self._listener.accept()
        except OSError:
            return
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest[made] = b""
        self._selector.register(made, selectors.EVENT_READ)

    def _hang_up(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._rest[connection]
        connection.close()

    def _read(self, connection: socket.socket) -> bool:
        try:
            data = connection.recv(1 << 18)
            if data:
                payloads, self._rest[connection] = split(self._rest[connection] + data)
                self._take(connection, payloads)
        except OSError:
            return False
        return bool(data)

    def _take(self, connection: socket.socket, payloads: list[bytes]) -> None:
        messages = [decode_message(payload) for payload in payloads]
        with self._lock:
            for message in messages:
                self._remember(message.value)
        if messages and not self._deaf_until:
            connection.sendall(encode_ack([message.metadata for message in messages]))

    def _remember(self, data: bytes) -> None:
        metric = decode_aggregated(data)
        key = _ident(metric.id), metric.storage_policy.window_ns
        window = self._windows.setdefault(key, {}).setdefault(metric.time_ns, Window())
        window.count += 1
        self.received += 1
        if window.count == 1:
            self._first_ns.append(time.time_ns())
        if metric.value not in window.values:
            window.values.append(metric.value)
            window.times.append(time.time_ns())


def _ident(ident: bytes) -> bytes:
    """As the books have it: of encoded tags the name and the number."""
    try:
        tags = dict(decode_tags(ident))
    except IdError:
        return ident
    return tags.get(b"__name__", b"") + b"/" + tags.get(b"number", b"")

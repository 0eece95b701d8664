"""A consumer of ``aggregated_metrics`` that remembers every value with its time of arrival, and can refuse, stop reading or be slow."""

import selectors
import socket
import threading
import time

import numpy as np

from m3metrics.kernels import decode_aggregated
from m3metrics.rows import AGGREGATED_ROW
from m3msg.kernels import ack_size_bound, build_acks, scan_frames
from m3msg.rows import FRAME_ROW, MAX_FRAME, SCAN_FULL

__all__ = ["Consumer"]

_ROWS = 1 << 14

Arrival = tuple[bytes, int, float, int]
"""Id, window end (Unix ns), value, time of arrival (Unix ns)."""


class Consumer:
    """Listens on a port of loopback that stays the same while it refuses; what it takes is acked, but for values of ``ignored`` ids."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.arrivals: list[Arrival] = []
        self.slow_s = 0.0
        """Pause before each read."""
        self.ignored: frozenset[bytes] = frozenset()
        """Ids whose values it takes and never acks."""
        self.ignored_ns = 0
        """When the first such value arrived (Unix ns)."""
        self._rows = np.zeros(_ROWS, FRAME_ROW)
        self._metrics = np.zeros(_ROWS, AGGREGATED_ROW)
        self._acks = np.zeros(ack_size_bound(_ROWS), np.uint8)
        self._accepting = True
        self._end = threading.Event()
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="consumer", daemon=True)
        self._thread.start()

    def refuse(self) -> None:
        """Closes all connections and takes no new ones: dialling fails."""
        self._accepting = False

    def accept(self) -> None:
        """Takes connections again."""
        self._accepting = True

    def close(self) -> None:
        """Ends everything."""
        self._end.set()
        self._thread.join(10)

    def wait_next(self, timeout_s: float) -> bool:
        """Returns as soon as another value has arrived; False: none came in time."""
        with self._came:
            seen = len(self.arrivals)
            return self._came.wait_for(lambda: len(self.arrivals) > seen, timeout_s)

    # --- thread

    def _run(self) -> None:
        while not self._end.is_set():
            if self._accepting:
                self._serve()
            else:
                time.sleep(0.01)
        if self._listener.fileno() != -1:
            self._listener.close()

    def _serve(self) -> None:
        """Serves until refused or closed."""
        if self._listener.fileno() == -1:
            host, port = self.address.split(":")
            self._listener = socket.create_server((host, int(port)), backlog=64)
        rest: dict[socket.socket, bytes] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while self._accepting and not self._end.is_set():
                for key, _ in selector.select(0.02):
                    found = key.fileobj
                    assert isinstance(found, socket.socket)
                    if found is self._listener:
                        made, _ = found.accept()
                        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        rest[made] = b""
                        selector.register(made, selectors.EVENT_READ)
                    elif not self._read(found, rest):
                        selector.unregister(found)
                        found.close()
                        del rest[found]
        self._listener.close()
        for connection in rest:
            # What was sent and not read dies with the connection, as with a process that ends.
            connection.close()

    def _read(self, connection: socket.socket, rest: dict[socket.socket, bytes]) -> bool:
        if self.slow_s:
            time.sleep(self.slow_s)
        try:
            data = connection.recv(1 << 18)
            if data:
                rest[connection] = self._take(connection, rest[connection] + data)
        except OSError:
            return False
        return bool(data)

    def _take(self, connection: socket.socket, data: bytes) -> bytes:
        buf, at, status = np.frombuffer(data, np.uint8), 0, SCAN_FULL
        while status == SCAN_FULL:
            n, at, status = scan_frames(buf, at, len(buf), MAX_FRAME, self._rows)
            if n:
                kept = self._record(data, n)
                rows = self._rows if len(kept) == n else self._rows[kept]
                end = build_acks(buf, rows, len(kept), self._acks, 0, MAX_FRAME)
                connection.sendall(self._acks[:end].data)
        return data[at:]

    def _record(self, data: bytes, n: int) -> list[int]:
        """Remembers the values; returns which of the messages are to be acked."""
        now = time.time_ns()
        rows = self._rows[:n]
        starts = rows["value_at"].astype(np.int64)
        decode_aggregated(np.frombuffer(data, np.uint8), starts, starts + rows["value_size"], n, self._metrics)
        kept = []
        with self._came:
            for k, m in enumerate(self._metrics[:n]):
                ident = data[m["id_at"] : m["id_at"] + m["id_size"]]
                if ident in self.ignored:
                    self.ignored_ns = self.ignored_ns or now
                    continue
                kept.append(k)
                self.arrivals.append((ident, int(m["time_ns"]), float(m["value"]), now))
            self._came.notify_all()
        return kept

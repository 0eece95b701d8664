"""A consumer of ``aggregated_metrics`` that acks everything at once and remembers what it got, in columns.

``Sink`` runs in a thread of the caller (tests, small benchmarks). ``python -m bench.sink`` runs it as a process of its own, so that its
CPU time is nobody else's: it prints its address, then a JSON summary for every line of standard input, and ends with it.
"""

import argparse
import json
import selectors
import socket
import sys
import threading
import time
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from m3metrics.kernels import decode_aggregated
from m3metrics.rows import AGGREGATED_ROW
from m3msg.kernels import ack_size_bound, build_acks, scan_frames
from m3msg.rows import FRAME_ROW, MAX_FRAME, SCAN_FULL

_ROWS = 1 << 16

Point = tuple[int, float, float]
"""Window end in ns, value, time of arrival (Unix seconds)."""


class Sink:
    """Listens on ``host:port``; ``record`` keeps every value by id, else only counts and sums."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, record: bool = False, ack: bool = True) -> None:
        self._server = socket.create_server((host, port), backlog=64)
        self.address = f"{host}:{self._server.getsockname()[1]}"
        self.messages = 0
        self.total = 0.0
        self.bytes = 0
        self.first_at = 0.0
        self.last_at = 0.0
        self.windows: dict[int, tuple[int, float]] = {}
        """Window end in ns → how many of its values came, and when the last one did (Unix seconds)."""
        self.points: dict[bytes, list[Point]] = defaultdict(list)
        self.policies: dict[bytes, set[bytes]] = defaultdict(set)
        self._record, self._ack = record, ack
        self._rows = np.zeros(_ROWS, FRAME_ROW)
        self._metrics = np.zeros(_ROWS, AGGREGATED_ROW)
        self._acks = np.zeros(ack_size_bound(_ROWS), np.uint8)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Closes the listener and all connections."""
        self._stop.set()
        self._thread.join(5)

    def sums(self) -> dict[bytes, float]:
        """Sum of all values by id, repeats of one window counted once (the last one)."""
        with self._lock:
            return {ident: sum({t: v for t, v, _ in points}.values()) for ident, points in self.points.items()}

    def values(self, ident: bytes) -> dict[int, float]:
        """Window end in ns → value of one id, last one wins."""
        with self._lock:
            return {t: v for t, v, _ in self.points.get(ident, ())}

    def _run(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._server, selectors.EVENT_READ)
        rest: dict[socket.socket, bytes] = {}
        while not self._stop.is_set():
            for key, _ in selector.select(0.1):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if connection is self._server:
                    accepted, _ = self._server.accept()
                    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    rest[accepted] = b""
                    selector.register(accepted, selectors.EVENT_READ)
                    continue
                try:
                    data = connection.recv(1 << 20)
                    rest[connection] = self._take(connection, rest[connection] + data)
                except OSError:
                    data = b""
                if not data:
                    selector.unregister(connection)
                    connection.close()
                    del rest[connection]
        for connection in rest:
            connection.close()
        self._server.close()

    def _take(self, connection: socket.socket, data: bytes) -> bytes:
        buf, at, status = np.frombuffer(data, np.uint8), 0, SCAN_FULL
        while status == SCAN_FULL:
            n, at, status = scan_frames(buf, at, len(buf), MAX_FRAME, self._rows)
            if n:
                self._keep(data, buf, self._rows[:n])
                if self._ack:
                    end = build_acks(buf, self._rows, n, self._acks, 0, MAX_FRAME)
                    connection.sendall(self._acks[:end])
        return data[at:]

    def _keep(self, data: bytes, buf: NDArray[np.uint8], rows: NDArray[np.void]) -> None:
        now = time.time()
        starts = rows["value_at"].astype(np.int64)
        decode_aggregated(buf, starts, starts + rows["value_size"], len(rows), self._metrics)
        metrics = self._metrics[: len(rows)]
        with self._lock:
            self.messages += len(rows)
            self.bytes += len(data)
            self.total += float(metrics["value"].sum())
            self.first_at = self.first_at or now
            self.last_at = now
            for end, count in zip(*np.unique(metrics["time_ns"], return_counts=True), strict=True):
                self.windows[int(end)] = self.windows.get(int(end), (0, now))[0] + int(count), now
            if self._record:
                for m in metrics:
                    ident = data[m["id_at"] : m["id_at"] + m["id_size"]]
                    self.points[ident].append((int(m["time_ns"]), float(m["value"]), now))
                    self.policies[ident].add(data[m["policy_at"] : m["policy_at"] + m["policy_size"]])


def main() -> int:
    """Runs a sink until standard input closes."""
    parser = argparse.ArgumentParser(prog="python -m bench.sink", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    sink = Sink(port=options.port)
    print(sink.address, flush=True)
    for _ in sys.stdin:
        found = {name: getattr(sink, name) for name in ("messages", "total", "first_at", "last_at", "windows")}
        print(json.dumps(found), flush=True)
    sink.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

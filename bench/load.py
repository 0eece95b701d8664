"""The load generator: messages are encoded once into a byte matrix, and only their changing columns are rewritten before each replay.

Every message of a run has the same length, so time of sending, message id and value are fixed columns of an ``(n, length)`` uint8 array; a
replay of 20,000 messages costs three column copies and one ``sendall``. Acks echo metadata of known size, so counting them is arithmetic.
"""

import argparse
import contextlib
import json
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m3metrics.codec.metadata import encode_staged_metadatas
from m3metrics.kernels import (
    encode_counter_samples,
    encode_gauge_samples,
    encode_timed_samples,
    encode_timer_samples,
)
from m3metrics.metadata import PipelineMetadata, StagedMetadata
from m3metrics.policy import StoragePolicy
from m3metrics.rows import METRIC_TEMPLATE

KINDS = ("timed", "gauge", "counter", "timer")
TIMER_VALUES = 10
_ID_MARK = b"00000000"
_METADATA_SIZE = (
    17  # shard (2), id (5), sent at (10): constant because shard >= 1, id >= 2^21 and the time has nine varint bytes
)
_FIRST_ID = 1 << 21


def tagged_id(number: bytes) -> bytes:
    """An encoded tag id of 90 bytes; ``number`` has eight digits."""
    tags = ((b"__name__", b"http_requests_total_something" + number), (b"dc", b"sjc1"), (b"host", b"host" + number[4:]))
    parts = b"".join(struct.pack("<H", len(x)) + x for tag in tags for x in tag)
    return struct.pack("<HH", 10101, len(tags)) + parts


def varint_columns(values: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """``values`` as varints of exactly ``width`` bytes: shape ``(n, width)``. They must need that many."""
    columns = np.empty((len(values), width), np.uint8)
    for k in range(width):
        columns[:, k] = (values >> (7 * k)) & 0x7F | (0x80 if k < width - 1 else 0)
    return columns


@dataclass
class Frames:
    """Messages of equal length, ready to be sent."""

    matrix: NDArray[np.uint8]
    """Shape ``(n, length)``: whole frames, length prefix included."""
    stamp_columns: list[int]
    """First column of every nine-byte time that is rewritten before each replay."""
    value_sum: float
    """Sum of all values of one replay."""
    series: NDArray[np.int64]
    """Series number of each message, shape ``(n,)``."""
    values: NDArray[np.float64]
    """Value of each message (timers: sum of its samples), shape ``(n,)``."""

    def stamp(self, now_ns: int) -> None:
        """Writes the time of sending into every message."""
        stamp = varint_columns(np.array([now_ns]), 9)[0]
        for column in self.stamp_columns:
            self.matrix[:, column : column + 9] = stamp


def build(kind: str, series: int, count: int, resolution_s: int, *, first: int = 0) -> Frames:
    """``count`` messages of ``kind``, one for each series from ``first`` on (again from 0 behind the last), in random order.

    Their policy is ``<resolution>s:48h``.
    """
    rng = np.random.default_rng(7 + first)
    order = (first + np.arange(count)) % series
    rng.shuffle(order)
    now = time.time_ns()
    message, value_at = _template(kind, resolution_s, now)
    metadata = (
        b"\x08\x01\x10"
        + varint_columns(np.array([_FIRST_ID]), 4).tobytes()
        + b"\x18"
        + varint_columns(np.array([now]), 9).tobytes()
    )
    assert len(metadata) == _METADATA_SIZE
    size = len(message)
    body = b"\x0a" + bytes([len(metadata)]) + metadata + b"\x12" + bytes([size & 0x7F | 0x80, size >> 7]) + message
    frame = struct.pack(">I", len(body)) + body
    head = len(frame) - size
    matrix = np.tile(np.frombuffer(frame, np.uint8), (count, 1))
    matrix[:, 7] = 1 + np.arange(count) % 63  # shard
    matrix[:, 9:13] = varint_columns(_FIRST_ID + np.arange(count, dtype=np.int64), 4)
    digits = (order[:, None] // 10 ** np.arange(7, -1, -1)[None, :] % 10 + 48).astype(np.uint8)
    id_at = head + message.index(_ID_MARK)
    matrix[:, id_at : id_at + 8] = digits
    host_at = head + message.index(b"host" + _ID_MARK[4:]) + 4
    matrix[:, host_at : host_at + 4] = digits[:, 4:]
    stamps = [14] if kind != "timed" else [14, head + message.index(varint_columns(np.array([now]), 9).tobytes())]
    if kind == "counter":
        values = rng.integers(128, 1000, count)
        matrix[:, head + value_at : head + value_at + 2] = varint_columns(values, 2)
        return Frames(matrix, stamps, float(values.sum()), order, values.astype(np.float64))
    width = TIMER_VALUES if kind == "timer" else 1
    numbers = rng.random((count, width)) * 100 + 1
    matrix[:, head + value_at : head + value_at + 8 * width] = numbers.view(np.uint8).reshape(count, 8 * width)
    return Frames(matrix, stamps, float(numbers.sum()), order, numbers.sum(axis=1))


def _template(kind: str, resolution_s: int, now_ns: int) -> tuple[bytes, int]:
    """One message and the position of its value in it."""
    policy = StoragePolicy.parse(f"{resolution_s}s:48h")
    pipeline = PipelineMetadata(aggregation_id=1 << 1 if kind == "timed" else 0, storage_policies=(policy,))
    metadatas = encode_staged_metadatas((StagedMetadata(pipelines=(pipeline,)),))
    ident = tagged_id(_ID_MARK)
    arena = np.frombuffer(ident + metadatas, np.uint8)
    template = np.zeros(1, METRIC_TEMPLATE)
    template["id_size"], template["meta_at"], template["meta_size"] = len(ident), len(ident), len(metadatas)
    template["metric_type"] = 3
    out, offsets, index = np.zeros(2048, np.uint8), np.zeros(2, np.int64), np.zeros(1, np.int64)
    times, mark = np.array([now_ns if kind == "timed" else 0]), 12345.678
    if kind == "counter":
        end = encode_counter_samples(arena, template, index, times, np.array([200]), out, offsets)
        found = b"\x10" + varint_columns(np.array([200]), 2).tobytes()
        at = out[:end].tobytes().index(ident) + len(ident) + 1
        assert out[at - 1 : at + 2].tobytes() == found
        return out[:end].tobytes(), at
    if kind == "timer":
        ends = np.array([0, TIMER_VALUES], np.int64)
        end = encode_timer_samples(arena, template, index, times, np.full(TIMER_VALUES, mark), ends, out, offsets)
    else:
        encoder = encode_timed_samples if kind == "timed" else encode_gauge_samples
        end = encoder(arena, template, index, times, np.array([mark]), out, offsets)
    message = out[:end].tobytes()
    return message, message.index(struct.pack("<d", mark))


class Connection:
    """One connection: a writer that replays frames and a reader that counts acks."""

    def __init__(self, address: tuple[str, int], frames: Frames) -> None:
        self._socket = socket.create_connection(address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._frames = frames
        self.replays = 0
        self.acked = 0
        self.failed = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def sent(self) -> int:
        """Messages sent so far."""
        return self.replays * len(self._frames.matrix)

    def close(self) -> None:
        """Hangs up and ends the reader."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(5)
        self._socket.close()

    def replay(self, until: float, rate: float, replays: int) -> None:
        """Sends again and again until the time, or the number of replays if that is not 0; ``rate`` messages a second, 0: no limit."""
        began = time.monotonic()
        while time.monotonic() < until and (not replays or self.replays < replays):
            self._frames.stamp(time.time_ns())
            try:
                self._socket.sendall(self._frames.matrix)
            except OSError as error:
                self.failed = str(error)
                return
            self.replays += 1
            while rate and self.sent > rate * (time.monotonic() - began) and time.monotonic() < until:
                time.sleep(0.005)

    def _read(self) -> None:
        rest = b""
        while True:
            try:
                data = self._socket.recv(1 << 20)
            except OSError as error:
                self.failed = self.failed or str(error)
                return
            if not data:
                self.failed = self.failed or "connection closed by the server"
                return
            data, at = rest + data, 0
            while at + 4 <= len(data):
                size = int.from_bytes(data[at : at + 4], "big")
                if at + 4 + size > len(data):
                    break
                # Every entry is tag, length and the echoed metadata.
                self.acked += size // (_METADATA_SIZE + 2)
                at += 4 + size
            rest = data[at:]


def main() -> int:
    """Runs the load and prints one JSON line: sent, acked, seconds, value_sum, failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True, metavar="HOST:PORT")
    parser.add_argument("--kind", choices=KINDS, default="gauge")
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument(
        "--rate",
        type=float,
        default=0.0,
        help="messages a second over all connections; 0: as fast as acks and TCP allow",
    )
    parser.add_argument("--replays", type=int, default=0, help="end after this many replays per connection")
    parser.add_argument("--resolution", type=int, default=10, help="seconds")
    options = parser.parse_args()
    host, port = options.target.rsplit(":", 1)
    per = max(options.series, 20_000) // options.connections
    frames = [
        build(options.kind, options.series, per, options.resolution, first=c * per) for c in range(options.connections)
    ]
    print("built", file=sys.stderr, flush=True)
    connections = [Connection((host, int(port)), f) for f in frames]
    began = time.monotonic()
    until = began + options.seconds
    rate = options.rate / options.connections
    writers = [threading.Thread(target=c.replay, args=(until, rate, options.replays)) for c in connections]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    limit = time.monotonic() + 60
    while sum(c.acked for c in connections) < sum(c.sent for c in connections) and time.monotonic() < limit:
        if all(c.failed for c in connections):
            break
        time.sleep(0.01)
    took = time.monotonic() - began
    failed = [c.failed for c in connections if c.failed]
    for connection in connections:
        connection.close()
    result = {
        "sent": sum(c.sent for c in connections),
        "acked": sum(c.acked for c in connections),
        "seconds": took,
        "value_sum": sum(c.replays * f.value_sum for c, f in zip(connections, frames, strict=True)),
        "message_bytes": frames[0].matrix.shape[1],
        "failed": failed,
    }
    print(json.dumps(result), flush=True)
    return 0 if result["sent"] == result["acked"] else 1


if __name__ == "__main__":
    sys.exit(main())

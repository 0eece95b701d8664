"""Remote writes of series with eight labels, encoded once: before each pass only times and values are written anew.

All series have the same length, so that number, time and value are fixed columns of an ``(n, length)`` uint8 array.
"""

import asyncio
import time
from collections.abc import Sequence

import cramjam
import numpy as np

from bench.messages import digits, varint_columns
from bench.writes import posting
from coordinator.prompb import WRITE_REQUEST
from m3x.protobuf import marshal

__all__ = ["Samples"]

_MARK, _NAME_MARK = b"00000000", b"999"
_NAMES = 50
_NUMBER_DIGITS = 8
_TIME_BYTES = 6
"""Of a time in ms, until the year 2109."""


class Samples:
    """A sample of each of ``series`` series again and again, in requests of ``per_request``."""

    def __init__(self, series: int, per_request: int) -> None:
        now_ms = time.time_ns() // 1_000_000
        one = marshal(WRITE_REQUEST, {"timeseries": [_series(now_ms)]})
        stamp = varint_columns(np.array([now_ms]), _TIME_BYTES).tobytes()
        self._time_at, self._value_at = one.index(stamp), one.index(np.float64(1.0).tobytes())
        self._matrix = np.tile(np.frombuffer(one, np.uint8), (series, 1))
        numbers = np.arange(series)
        at = one.index(_MARK)
        self._matrix[:, at : at + _NUMBER_DIGITS] = digits(numbers)
        at = one.index(_NAME_MARK)
        self._matrix[:, at : at + len(_NAME_MARK)] = digits(numbers % _NAMES)[:, -len(_NAME_MARK) :]
        self._per_request = per_request
        self._random = np.random.default_rng(7)
        self.bytes_per_sample = len(one)

    @property
    def requests(self) -> int:
        """How many a pass has."""
        return -(-len(self._matrix) // self._per_request)

    def turn(self) -> None:
        """Before each pass: requests begin with another series than before, as those of a sender that has series of several targets."""
        self._matrix = np.roll(self._matrix, int(self._random.integers(self._per_request)), axis=0)

    def body(self, number: int) -> bytes:
        """Request ``number`` of this pass, stamped with now, compressed."""
        rows = self._matrix[number * self._per_request : (number + 1) * self._per_request]
        stamp = varint_columns(np.array([time.time_ns() // 1_000_000]), _TIME_BYTES)[0]
        rows[:, self._time_at : self._time_at + _TIME_BYTES] = stamp
        values = self._random.random(len(rows)) * 100
        rows[:, self._value_at : self._value_at + 8] = values.view(np.uint8).reshape(-1, 8)
        return bytes(cramjam.snappy.compress_raw(rows.tobytes()))

    async def send(self, port: int, path: str, begins: Sequence[float], lasts_s: float, connections: int) -> float:
        """One pass from each of ``begins`` (``time.time()``) on, its requests spread over ``lasts_s``.

        Returns by how many seconds the latest request was behind its time. Raises ``SystemExit`` for an answer other than success.
        """
        post = posting(path)
        behind = 0.0
        due: asyncio.Queue[bytes | None] = asyncio.Queue(connections)

        async def connection() -> None:
            # Opened with the first request: servers may end a connection that says nothing for some seconds.
            writer = None
            try:
                while (body := await due.get()) is not None:
                    if writer is None:
                        reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    if await post(reader, writer, body):
                        writer.close()
                        writer = None
            finally:
                if writer is not None:
                    writer.close()

        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(connection())
            for begin in begins:
                self.turn()
                for number in range(self.requests):
                    at = begin + lasts_s * number / self.requests
                    await asyncio.sleep(max(0.0, at - time.time()))
                    await due.put(self.body(number))
                    behind = max(behind, time.time() - at)
            for _ in range(connections):
                await due.put(None)
        return behind


def _series(now_ms: int) -> dict[str, object]:
    labels = {
        "__name__": b"http_requests_total_" + _NAME_MARK, "app": b"checkout", "code": b"200", "dc": b"eu-west-1", "env": b"production",
        "host": b"host-" + _MARK, "method": b"GET", "team": b"payments",
    }  # fmt: skip
    return {
        "labels": [{"name": name.encode(), "value": value} for name, value in labels.items()],
        "samples": [{"value": 1.0, "timestamp": now_ms}],
    }

"""What a value costs between the ingest server and a sink: its series' number, the queue on disk, delivery. CPU seconds of this process.

    scripts/bench sinks [--series 100000] [--windows 5] [--rows 1200] [--lanes 4] [--sinks 1] [--window-bytes N]

Ids are those of ``bench.out_new_series`` (100 to 180 bytes). Every window gives each series one value, in batches of ``--rows``: as many
as 256 KiB of m3msg messages have. The sinks do nothing with them. Three ways:

``queue``   every value is appended to the queue on disk, and delivered from memory: what services do
``disk``    the same with hardly any window: every value is read from disk again, as while a sink lags
``direct``  no queue: what would be left if the queue were written only when a sink lags
"""

import argparse
import asyncio
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.out_new_series import series_id
from coordinator.sinks import kernels
from coordinator.sinks.hub import Hub, QueuedSink, open_hub
from coordinator.sinks.queue import QueueOptions
from coordinator.sinks.sink import Delivered
from coordinator.sinks.values import Destination, Values
from m3metrics.policy import StoragePolicy
from m3x import byte_table
from m3x.instrument import Registry

__all__ = ["main"]

_DESTINATIONS = (Destination.of(StoragePolicy.parse("10s:2d")), Destination.of(StoragePolicy.parse("1m:40d")))
_BATCH_ROWS = 10_000
_WINDOW_NS = 10_000_000_000
_START_NS = 1_767_355_200_000_000_000


class NullSink:
    """Counts what it is given."""

    ordered = True
    batch_rows = _BATCH_ROWS

    def __init__(self, name: str, lanes: int) -> None:
        self.name = name
        self.lanes = lanes
        self.rows = 0
        self.calls = 0
        self.came = asyncio.Event()

    def takes(self, destination: Destination) -> bool:
        """Everything."""
        return True

    async def deliver(self, batch: Values, *, again: bool) -> Delivered:
        """See ``Sink``."""
        self.rows += len(batch)
        self.calls += 1
        self.came.set()
        # A request takes some turns of the loop: meanwhile the next batch gathers.
        await asyncio.sleep(0)
        return Delivered()

    async def close(self) -> None:
        """See ``Sink``."""


@dataclass(slots=True)
class _Ids:
    """All ids, as the buffer of a message has them."""

    buf: NDArray[np.uint8]
    at: NDArray[np.int64]
    size: NDArray[np.int64]

    @classmethod
    def make(cls, series: int) -> "_Ids":
        """Random ones, the same every time."""
        rng = random.Random(7)
        ids = [series_id(i, rng) for i in range(series)]
        size = np.array([len(one) for one in ids], np.int64)
        return cls(np.frombuffer(bytearray(b"".join(ids)), np.uint8), np.cumsum(size) - size, size)


@dataclass(slots=True)
class _Spent:
    """CPU seconds of a window."""

    numbers_s: float = 0.0
    write_s: float = 0.0
    deliver_s: float = 0.0

    def line(self, title: str, values: int) -> str:
        """Per value."""
        parts = (self.numbers_s, self.write_s, self.deliver_s)
        figures = "".join(f"{one / values * 1e9:10.0f}" for one in (*parts, sum(parts)))
        return f"{title:<16}{figures}{values / sum(parts) / 1e6:10.1f}"


async def _window(hub: Hub, sinks: list[NullSink], ids: _Ids, rows: int, time_ns: int) -> _Spent:
    """One value for each series, until all sinks have it."""
    spent, series = _Spent(), len(ids.at)
    rng = np.random.default_rng(time_ns)
    until = [sink.rows + series for sink in sinks]
    batches = []
    # What the ingest server decodes is not part of this.
    for begin in range(0, series, rows):
        count = min(rows, series - begin)
        destination = (np.arange(count) % len(_DESTINATIONS)).astype(np.uint16)
        batches.append((begin, np.full(count, time_ns), rng.random(count), destination))
    began = time.process_time()
    for begin, time_column, values, destination in batches:
        end = begin + len(values)
        started = time.process_time()
        table = hub.table
        numbers = table.numbers(ids.buf, ids.at[begin:end], ids.size[begin:end])
        counted = time.process_time()
        await hub.write(Values(table, numbers, time_column, values, _DESTINATIONS, destination))
        spent.numbers_s += counted - started
        spent.write_s += time.process_time() - counted
        await asyncio.sleep(0)
    for sink, least in zip(sinks, until, strict=True):
        while sink.rows < least:
            sink.came.clear()
            await sink.came.wait()
    spent.deliver_s = time.process_time() - began - spent.numbers_s - spent.write_s
    return spent


async def _measure(way: str, ids: _Ids, options: argparse.Namespace) -> None:
    window_bytes = 1 if way == "disk" else options.window_bytes
    queue = None if way == "direct" else QueueOptions(max_bytes=8 << 30, window_bytes=window_bytes)
    sinks = [NullSink(f"null-{k}", options.lanes) for k in range(1 if way == "direct" else options.sinks)]
    with tempfile.TemporaryDirectory(prefix="bench-sinks-") as directory:
        queued = [QueuedSink(sink, queue) for sink in sinks]
        async with open_hub(queued, Path(directory), Registry().scope("sink")) as hub:
            for k in range(options.windows + 1):
                spent = await _window(hub, sinks, ids, options.rows, _START_NS + k * _WINDOW_NS)
                print(spent.line(f"{way}, {'known' if k else 'new'}", len(ids.at)), flush=True)


def main(arguments: list[str]) -> int:
    """Prints a line for each window."""
    parser = argparse.ArgumentParser(prog="scripts/bench sinks", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--windows", type=int, default=4, help="windows after the first one")
    parser.add_argument("--rows", type=int, default=1_200, help="values a batch")
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--sinks", type=int, default=1)
    parser.add_argument("--window-bytes", type=int, default=QueueOptions().window_bytes)
    options = parser.parse_args(arguments)
    kernels.warm()
    byte_table.warm()
    ids = _Ids.make(options.series)
    print(f"{options.series} series, ids of {ids.size.mean():.0f} bytes, batches of {options.rows}; CPU ns a value")
    print(f"{'':<16}{'number':>10}{'write':>10}{'deliver':>10}{'together':>10}{'M/CPU-s':>10}")
    for way in ("queue", "disk", "direct"):
        asyncio.run(_measure(way, ids, options))
    return 0

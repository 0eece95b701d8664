"""What a value costs between the ingest server and a sink: its series' number, the queue on disk, delivery. CPU seconds of this process.

    scripts/bench sinks [--sink null|m3db] [--replicas 1] [--series 100000] [--windows 4] [--rows 1200] [--lanes N] [--batch-rows N]
                        [--order same|shuffled] [--sinks 1] [--window-bytes N] [--annotations 0]

Ids are those of ``bench.out_new_series`` (100 to 180 bytes). Every window gives each series one value, in batches of ``--rows``: as many
as 256 KiB of m3msg messages have. The order of the series is the same in every window, as when aggregators flush, or with ``shuffled``
another one each time. ``null`` does nothing with them; ``m3db`` sends them to as many nodes as there are replicas, processes of their own
that answer at once (``bench.m3db_nodes``; their CPU does not count).

All that this process does counts, in all its threads and in the system for it (files and sockets, the sending side of loopback included),
but for what is ready before a window begins: reading and decoding m3msg is measured by ``bench out``. The clock of the bench, a system
call that is read three times a batch, is taken off. Three ways:

``queue``   every value is appended to the queue on disk, and delivered from memory: what services do
``disk``    the same with hardly any window: every value is read from disk again, as while a sink lags
``direct``  no queue: what would be left if the queue were written only when a sink lags (``null`` only)
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lab.errors import LabError
from numpy.typing import NDArray

from bench.m3db_nodes import nodes
from bench.out_new_series import series_id
from coordinator.config import Namespace
from coordinator.sinks import kernels
from coordinator.sinks.annotations import Annotations
from coordinator.sinks.hub import Hub, QueuedSink, open_hub
from coordinator.sinks.m3db import M3DBSink, Targets
from coordinator.sinks.m3db import kernels as m3db_kernels
from coordinator.sinks.queue import QueueOptions
from coordinator.sinks.sink import Delivered, Sink
from coordinator.sinks.values import Destination, Values
from m3db import tallies
from m3db.namespaces import Namespace as Registered
from m3db.namespaces import Namespaces, Retention
from m3db.options import SessionOptions
from m3db.session import FixedTopology, open_session
from m3db.topology import Host, Topology
from m3db.write import FormRules
from m3db.write import warmup as m3db_writes
from m3metrics.policy import StoragePolicy
from m3x import byte_table
from m3x.clock import wall_ns
from m3x.instrument import Registry

__all__ = ["main"]

_DESTINATIONS = (Destination.of(StoragePolicy.parse("10s:2d")), Destination.of(StoragePolicy.parse("1m:40d")))
_HOUR_NS = 3600 * 10**9
_RETENTION = Retention(48 * _HOUR_NS, 2 * _HOUR_NS, 120 * 10**9, 600 * 10**9)
_TEXTS = (b"", *(b"\x08%c\x10\x01" % kind for kind in range(1, 8)))
"""Annotations."""


class NullSink:
    """Takes everything."""

    ordered = True
    gather_s = 0.0

    def __init__(self, name: str, lanes: int, batch_rows: int) -> None:
        self.name = name
        self.lanes = lanes
        self.batch_rows = batch_rows

    def takes(self, destination: Destination) -> bool:
        """Everything."""
        return True

    async def deliver(self, batch: Values, *, again: bool) -> Delivered:
        """See ``Sink``."""
        # A request takes some turns of the loop: meanwhile the next batch gathers.
        await asyncio.sleep(0)
        return Delivered()

    async def close(self) -> None:
        """See ``Sink``."""


class Counting:
    """Counts what a sink has taken."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.name, self.ordered, self.lanes, self.batch_rows = sink.name, sink.ordered, sink.lanes, sink.batch_rows
        self.gather_s = sink.gather_s
        self.rows = 0
        self.came = asyncio.Event()

    def takes(self, destination: Destination) -> bool:
        """See ``Sink``."""
        return self._sink.takes(destination)

    async def deliver(self, batch: Values, *, again: bool) -> Delivered:
        """See ``Sink``. Raises ``LabError`` where a value was not taken."""
        result = await self._sink.deliver(batch, again=again)
        if result.refused or result.parked:
            raise LabError(f"not taken: {result}")
        self.rows += len(batch)
        self.came.set()
        return result

    async def close(self) -> None:
        """See ``Sink``."""
        await self._sink.close()


def _clock_s() -> float:
    """What reading the clock costs."""
    costs = []
    for _ in range(20):
        began = time.process_time()
        for _ in range(50):
            last = time.process_time()
        costs.append((last - began) / 50)
    return min(costs)


_CLOCK_S = _clock_s()


@asynccontextmanager
async def _sinks(options: argparse.Namespace, count: int) -> AsyncIterator[list[Counting]]:
    """The sinks that are measured."""
    if options.sink == "null":
        given = {"lanes": 4, "batch_rows": 10_000} | _given(options)
        yield [Counting(NullSink(f"null-{k}", **given)) for k in range(count)]
        return
    with nodes(options.replicas) as addresses:
        hosts = [Host(f"node{k}", address) for k, address in enumerate(addresses)]
        topology = FixedTopology(Topology.static(hosts, options.shards, options.replicas))
        async with open_session(SessionOptions(), topology, Registry().scope("m3db-client")) as session:
            while session.topology is None:  # noqa: ASYNC110 - nobody else waits
                await asyncio.sleep(0.01)
            targets = Targets(
                [Namespace(str(one), *one.attributes) for one in _DESTINATIONS],
            )
            targets.put(Namespaces({str(one): Registered(str(one), _RETENTION) for one in _DESTINATIONS}))
            rules = FormRules(shards=0)
            yield [Counting(M3DBSink(session, targets, rules, **_given(options)))]


def _given(options: argparse.Namespace) -> dict[str, int]:
    """Of lanes and rows a batch what is not left to the sink."""
    found = {"lanes": options.lanes, "batch_rows": options.batch_rows}
    return {key: value for key, value in found.items() if value is not None}


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

    def shuffled(self, rng: np.random.Generator) -> "_Ids":
        """In another order; the bytes lie in that order, too, as in a message."""
        order = rng.permutation(len(self.at))
        data = self.buf.tobytes()
        ends = (self.at + self.size).tolist()
        pieces = [data[at:end] for at, end in zip(self.at.tolist(), ends, strict=True)]
        size = self.size[order]
        buf = np.frombuffer(bytearray(b"".join([pieces[k] for k in order.tolist()])), np.uint8)
        return _Ids(buf, np.cumsum(size) - size, size)


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


async def _window(hub: Hub, sinks: list[Counting], ids: _Ids, rows: int, time_ns: int, texts: int) -> _Spent:
    """One value for each series, until all sinks have it."""
    spent, series = _Spent(), len(ids.at)
    rng = np.random.default_rng(time_ns)
    until = [sink.rows + series for sink in sinks]
    batches = []
    # What the ingest server decodes is not part of this.
    for begin in range(0, series, rows):
        count = min(rows, series - begin)
        destination = (np.arange(count) % len(_DESTINATIONS)).astype(np.uint16)
        annotations = None
        if texts:
            annotations = Annotations(_TEXTS[: texts + 1], rng.integers(0, texts + 1, count).astype(np.uint32))
        batches.append((begin, np.full(count, time_ns), rng.random(count), destination, annotations))
    began = time.process_time()
    for begin, time_column, values, destination, annotations in batches:
        end = begin + len(values)
        started = time.process_time()
        table = hub.table
        numbers = table.numbers(ids.buf, ids.at[begin:end], ids.size[begin:end])
        counted = time.process_time()
        await hub.write(Values(table, numbers, time_column, values, _DESTINATIONS, destination, annotations))
        spent.numbers_s += counted - started - _CLOCK_S
        spent.write_s += time.process_time() - counted - _CLOCK_S
        await asyncio.sleep(0)
    for sink, least in zip(sinks, until, strict=True):
        while sink.rows < least:
            sink.came.clear()
            await sink.came.wait()
    spent.deliver_s = time.process_time() - began - spent.numbers_s - spent.write_s - 3 * len(batches) * _CLOCK_S
    return spent


async def _measure(way: str, ids: _Ids, options: argparse.Namespace) -> None:
    window_bytes = 1 if way == "disk" else options.window_bytes
    queue = None if way == "direct" else QueueOptions(max_bytes=8 << 30, window_bytes=window_bytes)
    count = 1 if way == "direct" else options.sinks
    with tempfile.TemporaryDirectory(prefix="bench-sinks-") as directory:
        async with _sinks(options, count) as sinks:
            queued = [QueuedSink(sink, queue) for sink in sinks]
            async with open_hub(queued, Path(directory), Registry().scope("sink")) as hub:
                rng = np.random.default_rng(1)
                for k in range(options.windows + 1):
                    if options.order == "shuffled":
                        ids = ids.shuffled(rng)
                    spent = await _window(hub, sinks, ids, options.rows, wall_ns(), options.annotations)
                    print(spent.line(f"{way}, {'known' if k else 'new'}", len(ids.at)), flush=True)


def main(arguments: list[str]) -> int:
    """Prints a line for each window."""
    parser = argparse.ArgumentParser(prog="scripts/bench sinks", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--windows", type=int, default=4, help="windows after the first one")
    parser.add_argument("--rows", type=int, default=1_200, help="values a batch")
    parser.add_argument("--sink", choices=["null", "m3db"], default="null")
    parser.add_argument("--replicas", type=int, default=1, help="m3db: as many nodes, each with all shards")
    parser.add_argument("--shards", type=int, default=64, help="m3db")
    parser.add_argument("--lanes", type=int, help="default: those of the sink; null: 4")
    parser.add_argument("--batch-rows", type=int, help="default: those of the sink; null: 10000")
    parser.add_argument(
        "--order", choices=["same", "shuffled"], default="same", help="of the series, window after window"
    )
    parser.add_argument("--annotations", type=int, default=0, help=f"different ones, at most {len(_TEXTS) - 1}")
    parser.add_argument("--sinks", type=int, default=1)
    parser.add_argument("--window-bytes", type=int, default=QueueOptions().window_bytes)
    options = parser.parse_args(arguments)
    kernels.warm()
    byte_table.warm()
    if options.sink == "m3db":
        m3db_kernels.warm()
        m3db_writes.warm()
        tallies.warm()
    ids = _Ids.make(options.series)
    print(f"{options.series} series, ids of {ids.size.mean():.0f} bytes, batches of {options.rows}; CPU ns a value")
    print(f"{'':<16}{'number':>10}{'write':>10}{'deliver':>10}{'together':>10}{'M/CPU-s':>10}")
    for way in ("queue", "disk", "direct") if options.sink == "null" else ("queue", "disk"):
        asyncio.run(_measure(way, ids, options))
    return 0

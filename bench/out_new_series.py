"""What a series costs the coordinator on its way out: the first window of new series, then windows of known ones, and a restart.

    scripts/bench out --series 100000 --windows 4

Frames as aggregators send them (ids of 100–180 bytes in the coordinator's order of tags) go through the m3msg consumer's core, the
ingester and a store on a file in this process, several batches at a time as they arrive from a socket; sockets are left out. CPU
seconds are those of the whole process, DuckDB's threads included, and are split by the part that the calling thread was in; what no part
claims is *rest*: the loop, tasks, other threads of DuckDB. Every window ends with a query for one series, which has to find it:
whatever was put off until somebody asks is in the figures. Memory is that of the process.
"""

import argparse
import asyncio
import random
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coordinator import warmup
from coordinator.ingest import Ingester, IngestOptions, StoreOutlet, Translator
from coordinator.matchers import Matcher, MatchOp
from coordinator.store import SeriesIndex, Store, open_store
from coordinator.store.database import Database
from coordinator.store.labels import LabelIndex
from m3metrics.codec import AggregatedMetric, encode_aggregated
from m3metrics.ids import coordinator_id
from m3metrics.policy import StoragePolicy
from m3msg.consumer import ReceivedBatch
from m3msg.consumer.core import ConsumerCore
from m3msg.frames import Message, Metadata, encode_message
from m3x.instrument import Registry
from m3x.process import resident_bytes
from m3x.protobuf import varint

__all__ = ["main"]

_POLICIES = (StoragePolicy.parse("10s:2d"), StoragePolicy.parse("1m:40d"))
_WINDOW_NS = 60 * 10**9
_CHUNK = 256 << 10
"""What one read of a socket gives at most."""
_IN_FLIGHT = 32
"""Batches in work at a time: 8 MiB, the consumer's bound for a connection."""

_PARTS: tuple[tuple[str, type, str], ...] = (
    ("m3msg", ConsumerCore, "feed"),
    ("m3msg", ConsumerCore, "ack"),
    ("translate", Translator, "translate"),
    ("find known", SeriesIndex, "find"),
    ("new series", Store, "_make_series"),
    ("labels", LabelIndex, "match"),
    ("resolve, retention", Store, "_resolve"),
    ("commit", Database, "commit"),
    ("read", Database, "fetch"),
    ("load", Database, "load_series"),
    ("recent windows", Store, "_committed"),
)


class Meter:
    """CPU seconds by part: a thread's time counts for the innermost part that it is in."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._local = threading.local()
        for name, owner, method in _PARTS:
            setattr(owner, method, self._measured(name, getattr(owner, method)))

    def _measured(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            outer = getattr(self._local, "inner", 0.0)
            self._local.inner = 0.0
            began = time.thread_time()
            try:
                return function(*arguments, **more)
            finally:
                whole = time.thread_time() - began
                self.spent[name] += whole - self._local.inner
                self._local.inner = outer + whole

        return call

    def take(self) -> dict[str, float]:
        """By part since the last call."""
        spent, self.spent = self.spent, defaultdict(float)
        return dict(spent)


def series_id(i: int, rng: random.Random) -> bytes:
    """A metric as a scraped service has it; host and pod are its own."""
    tags = [
        (b"__name__", b"http_server_requests_%s" % (b"total", b"seconds_bucket", b"in_flight", b"bytes")[i % 4]),
        (b"cluster", b"eu-west-%d" % (i % 3)), (b"job", b"service-%02d" % (i % 40)),
        (b"pod", b"service-%02d-7d9f8b6c5-%06d" % (i % 40, i)),
    ]  # fmt: skip
    more = [
        (b"instance", b"10.%d.%d.7:9100" % (i // 5 % 250, i % 5)),
        (b"code", b"%d" % (200 + i % 5)),
        (b"method", b"GET"),
    ]
    return coordinator_id([*tags, *rng.sample(more, rng.randint(0, 3))], "gauge")


def frames(series: int, time_ns: int) -> bytes:
    """One value of each series at ``time_ns``; half of them are of the first policy, half of the second one."""
    rng = random.Random(7)
    return b"".join(
        encode_message(
            Message(
                Metadata(i % 63 + 1, i + 1, time_ns),
                encode_aggregated(
                    AggregatedMetric(
                        id=series_id(i, rng), time_ns=time_ns, value=i + 0.5, storage_policy=_POLICIES[i % 2]
                    )
                ),
            )
        )
        for i in range(series)
    )


async def send(data: bytes, ingester: Ingester) -> int:
    """Gives everything to the ingester, as reads of one connection would; how many messages there were."""
    core = ConsumerCore()
    working: set[asyncio.Task[None]] = set()
    messages = 0

    async def work(batch: ReceivedBatch) -> None:
        await ingester.handle(batch)
        core.take_acks()

    for at in range(0, len(data), _CHUNK):
        for batch in core.feed(data[at : at + _CHUNK], 1):
            messages += len(batch)
            working.add(asyncio.create_task(work(batch)))
        while len(working) >= _IN_FLIGHT:
            _, working = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)
    await asyncio.gather(*working)
    return messages


async def ask(store: Store, series: int, time_ms: int) -> None:
    """Whether the last series is found with its point."""
    pod = b"service-%02d-7d9f8b6c5-%06d" % ((series - 1) % 40, series - 1)
    found = await store.select([Matcher(MatchOp.EQUAL, b"pod", pod)], time_ms, time_ms)
    if found.values.tolist() != [series - 0.5]:
        raise SystemExit(f"the last series has the values {found.values.tolist()} at {time_ms}")


def line(title: str, series: int, cpu_s: float, memory: int, parts: dict[str, float]) -> str:
    """One line of the report."""
    named = {name: us for name, seconds in parts.items() if (us := seconds / series * 1e6) >= 0.005}
    rest = cpu_s / series * 1e6 - sum(named.values())
    listed = ", ".join(
        f"{name} {us:.2f}" for name, us in [*sorted(named.items(), key=lambda one: -one[1]), ("rest", rest)]
    )
    return f"{title}: {cpu_s / series * 1e6:6.2f} us a series, {memory / series:+5.0f} bytes a series ({listed})"


async def measure(series: int, windows: int, path: Path, meter: Meter, told: Callable[[str], None]) -> None:
    """Prints a line for each window and one for opening the file again."""
    begin_ns = time.time_ns() // _WINDOW_NS * _WINDOW_NS - windows * _WINDOW_NS
    data = frames(series, begin_ns)
    told(f"{series} series, {len(data) / series:.0f} bytes a frame")
    async with open_store(path, _POLICIES) as store:
        ingester = Ingester(StoreOutlet(store), _POLICIES, IngestOptions(), Registry().scope("ingest"))
        for window in range(windows):
            time_ns = begin_ns + window * _WINDOW_NS
            # Both are nine bytes long.
            now = data.replace(varint(begin_ns), varint(time_ns)) if window else data
            meter.take()
            memory, began = resident_bytes(), time.process_time()
            if await send(now, ingester) != series:
                raise SystemExit("not every message arrived")
            await ask(store, series, time_ns // 10**6)
            spent = time.process_time() - began
            told(line(f"window {window + 1}", series, spent, resident_bytes() - memory, meter.take()))
    memory, began = resident_bytes(), time.process_time()
    async with open_store(path, _POLICIES) as store:
        await ask(store, series, time_ns // 10**6)
        spent = time.process_time() - began
        told(line("restart ", series, spent, resident_bytes() - memory, meter.take()))


def main(arguments: list[str]) -> int:
    """Runs the benchmark; an error if something that was written is not found."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench out", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--windows", type=int, default=4)
    options = parser.parse_args(arguments)
    if options.series < 1 or options.windows < 1:
        parser.error("--series and --windows must be at least 1")
    warmup.warm(lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.duckdb"
        asyncio.run(measure(options.series, options.windows, path, Meter(), lambda text: print(text, flush=True)))
    return 0

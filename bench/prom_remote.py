"""What remote write costs: values in columns → bytes on the wire to a server that throws them away.

CPU seconds of this process, garbage collection included; the server is another one. New series are those whose labels are made by their
first value; their numbers exist before, as ``SeriesTable`` is shared by all sinks.
"""

import argparse
import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from lab.processes import module_command

from coordinator.config.prom_remote import EndpointConfig, PromRemoteConfig, SecretText
from coordinator.sinks.prom_remote import LabelRules, PromRemoteSink
from coordinator.sinks.prom_remote.encoding import Encoder
from coordinator.sinks.prom_remote.labels import LabelCache
from coordinator.sinks.prom_remote.opening import open_sinks
from coordinator.sinks.prom_remote.symbols import warm
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.values import UNAGGREGATED, Values
from m3metrics.ids import encode_tags

_T0_NS = 1_700_000_000_000_000_000
_WINDOW_NS = 10_000_000_000


def ids(count: int) -> list[bytes]:
    """Ids of 100 to 180 bytes: 50 metrics of some hosts, as services have."""
    return [
        encode_tags([
            (b"__name__", b"http_server_request_duration_seconds_%d" % (i % 50)),
            (b"app", b"checkout"),
            (b"env", b"production"),
            (b"host", b"host-%05d.eu-west-1" % (i // 50)),
            (b"instance", b"10.%d.%d.7:9100" % (i // 50 % 256, i // 12800 % 256)),
            (b"path", b"/api/v1/%x" % (i * 7919 % 65536)),
        ])
        for i in range(count)
    ]  # fmt: skip


def numbered(table: SeriesTable, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    """The numbers of ``ids``."""
    made = ids(count)
    size = np.array([len(one) for one in made], np.int64)
    buf = np.frombuffer(bytearray(b"".join(made)), np.uint8)
    return table.numbers(buf, np.cumsum(size) - size, size)


def batches(table: SeriesTable, count: int, rows: int, window: int) -> list[Values]:
    """A value of each series: in the order in which they were numbered at first, then in an order of chance."""
    chance = np.random.default_rng(window)
    series = numbered(table, count)
    if window:
        series = chance.permutation(series)
    return [
        Values(
            table,
            series[at : at + rows],
            np.full(len(series[at : at + rows]), _T0_NS + window * _WINDOW_NS, np.int64),
            chance.random(len(series[at : at + rows])) * 100,
            (UNAGGREGATED,),
            np.zeros(len(series[at : at + rows]), np.uint16),
        )
        for at in range(0, count, rows)
    ]


async def deliver(sink: PromRemoteSink, given: list[Values]) -> float:
    """CPU seconds to deliver all of them, ``lanes`` at a time."""
    waiting = iter(given)

    async def lane() -> None:
        for batch in waiting:
            await sink.deliver(batch, again=False)

    started = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(sink.lanes):
            group.create_task(lane())
    return time.process_time() - started


def parts(given: list[Values], count: int) -> dict[str, float]:
    """CPU microseconds a value of the steps before the socket."""
    cache, encoder = LabelCache(LabelRules()), Encoder()
    labels = cache.of(given[0].table)
    took = {}
    for name, step in (
        ("labels, a new series", lambda batch: labels.require(batch.table, batch.series)),
        ("labels, known", lambda batch: labels.require(batch.table, batch.series)),
        ("encoding", lambda batch: encoder.request(batch, np.arange(len(batch)), labels)),
        ("encoding and snappy", lambda batch: encoder.body(batch, np.arange(len(batch)), labels)),
    ):
        started = time.process_time()
        for batch in given:
            step(batch)
        took[name] = (time.process_time() - started) / count * 1e6
    return took


@contextmanager
def _drain() -> Iterator[tuple[int, Callable[[], tuple[int, int]]]]:
    """The port of a server that throws bodies away, and how many requests and bytes it has had."""
    command = module_command("bench.http_drain")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        order, answers = server.stdin, server.stdout
        assert order is not None
        assert answers is not None

        def said() -> tuple[int, int]:
            order.write("\n")
            order.flush()
            requests, nbytes = answers.readline().split()
            return int(requests), int(nbytes)

        try:
            yield int(answers.readline()), said
        finally:
            server.terminate()


async def measure(options: argparse.Namespace) -> None:
    """Prints the figures."""
    table = SeriesTable()
    windows = [batches(table, options.series, options.rows, window) for window in range(options.windows)]
    print(
        f"{options.series} series, ids of {min(map(len, ids(1000)))} to {max(map(len, ids(1000)))} B, batches of {options.rows}"
    )
    for name, each in parts(windows[0], options.series).items():
        print(f"  {name:24}{each:8.3f} us a value")
    with _drain() as (port, said):
        endpoint = EndpointConfig(name="drain", address=SecretText(f"http://127.0.0.1:{port}/"), lanes=options.lanes)
        (sink,) = open_sinks(PromRemoteConfig(endpoints=[endpoint]), LabelRules())
        new = await deliver(sink, windows[0])
        known = [await deliver(sink, window) for window in windows[1:]]
        await sink.close()
        requests, nbytes = said()
    values = options.series * options.windows
    print(f"  {'to the wire, new series':24}{new / options.series * 1e6:8.3f} us a value")
    print(
        f"  {'to the wire, known':24}{min(known) / options.series * 1e6:8.3f} us a value (the best of {len(known)} windows)"
    )
    print(f"  {requests} requests, {nbytes / values:.1f} B a value on the wire")


def main(arguments: list[str]) -> int:
    """``scripts/bench remote``."""
    parser = argparse.ArgumentParser(prog="scripts/bench remote", description=__doc__)
    parser.add_argument("--series", type=int, default=200_000)
    parser.add_argument("--windows", type=int, default=6, help="values of each series")
    parser.add_argument("--rows", type=int, default=5000, help="maxSamplesPerSend")
    parser.add_argument("--lanes", type=int, default=4)
    warm()
    asyncio.run(measure(parser.parse_args(arguments)))
    return 0

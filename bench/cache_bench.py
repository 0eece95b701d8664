"""What the write path remembers of a series costs in memory, and what a sample costs with so many series, in one process on one core.

    scripts/bench cache [--series 10000 --series 1000000 …] [--rules 200] [--over 1.2] [--once 10] [--max-bytes 67108864]

Remote writes of one sample for each of a thousand series with eight labels go through the writer of a coordinator; nothing is sent. For
each number of series: CPU of a sample of a new one, then of a known one, in whole requests and of the look-up alone, and the memory that
they have taken; ``--rules`` match none of them. With ``--over`` the cache of ``--max-bytes`` is filled, then that many times what it holds
comes in turn, so often that it settles, without and with so many per cent (``--once``) of series that never come again.
"""

import argparse
import asyncio
import gc
import os
import time
from pathlib import Path
from typing import Any

import cramjam
import numpy as np
from numpy.typing import NDArray

from bench.rules_bench import Sink, rule_set
from coordinator.config.cluster import Namespace
from coordinator.downsample import Downsampler, RulesInEffect
from coordinator.prompb import WRITE_REQUEST
from coordinator.write import RemoteWriter, SeriesCache, kernels
from coordinator.write.options import WriteOptions
from m3x.instrument import Registry
from m3x.protobuf import marshal

_PER_REQUEST = 1000
_DIGITS = 9
_SERIES_BYTES = 150
_ONCE = 500_000_000
"""Numbers of series that come once begin here."""
_ROUNDS = 4
"""Until a cache that is too small has settled."""


class Requests:
    """Remote writes whose series have a number as part of a label."""

    def __init__(self) -> None:
        mark = b"#" * _DIGITS
        listed = []
        for i in range(_PER_REQUEST):
            labels = {
                "__name__": f"node_cpu_{i % 50}", "app": f"a{i % 30}", "code": str(200 + i % 5), "dc": "east", "env": "prod",
                "host": f"h{mark.decode()}", "instance": f"10.0.0.{i % 250}:9100", "team": "x",
            }  # fmt: skip
            listed.append(
                {
                    "labels": [{"name": name.encode(), "value": value.encode()} for name, value in labels.items()],
                    "samples": [{"value": 1.0 + i, "timestamp": 1_700_000_000_000}],
                }
            )
        data = marshal(WRITE_REQUEST, {"timeseries": listed})
        self._data = np.frombuffer(bytearray(data), np.uint8)
        places, at = [], data.find(mark)
        while at >= 0:
            places.append(at)
            at = data.find(mark, at + 1)
        self._places = np.array(places)[:, None] + np.arange(_DIGITS)

    def data(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The request before compression; ``numbers``: of its thousand series."""
        powers = 10 ** np.arange(_DIGITS - 1, -1, -1)
        self._data[self._places] = (numbers[:, None] // powers % 10 + ord("0")).astype(np.uint8)
        return self._data

    def body(self, numbers: NDArray[np.int64]) -> bytes:
        """The request."""
        return bytes(cramjam.snappy.compress_raw(self.data(numbers).data))


class Bench:
    """A writer, and what it has cost."""

    def __init__(self, max_bytes: int, rules: int) -> None:
        in_effect = RulesInEffect()
        if rules:
            in_effect.put("default", rule_set(rules))
        namespace = Namespace("aggregated", 10 * 10**9, 48 * 3600 * 10**9)
        downsampler = Downsampler([namespace], in_effect, now_ns=time.time_ns())
        self.cache = SeriesCache(0, max_bytes)
        self.writer = RemoteWriter(downsampler, self.cache, Sink(), Registry().scope("bench"))
        self.requests = Requests()

    async def write(self, numbers: NDArray[np.int64]) -> float:
        """CPU seconds of the requests that have these series, a thousand each."""
        spent = 0.0
        for part in numbers.reshape(-1, _PER_REQUEST):
            body = self.requests.body(part)
            began = time.process_time()
            await self.writer.write(body, WriteOptions())
            spent += time.process_time() - began
        return spent

    def look_up(self, numbers: NDArray[np.int64]) -> float:
        """CPU seconds of the look-up alone."""
        spent = 0.0
        series = np.zeros(_PER_REQUEST, kernels.SERIES_ROW)
        times, values = np.zeros(_PER_REQUEST, np.int64), np.zeros(_PER_REQUEST)
        at, size = np.empty(_PER_REQUEST, np.uint32), np.empty(_PER_REQUEST, np.uint32)
        contexts = np.empty(_PER_REQUEST, np.uint64)
        for part in numbers.reshape(-1, _PER_REQUEST):
            data = self.requests.data(part)
            kernels.request(data, series, times, values, np.zeros(kernels.OTHERS, np.int64))
            kernels.keys(series, _PER_REQUEST, 0, at, size, contexts)
            began = time.process_time()
            self.cache.resolve(data, at, size, contexts, _unknown)
            spent += time.process_time() - began
        return spent


def _unknown(row: int) -> Any:
    raise SystemExit(f"row {row} is not known any more")


def _resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def _holding(series: int, rules: int) -> None:
    """One line: a cache that holds all series."""
    warm = Bench(1 << 24, rules)
    for _ in range(2):
        await warm.write(np.arange(2 * _PER_REQUEST))
    all_series = np.arange(series)
    bench = Bench(max(series * _SERIES_BYTES, 1 << 24), rules)
    before = _resident_bytes()
    new = await bench.write(all_series)
    taken = _resident_bytes() - before
    rounds = max(200_000 // series, 1)
    known = min([await bench.write(all_series) for _ in range(rounds)])
    looked = min([bench.look_up(all_series) for _ in range(rounds)])
    print(
        f"{series:8} series, {rules} rules: {taken / series:4.0f} B a series ({bench.cache.size_bytes / series:.0f} by its own count); "
        f"{new / series * 1e6:.2f} us a new one; {known / series * 1e6:.3f} us a known sample, "
        f"of which {looked / series * 1e6:.3f} us look-up"
    )


async def _over(over: float, once: int, max_bytes: int) -> None:
    """One line: a cache that holds only a part of the series."""
    bench = Bench(max_bytes, 0)
    cache = bench.cache
    while cache.full() is None:
        await bench.write(np.arange(cache.built, cache.built + _PER_REQUEST))
    room = cache.series
    in_turn = int(room * over) // _PER_REQUEST * _PER_REQUEST
    singles = in_turn * once // (100 - once) // _PER_REQUEST * _PER_REQUEST
    spent, built = 0.0, 0
    for turn in range(_ROUNDS):
        before = cache.built
        numbers = np.concatenate((np.arange(in_turn), np.arange(singles) + _ONCE + turn * singles))
        # Requests of one kind, as those of different senders.
        requests = np.random.default_rng(turn).permutation(numbers.reshape(-1, _PER_REQUEST))
        spent = await bench.write(requests.reshape(-1))
        built = cache.built - before
    print(
        f"{over} times the {room} series that {max_bytes >> 20} MiB hold in turn, {once} % of all samples of others that come once: "
        f"{spent / len(numbers) * 1e6:.3f} us a sample, {(built - singles) / in_turn:.1%} of those that come in turn prepared anew; "
        f"{cache.size_bytes / (1 << 20):.1f} MiB"
    )


def main(arguments: list[str]) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(prog="scripts/bench cache", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--series", type=int, action="append", help="thousands of them; may be given several times")
    parser.add_argument("--rules", type=int, default=0)
    parser.add_argument("--over", type=float, default=0.0)
    parser.add_argument("--once", type=int, default=10)
    parser.add_argument("--max-bytes", type=int, default=1 << 26)
    options = parser.parse_args(arguments)
    if options.over:
        for once in (0, options.once):
            asyncio.run(_over(options.over, once, options.max_bytes))
        return 0
    for series in options.series or (10_000, 100_000, 1_000_000):
        if series < _PER_REQUEST or series % _PER_REQUEST:
            parser.error(f"--series must be thousands, found {series}")
        asyncio.run(_holding(series, options.rules))
    return 0

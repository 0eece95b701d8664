"""What a log on disk costs: appending, waiting until it is durable, reading, opening.

    scripts/bench segments [--directory PATH] [--record-bytes 200000] [--megabytes 400]

CPU seconds are those of this process, all threads; the time of the clock depends on the disk and on what else it does.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import numpy as np

from m3x.segments import Position, SegmentLog, SyncPolicy

__all__ = ["main"]

_SMALL = 20_000
_WAITS = 50


@contextmanager
def _timed(taken: dict[str, float]) -> Iterator[None]:
    clock, cpu = time.perf_counter(), time.process_time()
    yield
    taken["clock"], taken["cpu"] = time.perf_counter() - clock, time.process_time() - cpu


def main(arguments: list[str]) -> int:
    """Prints a line per figure."""
    parser = argparse.ArgumentParser(prog="scripts/bench segments", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--directory", type=Path, help="on whose file system (default: that of temporary files)")
    parser.add_argument("--record-bytes", type=int, default=200_000)
    parser.add_argument("--megabytes", type=int, default=400, help="how much is appended for each policy")
    options = parser.parse_args(arguments)
    for policy in get_args(SyncPolicy):
        with tempfile.TemporaryDirectory(dir=options.directory) as folder:
            _measure(Path(folder) / "log", policy, options.record_bytes, options.megabytes * 1_000_000)
    return 0


def _measure(path: Path, policy: SyncPolicy, record_bytes: int, total: int) -> None:
    data = np.random.default_rng(1).integers(0, 256, record_bytes, dtype=np.uint8)
    taken: dict[str, float] = {}
    with SegmentLog(path, sync=policy) as log:
        with _timed(taken):
            for _ in range(total // record_bytes):
                log.append([b"a head of its own", data])
            log.flush()
        _print(policy, f"append {record_bytes} B", total, taken)
        with _timed(taken):
            read = sum(len(record.data) for record in log.reader())
        _print(policy, "read", read, taken)
        with _timed(taken):
            for _ in range(_SMALL):
                log.append([b"a hundred bytes, more or less".ljust(100)])
        print(f"{policy:<9} append 100 B: {taken['cpu'] / _SMALL * 1e6:.1f} us of CPU a record")
        waits = asyncio.run(_waits(log, data[: record_bytes // 10]))
        print(f"{policy:<9} until durable: median {np.median(waits) * 1e3:.2f} ms, longest {max(waits) * 1e3:.2f} ms")
        with _timed(taken):
            log.roll()
            dropped = log.drop_through(Position(log.next_segment, 0))
        print(f"{policy:<9} drop: {taken['cpu'] / len(dropped) * 1e3:.1f} ms of CPU a segment")
        while log.size_bytes < 31_000_000:
            log.append([data])
    with _timed(taken):
        SegmentLog(path).close()
    print(f"{policy:<9} open, last segment full: {taken['cpu'] * 1e3:.1f} ms of CPU, {taken['clock'] * 1e3:.1f} ms")


async def _waits(log: SegmentLog, data: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> list[float]:
    """Seconds from an append until it is durable."""
    found = []
    for _ in range(_WAITS):
        start = time.perf_counter()
        await log.wait_durable(log.append([data]).end)
        found.append(time.perf_counter() - start)
    return found


def _print(policy: str, what: str, size: int, taken: dict[str, float]) -> None:
    print(
        f"{policy:<9} {what}: {size / taken['cpu'] / 1e6:,.0f} MB per CPU second, "
        f"{size / taken['clock'] / 1e6:,.0f} MB per second"
    )

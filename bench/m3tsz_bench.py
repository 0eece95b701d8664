"""What reading M3DB's streams of points costs: points decoded per CPU second, on one core.

    scripts/bench m3tsz [--series 2000] [--points 720]

Each line is one kind of series, in blocks of so many points as a node gives them. A stream of each hundred series is encoded, and
repeated; encoding is plain Python and is not measured.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterator

from m3db.m3tsz import Encoder, Unit, decode, joined

__all__ = ["main"]

_START = 1_700_000_000 // 7200 * 7200 * 10**9
_DISTINCT = 100
_ROUNDS = 5

Points = Iterator[tuple[int, float, Unit]]


def _counter(rng: random.Random, count: int) -> Points:
    value = 0
    for n in range(count):
        value += rng.randrange(100)
        yield _START + n * 10**10, float(value), Unit.SECOND


def _gauge(rng: random.Random, count: int) -> Points:
    value = 50.0
    for n in range(count):
        value += rng.gauss(0, 1)
        yield _START + n * 10**10, round(value, 2), Unit.SECOND


def _constant(_: random.Random, count: int) -> Points:
    return ((_START + n * 10**10, 42.0, Unit.SECOND) for n in range(count))


def _noise(rng: random.Random, count: int) -> Points:
    return ((_START + n * 10**10 + rng.randrange(1000) * 10**6, rng.random(), Unit.MILLISECOND) for n in range(count))


_KINDS: dict[str, Callable[[random.Random, int], Points]] = {
    "counter, every 10s": _counter,
    "gauge of two decimals, every 10s": _gauge,
    "constant, every 10s": _constant,
    "any double, at any millisecond": _noise,
}


def main(arguments: list[str]) -> int:
    """Prints a line per kind of series."""
    parser = argparse.ArgumentParser(prog="scripts/bench m3tsz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--series", type=int, default=2000)
    parser.add_argument("--points", type=int, default=720, help="of each stream")
    options = parser.parse_args(arguments)
    rng = random.Random(1)
    for name, kind in _KINDS.items():
        distinct = [_stream(kind(rng, options.points)) for _ in range(min(_DISTINCT, options.series))]
        _measure(name, [distinct[n % len(distinct)] for n in range(options.series)])
    return 0


def _stream(points: Points) -> bytes:
    encoder = Encoder(_START)
    for point in points:
        encoder.add(*point)
    return encoder.stream()


def _measure(name: str, streams: list[bytes]) -> None:
    arena, at, size = joined(streams)
    count = len(decode(arena, at, size).time_ns)
    start = time.process_time()
    for _ in range(_ROUNDS):
        decode(arena, at, size)
    taken = (time.process_time() - start) / _ROUNDS
    print(f"{name:<34} {size.sum() / count:5.2f} B a point  {count / taken / 1e6:6.1f} M points per CPU second")

"""What reading M3DB's streams of points costs: points decoded per CPU second, on one core.

    scripts/bench m3tsz [--series 2000] [--points 720]

Each line is one kind of series, in blocks of so many points as a node gives them. The last two are about gauges in answers of nodes: from
the bytes of an answer to columns, and from three answers that are the same to one. A hundred different streams are encoded, and
repeated; encoding is plain Python and is not measured.
"""

import argparse
import random
import time
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from m3db.m3tsz import Encoder, Unit, decode, joined
from m3db.read.fetch import read_answer
from m3db.read.merge import merge
from m3db.thrift import METHODS, marshal

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
    answer = b""
    for name, kind in _KINDS.items():
        distinct = [_stream(kind(rng, options.points)) for _ in range(min(_DISTINCT, options.series))]
        streams = [distinct[n % len(distinct)] for n in range(options.series)]
        _measure(name, *joined(streams))
        if kind is _gauge:
            answer = _answer(streams)
    _measure_answers(answer)
    return 0


def _stream(points: Points) -> bytes:
    encoder = Encoder(_START)
    for point in points:
        encoder.add(*point)
    return encoder.stream()


def _answer(streams: list[bytes]) -> bytes:
    """What a node answers to ``fetchTagged``: each series has one block."""
    elements = [
        {
            "id": b'{__name__="requests_total",host="host-%06d",zone="eu-west"}' % number,
            "nameSpace": b"default",
            "encodedTags": bytes(60),
            "segments": [{"merged": {"head": stream[:-2], "tail": stream[-2:], "checksum": zlib.adler32(stream)}}],
        }
        for number, stream in enumerate(streams)
    ]
    return marshal(METHODS["fetchTagged"].result, {"success": {"elements": elements, "exhaustive": True}})


def _measure(name: str, arena: NDArray[np.uint8], at: NDArray[np.int64], size: NDArray[np.int64]) -> None:
    count = len(decode(arena, at, size).time_ns)
    rate = count / _seconds(lambda: decode(arena, at, size)) / 1e6
    print(f"{name:<34} {size.sum() / count:5.2f} B a point  {rate:6.1f} M points per CPU second")


def _measure_answers(body: bytes) -> None:
    answers = [read_answer(body) for _ in range(3)]
    count = len(answers[0].points.time_ns)
    rate = count / _seconds(lambda: read_answer(body)) / 1e6
    print(f"{'answer of a node':<34} {len(body) / count:5.2f} B a point  {rate:6.1f} M points per CPU second")
    rate = 3 * count / _seconds(lambda: merge(answers, _START, _START + 10**15)) / 1e6
    print(f"{'three answers merged':<34} {'':17}{rate:6.1f} M points of theirs per CPU second")


def _seconds(work: Callable[[], object]) -> float:
    """CPU time of one round."""
    work()
    start = time.process_time()
    for _ in range(_ROUNDS):
        work()
    return (time.process_time() - start) / _ROUNDS

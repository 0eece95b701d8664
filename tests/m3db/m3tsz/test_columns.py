"""Streams as columns: room that grows, limits, errors."""

import numpy as np
import pytest
from tests.m3db.m3tsz.streams import START, encoded

from m3db.m3tsz import PADDING, StreamEnd, TooManyPointsError, Unit, decode, joined

CONSTANT = encoded([(START + n * 10**10, 1.0, Unit.SECOND, b"") for n in range(5000)])
NOTED = encoded([(START + n * 10**10, 1.0, Unit.SECOND, str(n).encode()) for n in range(100)])


def test_columns_grow() -> None:
    assert len(CONSTANT) < 2000
    arena, at, size = joined([NOTED, CONSTANT, NOTED, CONSTANT])
    points = decode(arena, at, size)
    assert points.stops.tolist() == [100, 5100, 5200, 10200]
    assert np.array_equal(points.time_ns[5200:], START + np.arange(5000) * 10**10)
    assert (points.bits.view(np.float64) == 1.0).all()
    assert [points.annotation(note, arena) for note in range(200)] == 2 * [str(n).encode() for n in range(100)]
    assert points.notes[:, 0].tolist() == [*range(100), *range(5100, 5200)]


def test_no_streams() -> None:
    arena, at, size = joined([])
    assert len(decode(arena, at, size).time_ns) == 0


def test_limits() -> None:
    arena, at, size = joined([CONSTANT, CONSTANT])
    assert len(decode(arena, at, size, most=10_000).time_ns) == 10_000
    with pytest.raises(TooManyPointsError, match="^more than 9999 points in "):
        decode(arena, at, size, most=9_999)
    with pytest.raises(ValueError, match=f"^{PADDING} bytes have to follow the last stream$"):
        decode(arena[:-1], at, size)


def test_a_cut_stream_costs_no_other() -> None:
    arena, at, size = joined([NOTED, CONSTANT[:-2], NOTED])
    points = decode(arena, at, size)
    assert points.ends.tolist() == [StreamEnd.MARKER, StreamEnd.TRUNCATED, StreamEnd.MARKER]
    assert points.stops[0] == 100
    assert 0 < points.stops[1] - 100 <= 5000
    assert points.stops[2] == points.stops[1] + 100

"""The plain encoder of m3tsz: what is written is read again. That the bytes are M3's is in tests/golden."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.m3db.m3tsz.streams import START, bits_of, encoded, inputs, plainly

from m3db.m3tsz import EncodeError, Encoder, StreamEnd, Unit, read_points

good = st.one_of(
    st.integers(-(10**12), 10**12).map(float),
    st.integers(-(10**6), 10**6).map(lambda n: n / 1000),
    st.floats(-1e13, 1e13),
    st.sampled_from([math.inf, -math.inf, math.nan]),
)


@given(inputs(good))
def test_there_and_back(points: list[tuple[int, float, int, bytes]]) -> None:
    rows, end = plainly(encoded(points))
    assert end == StreamEnd.MARKER
    assert [(time_ns, unit) for time_ns, _, unit, _ in rows] == [(time_ns, unit) for time_ns, _, unit, _ in points]
    last = b""
    for (_, bits, _, annotation), (_, value, _, given_annotation) in zip(rows, points, strict=True):
        assert annotation == (b"" if given_annotation == last else given_annotation)
        last = given_annotation or last
        near = {bits_of(value), bits_of(math.nextafter(value, math.inf)), bits_of(math.nextafter(value, -math.inf))}
        assert bits in near or (value == 0.0 and bits == 0) or abs(value) < 1e-300


def test_what_cannot_be_written() -> None:
    encoder = Encoder(START)
    encoder.add(START, 1.0)
    with pytest.raises(EncodeError, match="^deltaOfDelta value 2147483648 s overflows 32 bits$"):
        encoder.add(START + (1 << 31) * 10**9, 2.0)
    with pytest.raises(EncodeError, match="^unrecognized time unit$"):
        Encoder(START).add(START, 1.0, Unit.NONE)


def test_segments() -> None:
    encoder = Encoder(START)
    assert encoder.segment() == (b"", b"")
    for step in range(20):
        encoder.add(START + step * 10**10, float(step))
        head, tail = encoder.segment()
        assert len(tail) in (2, 3)
        assert [point.value for point in read_points(head + tail)] == [float(n) for n in range(step + 1)]
    assert len(encoder) == 20

"""Streams to test with: points of every kind, and bytes that are nearly streams."""

from collections.abc import Sequence
from struct import pack, unpack

from hypothesis import strategies as st

from m3db.m3tsz import Encoder, StreamEnd, StreamError, Unit, read_points

SECOND = 10**9
START = 1_700_000_000 // 7200 * 7200 * SECOND

Row = tuple[int, int, int, bytes]
"""Time, bits of the double, unit, annotation."""

units = st.sampled_from([Unit.SECOND, Unit.MILLISECOND, Unit.MICROSECOND, Unit.NANOSECOND])
doubles = st.one_of(
    st.integers(-100, 100).map(float),
    st.integers(-(10**15), 10**15).map(float),
    st.integers(-(10**6), 10**6).map(lambda n: n / 100),
    st.floats(),
    st.just(-0.0),
)
steps = st.one_of(st.just(10), st.integers(-300, 3000), st.integers(-(1 << 24), 1 << 24))
annotations = st.sampled_from([b"", b"", b"", b"one", b"two" * 30])


@st.composite
def inputs(draw: st.DrawFn, values: st.SearchStrategy[float] = doubles) -> list[tuple[int, float, int, bytes]]:
    """Points whose times suit their units."""
    time_ns, unit, points = START, Unit.SECOND, []
    for _ in range(draw(st.integers(1, 40))):
        if draw(st.integers(0, 9)) == 0:
            unit = draw(units)
        time_ns += draw(steps) * (1, SECOND, 10**6, 10**3, 1)[unit]
        points.append((time_ns, draw(values), int(unit), draw(annotations)))
    return points


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A stream with some bytes changed, cut off somewhere."""
    stream = bytearray(encoded(draw(inputs())))
    for _ in range(draw(st.integers(0, 4))):
        stream[draw(st.integers(0, len(stream) - 1))] = draw(st.integers(0, 255))
    return bytes(stream[: draw(st.integers(0, len(stream)))] if draw(st.booleans()) else stream)


streams = st.one_of(
    damaged(), st.binary(max_size=64), st.binary(max_size=40).map(lambda tail: pack(">q", START) + tail)
)


def encoded(points: Sequence[tuple[int, float, int, bytes]]) -> bytes:
    encoder = Encoder(START)
    for point in points:
        encoder.add(*point)
    return encoder.stream()


def bits_of(value: float) -> int:
    bits: int = unpack(">Q", pack(">d", value))[0]
    return bits


def plainly(stream: bytes) -> tuple[list[Row], StreamEnd]:
    """What the authority makes of a stream."""
    rows: list[Row] = []
    try:
        rows.extend(tuple(point) for point in read_points(stream))
    except StreamError as error:
        return rows, error.end
    return rows, StreamEnd.MARKER

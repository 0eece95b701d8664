"""Streams of a played node, read by a reader that was written apart from it."""

import struct

from hypothesis import given
from hypothesis import strategies as st
from lab.m3db.m3tsz import encode
from lab.m3db.storage import Point
from lab.m3db.structs import TIME_UNITS

from m3db.m3tsz.plain import read_points

START_NS = 1_699_999_200 * 10**9
UNITS = {0: 1, 1: 3, 2: 2, 3: 4}

bits = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0.0, -0.0, 1.0, 1.5, 1e300, float("inf"), 0.1]).map(
        lambda v: struct.unpack(">Q", struct.pack(">d", v))[0]
    ),
)
steps = st.tuples(
    st.sampled_from([0, 0, 0, 1, 2, 3]),
    st.integers(1, 70_000),
    bits,
    st.sampled_from([b"", b"", b"a", b"b" * 65, b"c" * 8200]),
)


@given(st.lists(steps, min_size=1, max_size=40), st.integers(-5, 3600))
def test_what_is_encoded_can_be_read(rows: list[tuple[int, int, int, bytes]], first: int) -> None:
    points, time_ns = [], START_NS + first * 10**9
    for unit, step, value, annotation in rows:
        size = TIME_UNITS[unit]
        time_ns = (time_ns // size + step) * size
        points.append(Point(time_ns, value, unit, annotation))
    found = list(read_points(encode(START_NS, points)))
    assert [(p.time_ns, p.bits, p.unit) for p in found] == [(p.time_ns, p.bits, UNITS[p.unit]) for p in points]
    # An annotation is written once, and not again before there is another one.
    written, last = [], b""
    for point in points:
        written.append(point.annotation if point.annotation not in (b"", last) else b"")
        last = point.annotation or last
    assert [p.annotation for p in found] == written


def test_a_stream_that_was_written_out() -> None:
    one, two = (struct.unpack(">Q", struct.pack(">d", value))[0] for value in (1.0, 2.0))
    stream = encode(START_NS, [Point(START_NS, one), Point(START_NS + 60 * 10**9, two)])
    expected = f"{START_NS:064b}" + "0" + "1" + f"{one:064b}" + "10" + f"{60:07b}" + "1" + "11" + "000001" + "001010"
    expected += f"{(one ^ two) >> 52:011b}" + "100000000" + "00"
    expected += "0" * (-len(expected) % 8)
    assert stream == int(expected, 2).to_bytes(len(expected) // 8, "big")

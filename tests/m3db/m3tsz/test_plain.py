"""The plain reader of m3tsz, with bytes written by hand from the page."""

from struct import pack

import pytest
from hypothesis import given
from tests.m3db.m3tsz.streams import START, bits_of, plainly, streams

from m3db.m3tsz import StreamEnd, StreamError, Unit, read_points
from m3db.m3tsz.plain import bits_at

SECOND = Unit.SECOND
END = "100000000 00"


def stream_of(*parts: str, start_ns: int = START) -> bytes:
    """A stream of bits, spaces between them as one likes."""
    bits = "".join(parts).replace(" ", "")
    bits += "0" * (-len(bits) % 8)
    return pack(">q", start_ns) + int("1" + bits, 2).to_bytes(len(bits) // 8 + 1, "big")[1:]


def test_the_example_of_the_page() -> None:
    first, second = read_points(bytes.fromhex("17979c43f272c000301cf3c000"))
    assert (first.time_ns, first.value, first.unit) == (1699999200 * 10**9, 1.0, SECOND)
    assert (second.time_ns, second.value, second.annotation) == (1699999260 * 10**9, 2.0, b"")


ONE = "0 11 000000 0 1 1"
"""A first value 1: whole, one significant bit, no multiplier, plus one."""


@pytest.mark.parametrize(
    ("bits", "deltas"),
    [
        ("0 01 0 01", [0, 0]),
        ("10 0111111 01 0 01", [63, 126]),
        ("10 1000000 01", [-64]),
        ("110 011111111 01", [255]),
        ("1110 100000000000 01", [-2048]),
        ("1111 01111111111111111111111111111111 01", [(1 << 31) - 1]),
    ],
)
def test_times(bits: str, deltas: list[int]) -> None:
    rows, end = plainly(stream_of("0", ONE, bits, END))
    assert end == StreamEnd.MARKER
    assert [(time_ns - START) // 10**9 for time_ns, *_ in rows] == [0, *deltas]


def test_a_unit_of_its_own_and_an_annotation() -> None:
    note = f"100000000 01 {4:08b} {0xAB:08b} {0:08b} {0xFF:08b}"
    change = f"100000000 10 {Unit.NANOSECOND:08b} {7:064b}"
    rows, end = plainly(stream_of(note, change, ONE, "10 0000101 01", "10 0000001 01", END))
    assert end == StreamEnd.MARKER
    assert rows == [
        (START + 7, bits_of(1.0), Unit.NANOSECOND, b"\xab\x00\xff"),
        (START + 12, bits_of(1.0), Unit.NANOSECOND, b""),
        (START + 18, bits_of(1.0), Unit.NANOSECOND, b""),
    ]


def test_units_without_a_coding() -> None:
    minutes = f"100000000 10 {Unit.MINUTE:08b} {10**9:064b}"
    unknown = f"100000000 10 {200:08b}"
    rows, end = plainly(stream_of("0", ONE, minutes, "01", "1 01", unknown, "1 01", END))
    assert end == StreamEnd.MARKER
    assert [(time_ns - START, unit) for time_ns, _, unit, _ in rows] == [
        (0, SECOND),
        (10**9, Unit.MINUTE),
        (10**9, Unit.MINUTE),
        (10**9, 200),
    ]


@pytest.mark.parametrize(
    ("bits", "values"),
    [
        ("01", [1.0]),
        (f"001 {bits_of(2.5):064b} 0 01 0 1 0", [2.5, 2.5, 2.5]),
        (f"001 {bits_of(2.5):064b} 0 1 11 001100 000000 1", [2.5, 3.5]),
        ("000 11 000011 1 001 1 1011", [1.2]),
        ("000 10 0 0", [1.0]),
        ("1 0 1 0 1 0 1", [0.0, -1.0]),
        ("1 0 1", [0.0]),
    ],
)
def test_values(bits: str, values: list[float]) -> None:
    rows, end = plainly(stream_of("0", ONE, "0", bits, END))
    assert end == StreamEnd.MARKER
    assert [row[1] for row in rows[1:]] == [bits_of(value) for value in values]


@pytest.mark.parametrize(
    ("stream", "end"),
    [
        (b"", StreamEnd.TRUNCATED),
        (stream_of("0", ONE), StreamEnd.TRUNCATED),
        (stream_of("0", ONE, start_ns=START + 1), StreamEnd.NO_UNIT),
        (stream_of(f"100000000 10 {2:08b} 100000000 10 {99:08b}", "0" * 64), StreamEnd.NO_UNIT),
        (stream_of("0 0 0 1 111 0000"), StreamEnd.MULTIPLIER),
        (stream_of(f"100000000 01 {1:08b}"), StreamEnd.ANNOTATION),
        (stream_of("100000000 01", "11111111" * 9, "00000010"), StreamEnd.ANNOTATION),
        (stream_of("100000000 01", "11111110", "11111111" * 8, "00000001"), StreamEnd.ANNOTATION),
        (stream_of("100000000 01", "11111110", "11111111" * 7, "01111111"), StreamEnd.TRUNCATED),
    ],
)
def test_bad_streams(stream: bytes, end: StreamEnd) -> None:
    with pytest.raises(StreamError, match=f"^bad m3tsz stream: {end.text}$") as caught:
        list(read_points(stream))
    assert caught.value.end == end


@given(streams)
def test_any_bytes_are_points_and_an_end(stream: bytes) -> None:
    rows, _ = plainly(stream)
    assert len(rows) <= max(0, len(stream) - 8) * 8 // 3
    assert sum(len(annotation) for *_, annotation in rows) <= len(stream)


def test_bits_of_bytes() -> None:
    assert bits_at(b"\x0f\xf0", 4, 8) == 0xFF
    assert bits_at(b"\x0f\xf0", 0, 0) == 0
    assert bits_at(b"\x80", 0, 1) == 1

"""Compiled reading of protobuf against the plain reader, and against Go's rules written down once more."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from m3x.kernels import base
from m3x.protobuf import GENERATED, Field, Kind, Message, WireError, read_varint, reading, unmarshal
from m3x.protobuf import varint as encoded

_0 = np.uint64(0)


@njit(nogil=True)
def _position(a, buf):
    return np.int64(a - base(buf)) if a != np.uint64(0) else np.int64(-1)


@njit(nogil=True)
def run_varint(buf, end):
    value, a = reading.varint(base(buf), base(buf) + np.uint64(end))
    return value, _position(a, buf)


@njit(nogil=True)
def run_quick(buf):
    value, after = reading.short_size(base(buf))
    return _position(reading.skip_varint(base(buf)), buf), value, _position(after, buf)


@njit(nogil=True)
def run_chunk(buf, end):
    start, stop = reading.chunk(base(buf), base(buf) + np.uint64(end))
    return _position(start, buf), _position(stop, buf)


@njit(nogil=True)
def run_field(buf, end):
    number, wire, a = reading.field(base(buf), base(buf) + np.uint64(end))
    return number, wire, _position(a, buf)


@njit(nogil=True)
def run_skip(buf, end, wire):
    return _position(reading.skip(base(buf), base(buf) + np.uint64(end), np.uint64(wire)), buf)


@njit(nogil=True)
def run_message(buf, end):
    """``(whether all of it is legal, the value of the last varint field 1, where the last field 2 is)`` of a message."""
    a = base(buf)
    e = a + np.uint64(end)
    value = np.uint64(0)
    start = stop = a
    while a < e:
        number, wire, a = reading.field(a, e)
        if a != _0:
            if number == 1:
                if wire != reading.VARINT:
                    return False, value, np.int64(0), np.int64(0)
                value, a = reading.varint(a, e)
            elif number == 2:
                if wire != reading.BYTES:
                    return False, value, np.int64(0), np.int64(0)
                start, stop = reading.chunk(a, e)
                a = stop
            else:
                a = reading.skip(a, e, wire)
        if a == _0:
            return False, value, np.int64(0), np.int64(0)
    return True, value, _position(start, buf), _position(stop, buf)


def varint(data: bytes) -> tuple[int, int]:
    """Go's rule: at most ten bytes, the low 64 bits."""
    value = 0
    for k, byte in enumerate(data[:10]):
        value |= (byte & 0x7F) << 7 * k
        if byte < 128:
            return value & (1 << 64) - 1, k + 1
    return 0, -1


def skip(data: bytes, at: int, wire: int) -> int:
    depth = 0
    while True:
        if wire == 0:
            _, n = varint(data[at:])
            if n < 0:
                return -1
            at += n
        elif wire == 2:
            size, n = varint(data[at:])
            if n < 0:
                return -1
            at += n + size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire in (3, 4):
            depth += 1 if wire == 3 else -1
        else:
            return -1
        if at > len(data) or depth < 0:
            return -1
        if depth == 0:
            return at
        tag, n = varint(data[at:])
        if n < 0:
            return -1
        at, wire = at + n, tag & 7


mostly_long = st.lists(st.one_of(st.integers(128, 255), st.integers(0, 255)), max_size=14).map(bytes)
fieldish = st.lists(st.sampled_from(list(b"\x08\x0a\x0b\x0c\x01\x05\x02\x80\x7f\xff")), max_size=24).map(bytes)


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(data) or bytearray(1), np.uint8)


@settings(deadline=None, max_examples=300)
@given(mostly_long)
def test_varint(data: bytes) -> None:
    assert run_varint(array(data), len(data)) == varint(data)


@settings(deadline=None, max_examples=300)
@given(mostly_long, st.integers(0, 14))
def test_varint_is_the_plain_reader_s_up_to_any_end(data: bytes, end: int) -> None:
    end = min(end, len(data))
    try:
        expected = read_varint(data, 0, end)
    except WireError:
        expected = (0, -1)
    assert run_varint(array(data), end) == expected


@settings(deadline=None, max_examples=300)
@given(mostly_long)
def test_quick_steps_with_room_behind(data: bytes) -> None:
    value, after = varint(data + bytes(16))
    skipped, short, behind = run_quick(array(data + bytes(16)))
    assert skipped == after
    assert (short, behind) == ((value, after) if 0 < after <= 2 else (0, -1))


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.integers(0, 40), st.integers(0, 1 << 64)), st.binary(max_size=40), st.integers(0, 40))
def test_chunk(size: int, content: bytes, end: int) -> None:
    data = encoded(size) + content
    end = min(end, len(data))
    size, at = varint(data[:end])
    assert run_chunk(array(data), end) == ((at, at + size) if at >= 0 and size <= end - at else (-1, -1))


@settings(deadline=None, max_examples=400)
@given(fieldish, st.integers(0, 7))
def test_skip(data: bytes, wire: int) -> None:
    assert run_skip(array(data), len(data), wire) == skip(data, 0, wire)


@pytest.mark.parametrize(
    ("tag", "number"),
    [
        (0x08, 1),
        (0x07, 0),
        ((1 << 31) - 1 << 3, (1 << 31) - 1),
        (1 << 34, 0),
        ((1 << 32 | 2) << 3, 2),
        (0x0C, 0),
        (0x0B, 1),
    ],
)
def test_field_numbers_are_the_low_32_bits(tag: int, number: int) -> None:
    data = encoded(tag)
    after = len(data) if number else -1
    assert run_field(array(data), len(data)) == (number, tag & 7, after)


TABLE = Message("t", (Field(1, "n", Kind.UINT64), Field(2, "b", Kind.BYTES)), GENERATED)
fields = st.one_of(
    st.integers(0, (1 << 64) - 1).map(lambda n: b"\x08" + encoded(n)),
    st.binary(max_size=200).map(lambda b: b"\x12" + encoded(len(b)) + b),
    st.sampled_from([b"\x18\x05", b"\x1a\x01x", b"\x23\x08\x01\x24", b"\x35abcd", b"\x39abcdefgh", b"\x8a\x01\x00"]),
)


@settings(deadline=None, max_examples=600)
@given(st.lists(fields, min_size=1, max_size=5), st.data())
def test_mutated_messages_are_read_as_the_plain_reader_reads_them(parts: list[bytes], draw: st.DataObject) -> None:
    data = bytearray(b"".join(parts))
    for _ in range(draw.draw(st.integers(0, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    end = draw.draw(st.integers(0, len(data)) | st.just(len(data)))
    legal, value, start, stop = run_message(array(bytes(data)), end)
    try:
        expected = unmarshal(TABLE, bytes(data[:end]))
    except ValueError:
        assert not legal
    else:
        assert legal
        assert (value, data[start:stop]) == (expected.get("n", 0), expected.get("b", b""))

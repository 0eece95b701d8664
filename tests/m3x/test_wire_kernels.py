"""Steps over protobuf messages, against plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from m3x import wire_kernels
from m3x.kernels import base

_0 = np.uint64(0)


@njit(nogil=True)
def run_varint(buf, end):
    value, a = wire_kernels.varint(base(buf), base(buf) + np.uint64(end))
    return value, np.int64(a - base(buf)) if a != np.uint64(0) else np.int64(-1)


@njit(nogil=True)
def run_quick(buf):
    skipped = wire_kernels.skip_varint(base(buf))
    value, after = wire_kernels.short_size(base(buf))
    origin = base(buf)
    return (
        np.int64(skipped - origin) if skipped != np.uint64(0) else np.int64(-1),
        value,
        np.int64(after - origin) if after != np.uint64(0) else np.int64(-1),
    )


@njit(nogil=True)
def run_skip(buf, end, wire):
    a = wire_kernels.skip_field(base(buf), base(buf) + np.uint64(end), np.uint64(wire))
    return np.int64(a - base(buf)) if a != np.uint64(0) else np.int64(-1)


@njit(nogil=True)
def run_number(tag):
    return wire_kernels.field_number(np.uint64(tag))


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
@given(mostly_long)
def test_quick_steps_with_room_behind(data: bytes) -> None:
    value, after = varint(data + bytes(16))
    skipped, short, behind = run_quick(array(data + bytes(16)))
    assert skipped == after
    assert (short, behind) == ((value, after) if 0 < after <= 2 else (0, -1))


@settings(deadline=None, max_examples=400)
@given(fieldish, st.integers(0, 7))
def test_skip(data: bytes, wire: int) -> None:
    assert run_skip(array(data), len(data), wire) == skip(data, 0, wire)


@pytest.mark.parametrize(
    ("tag", "number"),
    [(0x08, 1), (0x07, 0), ((1 << 31) - 1 << 3, (1 << 31) - 1), (1 << 34, -1), ((1 << 32 | 2) << 3, 2)],
)
def test_field_numbers_are_the_low_32_bits(tag: int, number: int) -> None:
    assert run_number(tag) == number

"""Compiled writing of protobuf against the plain writer."""

import math
import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from m3x.kernels import base
from m3x.protobuf import GENERATED, Field, Kind, Message, marshal, read_varint, varint, words, writing

TABLE = Message("t", (Field(1, "n", Kind.INT64), Field(2, "d", Kind.DOUBLE), Field(3, "b", Kind.BYTES)), GENERATED)
uint64s = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1))


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(data) or bytearray(1), np.uint8)


@njit(nogil=True)
def run_varint(out, value):
    value = np.uint64(value)
    return np.int64(writing.put_varint(base(out), value) - base(out)), writing.varint_size(value)


@njit(nogil=True)
def run_message(out, n, d, b, size):
    size = np.uint64(size)
    room = writing.int_size(n) + writing.bytes_size(size)
    a = writing.put_int(base(out), np.uint64(0x08), n)
    a = writing.put_double(a, np.uint64(0x11), d)
    a = writing.put_bytes(a, np.uint64(0x1A), base(b), size)
    return np.int64(a - base(out)), room


@njit(nogil=True)
def run_length(out, n):
    n = np.uint64(n)
    a = writing.put_length(base(out), np.uint64(0x0A), n)
    return np.int64(a - base(out)), writing.length_size(n)


@njit(nogil=True)
def run_be32(out, value):
    return np.int64(writing.put_be32(base(out), np.uint64(value)) - base(out))


@njit(nogil=True)
def run_words(value):
    word, n = words.spread(np.uint64(value))
    return word, n, words.gather(word)


@settings(deadline=None)
@given(uint64s)
def test_varint(value: int) -> None:
    out = np.full(16, 0xEE, np.uint8)
    size, told = run_varint(out, np.uint64(value))
    assert out.tobytes() == varint(value) + b"\xee" * (16 - size)
    assert told == size
    assert read_varint(out.tobytes(), 0, size) == (value, size)


@settings(deadline=None)
@given(
    st.integers(-(1 << 63), (1 << 63) - 1) | st.just(0),
    st.floats() | st.sampled_from([0.0, -0.0]),
    st.binary(max_size=300),
)
def test_fields_are_those_of_the_plain_writer(n: int, d: float, b: bytes) -> None:
    out = np.full(360, 0xEE, np.uint8)
    size, room = run_message(out, n, d, array(b), len(b))
    expected = marshal(TABLE, {"n": n, "d": d, "b": b})
    if math.isnan(d):  # of a NaN, the kernel keeps every bit
        expected = expected.replace(struct.pack("<d", float("nan")), struct.pack("<d", d))
    assert out.tobytes() == expected + b"\xee" * (360 - size)
    assert room + (9 if d != 0 else 0) == size


@settings(deadline=None)
@given(st.integers(0, 1 << 40))
def test_length(n: int) -> None:
    out = np.zeros(16, np.uint8)
    after, size = run_length(out, n)
    assert out[:after].tobytes() == b"\x0a" + varint(n)
    assert size == after + n


@settings(deadline=None)
@given(st.integers(0, (1 << 32) - 1))
def test_big_endian_lengths(value: int) -> None:
    out = np.zeros(5, np.uint8)
    assert run_be32(out, value) == 4
    assert out.tobytes() == value.to_bytes(4, "big") + b"\0"


@settings(deadline=None)
@given(st.one_of(st.integers(0, 300), st.integers(0, (1 << 56) - 1)))
def test_spread_and_gather(value: int) -> None:
    word, n, back = run_words(value)
    assert int(word).to_bytes(8, "little")[:n] == varint(value)
    assert back == value

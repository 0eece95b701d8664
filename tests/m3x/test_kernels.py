"""Compiled primitives against plain Python."""

import mmh3
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from m3x import kernels


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(data) or bytearray(1), np.uint8)


@njit
def equal_at(a, b, n):
    return kernels.bytes_equal(kernels.base(a), kernels.base(b), n)


@given(st.binary(min_size=1, max_size=70), st.integers(0, 69), st.integers(1, 255))
def test_bytes_equal_sees_every_byte(data: bytes, at: int, flip: int) -> None:
    other = bytearray(data)
    assert equal_at(array(data), array(bytes(other)), len(data))
    other[at % len(data)] ^= flip
    assert not equal_at(array(data), array(bytes(other)), len(data))


@given(st.binary(max_size=70))
def test_murmur_is_the_field_s_murmur(data: bytes) -> None:
    assert kernels.murmur3_32(array(data), 0, len(data)) == mmh3.hash(data, 0, signed=False)


@given(st.binary(max_size=70), st.integers(0, (1 << 32) - 1))
def test_murmur_with_a_seed(data: bytes, seed: int) -> None:
    source = array(data)
    found = kernels.murmur3_32_seeded(np.uint64(source.ctypes.data), np.uint64(len(data)), np.uint32(seed))
    assert found == mmh3.hash(data, seed, signed=False)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=70), min_size=4, max_size=4))
def test_murmur_of_four(parts: list[bytes]) -> None:
    arrays = [array(part or b"x") for part in parts]
    addresses = np.array([0, *(a.ctypes.data for a in arrays)], np.uint64)
    sizes = np.array([0, *map(len, parts)], np.uint64)
    hashes = np.zeros(5, np.uint32)
    kernels.murmur3_32_of_four(addresses, sizes, 1, hashes)
    assert hashes.tolist() == [0, *(mmh3.hash(part, 0, signed=False) for part in parts)]


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_copy_short_writes_nothing_else(data: bytes) -> None:
    target = np.full(len(data) + 40, 0xEE, np.uint8)
    source = array(data)
    kernels.copy_short(np.uint64(target.ctypes.data), np.uint64(source.ctypes.data), np.uint64(len(data)))
    assert target.tobytes() == data + b"\xee" * 40


def test_murmur_vectors() -> None:
    for text, value in ((b"foo", 4138058784), (b"bar", 1158584717), (b"baz", 4050152682)):
        assert kernels.murmur3_32(array(text), 0, 3) == value


@given(st.binary(max_size=40), st.integers(0, 9))
def test_copy_bytes(data: bytes, at: int) -> None:
    target = np.full(64, 7, np.uint8)
    assert kernels.copy_bytes(target, at, array(data), 0, len(data)) == at + len(data)
    assert target.tobytes() == b"\x07" * at + data + b"\x07" * (64 - at - len(data))


@njit
def hash_of(a, n, seed):
    return kernels.hash_bytes(kernels.base(a), n, seed)


def test_hashes_spread_over_both_halves() -> None:
    rng = np.random.default_rng(3)
    seen_high, seen_low = set(), set()
    for size in list(range(1, 40)) * 50:
        value = int(hash_of(rng.integers(0, 256, size).astype(np.uint8), size, 1))
        seen_high.add(value >> 32)
        seen_low.add(value & 0xFFFFFFFF)
    assert len(seen_high) > 1690
    assert len(seen_low) > 1690


def test_hash_depends_on_every_byte_and_the_seed() -> None:
    data = array(bytes(range(33)))
    plain = hash_of(data, 33, 1)
    assert hash_of(data, 33, 2) != plain
    for at in range(33):
        other = data.copy()
        other[at] ^= 1
        assert hash_of(other, 33, 1) != plain

"""Compiled steps through Thrift structs against the plain codec, which passes over every field of a struct that it does not know."""

from struct import pack

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3db.errors import ThriftError
from m3db.thrift import Struct, kernels, unmarshal
from m3db.thrift.plain import MAX_DEPTH

NOTHING = Struct("Nothing")
SIZES = {2: 1, 3: 1, 4: 8, 6: 2, 8: 4, 10: 8}


@st.composite
def value(draw: st.DrawFn, kind: int, depth: int = 0) -> bytes:
    """A value of a type, nested ones becoming rarer."""
    if kind in SIZES:
        return draw(st.binary(min_size=SIZES[kind], max_size=SIZES[kind]))
    if kind == 11:
        data = draw(st.binary(max_size=20))
        return pack(">i", len(data)) + data
    inner = st.sampled_from([2, 6, 8, 10, 11] if depth > 2 else [2, 3, 4, 6, 8, 10, 11, 12, 13, 14, 15])
    count = draw(st.integers(0, 3))
    if kind == 12:
        parts = [(one, draw(value(one, depth + 1))) for one in draw(st.lists(inner, max_size=3))]
        return b"".join(pack(">bh", one, 7) + data for one, data in parts) + b"\0"
    first, second = draw(inner), draw(inner)
    if kind == 13:
        pairs = [draw(value(first, depth + 1)) + draw(value(second, depth + 1)) for _ in range(count)]
        return pack(">bbi", first, second, count) + b"".join(pairs)
    return pack(">bi", first, count) + b"".join(draw(value(first, depth + 1)) for _ in range(count))


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(value(12)))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


def plainly(data: bytes) -> bool:
    """Whether the plain codec reads a struct that is nothing but unknown fields."""
    try:
        unmarshal(NOTHING, data)
    except ThriftError:
        return False
    return True


def compiled(data: bytes) -> bool:
    array = np.frombuffer(bytearray(data) or bytearray(1), np.uint8)
    at = np.uint64(array.ctypes.data)
    end = at + np.uint64(len(data))
    while True:
        kind, _, at = kernels.field(at, end)
        if not at or kind == 0:
            return bool(at == end)
        at = kernels.skip(np.uint64(at), end, kind, 0)
        if not at:
            return False
        at = np.uint64(at)


@given(value(12))
def test_structs(data: bytes) -> None:
    assert compiled(data)
    assert plainly(data)


@given(st.one_of(changed(), st.binary(max_size=40)))
def test_damaged_structs(data: bytes) -> None:
    assert compiled(data) == plainly(data)


@pytest.mark.parametrize("depth", range(MAX_DEPTH - 2, MAX_DEPTH + 3))
@pytest.mark.parametrize("inner", [b"", pack(">bhb", 2, 1, 1), pack(">bhbi", 15, 1, 2, 0)])
def test_deep_structs(depth: int, inner: bytes) -> None:
    data = pack(">bh", 12, 1) * depth + inner + b"\0" * (depth + 1)
    assert compiled(data) == plainly(data)


@pytest.mark.parametrize("depth", range(MAX_DEPTH - 2, MAX_DEPTH + 3))
def test_deep_lists(depth: int) -> None:
    data = pack(">bh", 15, 1) + pack(">bi", 15, 1) * depth + pack(">bi", 2, 0) + b"\0"
    assert compiled(data) == plainly(data)

# mypy: ignore-errors
"""Compiled steps through Thrift structs: fields, binaries, lists, skipping (docs/m3/m3db_wire.md, thrift). The authority is ``plain``.

Positions are ``uint64`` addresses; ``end`` is the end of all bytes, and nothing behind it is read. A position of 0 says that the bytes
are bad: cut off, a length below zero, an unknown type, nested too deep.
"""

import numpy as np
from numba import njit

from m3db.thrift.plain import MAX_DEPTH
from m3db.thrift.schema import Kind
from m3x.kernels import load8, load16, load32, load64
from m3x.protobuf.words import swap32, swap64

__all__ = ["binary", "elements", "field", "int64_at", "skip"]

_0, _1, _2, _3, _4, _5, _6, _8 = (np.uint64(n) for n in (0, 1, 2, 3, 4, 5, 6, 8))
_SIZES = np.zeros(256, np.uint64)
"""Bytes of the values of a type; 0 where they differ, or there is no such type."""
for _kind, _size in ((Kind.BOOL, 1), (Kind.BYTE, 1), (Kind.DOUBLE, 8), (Kind.I16, 2), (Kind.I32, 4), (Kind.I64, 8)):
    _SIZES[_kind] = _size
_STRUCT, _MAP, _SET, _LIST, _BINARY = (
    np.int64(kind) for kind in (Kind.STRUCT, Kind.MAP, Kind.SET, Kind.LIST, Kind.BINARY)
)


@njit(cache=True, nogil=True)
def field(at, end):
    """``(type, number, where its value begins)`` of a field; type and number are ``int64``, and 0 at the end of a struct."""
    if at >= end:
        return np.int64(0), np.int64(0), _0
    kind = np.int64(load8(at))
    if kind == 0:
        return kind, np.int64(0), at + _1
    if end - at < _3:
        return kind, np.int64(0), _0
    number = load16(at + _1)
    return kind, np.int64(np.int16(((number & np.uint64(0xFF)) << _8) | (number >> _8))), at + _3


@njit(cache=True, nogil=True)
def binary(at, end):
    """Where the bytes of a binary begin, and where they end."""
    if end - at < _4:
        return _0, _0
    size = swap32(load32(at))
    if size >> np.uint64(31) or size > end - at - _4:
        return _0, _0
    return at + _4, at + _4 + size


@njit(cache=True, nogil=True)
def int64_at(at):
    """The i64 at an address; whether it is all there is for the caller to know."""
    return np.int64(swap64(load64(at)))


@njit(cache=True, nogil=True)
def elements(at, end):
    """``(type, how many, where the first begins)`` of a list or set; numbers are ``int64``."""
    if end - at < _5:
        return np.int64(0), np.int64(0), _0
    count = swap32(load32(at + _1))
    if count >> np.uint64(31) or count > end - at - _5:
        return np.int64(0), np.int64(0), _0
    return np.int64(load8(at)), np.int64(count), at + _5


@njit(cache=True, nogil=True)
def skip(at, end, kind, depth):
    """The position behind a value of any type that a struct ``depth`` deep contains."""
    size = _SIZES[kind & 0xFF]
    if size:
        return at + size if size <= end - at else _0
    if kind == _BINARY:
        return binary(at, end)[1]
    if kind in (_STRUCT, _MAP, _SET, _LIST):
        return _skip_nested(at, end, kind, depth)
    return _0


@njit(cache=True, nogil=True)
def _skip_nested(at, end, kind, depth):
    """Of a struct, list, set or map. What is open is a stack: in a row the types of key and value, and how many are left; -1: a struct."""
    stack = np.zeros((MAX_DEPTH + 3, 4), np.int64)
    top = 0
    at = _enter(at, end, kind, stack, top)
    while at:
        left = stack[top, 2]
        if left == 0:
            top -= 1
            if top < 0:
                return at
            continue
        if left < 0:
            kind, _, at = field(at, end)
            if at == _0:
                return _0
            if kind == 0:
                stack[top, 2] = 0
                continue
        else:
            # A map has two values for each of its elements, its key's first.
            kind = stack[top, 0] if stack[top, 3] == 0 or left % 2 == 0 else stack[top, 1]
            stack[top, 2] -= 1
        size = _SIZES[kind & 0xFF]
        if depth + top >= MAX_DEPTH:
            return _0
        if size:
            at = at + size if size <= end - at else _0
        elif kind == _BINARY:
            at = binary(at, end)[1]
        elif kind in (_STRUCT, _MAP, _SET, _LIST):
            top += 1
            at = _enter(at, end, kind, stack, top)
        else:
            return _0
    return _0


@njit(cache=True, nogil=True)
def _enter(at, end, kind, stack, top):
    """Opens a value with content: where that begins."""
    stack[top, 3] = 0
    if kind == _STRUCT:
        stack[top, 2] = -1
        return at
    if kind != _MAP:
        inner, count, at = elements(at, end)
        stack[top, 0], stack[top, 2] = inner, count
        return at
    if end - at < _6:
        return _0
    count = swap32(load32(at + _2))
    if count >> np.uint64(31) or _2 * count > end - at - _6:
        return _0
    stack[top, 0], stack[top, 1] = np.int64(load8(at)), np.int64(load8(at + _1))
    stack[top, 2], stack[top, 3] = np.int64(count) * 2, 1
    return at + _6

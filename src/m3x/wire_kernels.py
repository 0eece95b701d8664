# mypy: ignore-errors
"""Compiled steps over protobuf messages: varints, lengths, fields that nobody asked for.

Positions are ``uint64`` addresses; ``e`` is where the enclosing message ends, and nothing from there on is read. An address of 0 comes
back for what is not legal. The rules are those of M3's generated code: varints have at most ten bytes and keep their low 64 bits, a
field number is the low 32 bits of the tag without its wire type, unknown fields are skipped, groups nest.

``skip_varint`` and ``short_size`` are the quick ones for the shapes that encoders write; they need readable bytes behind the varint.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from m3x.kernels import load8, load16, load64

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_3 = np.uint64(3)
_4 = np.uint64(4)
_5 = np.uint64(5)
_7 = np.uint64(7)
_8 = np.uint64(8)
_9 = np.uint64(9)
_10 = np.uint64(10)
_7F = np.uint64(0x7F)
_80 = np.uint64(0x80)
_CONTINUE = np.uint64(0x8080808080808080)


@intrinsic
def trailing_zeros(_context, _value):
    """``trailing_zeros(word: uint64) -> uint64``: zero bits below the lowest one; undefined for 0."""

    def generate(_c, builder, _s, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


@intrinsic
def swap32(_context, _value):
    """``swap32(word: uint64) -> uint64``: the low four bytes in reverse order."""

    def generate(_c, builder, _s, args):
        narrow = builder.trunc(args[0], ir.IntType(32))
        return builder.zext(builder.bswap(narrow), ir.IntType(64))

    return types.uint64(types.uint64), generate


@njit(cache=True, nogil=True)
def varint(a, e):
    """``(value, address after it)`` of the varint at ``a``."""
    if a + _8 <= e:
        word = load64(a)
        ends = ~word & _CONTINUE
        if ends != _0:
            bits = trailing_zeros(ends)  # 7, 15, …: position of the last byte's top bit
            word &= (_2 << bits) - _1
            word &= np.uint64(0x7F7F7F7F7F7F7F7F)
            word = (word & np.uint64(0x007F007F007F007F)) | ((word & np.uint64(0x7F007F007F007F00)) >> _1)
            word = (word & np.uint64(0x00003FFF00003FFF)) | ((word & np.uint64(0x3FFF00003FFF0000)) >> _2)
            word = (word & np.uint64(0x000000000FFFFFFF)) | ((word & np.uint64(0x0FFFFFFF00000000)) >> _4)
            return word, a + ((bits + _1) >> _3)
        word &= np.uint64(0x7F7F7F7F7F7F7F7F)
        word = (word & np.uint64(0x007F007F007F007F)) | ((word & np.uint64(0x7F007F007F007F00)) >> _1)
        word = (word & np.uint64(0x00003FFF00003FFF)) | ((word & np.uint64(0x3FFF00003FFF0000)) >> _2)
        value = (word & np.uint64(0x000000000FFFFFFF)) | ((word & np.uint64(0x0FFFFFFF00000000)) >> _4)
        a += _8
        shift = np.uint64(56)
    else:
        value = _0
        shift = _0
    while a < e and shift < np.uint64(70):
        byte = np.uint64(load8(a))
        a += _1
        value |= (byte & _7F) << shift
        if byte < _80:
            return value, a
        shift += _7
    return _0, _0


@njit(cache=True, nogil=True)
def chunk(a, e):
    """``(start, stop)`` of the length-delimited content whose length is at ``a``; ``stop`` is 0 where it does not fit before ``e``."""
    n, a = varint(a, e)
    if a == _0 or n > e - a:
        return _0, _0
    return a, a + n


@njit(cache=True, nogil=True)
def field_number(tag):
    """The number of a field from its tag, as M3's code sees it: a signed 32-bit number; 0 or less is not legal."""
    number = np.int64((tag >> _3) & np.uint64(0xFFFFFFFF))
    return number if number < np.int64(0x80000000) else np.int64(-1)


@njit(cache=True, nogil=True)
def skip_field(a, e, wire):
    """Address after the content of the field whose tag, with wire type ``wire``, ended at ``a``."""
    depth = 0
    while True:
        if wire == _0:
            _, a = varint(a, e)
            if a == _0:
                return _0
        elif wire == _1:
            a += _8
        elif wire == _2:
            n, a = varint(a, e)
            if a == _0 or n > e - a:
                return _0
            a += n
        elif wire == _3:
            depth += 1
        elif wire == _4:
            depth -= 1
        elif wire == _5:
            a += _4
        else:
            return _0
        if a > e or depth < 0:
            return _0
        if depth == 0:
            return a
        tag, a = varint(a, e)
        if a == _0:
            return _0
        wire = tag & _7


@njit(cache=True, nogil=True)
def skip_varint(a):
    """Address after the varint at ``a``; ten bytes must be readable there, wherever the message ends."""
    ends = ~load64(a) & _CONTINUE
    if ends != _0:
        return a + (trailing_zeros(ends) >> _3) + _1
    if load8(a + _8) < _80:
        return a + _9
    if load8(a + _9) < _80:
        return a + _10
    return _0


@njit(cache=True, nogil=True)
def short_size(a):
    """``(value, address after it)`` of a varint of one or two bytes, address 0 for a longer one; two bytes must be readable."""
    word = np.uint64(load16(a))
    if word & _80 == _0:
        return word & _7F, a + _1
    if word & np.uint64(0x8000) == _0:
        return (word & _7F) | ((word >> _1) & np.uint64(0x3F80)), a + _2
    return _0, _0

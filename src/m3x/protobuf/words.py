# mypy: ignore-errors
"""Compiled steps on the eight bytes of a word: seven bits a byte, as a varint has them, and all of them together.

Words are ``uint64``, their lowest byte the first one in memory. Loads and stores are in ``m3x.kernels``.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

CONTINUE = np.uint64(0x8080808080808080)
"""The bit of each byte of a varint that another one follows."""

_1, _2, _4, _7 = (np.uint64(n) for n in (1, 2, 4, 7))


@intrinsic
def trailing_zeros(_context, _value):
    """``trailing_zeros(word: uint64) -> uint64``: zero bits below the lowest one; undefined for 0."""

    def generate(_c, builder, _s, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


@intrinsic
def leading_zeros(_context, _value):
    """``leading_zeros(word: uint64) -> uint64``: zero bits above the highest one; undefined for 0."""

    def generate(_c, builder, _s, args):
        return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


@intrinsic
def swap32(_context, _value):
    """``swap32(word: uint64) -> uint64``: the low four bytes in reverse order."""

    def generate(_c, builder, _s, args):
        narrow = builder.trunc(args[0], ir.IntType(32))
        return builder.zext(builder.bswap(narrow), ir.IntType(64))

    return types.uint64(types.uint64), generate


@intrinsic
def swap64(_context, _value):
    """``swap64(word: uint64) -> uint64``: its bytes in reverse order."""

    def generate(_c, builder, _s, args):
        return builder.bswap(args[0])

    return types.uint64(types.uint64), generate


@njit(cache=True, nogil=True)
def gather(word):
    """The low seven bits of each byte side by side; the top bits do not matter."""
    word &= ~CONTINUE
    word = (word & np.uint64(0x007F007F007F007F)) | ((word & np.uint64(0x7F007F007F007F00)) >> _1)
    word = (word & np.uint64(0x00003FFF00003FFF)) | ((word & np.uint64(0x3FFF00003FFF0000)) >> _2)
    return (word & np.uint64(0x000000000FFFFFFF)) | ((word & np.uint64(0x0FFFFFFF00000000)) >> _4)


@njit(cache=True, nogil=True)
def spread(value):
    """The varint of ``value`` < 2^56 as ``(word, bytes that count: int64)``."""
    x = np.uint64(value)
    n = np.int64(1)
    rest = x >> _7
    while rest != np.uint64(0):
        rest >>= _7
        n += 1
    x = (x & np.uint64(0x000000000FFFFFFF)) | ((x << _4) & np.uint64(0x0FFFFFFF00000000))
    x = (x & np.uint64(0x00003FFF00003FFF)) | ((x << _2) & np.uint64(0x3FFF00003FFF0000))
    x = (x & np.uint64(0x007F007F007F007F)) | ((x << _1) & np.uint64(0x7F007F007F007F00))
    return x | (CONTINUE & ((_1 << np.uint64(8 * (n - 1))) - _1)), n

# mypy: ignore-errors
"""A hash of 128 bits under a secret, for tables that keep it instead of the key.

What such a table stands on is that two keys which differ have different hashes. That is no matter of luck with the keys: the functions
are a family of which one is drawn at the start of the process (``secret``), and for *any* two keys that do not depend on it the share of
functions under which they meet is at most ``2**-126`` for each 512 bytes. A table of ten million keys that is asked for a million a second
for a hundred years, each of them new, mistakes one for another with a probability below ``2**-50``.

Of each 512 bytes there are two sums of products, ``(word + secret) * (word + secret)`` over pairs of 64-bit words modulo ``2**128``, each
with a secret of its own: the sums of two blocks that differ are equal for at most ``2**-64`` of all secrets, both of them for the
product of that. The sums, the length, the context and what came of the blocks before are then put through two functions of the form
``(s0 + s1*x1 + s2*x2 + …) mod 2**128 >> 64``, of which it holds exactly.
"""

import secrets

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from m3x.kernels import load8, load64

__all__ = ["hash_key", "secret"]

_BLOCK = 64
"""Words of a block."""
_FOLDED = 8
"""Words that are folded into two."""
_SECRET_WORDS = 2 * _BLOCK + 2 * 2 * (1 + _FOLDED)
_WIDE = ir.IntType(128)
_PAIR = types.UniTuple(types.uint64, 2)

_0, _1, _8, _16 = (np.uint64(n) for n in (0, 1, 8, 16))
_BLOCK_BYTES = np.uint64(8 * _BLOCK)
_FOLD_AT = np.uint64(8 * 2 * _BLOCK)
_FOLD_BYTES = np.uint64(16 * (1 + _FOLDED))


def secret() -> NDArray[np.uint64]:
    """What draws the function; the kernels take its address."""
    return np.frombuffer(bytearray(secrets.token_bytes(8 * _SECRET_WORDS)), np.uint64)


def _pair(context, builder, value):
    low = builder.trunc(value, ir.IntType(64))
    high = builder.trunc(builder.lshr(value, ir.Constant(_WIDE, 64)), ir.IntType(64))
    return cgutils.pack_array(builder, [low, high])


def _wide(builder, low, high):
    return builder.or_(builder.zext(low, _WIDE), builder.shl(builder.zext(high, _WIDE), ir.Constant(_WIDE, 64)))


@intrinsic
def _add_product(_context, _low, _high, _x, _y):
    """``(low, high)`` of the 128-bit number plus ``x * y``."""

    def generate(context, builder, _s, args):
        low, high, x, y = args
        product = builder.mul(builder.zext(x, _WIDE), builder.zext(y, _WIDE))
        return _pair(context, builder, builder.add(_wide(builder, low, high), product))

    return _PAIR(types.uint64, types.uint64, types.uint64, types.uint64), generate


@intrinsic
def _add_wide_product(_context, _low, _high, _k_low, _k_high, _x):
    """``(low, high)`` of the 128-bit number plus that of ``k`` times ``x``."""

    def generate(context, builder, _s, args):
        low, high, k_low, k_high, x = args
        product = builder.mul(_wide(builder, k_low, k_high), builder.zext(x, _WIDE))
        return _pair(context, builder, builder.add(_wide(builder, low, high), product))

    return _PAIR(types.uint64, types.uint64, types.uint64, types.uint64, types.uint64), generate


@njit(cache=True, nogil=True, inline="always")
def _fold(at, x0, x1, x2, x3, x4, x5, x6, x7):
    low, high = load64(at), load64(at + _8)
    at += _16
    low, high = _add_wide_product(low, high, load64(at), load64(at + np.uint64(8)), x0)
    low, high = _add_wide_product(low, high, load64(at + np.uint64(16)), load64(at + np.uint64(24)), x1)
    low, high = _add_wide_product(low, high, load64(at + np.uint64(32)), load64(at + np.uint64(40)), x2)
    low, high = _add_wide_product(low, high, load64(at + np.uint64(48)), load64(at + np.uint64(56)), x3)
    low, high = _add_wide_product(low, high, load64(at + np.uint64(64)), load64(at + np.uint64(72)), x4)
    low, high = _add_wide_product(low, high, load64(at + np.uint64(80)), load64(at + np.uint64(88)), x5)
    if x6 | x7 != _0:
        low, high = _add_wide_product(low, high, load64(at + np.uint64(96)), load64(at + np.uint64(104)), x6)
        low, high = _add_wide_product(low, high, load64(at + np.uint64(112)), load64(at + np.uint64(120)), x7)
    return high


@njit(cache=True, nogil=True)
def _rest(address, n):
    """The last ``n % 8`` of ``n`` bytes (uint64) as a word."""
    left = n & np.uint64(7)
    if n >= _8:
        return load64(address + n - _8) >> (np.uint64(8) * (_8 - left))
    word = _0
    for k in range(np.int64(left)):
        word |= np.uint64(load8(address + np.uint64(k))) << np.uint64(8 * k)
    return word


@njit(cache=True, nogil=True)
def hash_key(secret_at, address, n, context):
    """Two words (uint64) of the ``n`` bytes at ``address`` and a context (uint64); the first one is never 0."""
    size = np.uint64(n)
    first = second = _0
    done = _0
    while True:
        a_low = a_high = b_low = b_high = _0
        block = min(size - done, _BLOCK_BYTES)
        at, key = address + done, secret_at
        whole = at + (block & ~np.uint64(15))
        while at < whole:
            x, y = load64(at), load64(at + _8)
            a_low, a_high = _add_product(a_low, a_high, x + load64(key), y + load64(key + _8))
            b_low, b_high = _add_product(
                b_low, b_high, x + load64(key + _BLOCK_BYTES), y + load64(key + _BLOCK_BYTES + _8)
            )
            at += _16
            key += _16
        left = block & np.uint64(15)
        if left != _0:
            x = load64(at) if left >= _8 else _rest(address, size)
            y = _rest(address, size) if left > _8 else _0
            a_low, a_high = _add_product(a_low, a_high, x + load64(key), y + load64(key + _8))
            b_low, b_high = _add_product(
                b_low, b_high, x + load64(key + _BLOCK_BYTES), y + load64(key + _BLOCK_BYTES + _8)
            )
        fold = secret_at + _FOLD_AT
        one = _fold(fold, a_low, a_high, b_low, b_high, np.uint64(context), size, first, second)
        second = _fold(fold + _FOLD_BYTES, a_low, a_high, b_low, b_high, np.uint64(context), size, first, second)
        first = one
        done += block
        if done == size:
            return max(first, _1), second

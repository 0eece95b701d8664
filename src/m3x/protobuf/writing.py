# mypy: ignore-errors
"""Compiled writing of protobuf messages: each step writes at the address ``a`` (uint64) and returns the address after it.

``put_int``, ``put_double`` and ``put_bytes`` write what M3's encoder writes: zero (``-0.0`` too) and empty are left out. Tags are
``uint64`` below 128; sizes are ``uint64``. The caller provides the room; ``int_size``, ``bytes_size`` and ``length_size`` tell it exactly.

Only addresses are passed on: an array handed to a function that is not inlined has its references counted atomically, which would cost
several times the work itself.
"""

import numpy as np
from numba import njit

from m3x.kernels import double_bits, load8, load64, store8, store32, store64
from m3x.protobuf.words import swap32

_0, _1, _4, _7, _8, _9 = (np.uint64(n) for n in (0, 1, 4, 7, 8, 9))
_80 = np.uint64(0x80)


@njit(cache=True, nogil=True)
def varint_size(value):
    """Bytes that ``put_varint`` writes for ``value`` (uint64)."""
    n = _1
    while value >= _80:
        value >>= _7
        n += _1
    return n


@njit(cache=True, nogil=True)
def length_size(n):
    """Bytes of a tag, a length and what it announces."""
    return _1 + varint_size(n) + n


@njit(cache=True, nogil=True)
def bytes_size(n):
    """Bytes that ``put_bytes`` writes."""
    return _0 if n == _0 else length_size(n)


@njit(cache=True, nogil=True)
def int_size(value):
    """Bytes that ``put_int`` writes."""
    return _0 if value == 0 else _1 + varint_size(np.uint64(value))


@njit(cache=True, nogil=True)
def put_varint(a, value):
    """Writes a ``uint64``; negative numbers are their two's complement."""
    while value >= _80:
        store8(a, value | _80)
        value >>= _7
        a += _1
    store8(a, value)
    return a + _1


@njit(cache=True, nogil=True)
def put_length(a, tag, n):
    """A tag and the length behind it."""
    store8(a, tag)
    return put_varint(a + _1, n)


@njit(cache=True, nogil=True)
def put_int(a, tag, value):
    """An integer field as plain varint, left out when zero."""
    if value == 0:
        return a
    store8(a, tag)
    return put_varint(a + _1, np.uint64(value))


@njit(cache=True, nogil=True)
def put_double(a, tag, value):
    """A double field, left out when zero (either sign)."""
    if value == 0.0:
        return a
    store8(a, tag)
    store64(a + _1, double_bits(value))
    return a + _9


@njit(cache=True, nogil=True)
def put_bytes(a, tag, source, n):
    """A bytes field, left out when empty."""
    if n == _0:
        return a
    return put_raw(put_length(a, tag, n), source, n)


@njit(cache=True, nogil=True)
def put_raw(a, source, n):
    """``n`` bytes from the address ``source``, whole fields for example."""
    if n >= _8:
        last = n - _8
        k = _0
        while k < last:
            store64(a + k, load64(source + k))
            k += _8
        store64(a + last, load64(source + last))
    else:
        k = _0
        while k < n:
            store8(a + k, load8(source + k))
            k += _1
    return a + n


@njit(cache=True, nogil=True)
def put_be32(a, value):
    """A big-endian 32-bit number, as the length in front of a frame is."""
    store32(a, np.uint32(swap32(value)))
    return a + _4

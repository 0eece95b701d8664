# mypy: ignore-errors
"""Compiled: the errors of a batch write as columns. What is laid out otherwise than M3 does it is left to the plain codec.

    0c 0001   0f 0001 0c u32 count   elements   00 00
    element   0a 0001 i64 index   0c 0002   08 0001 i32 type   0b 0002 u32 length, message   [0a 0003 i64 flags]   00 00

docs/m3/m3db_wire.md, structs.
"""

import numpy as np
from numba import njit

from m3x.kernels import base, load8, load32, load64
from m3x.protobuf.words import swap32, swap64

ERROR = np.dtype(
    [("index", np.int64), ("flags", np.int64), ("text_at", np.int64), ("text_size", np.int64), ("type", np.int32)],
    align=True,
)
"""One error; its message is ``body[text_at:text_at + text_size]``."""

ODD = -1

_BEFORE = 11
_END = np.uint64(2)
_HEAD = np.uint64(11 + 3 + 7 + 3 + 4)
"""Of an element, up to its message."""
LEAST_ELEMENT_BYTES = 11 + 3 + 7 + 7 + 2
_0, _2, _3, _4, _8, _11 = (np.uint64(n) for n in (0, 2, 3, 4, 8, 11))
_14, _17, _21, _24 = (np.uint64(n) for n in (14, 17, 21, 24))


@njit(cache=True, nogil=True)
def _is_field(a, kind, number):
    return load8(a) == kind and load8(a + np.uint64(1)) == 0 and load8(a + _2) == number


@njit(cache=True, nogil=True)
def _int32(a):
    return np.int32(np.uint32(swap32(np.uint64(load32(a)))))


@njit(cache=True, nogil=True)
def read_errors(body, errors):
    """Reads ``body`` (uint8) into ``errors`` (``ERROR``); how many there are, or ``ODD``."""
    start = base(body)
    end = start + np.uint64(len(body))
    if len(body) < _BEFORE + 2 or not (_is_field(start, 12, 1) and _is_field(start + _3, 15, 1)):
        return ODD
    count = _int32(start + np.uint64(7))
    if load8(start + np.uint64(6)) != 12 or count < 0 or count > len(errors):
        return ODD
    a = start + np.uint64(_BEFORE)
    for k in range(count):
        if a + np.uint64(LEAST_ELEMENT_BYTES) > end:
            return ODD
        if not (
            _is_field(a, 10, 1) and _is_field(a + _11, 12, 2) and _is_field(a + _14, 8, 1) and _is_field(a + _21, 11, 2)
        ):
            return ODD
        size = _int32(a + _24)
        text = a + _HEAD
        if size < 0 or np.uint64(size) + _2 > end - text:
            return ODD
        errors[k].index = np.int64(swap64(load64(a + _3)))
        errors[k].type = _int32(a + _17)
        errors[k].text_at = np.int64(text - start)
        errors[k].text_size = size
        errors[k].flags = 0
        a = text + np.uint64(size)
        if load8(a) == 10:
            if a + _11 + _2 > end or not _is_field(a, 10, 3):
                return ODD
            errors[k].flags = np.int64(swap64(load64(a + _3)))
            a += _11
        if load8(a) != 0 or load8(a + np.uint64(1)) != 0:
            return ODD
        a += _2
    if a + _2 != end or load8(a) != 0 or load8(a + np.uint64(1)) != 0:
        return ODD
    return count

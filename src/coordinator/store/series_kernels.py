# mypy: ignore-errors
"""The compiled way of ids, which are encoded tags (``m3metrics.ids``): from the order in which tags arrive to the stored form.

Whatever is unusual is left to ``coordinator.store.series.stored_form``, which is the authority.
"""

import numpy as np
from numba import njit

from m3metrics.ids import ID_SCHEME_TAG
from m3x.kernels import base, copy_short, load8, load16, load64, store8

FORM_OK = 0
FORM_ODD = 1
"""Wrong, or right in a way that hardly any sender writes: a tag without a value, a name that is there twice, very many tags."""

_MAGIC = np.uint64(10101)
_MOST_TAGS = 128
_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_4 = np.uint64(4)
_8 = np.uint64(8)
_SCHEME_SIZE = np.uint64(len(ID_SCHEME_TAG))
_SCHEME_BEGIN = np.uint64(int.from_bytes(ID_SCHEME_TAG[:8], "little"))
_SCHEME_MIDDLE = np.uint64(int.from_bytes(ID_SCHEME_TAG[8:16], "little"))
_SCHEME_END = np.uint64(int.from_bytes(ID_SCHEME_TAG[-8:], "little"))
assert 16 <= len(ID_SCHEME_TAG) <= 24


@njit(cache=True, nogil=True)
def _is_scheme(name, size):
    return (
        size == _SCHEME_SIZE
        and load64(name) == _SCHEME_BEGIN
        and load64(name + _8) == _SCHEME_MIDDLE
        and load64(name + size - _8) == _SCHEME_END
    )


@njit(cache=True, nogil=True)
def _order(a, b):
    """Of the names of two encoded tags at addresses: below 0, 0 or above 0 as ``a`` comes before, is or comes after ``b``."""
    a_size, b_size = np.uint64(load16(a)), np.uint64(load16(b))
    k = _2
    end = min(a_size, b_size) + _2
    while k < end:
        difference = np.int64(load8(a + k)) - np.int64(load8(b + k))
        if difference != 0:
            return difference
        k += _1
    return np.int64(a_size) - np.int64(b_size)


@njit(cache=True, nogil=True)
def _sorted_tags(address, size, tags, sizes):
    """Addresses and sizes of the encoded tags of an id, by name, without the one that tells the scheme; how many, or -1: odd."""
    if size < _4 or load16(address) != _MAGIC:
        return -1
    end = address + size
    at = address + _4
    kept = 0
    for _ in range(load16(address + _2)):
        if at + _2 > end:
            return -1
        name_size = np.uint64(load16(at))
        value_at = at + _2 + name_size
        if name_size == _0 or value_at + _2 > end:
            return -1
        value_size = np.uint64(load16(value_at))
        following = value_at + _2 + value_size
        if value_size == _0 or following > end:
            return -1
        if not _is_scheme(at + _2, name_size):
            if kept == _MOST_TAGS:
                return -1
            place = kept
            while place > 0:
                order = _order(tags[place - 1], at)
                if order == 0:
                    return -1
                if order < 0:
                    break
                tags[place] = tags[place - 1]
                sizes[place] = sizes[place - 1]
                place -= 1
            tags[place] = at
            sizes[place] = following - at
            kept += 1
        at = following
    return kept if kept > 0 else -1


@njit(cache=True, nogil=True)
def stored_forms(buf, at, size, out, out_at, out_size, status):
    """The stored form of each id ``buf[at[i]:at[i] + size[i]]``, at ``out[out_at[i]:out_at[i] + out_size[i]]``; how many are ``FORM_ODD``.

    ``out`` has room for as many bytes as all ids have. Positions are int64, ``status`` is uint8.
    """
    tags = np.empty(_MOST_TAGS, np.uint64)
    sizes = np.empty(_MOST_TAGS, np.uint64)
    origin = base(buf)
    target = base(out)
    begin = np.int64(0)
    odd = 0
    for i in range(len(at)):
        kept = _sorted_tags(origin + np.uint64(at[i]), np.uint64(size[i]), tags, sizes)
        out_at[i] = begin
        if kept < 0:
            out_size[i] = 0
            status[i] = FORM_ODD
            odd += 1
            continue
        status[i] = FORM_OK
        to = target + np.uint64(begin)
        store8(to, _MAGIC)
        store8(to + _1, _MAGIC >> _8)
        store8(to + _2, np.uint64(kept))
        store8(to + _2 + _1, _0)
        to += _4
        for k in range(kept):
            copy_short(to, tags[k], sizes[k])
            to += sizes[k]
        out_size[i] = np.int64(to - target) - begin
        begin += out_size[i]
    return odd


def warm() -> None:
    """Compiles the kernel for the dtypes that are used, or loads it from the cache."""
    one = np.zeros(1, np.int64)
    stored_forms(np.zeros(4, np.uint8), one, one, np.zeros(4, np.uint8), one.copy(), one.copy(), np.zeros(1, np.uint8))

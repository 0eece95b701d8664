# mypy: ignore-errors
"""Compiled loops of ``metric_types``: which values say a type that is not known of their series, and what these series are called."""

import numpy as np
from numba import njit

from m3x.kernels import base, bytes_equal, load8, load16

_MAGIC = np.uint64(10101)
_LONGEST_NAME = np.uint64(512)
_MOST_TYPES = np.uint8(7)
_FAMILY_TYPE = np.uint8(0x08)
_0, _1, _2, _4 = (np.uint64(n) for n in (0, 1, 2, 4))


@njit(cache=True, nogil=True)
def take_new(buf, series, annotation_at, annotation_size, known, rows, types):
    """Rows whose annotation begins with another type than ``known`` (uint8, by series number), which is then put there.

    Into ``rows`` (int64) and ``types`` (uint8); returns how many. Field 1 comes first in what all encoders write.
    """
    count = 0
    for i in range(len(series)):
        if annotation_size[i] < 2:
            continue
        at = base(buf) + np.uint64(annotation_at[i])
        kind = load8(at + _1)
        if load8(at) != _FAMILY_TYPE or kind > _MOST_TYPES or kind == known[series[i]]:
            continue
        known[series[i]] = kind
        rows[count], types[count] = i, kind
        count += 1
    return count


@njit(cache=True, nogil=True)
def find_names(buf, id_at, id_size, rows, tag, at, size):
    """Where the value of ``tag`` stands in the ids (encoded tags) of these rows of a batch: ``at`` and ``size`` (int64), one a row.

    Size 0 where there is none, where it is too long for a name, or where the id is no tag set.
    """
    for k in range(len(rows)):
        at[k], size[k] = _find(
            base(buf), np.uint64(id_at[rows[k]]), np.uint64(id_size[rows[k]]), base(tag), np.uint64(len(tag))
        )


@njit(cache=True, nogil=True)
def _find(origin, start, size, tag, tag_size):
    at, end = origin + start, origin + start + size
    if size < _4 or load16(at) != _MAGIC:
        return 0, 0
    left = load16(at + _2)
    at += _4
    while left > 0:
        left -= 1
        if at + _2 > end:
            return 0, 0
        name_size = np.uint64(load16(at))
        name = at + _2
        at = name + name_size
        if at + _2 > end:
            return 0, 0
        value_size = np.uint64(load16(at))
        value = at + _2
        at = value + value_size
        if at > end:
            return 0, 0
        if name_size == tag_size and bytes_equal(name, tag, tag_size):
            if value_size > _LONGEST_NAME:
                return 0, 0
            return np.int64(value - origin), np.int64(value_size)
    return 0, 0


def warm() -> None:
    """Calls the kernels with the dtypes of ``metric_types``."""
    buf = np.zeros(2, np.uint8)
    one, rows = np.zeros(1, np.int64), np.zeros(1, np.int64)
    take_new(buf, np.zeros(1, np.uint32), one, one, np.zeros(1, np.uint8), rows, np.zeros(1, np.uint8))
    find_names(buf, one, one, rows, buf, np.zeros(1, np.int64), np.zeros(1, np.int64))

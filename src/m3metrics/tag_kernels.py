# mypy: ignore-errors
"""Compiled: the tags of an id (docs/m3/metrics.md, encoded tags) as addresses and sizes, sorted by name.

Tags are rows of four ``uint64``: address and size of the name, address and size of the value. ``MOST_TAGS`` and one more have room.
"""

import numpy as np
from numba import njit

from m3x.kernels import bytes_equal, load8, load16

MAGIC = np.uint64(10101)
MOST_TAGS = 64
"""Ids with more tags are left to plain code."""

_0, _1, _2, _4 = (np.uint64(n) for n in (0, 1, 2, 4))


@njit(cache=True, nogil=True)
def _less(a, a_size, b, b_size, by_size):
    """Whether the bytes at ``a`` sort before those at ``b``; with ``by_size`` the shorter ones do."""
    if by_size and a_size != b_size:
        return a_size < b_size
    n = min(a_size, b_size)
    k = _0
    while k < n:
        x, y = load8(a + k), load8(b + k)
        if x != y:
            return x < y
        k += _1
    return a_size < b_size


@njit(cache=True, nogil=True)
def insert_tag(tags, count, name, name_size, value, value_size, by_size):
    """Puts a tag where it belongs among the ``count`` before it; equal names stay in their order."""
    k = count
    while k > 0 and _less(name, name_size, tags[k - 1, 0], tags[k - 1, 1], by_size):
        for column in range(4):
            tags[k, column] = tags[k - 1, column]
        k -= 1
    tags[k, 0], tags[k, 1], tags[k, 2], tags[k, 3] = name, name_size, value, value_size


@njit(cache=True, nogil=True)
def read_tags(tags, at, size, skipped, skipped_size, by_size):
    """The tags of the id at ``at``, sorted, without those named ``skipped``; how many, or -1 for what is odd.

    Odd is what plain code has to look at: what is cut short, names or values that are empty, names that stand twice, no tags, too many.
    ``by_size``: shorter names come first, as those of graphite do.
    """
    if size < _4 or load16(at) != MAGIC:
        return -1
    end = at + size
    left = load16(at + _2)
    at += _4
    count = 0
    while left > 0:
        left -= 1
        if at + _2 > end:
            return -1
        name_size = np.uint64(load16(at))
        name = at + _2
        at = name + name_size
        if name_size == _0 or at + _2 > end:
            return -1
        value_size = np.uint64(load16(at))
        value = at + _2
        at = value + value_size
        if at > end:
            return -1
        if name_size == skipped_size and bytes_equal(name, skipped, name_size):
            continue
        if value_size == _0 or count == MOST_TAGS:
            return -1
        insert_tag(tags, count, name, name_size, value, value_size, by_size)
        count += 1
    return -1 if count == 0 or _repeats(tags, count) else count


@njit(cache=True, nogil=True)
def _repeats(tags, count):
    """Whether a name stands twice among the tags; only neighbours can be equal."""
    found = False
    for k in range(1, count):
        found |= tags[k, 1] == tags[k - 1, 1] and bytes_equal(tags[k, 0], tags[k - 1, 0], tags[k, 1])
    return found

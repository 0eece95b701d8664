# mypy: ignore-errors
"""Compiled: whether ids have something behind their tags (docs/m3/coordinator.md, aggregation inside)."""

import numpy as np
from numba import njit

from m3metrics.tag_kernels import MAGIC
from m3x.kernels import base, load16

__all__ = ["tags_sizes", "warm"]

_2, _4 = np.uint64(2), np.uint64(4)


@njit(cache=True, nogil=True)
def tags_sizes(buf, at, size, out):
    """How many bytes the tags of each id take, ``buf[at[i]:at[i] + size[i]]``; all of them where they are no tags. Returns whether some
    take fewer."""
    start, fewer = base(buf), False
    for i in range(len(at)):
        out[i] = size[i]
        begin = start + np.uint64(at[i])
        end = begin + np.uint64(size[i])
        if size[i] < 4 or load16(begin) != MAGIC:
            continue
        left, here = np.int64(load16(begin + _2)), begin + _4
        # A name and a value for each.
        left *= 2
        while left > 0 and here + _2 <= end:
            here += _2 + np.uint64(load16(here))
            left -= 1
        if left == 0 and here < end:
            out[i] = np.int64(here - begin)
            fewer = True
    return fewer


def warm():
    """Compiles everything."""
    tags_sizes(np.zeros(8, np.uint8), np.zeros(1, np.int64), np.full(1, 8, np.int64), np.zeros(1, np.int64))

# mypy: ignore-errors
"""Compiled loops of the label index: encoded ids into their tags, and tags into columns."""

import numpy as np
from numba import njit

from m3x.kernels import base, bytes_equal, load16

_2 = np.uint64(2)
_4 = np.uint64(4)


@njit(cache=True, nogil=True)
def count_tags(arena, at, size):
    """How many tags the ids ``arena[at[i]:at[i] + size[i]]`` have together, as they say themselves."""
    total = 0
    for i in range(len(at)):
        if size[i] >= 4:
            total += np.int64(load16(base(arena) + np.uint64(at[i]) + _2))
    return total


@njit(cache=True, nogil=True)
def split_tags(arena, at, size, first, entries, tag_at, tag_size):
    """The encoded tags (name and value, each with its size before it) of the ids ``arena[at[i]:at[i] + size[i]]``, sorted by name.

    ``entries`` (int32) gets ``first + i``, ``tag_at`` and ``tag_size`` (int64) where the tag stands. Of a name that is there twice the
    first tag counts; what reaches beyond its id is left out. Returns how many there are.
    """
    origin = base(arena)
    n = 0
    for i in range(len(at)):
        if size[i] < 4:
            continue
        address = origin + np.uint64(at[i])
        end = address + np.uint64(size[i])
        tags = load16(address + _2)
        address += _4
        previous = np.uint64(0)
        for _ in range(tags):
            if address + _2 > end:
                break
            name_size = np.uint64(load16(address))
            value_at = address + _2 + name_size
            if value_at + _2 > end:
                break
            following = value_at + _2 + np.uint64(load16(value_at))
            if following > end:
                break
            repeated = (
                previous != np.uint64(0)
                and np.uint64(load16(previous)) == name_size
                and bytes_equal(previous + _2, address + _2, np.int64(name_size))
            )
            if not repeated:
                entries[n] = first + i
                tag_at[n] = address - origin
                tag_size[n] = following - address
                n += 1
            previous = address
            address = following
    return n


@njit(cache=True, nogil=True)
def group(columns, pairs, entries, starts, out_pairs, out_entries):
    """Sorts tags by their column (int32, below ``len(starts) - 1``): those of column ``c`` come to ``[starts[c], starts[c + 1])``.

    The order within a column is kept. ``pairs`` (int64) and ``entries`` (int32) move along, into int32.
    """
    starts[:] = 0
    for column in columns:
        starts[column + 1] += 1
    for c in range(1, len(starts)):
        starts[c] += starts[c - 1]
    fill = starts[:-1].copy()
    for i in range(len(columns)):
        to = fill[columns[i]]
        fill[columns[i]] = to + 1
        out_pairs[to] = pairs[i]
        out_entries[to] = entries[i]


def warm() -> None:
    """Compiles every kernel for the dtypes that are used, or loads it from the cache."""
    encoded = np.frombuffer(bytearray(b"\x75\x27\x01\x00\x01\x00a\x01\x00b"), np.uint8)
    at, size = np.zeros(1, np.int64), np.array([len(encoded)])
    entries = np.zeros(1, np.int32)
    count_tags(encoded, at, size)
    split_tags(encoded, at, size, 0, entries, np.zeros(1, np.int64), np.zeros(1, np.int64))
    group(entries, at, entries, np.zeros(2, np.int64), np.zeros(1, np.int32), np.zeros(1, np.int32))

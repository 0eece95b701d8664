# mypy: ignore-errors
"""Compiled loops of the store: the table of series ids, and what puts fetched points in order."""

import numpy as np
from numba import njit

from m3x.kernels import base, bytes_equal, copy_bytes, hash_bytes, prefetch

SLOT = np.dtype([("hash", np.uint64), ("key", np.int64)], align=True)
"""A place of the open-addressing table; ``key`` is the number of the key plus one, 0 where the place is free."""

KEY = np.dtype([("at", np.int64), ("size", np.int64), ("value", np.int64)], align=True)
"""Where the bytes of a key stand in the arena, and what is looked up by it (at least 0)."""

_BLOCK = 32


@njit(cache=True, nogil=True)
def find(slots, keys, arena, buf, at, size, out):
    """``out[i]`` = value of the key ``buf[at[i]:at[i] + size[i]]``, or -1; returns how many are unknown. All int64."""
    mask = np.uint64(len(slots) - 1)
    origin = base(buf)
    places = base(slots)
    hashes = np.empty(_BLOCK, np.uint64)
    unknown = 0
    n = len(at)
    first = 0
    while first < n:
        last = min(first + _BLOCK, n)
        for i in range(first, last):
            h = hash_bytes(origin + np.uint64(at[i]), size[i], np.uint64(0))
            hashes[i - first] = h
            prefetch(places + (h & mask) * np.uint64(16))
        for i in range(first, last):
            h = hashes[i - first]
            place = h & mask
            out[i] = -1
            while slots[place].key != 0:
                if slots[place].hash == h:
                    key = keys[slots[place].key - 1]
                    if key.size == size[i] and bytes_equal(
                        base(arena) + np.uint64(key.at), origin + np.uint64(at[i]), size[i]
                    ):
                        out[i] = key.value
                        break
                place = (place + np.uint64(1)) & mask
            if out[i] < 0:
                unknown += 1
        first = last
    return unknown


@njit(cache=True, nogil=True)
def insert(slots, keys, count, arena, used, buf, sizes, values):
    """Adds the keys that stand one after another in ``buf``, none of which is there yet, as numbers ``count`` … at ``arena[used:]``.

    ``sizes`` and ``values`` are int64. The caller has made sure of the room.
    """
    mask = np.uint64(len(slots) - 1)
    at = 0
    for i in range(len(sizes)):
        n = sizes[i]
        h = hash_bytes(base(buf) + np.uint64(at), n, np.uint64(0))
        place = h & mask
        while slots[place].key != 0:
            place = (place + np.uint64(1)) & mask
        slots[place].hash = h
        slots[place].key = count + i + 1
        keys[count + i].at = used
        keys[count + i].size = n
        keys[count + i].value = values[i]
        used = copy_bytes(arena, used, buf, at, n)
        at += n


@njit(cache=True, nogil=True)
def rehash(old, new):
    """Puts every key of ``old`` into the empty table ``new``."""
    mask = np.uint64(len(new) - 1)
    for i in range(len(old)):
        if old[i].key != 0:
            place = old[i].hash & mask
            while new[place].key != 0:
                place = (place + np.uint64(1)) & mask
            new[place].hash = old[i].hash
            new[place].key = old[i].key


@njit(cache=True, nogil=True)
def arrange(rank, low, series, time_ms, bits, seq, offsets, out_time, out_bits):
    """Groups points by series in ascending time; of two with the same series and time the larger ``seq`` stays.

    ``rank[number - low]`` (int64) is the group of a series number (uint32), -1 if it is not wanted. ``offsets`` (groups + 1) is
    filled; ``out_time`` and ``out_bits`` have room for every point. Returns how many points are in them.
    """
    groups = len(offsets) - 1
    offsets[:] = 0
    for i in range(len(series)):
        at = np.int64(series[i]) - low
        if at >= 0 and at < len(rank) and rank[at] >= 0:
            offsets[rank[at] + 1] += 1
    for g in range(groups):
        offsets[g + 1] += offsets[g]
    order = np.empty(offsets[groups], np.int64)
    fill = offsets[:-1].copy()
    for i in range(len(series)):
        at = np.int64(series[i]) - low
        if at >= 0 and at < len(rank) and rank[at] >= 0:
            g = rank[at]
            order[fill[g]] = i
            fill[g] += 1
    n = 0
    for g in range(groups):
        first = offsets[g]
        last = fill[g]
        offsets[g] = n
        sorted_already = True
        for k in range(first + 1, last):
            if time_ms[order[k]] <= time_ms[order[k - 1]]:
                sorted_already = False
                break
        if not sorted_already:
            # By seq first; the second sort is stable and keeps it among equal times.
            part = order[first:last].copy()
            part = part[np.argsort(seq[part], kind="mergesort")]
            order[first:last] = part[np.argsort(time_ms[part], kind="mergesort")]
        for k in range(first, last):
            i = order[k]
            if k + 1 < last and time_ms[order[k + 1]] == time_ms[i]:
                continue
            out_time[n] = time_ms[i]
            out_bits[n] = bits[i]
            n += 1
    offsets[groups] = n
    return n


def warm() -> None:
    """Compiles every kernel for the dtypes that are used, or loads it from the cache."""
    slots, keys, arena = np.zeros(16, SLOT), np.zeros(4, KEY), np.zeros(64, np.uint8)
    id_bytes = np.arange(9, dtype=np.uint8)
    one, out = np.zeros(1, np.int64), np.zeros(1, np.int64)
    insert(slots, keys, 0, arena, 0, id_bytes, one + 9, one)
    rehash(slots, np.zeros(32, SLOT))
    find(slots, keys, arena, id_bytes, one, one + 9, out)
    arrange(
        one,
        0,
        np.zeros(1, np.uint32),
        one,
        np.zeros(1, np.uint64),
        one,
        np.zeros(2, np.int64),
        out,
        np.zeros(1, np.uint64),
    )

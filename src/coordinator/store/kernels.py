# mypy: ignore-errors
"""The compiled loop of the store, which puts fetched points in order."""

import numpy as np
from numba import njit


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
    one, out = np.zeros(1, np.int64), np.zeros(1, np.int64)
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

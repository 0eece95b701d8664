# mypy: ignore-errors
"""Compiled merging of a series' streams (docs/m3/m3db_reading.md, merging): those of one node to a *copy*, copies to the series.

A run is what one stream has: rows of the columns of its answer. All columns of all answers stand one behind the other.
"""

import numpy as np
from numba import njit

from m3x.kernels import base, copy_short

__all__ = ["HIGHEST", "LAST", "LOWEST", "MOST", "gather", "merge", "warm"]

LAST, HIGHEST, LOWEST, MOST = 0, 1, 2, 3
"""Which point of several at the same time stays: that of the last copy, the highest, the lowest, what most copies have."""


@njit(cache=True, nogil=True)
def _append(times, bits, begin, stop, start_ns, end_ns, out_times, out_bits, first, out):
    """Merges the rows ``[begin, stop)`` of a stream into the copy ``[first, out)``, whose end becomes what is returned; -1 if the stream
    goes back in time. A point at the time of one in the copy replaces it; of two in the stream the first stays."""
    while begin < stop and times[begin] < start_ns:
        begin += 1
    for row in range(begin + 1, stop):
        if times[row] < times[row - 1]:
            return -1
    while begin < stop and times[stop - 1] >= end_ns:
        stop -= 1
    if begin == stop:
        return out
    # What of the copy is not before the stream moves to the end of where both will fit, and is merged from there.
    cut = out
    while cut > first and out_times[cut - 1] >= times[begin]:
        cut -= 1
    held, limit = cut + (stop - begin), out + (stop - begin)
    for row in range(out - 1, cut - 1, -1):
        out_times[row + stop - begin] = out_times[row]
        out_bits[row + stop - begin] = out_bits[row]
    out = cut
    while begin < stop:
        time = times[begin]
        if held < limit and out_times[held] < time:
            out_times[out], out_bits[out] = out_times[held], out_bits[held]
            held += 1
        else:
            if held < limit and out_times[held] == time:
                held += 1
            out_times[out], out_bits[out] = time, bits[begin]
            begin += 1
            while begin < stop and times[begin] == time:
                begin += 1
        out += 1
    while held < limit:
        out_times[out], out_bits[out] = out_times[held], out_bits[held]
        held += 1
        out += 1
    return out


@njit(cache=True, nogil=True)
def _same(times, bits, a, b, n):
    """Whether two copies of ``n`` points are equal."""
    k = 0
    while k < n and times[a + k] == times[b + k] and bits[a + k] == bits[b + k]:
        k += 1
    return k == n


@njit(cache=True, nogil=True)
def _better(value, than, rule):
    """Whether a later value stays, in place of one before it. Not a number is worse than any."""
    if rule == LAST:
        return True
    if np.isnan(value) or np.isnan(than):
        return np.isnan(than)
    return value >= than if rule == HIGHEST else value <= than


@njit(cache=True, nogil=True)
def _chosen(bits, at, has, rule):
    """The value that stays, of those at the rows ``at[i]`` of the copies for which ``has[i]``."""
    values = bits.view(np.float64)
    best, most = -1, 0
    for i in range(len(at)):
        if not has[i]:
            continue
        if rule != MOST:
            if best < 0 or _better(values[at[i]], values[at[best]], rule):
                best = i
            continue
        count = 0
        for j in range(len(at)):
            if has[j] and values[at[j]] == values[at[i]]:
                count += 1
        if best < 0 or count >= most:
            best, most = i, count
    return bits[at[best]]


@njit(cache=True, nogil=True)
def _join(times, bits, at, stops, rule, out_times, out_bits, out):
    """Merges the copies ``[at[i], stops[i])``, each ascending, to ``out`` and on; where it ends. ``at`` is used up."""
    copies = len(at)
    has = np.zeros(copies, np.bool_)
    while True:
        left = 0
        time = np.int64(0)
        for i in range(copies):
            if at[i] < stops[i]:
                if left == 0 or times[at[i]] < time:
                    time = times[at[i]]
                left += 1
        if left == 0:
            return out
        for i in range(copies):
            has[i] = at[i] < stops[i] and times[at[i]] == time
        out_times[out] = time
        out_bits[out] = _chosen(bits, at, has, rule)
        out += 1
        for i in range(copies):
            if has[i]:
                at[i] += 1


@njit(cache=True, nogil=True)
def merge(times, bits, order, series, answers, begins, stops, start_ns, end_ns, rule, out_times, out_bits, offsets):
    """Merges runs to series, in the range ``[start_ns, end_ns)``.

    Runs are visited in ``order``: by series, then by answer (its number for each run), then as they stand in the answer. Points of series
    ``s`` become the rows ``[offsets[s], offsets[s + 1])``. Returns the first run that goes back in time, or -1.
    """
    scratch_times, scratch_bits = np.empty(0, np.int64), np.empty(0, np.uint64)
    at, ends = np.empty(64, np.int64), np.empty(64, np.int64)
    out = 0
    k, runs = 0, len(order)
    for s in range(len(offsets) - 1):
        offsets[s] = out
        last, size = k, 0
        while last < runs and series[order[last]] == s:
            size += stops[order[last]] - begins[order[last]]
            last += 1
        if k == last:
            continue
        alone = answers[order[k]] == answers[order[last - 1]]
        if not alone and size > len(scratch_times):
            scratch_times, scratch_bits = np.empty(2 * size, np.int64), np.empty(2 * size, np.uint64)
        copies, filled = 0, 0
        while k < last:
            answer, first = answers[order[k]], out if alone else filled
            end = first
            while k < last and answers[order[k]] == answer:
                run = order[k]
                if alone:
                    end = _append(
                        times, bits, begins[run], stops[run], start_ns, end_ns, out_times, out_bits, first, end
                    )
                else:
                    end = _append(
                        times, bits, begins[run], stops[run], start_ns, end_ns, scratch_times, scratch_bits, first, end
                    )
                if end < 0:
                    return run
                k += 1
            filled = end
            if copies == len(at):
                at, ends = np.append(at, at), np.append(ends, ends)
            at[copies], ends[copies] = first, end
            copies += 1
        if alone:
            out = filled
            continue
        equal = True
        for i in range(1, copies):
            n = ends[0] - at[0]
            equal = equal and ends[i] - at[i] == n and _same(scratch_times, scratch_bits, at[0], at[i], n)
        if equal:
            copies = 1
            n = ends[0] - at[0]
            out_times[out : out + n] = scratch_times[at[0] : ends[0]]
            out_bits[out : out + n] = scratch_bits[at[0] : ends[0]]
            out += n
        else:
            out = _join(scratch_times, scratch_bits, at[:copies].copy(), ends[:copies], rule, out_times, out_bits, out)
    offsets[len(offsets) - 1] = out
    return -1


@njit(cache=True, nogil=True)
def gather(data, at, size, out, to):
    """Copies ``data[at[i]:at[i] + size[i]]`` to ``out[to[i]:]``."""
    for i in range(len(at)):
        copy_short(base(out) + np.uint64(to[i]), base(data) + np.uint64(at[i]), np.uint64(size[i]))


def warm() -> None:
    """Compiles what is called from plain code."""
    numbers, bits, data = np.zeros(1, np.int64), np.zeros(1, np.uint64), np.zeros(1, np.uint8)
    merge(*(numbers, bits), *(numbers,) * 5, 0, 1, LAST, numbers.copy(), bits.copy(), np.zeros(2, np.int64))
    gather(data, numbers, numbers, data.copy(), numbers)

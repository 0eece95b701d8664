# mypy: ignore-errors
"""Compiled reading of a window's log: where the runs of each slot are, its samples, and their quantiles.

The log has samples in the order in which they came, of all slots mixed (``records.append_log``). A flush looks for the runs of each slot
once, and copies the samples of one slot after the other; then only those ranks are put in their places that are asked for.

Quantiles are exact: of ``N`` samples in ascending order the one of rank ``ceil(q·N)``, and for ``N`` ≤ 3 the one at index ``trunc(q·N)``
(docs/m3/metrics.md, quantiles).
"""

import math

import numpy as np
from numba import njit

from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from m3x.kernels import base, copy_short, prefetch

_FEW = 24
"""So many are sorted."""
_SAMPLED = 15
_PASSES = 40
"""After so many passes over what is left, as only values that are made for it need, it is sorted."""
_AHEAD = 8
_WALK_AHEAD = 32
"""So many runs ahead the next one is asked for, if all are as long as this one."""
_8 = np.uint64(8)
_64 = np.uint64(64)
_RUN = 0xFFFFFFFF


@njit(cache=True, nogil=True)
def _walk(t, w, samples, places):
    """Counts runs and samples by slot; with ``places`` it says where the runs are."""
    starts, counts, runs = samples.starts, samples.counts, samples.runs
    log = base(v.log(t))
    x = v.windows(t)[w]
    chunk = x.log_head
    while chunk != 0:
        first = (chunk - 1) * layout.LOG_CHUNK
        end = first + (x.log_used if chunk == x.log_tail else layout.LOG_CHUNK)
        at = first + 1
        while at + 1 < end:
            word = v.log_words(t)[at]
            slot = word >> 32
            size = 1 + (word & _RUN)
            prefetch(log + (np.uint64(at + _WALK_AHEAD * size) << np.uint64(3)))
            if places:
                runs[starts[slot + 1]] = at
                starts[slot + 1] += 1
            else:
                starts[slot + 2] += 1
                counts[slot] += size - 1
            at += size
        chunk = v.log_words(t)[first]


@njit(cache=True, nogil=True)
def find_runs(t, w, samples):
    """Fills ``samples`` (Samples, with room for a run for each of the window's ``logged``); returns the most samples of a slot."""
    starts, counts = samples.starts, samples.counts
    starts[:] = 0
    counts[:] = 0
    _walk(t, w, samples, False)
    most = np.int64(0)
    for slot in range(len(counts)):
        starts[slot + 2] += starts[slot + 1]
        most = max(most, counts[slot])
    _walk(t, w, samples, True)
    return most


@njit(cache=True, nogil=True)
def copy_samples(t, samples, slot, values, at):
    """Copies the samples of a slot in order of arrival to ``values[at:]`` (float64); returns the place behind them."""
    log = base(v.log(t))
    runs = samples.runs
    last = samples.starts[slot + 1]
    for k in range(samples.starts[slot], last):
        if k + _AHEAD < last:
            ahead = log + (np.uint64(runs[k + _AHEAD]) << np.uint64(3))
            prefetch(ahead)
            prefetch(ahead + _64)
        n = v.log_words(t)[runs[k]] & _RUN
        copy_short(base(values) + np.uint64(at << 3), log + (np.uint64(runs[k] + 1) << np.uint64(3)), np.uint64(n << 3))
        at += n
    return at


@njit(cache=True, nogil=True)
def copy_slots(t, samples, slots, values):
    """``copy_samples`` of ``slots`` (uint32) one behind the other, from ``values[0]`` on."""
    at = np.int64(0)
    for slot in slots:
        at = copy_samples(t, samples, np.int64(slot), values, at)


@njit(cache=True, nogil=True)
def rank_of(n, q):
    """Index of the quantile among ``n`` > 0 values in ascending order."""
    if n <= 3:
        return min(np.int64(q * float(n)), n - 1)
    return min(max(np.int64(math.ceil(q * float(n))), 1), n) - 1


@njit(cache=True, nogil=True)
def quantile(values, n, q):
    """The quantile of ``values[:n]``, of which it has been put in its place; 0 without values."""
    return 0.0 if n == 0 else values[rank_of(n, q)]


@njit(cache=True, nogil=True)
def _sort(values, first, last):
    for i in range(first + 1, last):
        x = values[i]
        j = i - 1
        while j >= first and values[j] > x:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = x


@njit(cache=True, nogil=True)
def _part(values, first, last, pivot, equal):
    """Puts what is less than ``pivot``, with ``equal`` what is not greater, in front; returns where the rest begins. Without branches."""
    middle = first
    for i in range(first, last):
        x = values[i]
        values[i] = values[middle]
        values[middle] = x
        middle += x <= pivot if equal else x < pivot
    return middle


@njit(cache=True, nogil=True)
def select(values, first, last, at):
    """Puts that value at ``at`` which would be there if ``values[first:last]`` were ascending, no greater ones before it, no lesser ones
    behind."""
    passes = _PASSES
    while last - first > _FEW:
        n = last - first
        if passes == 0:
            values[first:last].sort()
            return
        passes -= 1
        step = n // (_SAMPLED + 1)
        for k in range(_SAMPLED):
            x = values[first + k]
            values[first + k] = values[first + (k + 1) * step]
            values[first + (k + 1) * step] = x
        _sort(values, first, first + _SAMPLED)
        pivot = values[first + (at - first) * _SAMPLED // n]
        middle = _part(values, first, last, pivot, False)
        if at < middle:
            last = middle
            continue
        if (middle - first) * 8 < n:
            middle = _part(values, middle, last, pivot, True)
            if at < middle:
                return
        first = middle
    _sort(values, first, last)


@njit(cache=True, nogil=True)
def put_in_places(t, spec, values, n):
    """Puts those of ``values[:n]`` in their places that are quantiles for which ``spec`` (SPEC) asks."""
    if n <= _FEW:
        _sort(values, np.int64(0), n)
        return
    first = np.int64(0)
    while first < n:
        # Outputs are in order of their types' numbers, and the median has one of its own.
        at = n
        for k in range(np.int64(spec.outputs)):
            q = v.outputs(t)[np.int64(spec.outputs_at) + k].quantile
            if q >= 0.0:
                rank = rank_of(n, q)
                if first <= rank < at:
                    at = rank
        if at < n:
            select(values, first, n, at)
        first = at + 1

# mypy: ignore-errors
"""Compiled values: what the aggregation types are of a record (docs/m3/metrics.md, accumulators), and a timer's samples.

Quantiles are exact: of ``N`` samples in ascending order the one of rank ``ceil(q·N)``, and for ``N`` ≤ 3 the one at index ``trunc(q·N)``
(docs/m3/metrics.md, quantiles).
"""

import math

import numpy as np
from numba import njit

from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.windows.pages import SLIM, exists, record_at
from m3metrics.aggregation import AggregationType
from m3metrics.metric import MetricType

_INSERTION = 24


@njit(cache=True, nogil=True)
def _stdev(n, squares, total):
    """Sample standard deviation; NaN where rounding makes the variance negative, as in M3."""
    pairs = n * (n - 1)
    if pairs == 0:
        return 0.0
    variance = (float(n) * squares - total * total) / float(pairs)
    return math.sqrt(variance) if variance >= 0.0 else np.nan


@njit(cache=True, nogil=True)
def counter_value(r, kind):
    """Value of an aggregation type of a counter's record (COUNTER_RECORD)."""
    if kind == AggregationType.SUM:
        return float(r.sum)
    if kind == AggregationType.COUNT:
        return float(r.count)
    if kind == AggregationType.MEAN:
        return 0.0 if r.count == 0 else float(r.sum) / float(r.count)
    if kind == AggregationType.MIN:
        return float(r.min)
    if kind == AggregationType.MAX:
        return float(r.max)
    if kind == AggregationType.SUM_SQ:
        return float(r.sum_sq)
    if kind == AggregationType.STDEV:
        return _stdev(r.count, float(r.sum_sq), float(r.sum))
    return 0.0


@njit(cache=True, nogil=True)
def gauge_value(r, kind):
    """Value of an aggregation type of a gauge's record (RECORD)."""
    if kind == AggregationType.LAST:
        return r.last
    if kind == AggregationType.SUM:
        return r.sum
    if kind == AggregationType.COUNT:
        return float(r.count)
    if kind == AggregationType.MEAN:
        return 0.0 if r.count == 0 else r.sum / float(r.count)
    if kind == AggregationType.MIN:
        return r.min
    if kind == AggregationType.MAX:
        return r.max
    if kind == AggregationType.SUM_SQ:
        return r.sum_sq
    if kind == AggregationType.STDEV:
        return _stdev(r.count, r.sum_sq, r.sum)
    return 0.0


@njit(cache=True, nogil=True)
def quantile(values, first, n, q):
    """The quantile of the ascending ``values[first:first + n]``; 0 without values."""
    if n == 0:
        return 0.0
    if n <= 3:
        return values[first + min(np.int64(q * float(n)), n - 1)]
    rank = np.int64(math.ceil(q * float(n)))
    return values[first + min(max(rank, 1), n) - 1]


@njit(cache=True, nogil=True)
def timer_value(r, kind, q, values, first, n):
    """Value of an aggregation type of a timer's record (RECORD); its logged samples are ``values[first:first + n]``, ascending."""
    if q >= 0.0:
        return quantile(values, first, n, q)
    if kind in (AggregationType.MIN, AggregationType.MAX):
        if r.count == 0:
            return 0.0
        return r.min if kind == AggregationType.MIN else r.max
    if kind == AggregationType.LAST:
        return 0.0
    return gauge_value(r, kind)


@njit(cache=True, nogil=True)
def sort_range(values, first, last):
    """Sorts ``values[first:last]`` in place."""
    if last - first > _INSERTION:
        values[first:last].sort()
        return
    for i in range(first + 1, last):
        x = values[i]
        j = i - 1
        while j >= first and values[j] > x:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = x


@njit(cache=True, nogil=True)
def gather_log(t, w, samples):
    """Fills ``samples`` (Samples, with room for the window's ``logged``) by slot, in order of arrival."""
    values = samples.values
    starts = samples.starts
    x = v.windows(t)[w]
    slots = len(starts) - 2
    starts[0] = 0
    starts[1] = 0
    for slot in range(slots):
        i = record_at(t, w, slot)
        n = np.int64(0)
        if exists(t, i):
            spec = v.specs(t)[np.int64(v.elements(t)[v.reference(x.bucket, slot)].spec)]
            if spec.metric_type == MetricType.TIMER and spec.flags & layout.SPEC_LOG:
                n = v.timer_logs(t)[i].samples
        starts[slot + 2] = starts[slot + 1] + n
    chunk = x.log_head
    while chunk != 0:
        first = (chunk - 1) * layout.LOG_CHUNK
        end = first + (x.log_used if chunk == x.log_tail else layout.LOG_CHUNK)
        at = first + 1
        while at + 1 < end:
            word = v.log_words(t)[at]
            slot = word >> 32
            n = word & 0xFFFFFFFF
            to = starts[slot + 1]
            for k in range(n):
                values[to + k] = v.log(t)[at + 1 + k]
            starts[slot + 1] = to + n
            at += 1 + n
        chunk = v.log_words(t)[first]


@njit(cache=True, nogil=True)
def _slim_sum_value(r, kind):
    """``counter_value`` of a slim record (SLIM_SUM)."""
    if kind == AggregationType.SUM:
        return float(r.sum)
    if kind == AggregationType.COUNT:
        return float(r.count)
    return float(r.sum) / float(r.count)


@njit(cache=True, nogil=True)
def record_value(t, i, spec, o, values, first, count):
    """Value of output ``o`` of record ``i``; its samples in the log are ``values[first:first + count]``, ascending."""
    if i >= SLIM:
        if spec.flags & layout.SPEC_LAST:
            return v.slim_records(t)[i - SLIM].last
        return _slim_sum_value(v.slim_sums(t)[i - SLIM], o.kind)
    if spec.metric_type == MetricType.GAUGE:
        return gauge_value(v.records(t)[i], o.kind)
    if spec.metric_type == MetricType.COUNTER:
        return counter_value(v.counter_records(t)[i], o.kind)
    return timer_value(v.records(t)[i], o.kind, o.quantile, values, first, count)

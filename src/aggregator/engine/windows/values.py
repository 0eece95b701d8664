# mypy: ignore-errors
"""Compiled values: what the aggregation types are of a record (docs/m3/metrics.md, accumulators)."""

import math

import numpy as np
from numba import njit

from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.windows.pages import SLIM
from aggregator.engine.windows.samples import quantile
from m3metrics.aggregation import AggregationType
from m3metrics.metric import MetricType


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
def timer_value(r, kind, q, values, n):
    """Value of an aggregation type of a timer's record (RECORD); ``values[:n]`` are its logged samples (``samples.put_in_places``)."""
    if q >= 0.0:
        return quantile(values, n, q)
    if kind in (AggregationType.MIN, AggregationType.MAX):
        if r.count == 0:
            return 0.0
        return r.min if kind == AggregationType.MIN else r.max
    if kind == AggregationType.LAST:
        return 0.0
    return gauge_value(r, kind)


@njit(cache=True, nogil=True)
def _slim_sum_value(r, kind):
    """``counter_value`` of a slim record (SLIM_SUM)."""
    if kind == AggregationType.SUM:
        return float(r.sum)
    if kind == AggregationType.COUNT:
        return float(r.count)
    return float(r.sum) / float(r.count)


@njit(cache=True, nogil=True)
def record_value(t, i, spec, o, values, count):
    """Value of output ``o`` of record ``i``; ``values[:count]`` are its samples in the log (``samples.put_in_places``)."""
    if i >= SLIM:
        if spec.flags & layout.SPEC_LAST:
            return v.slim_records(t)[i - SLIM].last
        return _slim_sum_value(v.slim_sums(t)[i - SLIM], o.kind)
    if spec.metric_type == MetricType.GAUGE:
        return gauge_value(v.records(t)[i], o.kind)
    if spec.metric_type == MetricType.COUNTER:
        return counter_value(v.counter_records(t)[i], o.kind)
    return timer_value(v.records(t)[i], o.kind, o.quantile, values, count)

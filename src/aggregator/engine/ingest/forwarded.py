# mypy: ignore-errors
"""Compiled ingest of forwarded metrics (docs/m3/aggregation.md, forwarded values), and what it shares with that of others."""

import numpy as np
from numba import njit

from aggregator.engine import reasons as why
from aggregator.engine.state.elements import find_key
from aggregator.engine.state.state import RESEND_OFF, RESEND_ON, begin_state, mark_written, open_record
from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.windows.annotations import annotation_row
from aggregator.engine.windows.pages import (
    CLOSED,
    NO_ROOM,
    exists,
    find_window,
    is_closed,
    record_at,
    window_of,
    window_start,
)
from aggregator.engine.windows.records import add_counter, add_gauge, add_timer, clear_record, update_gauge
from aggregator.engine.windows.sources import FIRST, SEEN, has_source, see_source
from m3metrics.metric import MetricType
from m3metrics.rows import Payload
from m3x.kernels import base, load_double


@njit(cache=True, nogil=True)
def category_of(payload):
    """UNTIMED, TIMED or FORWARDED."""
    if payload <= Payload.GAUGE:
        return why.UNTIMED
    return why.FORWARDED if payload == Payload.FORWARDED else why.TIMED


@njit(cache=True, nogil=True)
def to_int64(value):
    """Go's conversion on amd64: truncated; NaN and what does not fit give the smallest number."""
    if value >= -9223372036854775808.0 and value < 9223372036854775808.0:
        return np.int64(value)
    return np.int64(layout.MIN_INT64)


@njit(cache=True, nogil=True)
def resend_of(t, ref):
    """Whether values of the element may be corrected later, as its metadata says."""
    return v.attrs(t)[np.int64(v.elements(t)[ref].attrs)].resend != 0


@njit(cache=True, nogil=True)
def annotate(t, i, row, buf):
    """The last annotation that is not empty holds."""
    if row.annotation_size != 0:
        annotation = annotation_row(t, buf, np.int64(row.annotation_at), np.int64(row.annotation_size))
        if annotation != 0:
            v.records(t)[i].annotation = np.uint32(annotation)


@njit(cache=True, nogil=True)
def locate_with_state(t, b, slot, shard, spec, time_ns, resend):
    """``(record, window)`` for a value of that time, begun if it is new: the record's row, or ``CLOSED``, ``MIGRATION``, ``NO_ROOM``."""
    w = window_of(t, b, time_ns)
    if w < 0:
        return np.int64(NO_ROOM), w
    i = open_record(t, b, w, slot, shard, resend)
    if i >= 0 and v.records(t)[i].flags == 0:
        clear_record(t, i, np.int64(spec.metric_type))
        begin_state(t, i, np.int64(spec.width))
    return i, w


@njit(cache=True, nogil=True)
def active_stage(t, meta, now_ns):
    """Row of the stage that holds at ``now_ns``, -1 if none does."""
    m = v.metas(t)[meta]
    for k in range(np.int64(m.stages)):
        s = v.stages(t)[np.int64(m.first_stage) + k]
        if s.from_ns <= now_ns < s.until_ns:
            return np.int64(m.first_stage) + k
    return np.int64(-1)


@njit(cache=True, nogil=True)
def stage_of(t, row, meta, known, now_ns):
    """Row of the stage of a message: of the entry ``row`` where its metadata is ``known``, else of the metadata row ``meta``."""
    return np.int64(v.entries(t)[row].stage) - 1 if known else active_stage(t, meta, now_ns)


@njit(cache=True, nogil=True)
def in_time(t, stage, shard, time_ns, now_ns):
    """``D_NONE``, or why not, for a forwarded value that its list may have flushed already. One without a list is judged elsewhere.

    In grace what is late is taken where its window has not been flushed: it would begin a flushed one anew, without its other sources.
    """
    if stage < 0 or v.stages(t)[stage].action != 0:
        return why.D_NONE
    s = v.stages(t)[stage]
    want = v.stage_specs(t)[np.int64(s.specs_at)]
    b = np.int64(v.specs(t)[np.int64(want.spec)].bucket)
    bucket = v.buckets(t)[b]
    limit = bucket.past_limit if v.attrs(t)[np.int64(want.attrs)].resend != 0 else bucket.delay
    if now_ns - time_ns <= limit:
        return why.D_NONE
    if now_ns < v.head(t).grace:
        start = window_start(time_ns, bucket.resolution, bucket.shift)
        return why.D_CLOSED if is_closed(t, b, shard, start) else why.D_NONE
    v.counts(t)[why.C_LATE] += 1
    return why.D_LATE


@njit(cache=True, nogil=True)
def has_come(t, row, stage, m):
    """Whether the window of the forwarded message ``m``, which came too late, is still here and has this version of its source.

    Then nothing is lost: in grace everything that may not have arrived comes once more.
    """
    if stage < 0 or v.stages(t)[stage].action != 0:
        return False
    s = v.stages(t)[stage]
    ref = find_key(t, row, np.int64(v.stage_specs(t)[np.int64(s.specs_at)].spec))
    if ref < 0:
        return False
    b = ref >> layout.SLOT_BITS
    slot = ref & layout.SLOT_MASK
    bucket = v.buckets(t)[b]
    w = find_window(t, b, window_start(m.time_ns, bucket.resolution, bucket.shift), False)
    if w < 0 or not exists(t, record_at(t, w, slot)):
        return False
    return has_source(t, w, slot, np.int64(s.source), np.int64(m.version))


@njit(cache=True, nogil=True)
def add_forwarded(t, row, stage, shard, m, buf):
    """Adds the values of the forwarded message ``m`` (METRIC_ROW) to the element of its stage; returns ``D_NONE`` or why not.

    A version of a source that has come before is no error, and changes nothing.
    """
    s = v.stages(t)[stage]
    want = v.stage_specs(t)[np.int64(s.specs_at)]
    ref = find_key(t, row, np.int64(want.spec))
    b = ref >> layout.SLOT_BITS
    slot = ref & layout.SLOT_MASK
    spec = v.specs(t)[np.int64(want.spec)]
    n = np.int64(m.values_size) >> 3
    if m.version > 0 and spec.metric_type != MetricType.GAUGE:
        return why.D_RESEND_TYPE
    if m.version > 0 and m.previous_size < m.values_size:
        return why.D_PREVIOUS
    resend = v.attrs(t)[np.int64(want.attrs)].resend != 0
    i, w = locate_with_state(t, b, slot, shard, spec, m.time_ns, False)
    if i < 0:
        return why.D_CLOSED if i == CLOSED else why.D_MEMORY
    seen = see_source(t, w, slot, np.int64(s.source), np.int64(m.version))
    if seen != FIRST:
        if seen == SEEN:
            v.counts(t)[why.C_DUPLICATES] += 1
            v.states(t)[i].marks |= np.uint16(layout.STATE_TOUCHED)
        return why.D_NONE if seen == SEEN else why.D_MEMORY
    flags = np.int64(spec.flags)
    values = base(buf) + np.uint64(m.values_at)
    if m.version > 0:
        v.counts(t)[why.C_UPDATED_VALUES] += 1
        previous = base(buf) + np.uint64(m.previous_at)
        for k in range(n):
            at = np.uint64(8 * k)
            update_gauge(t, i, load_double(values + at), load_double(previous + at), m.time_ns, flags)
    elif spec.metric_type == MetricType.TIMER:
        add_timer(t, i, w, slot, values, n, flags)
    else:
        for k in range(n):
            value = load_double(values + np.uint64(8 * k))
            if spec.metric_type == MetricType.GAUGE:
                add_gauge(t, i, value, m.time_ns, np.int64(0), flags)
            else:
                add_counter(t, i, to_int64(value), flags)
    if m.version == 0:
        annotate(t, i, m, buf)
    mark_written(t, b, w, i, shard, RESEND_ON if resend else RESEND_OFF)
    return why.D_NONE

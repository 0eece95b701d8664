# mypy: ignore-errors
# ruff: noqa: PLR0124
"""Compiled work on records: find, begin, and add values (docs/m3/metrics.md, accumulators).

A record exists when its flags are not zero; what its other bytes held before is never read. Slim ones: ``slim``.
"""

import numpy as np
from numba import njit

from aggregator.engine import reasons as why
from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.tables.memory import over_limit
from aggregator.engine.windows.pages import (
    CLOSED,
    NO_ROOM,
    exists,
    is_closed,
    is_late,
    next_window,
    record_at,
    record_of,
    window_of,
)
from aggregator.engine.windows.slim import whole_record_of
from m3metrics.metric import MetricType
from m3x.kernels import base, copy_short, load_double


@njit(cache=True, nogil=True)
def _late_record(t, b, w, slot, shard, logged):
    """The record of a window that this shard has flushed already, if M3 would still take a value for it (``CLOSED`` if not).

    M3 keeps a flushed window closed until a later one of the same element is closed too; after that a value makes it anew, and it is
    emitted once more (docs/m3/aggregation.md, expiry of windows). It takes a clock that steps back to come here. A timer with samples in
    the log (``logged``) stays closed: its log cannot begin anew.
    """
    if v.buckets(t)[b].flushing != 0:
        return np.int64(CLOSED)
    i = whole_record_of(t, w, slot)
    if i < 0:
        return i
    r = v.records(t)[i]
    if r.flags & layout.RECORD_LATE:
        return i
    if r.flags & layout.RECORD_EXISTS:
        removed = False
        later = next_window(t, b, np.int64(0))
        while later >= 0:
            x = v.windows(t)[later]
            if x.start > v.windows(t)[w].start and x.start + v.buckets(t)[b].due <= v.closed_through(t)[b, shard]:
                j = record_at(t, later, slot)
                removed |= exists(t, j) and not is_late(t, j)
            later = next_window(t, b, later + 1)
        if logged or not removed:
            return np.int64(CLOSED)
    r.flags = np.uint16(0)
    return i


@njit(cache=True, nogil=True)
def locate(t, b, slot, shard, time_ns, logged):
    """``(record, window)`` for a value of that time: the record's row, ``CLOSED`` or ``NO_ROOM``. For elements without state."""
    w = window_of(t, b, time_ns)
    if w < 0:
        return np.int64(NO_ROOM), w
    if is_closed(t, b, shard, v.buckets(t)[b].start):
        return _late_record(t, b, w, slot, shard, logged), w
    return record_of(t, w, slot), w


@njit(cache=True, nogil=True)
def begin_record(t, i, w, b, shard, metric_type):
    """First value of a record: zero sums, no extremes."""
    clear_record(t, i, metric_type)
    x = v.windows(t)[w]
    if is_closed(t, b, shard, x.start):
        v.records(t)[i].flags |= np.uint16(layout.RECORD_LATE)
        x.late += 1
        v.counts(t)[why.C_LATE_RECORDS] += 1


@njit(cache=True, nogil=True)
def clear_record(t, i, metric_type):
    """A record without values."""
    if metric_type == MetricType.COUNTER:
        c = v.counter_records(t)[i]
        c.last = 0
        c.sum = 0
        c.sum_sq = 0
        c.min = np.int64(layout.MAX_INT64)
        c.max = np.int64(layout.MIN_INT64)
    else:
        r = v.records(t)[i]
        r.last = 0.0
        r.sum = 0.0
        r.sum_sq = 0.0
        r.min = np.nan
        r.max = np.nan
        if metric_type == MetricType.TIMER:
            v.timer_logs(t)[i].samples = 0
    r = v.records(t)[i]
    r.last_at = np.int64(layout.MIN_INT64)
    r.count = 0
    r.annotation = np.uint32(0)
    r.call = np.uint16(0)
    r.flags = np.uint16(layout.RECORD_EXISTS)


@njit(cache=True, nogil=True)
def add_counter(t, i, value, flags):
    """Adds an int64 to a counter's record; everything wraps."""
    r = v.counter_records(t)[i]
    r.sum += value
    r.count += 1
    r.max = max(r.max, value)
    r.min = min(r.min, value)
    if flags & layout.SPEC_EXPENSIVE:
        r.sum_sq += value * value


@njit(cache=True, nogil=True)
def add_gauge(t, i, value, time_ns, call, flags):
    """Adds a double to a gauge's record. ``last`` needs a strictly later time.

    Untimed values of one batch share their time, but came one after another: ``call`` (not 0) says that they are of the same batch.
    """
    r = v.records(t)[i]
    if time_ns > r.last_at or (call != 0 and time_ns == r.last_at and np.int64(r.call) == call):
        r.last = value
        r.last_at = time_ns
        r.call = np.uint16(call)
    else:
        v.counts(t)[why.C_OUT_OF_ORDER] += 1
    r.count += 1
    if value != value:
        return
    r.sum += value
    if not r.max >= value:
        r.max = value
    if not r.min <= value:
        r.min = value
    if flags & layout.SPEC_EXPENSIVE:
        r.sum_sq += value * value


@njit(cache=True, nogil=True)
def update_gauge(t, i, value, previous, time_ns, flags):
    """Replaces a value of a gauge's record by another. Extremes and ``last`` do not forget the previous one.

    docs/m3/metrics.md, accumulators.
    """
    r = v.records(t)[i]
    if previous == previous:
        r.sum -= previous
        if flags & layout.SPEC_EXPENSIVE:
            r.sum_sq -= previous * previous
    r.count -= 1
    add_gauge(t, i, value, time_ns, np.int64(0), flags)


@njit(cache=True, nogil=True)
def _log_room(t, w):
    """Makes room for at least a run of one value in a window's log; whether there is any."""
    x = v.windows(t)[w]
    if x.log_tail != 0 and x.log_used + 2 <= layout.LOG_CHUNK:
        return True
    head = v.head(t)
    if over_limit(t):
        return False
    if head.free_chunks > 0:
        head.free_chunks -= 1
        chunk = np.int64(v.free_chunks(t)[head.free_chunks])
    else:
        chunk = head.chunks
        if chunk >= head.max_chunks:
            return False
        head.chunks = chunk + 1
    head.used_chunks += 1
    v.log_words(t)[chunk * layout.LOG_CHUNK] = 0
    if x.log_tail == 0:
        x.log_head = chunk + 1
    else:
        v.log_words(t)[(x.log_tail - 1) * layout.LOG_CHUNK] = chunk + 1
    x.log_tail = chunk + 1
    x.log_used = 1
    return True


@njit(cache=True, nogil=True)
def append_log(t, w, slot, i, address, n):
    """Appends the ``n`` doubles at ``address`` to a window's log as runs: a word (slot, values), then the values. NaN is left out."""
    x = v.windows(t)[w]
    r = v.timer_logs(t)[i]
    room = v.head(t).log_cap - r.samples
    k = 0
    while k < n:
        if room <= 0:
            v.counts(t)[why.C_LOG_CAPPED] += n - k
            return
        if not _log_room(t, w):
            v.counts(t)[why.C_LOG_FULL] += n - k
            return
        head = (x.log_tail - 1) * layout.LOG_CHUNK + x.log_used
        at = head + 1
        last = min(x.log_tail * layout.LOG_CHUNK, at + room)
        while k < n and at < last:
            value = load_double(address + np.uint64(8 * k))
            k += 1
            if value == value:
                v.log(t)[at] = value
                at += 1
        run = at - head - 1
        if run > 0:
            v.log_words(t)[head] = (slot << 32) | run
            x.log_used = at - (x.log_tail - 1) * layout.LOG_CHUNK
            x.logged += run
            r.samples += run
            room -= run


@njit(cache=True, nogil=True)
def _append_run(t, w, slot, i, address, n):
    """``append_log`` for doubles of which none is NaN, where all of them have room in the chunk that is being written; whether they had."""
    x = v.windows(t)[w]
    r = v.timer_logs(t)[i]
    if x.log_tail == 0 or x.log_used + 1 + n > layout.LOG_CHUNK or n > v.head(t).log_cap - r.samples:
        return False
    at = (x.log_tail - 1) * layout.LOG_CHUNK + x.log_used
    v.log_words(t)[at] = (slot << 32) | n
    copy_short(base(v.log(t)) + np.uint64((at + 1) << 3), address, np.uint64(n << 3))
    x.log_used += 1 + n
    x.logged += n
    r.samples += n
    return True


@njit(cache=True, nogil=True)
def add_timer(t, i, w, slot, address, n, flags):
    """Adds the ``n`` doubles at ``address`` to a timer's record, and to the log of window ``w`` where quantiles are asked for."""
    r = v.records(t)[i]
    total = r.sum
    squares = r.sum_sq
    # No comparison with NaN holds, so these are extremes of all else; without branches.
    low = np.inf
    high = -np.inf
    numbers = np.int64(0)
    for k in range(n):
        value = load_double(address + np.uint64(8 * k))
        total += value
        if flags & layout.SPEC_EXPENSIVE:
            squares += value * value
        low = value if value < low else low
        high = value if value > high else high
        numbers += value == value
    r.count += n
    r.sum = total
    r.sum_sq = squares
    if numbers != 0:
        if not r.max >= high:
            r.max = high
        if not r.min <= low:
            r.min = low
    if flags & layout.SPEC_LOG and n > 0 and not (numbers == n and _append_run(t, w, slot, i, address, n)):
        append_log(t, w, slot, i, address, n)

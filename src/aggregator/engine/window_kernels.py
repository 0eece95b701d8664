# mypy: ignore-errors
# ruff: noqa: PLR0124
"""Compiled work on windows: align times, find windows and records, add values, give memory back.

A window of a bucket holds records of all its shards. A record exists when its flags are not zero; what its other bytes held before is
never read. Sums follow docs/m3/metrics.md, accumulators; window starts docs/m3/aggregation.md, windows.
"""

import numpy as np
from numba import njit

from aggregator.engine import reasons as why
from aggregator.engine import tables as layout
from aggregator.engine import view_kernels as v
from aggregator.engine.source_kernels import release_sources
from m3metrics.metric import MetricType
from m3x.kernels import base, bytes_equal, copy_bytes, hash_bytes, load_double

CLOSED = -1
NO_ROOM = -2

_PAGE_BYTES = layout.PAGE_ROWS * 64
_CHUNK_BYTES = layout.LOG_CHUNK * 8


@njit(cache=True, nogil=True)
def window_start(time_ns, resolution, shift):
    """Start of the window of a time: a multiple of the resolution since M3's zero time, year 1 (``shift`` before the epoch)."""
    return time_ns - (time_ns % resolution + shift) % resolution


@njit(cache=True, nogil=True)
def used_bytes(t):
    """Memory of windows and timer logs together."""
    return v.head(t).used_pages * _PAGE_BYTES + v.head(t).used_chunks * _CHUNK_BYTES


@njit(cache=True, nogil=True)
def _over_limit(t):
    """Series that are known may use twice the limit that new ones meet."""
    return v.head(t).memory_limit > 0 and used_bytes(t) >= 2 * v.head(t).memory_limit


@njit(cache=True, nogil=True)
def new_window(t, b, start):
    """A row for a window without records, -1 if there is no room."""
    free = np.int64(0)
    while free < v.head(t).windows and v.windows(t)[free].used != 0:
        free += 1
    if free >= layout.MAX_WINDOWS:
        return np.int64(-1)
    v.head(t).windows = max(v.head(t).windows, free + 1)
    x = v.windows(t)[free]
    x.start = start
    x.sequence = 0
    x.bucket = b
    x.used = 1
    x.late = 0
    x.log_head = 0
    x.log_tail = 0
    x.log_used = 0
    x.logged = 0
    x.pages = 0
    x.resend = 0
    x.sources_size = 0
    x.sources_used = 0
    return free


@njit(cache=True, nogil=True)
def next_window(t, b, w):
    """Row of the first window of bucket ``b`` from row ``w`` on, -1 if there is none: a walk begins at 0 and goes on one further."""
    while w < v.head(t).windows:
        x = v.windows(t)[w]
        if x.used != 0 and x.bucket == b:
            return np.int64(w)
        w += 1
    return np.int64(-1)


@njit(cache=True, nogil=True)
def find_window(t, b, start, create):
    """Row of the window of bucket ``b`` that begins at ``start``, made if asked for; -1 if there is none or no room."""
    place = (start // v.buckets(t)[b].resolution) & (layout.RING - 1)
    w = np.int64(v.window_ring(t)[b, place])
    if w >= 0:
        x = v.windows(t)[w]
        if x.used != 0 and x.bucket == b and x.start == start:
            return w
    w = next_window(t, b, np.int64(0))
    while w >= 0:
        if v.windows(t)[w].start == start:
            v.window_ring(t)[b, place] = w
            return w
        w = next_window(t, b, w + 1)
    if not create:
        return np.int64(-1)
    w = new_window(t, b, start)
    if w >= 0:
        v.buckets(t)[b].sequence += 1
        v.windows(t)[w].sequence = v.buckets(t)[b].sequence
        v.window_ring(t)[b, place] = w
    return w


@njit(cache=True, nogil=True)
def _new_page(t, w, number):
    """Gives a window its page ``number``; returns it + 1, or 0 if there is no room."""
    head = v.head(t)
    if _over_limit(t):
        return np.int64(0)
    if head.free_pages > 0:
        head.free_pages -= 1
        page = np.int64(v.free_pages(t)[head.free_pages])
        first = page << layout.PAGE_BITS
        for k in range(first, first + layout.PAGE_ROWS):
            v.records(t)[k].flags = np.uint16(0)
    else:
        page = head.pages
        if page >= head.max_pages:
            return np.int64(0)
        head.pages = page + 1
    head.used_pages += 1
    v.windows(t)[w].pages += 1
    v.page_table(t)[w, number] = np.uint32(page + 1)
    return page + 1


@njit(cache=True, nogil=True)
def _in_page(page, slot):
    """Row of the record of a slot; ``page``: number of its page + 1."""
    return ((page - 1) << layout.PAGE_BITS) | (slot & (layout.PAGE_ROWS - 1))


@njit(cache=True, nogil=True)
def record_at(t, w, slot):
    """Row of the record of a slot in a window, -1 where the window has no such page."""
    page = np.int64(v.page_table(t)[w, slot >> layout.PAGE_BITS])
    return np.int64(-1) if page == 0 else _in_page(page, slot)


@njit(cache=True, nogil=True)
def exists(t, i):
    """Whether there is a record in row ``i``, which may be -1."""
    return i >= 0 and v.records(t)[i].flags & layout.RECORD_EXISTS != 0


@njit(cache=True, nogil=True)
def next_record(t, w, slot):
    """``(slot, record)`` of the first record of a window from ``slot`` on; the record is -1 if there is none."""
    slots = v.buckets(t)[v.windows(t)[w].bucket].slots
    while slot < slots:
        i = record_at(t, w, slot)
        if i < 0:
            slot = ((slot >> layout.PAGE_BITS) + 1) << layout.PAGE_BITS
        elif v.records(t)[i].flags & layout.RECORD_EXISTS:
            return slot, i
        else:
            slot += 1
    return slot, np.int64(-1)


@njit(cache=True, nogil=True)
def record_of(t, w, slot):
    """Row of the record of a slot in a window, with a page made where there is none; ``NO_ROOM`` if that fails."""
    page = np.int64(v.page_table(t)[w, slot >> layout.PAGE_BITS])
    if page == 0:
        page = _new_page(t, w, slot >> layout.PAGE_BITS)
        if page == 0:
            return np.int64(NO_ROOM)
    return _in_page(page, slot)


@njit(cache=True, nogil=True)
def _late_record(t, b, w, slot, shard, logged):
    """The record of a window that this shard has flushed already, if M3 would still take a value for it (``CLOSED`` if not).

    M3 keeps a flushed window closed until a later one of the same element is closed too; after that a value makes it anew, and it is
    emitted once more (docs/m3/aggregation.md, expiry of windows). It takes a clock that steps back to come here. A timer with samples in
    the log (``logged``) stays closed: its log cannot begin anew.
    """
    if v.buckets(t)[b].flushing != 0:
        return np.int64(CLOSED)
    i = record_of(t, w, slot)
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
                removed |= exists(t, j) and not v.records(t)[j].flags & layout.RECORD_LATE
            later = next_window(t, b, later + 1)
        if logged or not removed:
            return np.int64(CLOSED)
    r.flags = np.uint16(0)
    return i


@njit(cache=True, nogil=True)
def window_of(t, b, time_ns):
    """Row of the window of bucket ``b`` for a value of that time, -1 if there is no room."""
    bucket = v.buckets(t)[b]
    resolution = bucket.resolution
    start = bucket.start
    w = bucket.window
    if w < 0 or time_ns < start or time_ns - start >= resolution:
        start = window_start(time_ns, resolution, bucket.shift)
        w = find_window(t, b, start, True)
        if w < 0:
            return w
        bucket.start = start
        bucket.window = w
    return w


@njit(cache=True, nogil=True)
def locate(t, b, slot, shard, time_ns, logged):
    """``(record, window)`` for a value of that time: the record's row, ``CLOSED`` or ``NO_ROOM``. For elements without state."""
    bucket = v.buckets(t)[b]
    w = window_of(t, b, time_ns)
    if w < 0:
        return np.int64(NO_ROOM), w
    start = bucket.start
    if start + bucket.due <= bucket.closed_max and start + bucket.due <= v.closed_through(t)[b, shard]:
        return _late_record(t, b, w, slot, shard, logged), w
    return record_of(t, w, slot), w


@njit(cache=True, nogil=True)
def begin_record(t, i, w, b, shard, metric_type):
    """First value of a record: zero sums, no extremes."""
    clear_record(t, i, metric_type)
    x = v.windows(t)[w]
    end = x.start + v.buckets(t)[b].due
    if end <= v.buckets(t)[b].closed_max and end <= v.closed_through(t)[b, shard]:
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
    if _over_limit(t):
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
def _append_log(t, w, slot, i, address, n):
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
def add_timer(t, i, w, slot, address, n, flags):
    """Adds the ``n`` doubles at ``address`` to a timer's record, and to the log of window ``w`` where quantiles are asked for."""
    r = v.records(t)[i]
    r.count += n
    total = r.sum
    squares = r.sum_sq
    low = r.min
    high = r.max
    for k in range(n):
        value = load_double(address + np.uint64(8 * k))
        total += value
        if flags & layout.SPEC_EXPENSIVE:
            squares += value * value
        if value == value:
            if not high >= value:
                high = value
            if not low <= value:
                low = value
    r.sum = total
    r.sum_sq = squares
    r.min = low
    r.max = high
    if flags & layout.SPEC_LOG and n > 0:
        _append_log(t, w, slot, i, address, n)


@njit(cache=True, nogil=True)
def annotation_row(t, buf, at, size):
    """Row + 1 of an interned annotation, 0 if it is empty or there is no room."""
    if size == 0:
        return np.int64(0)
    address = base(buf) + np.uint64(at)
    mask = layout.ANNOTATION_INDEX - 1
    place = np.int64(hash_bytes(address, np.uint64(size), np.uint64(7)) & np.uint64(mask))
    while v.annotation_index(t)[place] != 0:
        row = np.int64(v.annotation_index(t)[place])
        x = v.annotations(t)[row - 1]
        if np.int64(x.size) == size and bytes_equal(base(v.annotation_bytes(t)) + np.uint64(x.at), address, size):
            return row
        place = (place + 1) & mask
    row = v.head(t).annotations
    used = v.head(t).annotation_bytes
    if row >= layout.MAX_ANNOTATIONS or used + size > layout.ANNOTATION_BYTES:
        v.counts(t)[why.C_ANNOTATIONS_DROPPED] += 1
        return np.int64(0)
    x = v.annotations(t)[row]
    x.at = np.uint32(used)
    x.size = np.uint32(size)
    v.head(t).annotation_bytes = copy_bytes(v.annotation_bytes(t), used, buf, at, size)
    v.head(t).annotations = row + 1
    v.annotation_index(t)[place] = np.uint32(row + 1)
    return row + 1


@njit(cache=True, nogil=True)
def release_window(t, w):
    """Gives back the pages and the log of a window; its row is free afterwards."""
    x = v.windows(t)[w]
    head = v.head(t)
    for k in range(layout.PAGES_PER_WINDOW):
        if x.pages == 0:
            break
        page = np.int64(v.page_table(t)[w, k])
        if page != 0:
            v.page_table(t)[w, k] = np.uint32(0)
            v.free_pages(t)[head.free_pages] = np.uint32(page - 1)
            head.free_pages += 1
            head.used_pages -= 1
            x.pages -= 1
    chunk = x.log_head
    while chunk != 0:
        v.free_chunks(t)[head.free_chunks] = np.uint32(chunk - 1)
        head.free_chunks += 1
        head.used_chunks -= 1
        chunk = v.log_words(t)[(chunk - 1) * layout.LOG_CHUNK]
    release_sources(t, w)
    x.used = 0
    x.log_head = 0
    bucket = v.buckets(t)[x.bucket]
    if bucket.window == w:
        bucket.window = -1

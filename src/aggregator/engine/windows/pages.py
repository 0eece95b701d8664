# mypy: ignore-errors
"""Compiled work on windows: align times, find windows and records, walk them, give memory back.

A window of a bucket holds records of all its shards, in pages. Starts of windows: docs/m3/aggregation.md, windows. A record's row is its
row in ``records``, or, from ``SLIM`` on, that in ``slim_records`` and ``SLIM``.
"""

import numpy as np
from numba import njit

from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.tables.memory import over_limit
from aggregator.engine.windows.sources import release_sources
from m3x.kernels import base

CLOSED, NO_ROOM = -1, -2
"""Why there is no record."""

SLIM = layout.SLIM_PAGE << layout.PAGE_BITS
"""Rows from here on are of slim records."""


@njit(cache=True, nogil=True)
def window_start(time_ns, resolution, shift):
    """Start of the window of a time: a multiple of the resolution since M3's zero time, year 1 (``shift`` before the epoch)."""
    return time_ns - (time_ns % resolution + shift) % resolution


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
def take_page(t):
    """A page of records of which none exists: its number + 1, or 0 if there is no room."""
    head = v.head(t)
    if over_limit(t):
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
    return page + 1


@njit(cache=True, nogil=True)
def _take_slim_page(t):
    """``take_page`` for slim records, with ``SLIM_PAGE``."""
    head = v.head(t)
    if over_limit(t):
        return np.int64(0)
    if head.free_slim_pages > 0:
        head.free_slim_pages -= 1
        page = np.int64(v.free_slim_pages(t)[head.free_slim_pages])
        first = page << layout.PAGE_BITS
        for k in range(first, first + layout.PAGE_ROWS):
            v.slim_records(t)[k].stamp = 0
    else:
        page = head.slim_pages
        if page >= head.max_pages:
            return np.int64(0)
        head.slim_pages = page + 1
    head.used_slim_pages += 1
    return (page + 1) | layout.SLIM_PAGE


@njit(cache=True, nogil=True)
def give_page(t, page):
    """Gives back what one of these two has returned."""
    head = v.head(t)
    if page & layout.SLIM_PAGE:
        v.free_slim_pages(t)[head.free_slim_pages] = np.uint32((page ^ layout.SLIM_PAGE) - 1)
        head.free_slim_pages += 1
        head.used_slim_pages -= 1
    else:
        v.free_pages(t)[head.free_pages] = np.uint32(page - 1)
        head.free_pages += 1
        head.used_pages -= 1


@njit(cache=True, nogil=True)
def _new_page(t, w, number):
    """Gives a window its page ``number``; returns what stands in ``page_table`` then, or 0 if there is no room."""
    x = v.windows(t)[w]
    slim = v.ranges(t)[x.bucket & (layout.MAX_BUCKETS - 1), number] != 0
    page = _take_slim_page(t) if slim else take_page(t)
    if page != 0:
        x.pages += 1
        v.page_table(t)[w, number] = np.uint32(page)
    return page


@njit(cache=True, nogil=True)
def in_page(page, slot):
    """Row of the record of a slot; ``page``: what stands in ``page_table``."""
    return ((page - 1) << layout.PAGE_BITS) | (slot & (layout.PAGE_ROWS - 1))


@njit(cache=True, nogil=True)
def record_at(t, w, slot):
    """Row of the record of a slot in a window, -1 where the window has no such page."""
    page = np.int64(v.page_table(t)[w, slot >> layout.PAGE_BITS])
    return np.int64(-1) if page == 0 else in_page(page, slot)


@njit(cache=True, nogil=True)
def exists(t, i):
    """Whether there is a record in row ``i``, which may be -1."""
    if i >= SLIM:
        return v.slim_records(t)[i - SLIM].stamp != 0
    return i >= 0 and v.records(t)[i].flags & layout.RECORD_EXISTS != 0


@njit(cache=True, nogil=True)
def forget_record(t, i):
    """There is no record in row ``i`` any more."""
    if i >= SLIM:
        v.slim_records(t)[i - SLIM].stamp = 0
    else:
        v.records(t)[i].flags = np.uint16(0)


@njit(cache=True, nogil=True)
def is_late(t, i):
    """Whether the record in row ``i`` was written after its window had been flushed."""
    return i < SLIM and v.records(t)[i].flags & layout.RECORD_LATE != 0


@njit(cache=True, nogil=True)
def record_address(t, i):
    """Where the record in row ``i`` is."""
    if i >= SLIM:
        return base(v.slim_records(t)) + np.uint64((i - SLIM) << 4)
    return base(v.records(t)) + np.uint64(i << 6)


@njit(cache=True, nogil=True)
def next_record(t, w, slot):
    """``(slot, record)`` of the first record of a window from ``slot`` on; the record is -1 if there is none."""
    slots = v.buckets(t)[v.windows(t)[w].bucket].slots
    while slot < slots:
        i = record_at(t, w, slot)
        if i < 0:
            slot = ((slot >> layout.PAGE_BITS) + 1) << layout.PAGE_BITS
        elif exists(t, i):
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
    return in_page(page, slot)


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
def is_closed(t, b, shard, start):
    """Whether this shard has flushed the window of bucket ``b`` that starts then."""
    bucket = v.buckets(t)[b]
    due = start + bucket.due
    return due <= bucket.closed_max and due <= v.closed_through(t)[b, shard]


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
            give_page(t, page)
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

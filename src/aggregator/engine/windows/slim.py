# mypy: ignore-errors
"""Compiled work on slim records: add values, and turn them into whole ones where they do not suffice.

A slim record has the two words that its element puts out values of. What it cannot hold (an annotation, a value that came after its window
had been flushed) is rare, or comes with every value; so the page of that window is then made anew with whole records, and stays so.
"""

import numpy as np
from numba import njit

from aggregator.engine import reasons as why
from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.windows.pages import NO_ROOM, SLIM, exists, give_page, record_at, record_of, take_page

_CALL_MASK = (1 << layout.CALL_BITS) - 1


@njit(cache=True, nogil=True)
def add_last(t, i, value, since_ns, call):
    """``records.add_gauge`` where only the last value counts; ``since_ns``: from the start of the window on."""
    r = v.slim_records(t)[i - SLIM]
    stamp = ((since_ns + 1) << layout.CALL_BITS) | call
    was = r.stamp
    if stamp >> layout.CALL_BITS > was >> layout.CALL_BITS or (call != 0 and stamp == was):
        r.last = value
        r.stamp = stamp
    else:
        v.counts(t)[why.C_OUT_OF_ORDER] += 1


@njit(cache=True, nogil=True)
def add_sum(t, i, value):
    """``records.add_counter`` where only sum and count do."""
    r = v.slim_sums(t)[i - SLIM]
    r.sum = value if r.count == 0 else r.sum + value
    r.count += 1


@njit(cache=True, nogil=True)
def unpack(t, i, start, flags, r, c):
    """Writes slim record ``i`` of a window that begins at ``start`` to ``r`` (RECORD) and ``c`` (COUNTER_RECORD), the same row.

    ``flags``: of its spec. What a slim record does not have is as where no value has come.
    """
    if flags & layout.SPEC_LAST:
        last = v.slim_records(t)[i - SLIM]
        r.last = last.last
        r.last_at = start + (last.stamp >> layout.CALL_BITS) - 1
        r.sum = 0.0
        r.sum_sq = 0.0
        r.min = np.nan
        r.max = np.nan
        r.count = 0
        r.call = np.uint16(last.stamp & _CALL_MASK)
    else:
        total = v.slim_sums(t)[i - SLIM]
        c.last = 0
        c.last_at = np.int64(layout.MIN_INT64)
        c.sum = total.sum
        c.sum_sq = 0
        c.min = np.int64(layout.MAX_INT64)
        c.max = np.int64(layout.MIN_INT64)
        c.count = total.count
        c.call = np.uint16(0)
    r.annotation = np.uint32(0)
    r.flags = np.uint16(layout.RECORD_EXISTS)


@njit(cache=True, nogil=True)
def pack(t, i, start, flags, r, c):
    """The opposite of ``unpack``; whether a slim record can hold it."""
    if r.flags != layout.RECORD_EXISTS or r.annotation != 0:
        return False
    if flags & layout.SPEC_LAST:
        since_ns = r.last_at - start
        if since_ns < 0 or since_ns >= layout.MAX_LAST_NS:
            return False
        last = v.slim_records(t)[i - SLIM]
        last.last = r.last
        last.stamp = ((since_ns + 1) << layout.CALL_BITS) | np.int64(r.call)
    else:
        if c.count == 0:
            return False
        total = v.slim_sums(t)[i - SLIM]
        total.sum = c.sum
        total.count = c.count
    return True


@njit(cache=True, nogil=True)
def whole_record_of(t, w, slot):
    """``record_of``, in a page of whole records in any case: one of slim ones is made anew."""
    i = record_of(t, w, slot)
    if i < SLIM:
        return i
    page = take_page(t)
    if page == 0:
        return np.int64(NO_ROOM)
    x = v.windows(t)[w]
    number = slot >> layout.PAGE_BITS
    to = (page - 1) << layout.PAGE_BITS
    for other in range(number << layout.PAGE_BITS, (number + 1) << layout.PAGE_BITS):
        j = record_at(t, w, other)
        if exists(t, j):
            flags = v.specs(t)[np.int64(v.elements(t)[v.reference(x.bucket, other)].spec)].flags
            unpack(t, j, x.start, flags, v.records(t)[to], v.counter_records(t)[to])
        to += 1
    give_page(t, np.int64(v.page_table(t)[w, number]))
    v.page_table(t)[w, number] = np.uint32(page)
    return record_at(t, w, slot)

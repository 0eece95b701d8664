# mypy: ignore-errors
"""Compiled work on the state of elements: those that transform, forward, or may be flushed again (docs/m3/aggregation.md, elements).

Behind the record of such an element in a window lie ``width - 1`` slots of state: for each output the value that entered the
transformation that looks back (*consumed*) and the value that came out at last (*emitted*), NaN until they are known, and what STATE names.

What an element needs of windows that are released lies in one more window per bucket, the *base*: start and consumed values of the
newest window gone, and the running sums of ``Add``.

M3 closes and removes windows of an element in every pass. Here that is done when it can be noticed: before a value goes to a window that
has been flushed (``_expire``); nothing about an element changes between such a value and the last pass.
"""

import numpy as np
from numba import njit

from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.windows.pages import CLOSED, exists, new_window, next_record, next_window, record_at, record_of
from aggregator.engine.windows.sources import forget_sources

MIGRATION = -3
"""A value that may be corrected later came to a window that was closed for others (docs/m3/aggregation.md, windows)."""
RESEND_OFF, RESEND_ON, RESEND_KEPT = range(3)
"""What a value says about its window being flushed again."""


@njit(cache=True, nogil=True)
def state_word(i, k):
    """Row in ``record_words`` of number ``k`` of the state behind record ``i``."""
    return ((i + 1 + k // layout.STATE_DOUBLES) << 3) + k % layout.STATE_DOUBLES


@njit(cache=True, nogil=True)
def begin_state(t, i, width):
    """The state of a record that begins."""
    for k in range((width - 1) * layout.STATE_DOUBLES):
        v.record_words(t)[state_word(i, k)] = np.nan
    for k in range(width - 1):
        v.states(t)[i + k].flags = np.uint16(0)
    v.states(t)[i].pending = np.uint32(0)
    v.states(t)[i].marks = np.uint16(0)


@njit(cache=True, nogil=True)
def base_record(t, b, slot, create):
    """Row of an element's record in the base of its bucket; -1 if there is none, and none is to be made or there is no room."""
    bucket = v.buckets(t)[b]
    if bucket.base == 0:
        if not create:
            return np.int64(-1)
        w = new_window(t, layout.MAX_BUCKETS + b, np.int64(layout.MIN_INT64))
        if w < 0:
            return np.int64(-1)
        bucket.base = w + 1
    w = bucket.base - 1
    return max(record_of(t, w, slot), -1) if create else record_at(t, w, slot)


@njit(cache=True, nogil=True)
def is_kept(t, i):
    """Whether there is a record with state in row ``i``, which may be -1, that M3 would still have."""
    return exists(t, i) and not v.states(t)[i].marks & layout.STATE_REMOVED


@njit(cache=True, nogil=True)
def _element_window(t, b, slot, after):
    """``(window, record)`` of the element's oldest window that begins after ``after``; -1 if there is none."""
    found = np.int64(-1)
    at = np.int64(-1)
    w = next_window(t, b, np.int64(0))
    while w >= 0:
        start = v.windows(t)[w].start
        if start > after and (found < 0 or start < v.windows(t)[found].start):
            i = record_at(t, w, slot)
            if is_kept(t, i):
                found = w
                at = i
        w = next_window(t, b, w + 1)
    return found, at


@njit(cache=True, nogil=True)
def _expire(t, b, slot, shard):
    """Closes and removes the element's windows as the last pass of its list did (docs/m3/aggregation.md, expiry of windows)."""
    bucket = v.buckets(t)[b]
    target = v.closed_through(t)[b, shard]
    base = base_record(t, b, slot, False)
    has_base = exists(t, base)
    before = np.int64(-1)  # the record of the window before
    after = np.int64(layout.MIN_INT64)
    while True:
        w, i = _element_window(t, b, slot, after)
        if has_base and (w < 0 or v.windows(t)[w].start > v.base_records(t)[base].start):
            if before >= 0:
                v.states(t)[before].marks |= np.uint16(layout.STATE_REMOVED)
            before = base
            has_base = False
        if w < 0:
            return
        after = v.windows(t)[w].start
        state = np.int64(v.states(t)[i].marks)
        due = after + bucket.due
        if due > target or (state & layout.STATE_RESEND_SEEN and due > target - bucket.past_limit):
            return
        if (state & layout.STATE_RESEND != 0) != (state & layout.STATE_RESEND_SEEN != 0):
            return
        v.states(t)[i].marks = np.uint16(state | layout.STATE_CLOSED)
        if state & layout.STATE_DIRTY:
            return
        if before >= 0:
            if before == base:
                v.base_records(t)[base].flags &= np.uint16(0xFFFF ^ layout.RECORD_EXISTS)
            else:
                v.states(t)[before].marks |= np.uint16(layout.STATE_REMOVED)
        before = i


@njit(cache=True, nogil=True)
def open_record(t, b, w, slot, shard, resend):
    """Row of the record that takes a value of an element with state in window ``w``, or ``CLOSED``, ``MIGRATION``, ``NO_ROOM``.

    Its flags are 0 where it has to be begun. ``resend``: the value may be corrected later.
    """
    i = record_of(t, w, slot)
    if i < 0:
        return i
    start = v.windows(t)[w].start
    if start + v.buckets(t)[b].due > v.closed_through(t)[b, shard]:
        return i
    _expire(t, b, slot, shard)
    if exists(t, i):
        closed = i
        state = np.int64(v.states(t)[i].marks)
        if not state & (layout.STATE_CLOSED | layout.STATE_REMOVED):
            return i
        if state & layout.STATE_REMOVED and v.states(t)[i].pending == 0:
            v.records(t)[i].flags = np.uint16(0)
            forget_sources(t, w, slot)
            return i
    else:
        closed = base_record(t, b, slot, False)
        if not exists(t, closed) or v.base_records(t)[closed].start != start:
            return i
    v.states(t)[closed].marks |= np.uint16(layout.STATE_TOUCHED)
    if resend and not v.states(t)[closed].marks & layout.STATE_RESEND:
        return np.int64(MIGRATION)
    return np.int64(CLOSED)


@njit(cache=True, nogil=True)
def mark_written(t, b, w, i, shard, resend):
    """Record ``i`` of window ``w`` has taken a value; ``resend``: ``RESEND_*``."""
    x = v.windows(t)[w]
    state = np.int64(v.states(t)[i].marks)
    if resend == RESEND_ON:
        state |= layout.STATE_RESEND
        x.resend = 1
        v.buckets(t)[b].resent = 1
    elif resend == RESEND_OFF:
        state &= ~layout.STATE_RESEND
    if not state & layout.STATE_DIRTY:
        state |= layout.STATE_DIRTY
        if x.start + v.buckets(t)[b].due <= v.closed_through(t)[b, shard] and not state & layout.STATE_LATE:
            state |= layout.STATE_LATE
            x.late += 1
    v.states(t)[i].marks = np.uint16(state)


@njit(cache=True, nogil=True)
def retire_window(t, w):
    """Keeps in the base what elements with state need of a window that is about to be released."""
    x = v.windows(t)[w]
    slot = np.int64(-1)
    while True:
        slot, i = next_record(t, w, slot + 1)
        if i < 0:
            return
        spec = v.specs(t)[np.int64(v.elements(t)[v.reference(x.bucket, slot)].spec)]
        if spec.flags & layout.SPEC_STATE and is_kept(t, i):
            _retire_record(t, x.bucket, slot, i, x.start, spec)


@njit(cache=True, nogil=True)
def _retire_record(t, b, slot, i, start, spec):
    j = base_record(t, b, slot, True)
    if j < 0 or (exists(t, j) and v.base_records(t)[j].start >= start):
        return
    base = v.base_records(t)[j]
    base.flags |= np.uint16(layout.RECORD_EXISTS)
    base.start = start
    for k in range(np.int64(spec.outputs)):
        v.record_words(t)[state_word(j, k)] = v.record_words(t)[state_word(i, k)]
    kept = v.states(t)[i].marks & (layout.STATE_RESEND | layout.STATE_TOUCHED)
    state = v.states(t)[j]
    state.flags = np.uint16(0)
    state.pending = np.uint32(0)
    state.marks = np.uint16(kept | layout.STATE_CLOSED)

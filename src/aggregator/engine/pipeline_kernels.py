# mypy: ignore-errors
# ruff: noqa: PLR0124
"""Compiled transformations: what a flush does with the elements that have state (docs/m3/aggregation.md, consuming a window).

``consume_window`` is called for the windows of a bucket in order of time, when a flush begins. It computes the values of every record that
is due, writes what came out into the record's state, and either marks it to be emitted (``flush_kernels.emit_window`` does that later) or
puts it among the contributions to rollups (``forward_kernels``). So what a flush puts out is fixed at its beginning, though the window may
take further values.
"""

import numpy as np
from numba import njit

from aggregator.engine import tables as layout
from aggregator.engine import view_kernels as v
from aggregator.engine.flush_kernels import (
    counter_value,
    gauge_value,
    sort_range,
    timer_value,
)
from aggregator.engine.state_kernels import base_record, record_at, state_word
from aggregator.engine.window_kernels import record_of

BASE_SUMS = 8
"""Flag of a base record: the sums of ``Add`` are there."""
GROUP_RECORD = 4
"""Flag of the record of a group: its versions are counted."""

_ABSOLUTE, _PER_SECOND, _INCREASE, _ADD = 1, 2, 3, 4


@njit(cache=True, nogil=True)
def _derivative(op, previous, previous_ns, value, time_ns):
    """PerSecond or Increase (docs/m3/metrics.md, transformations)."""
    if previous_ns >= time_ns or value != value:
        return np.nan
    if previous != previous:
        if op == _PER_SECOND:
            return np.nan
        previous = 0.0
    difference = value - previous
    if not difference >= 0.0:
        return np.nan
    if op == _INCREASE:
        return difference
    return (difference * 1e9) / float(time_ns - previous_ns)


@njit(cache=True, nogil=True)
def _previous_record(t, b, slot, order, position):
    """``(record, start)`` of the element's window before ``order[position]``: -1 if there is none."""
    for k in range(position - 1, -1, -1):
        i = record_at(t, order[k], slot)
        if (
            i >= 0
            and v.records(t)[i].flags & layout.RECORD_EXISTS
            and not v.records(t)[i + 1].call & layout.STATE_REMOVED
        ):
            return i, v.windows(t)[order[k]].start
    j = base_record(t, b, slot, False)
    if (
        j >= 0
        and v.records(t)[j].flags & layout.RECORD_EXISTS
        and v.records(t)[j].last_at < v.windows(t)[order[position]].start
    ):
        return j, v.records(t)[j].last_at
    return np.int64(-1), np.int64(0)


@njit(cache=True, nogil=True)
def _cascade(t, slot, order, position):
    """The window after one that is flushed again is flushed again, too, if it was before (docs/m3/aggregation.md, consuming a window)."""
    for k in range(position + 1, len(order)):
        i = record_at(t, order[k], slot)
        if (
            i >= 0
            and v.records(t)[i].flags & layout.RECORD_EXISTS
            and not v.records(t)[i + 1].call & layout.STATE_REMOVED
        ):
            state = np.int64(v.records(t)[i + 1].call)
            if not state & (layout.STATE_DIRTY | layout.STATE_TOUCHED) and state & layout.STATE_FLUSHED:
                v.records(t)[i + 1].call = np.uint16(state | layout.STATE_CASCADE)
            return


@njit(cache=True, nogil=True)
def _sums(t, b, slot, spec):
    """Row of the base record with the sums of the element's ``Add`` transformations; -1 without such, or without room."""
    if spec.adds == 0:
        return np.int64(-1)
    j = base_record(t, b, slot, True)
    if j >= 0 and not v.records(t)[j].flags & BASE_SUMS:
        v.records(t)[j].flags |= np.uint16(BASE_SUMS)
        for k in range(1, np.int64(spec.width)):
            v.records(t)[j + k].flags = np.uint16(0)
        for k in range(np.int64(spec.adds)):
            v.record_words(t)[state_word(j, np.int64(spec.outputs) + k)] = 0.0
    return j


@njit(cache=True, nogil=True)
def _value(t, i, spec, o, values, first, count):
    if spec.metric_type == 3:
        return gauge_value(v.records(t)[i], o.kind)
    if spec.metric_type == 1:
        return counter_value(v.counter_records(t)[i], o.kind)
    return timer_value(v.records(t)[i], o.kind, o.quantile, values, first, count)


@njit(cache=True, nogil=True)
def _transform(t, value, i, k, spec, before, before_ns, time_ns, sums):
    """The element's transformations on one output of record ``i``; ``before``: the record of the window before, or -1."""
    adds = np.int64(spec.outputs)
    for n in range(np.int64(spec.ops)):
        op = np.int64(v.text(t)[np.int64(spec.ops_at) + n])
        if op == _ABSOLUTE:
            value = abs(value)
        elif op == _ADD:
            if sums >= 0:
                at = state_word(sums, adds)
                if value == value:
                    v.record_words(t)[at] += value
                value = v.record_words(t)[at]
            adds += 1
        elif op in (_PER_SECOND, _INCREASE):
            previous = v.record_words(t)[state_word(before, k)] if before >= 0 else np.nan
            v.record_words(t)[state_word(i, k)] = value
            value = _derivative(op, previous, before_ns, value, time_ns)
    return value


@njit(cache=True, nogil=True)
def _put_out(t, i, k, ref, spec, value, previous, again, out, tally):
    """One value that is to be emitted: a contribution, or marked in the state."""
    if spec.target == 0:
        v.records(t)[i + 1].annotation |= np.uint32(1 << k)
        return
    n = tally.contributions
    state = v.elements(t)[ref + 1]
    c = out[n]
    c.value = value
    c.previous = previous
    c.group = np.uint32(state.entry - np.uint32(1))
    c.sequence = state.next
    c.annotation = v.records(t)[i].annotation
    c.attrs = v.elements(t)[ref].attrs
    c.resend = np.uint8(v.records(t)[i + 1].call & layout.STATE_RESEND_SEEN != 0)
    c.again = np.uint8(again)
    tally.contributions = n + 1


@njit(cache=True, nogil=True)
def _emit_again(t, i, ref, spec, discard_nan, out, tally):
    """A window that has been flushed in an earlier term: what came out then."""
    for k in range(np.int64(spec.outputs)):
        value = v.record_words(t)[state_word(i, np.int64(spec.outputs) + k)]
        if not (discard_nan and value != value):
            _put_out(t, i, k, ref, spec, value, 0.0, 1, out, tally)


@njit(cache=True, nogil=True)
def begin_versions(t, w, group, g):
    """Makes the record ``g`` of a group in window ``w`` count from 0, if it is new or M3 has dropped the group meanwhile."""
    r = v.records(t)[g]
    term = v.elements(t)[(v.windows(t)[w].bucket << layout.SLOT_BITS) | (group + 1)].next
    if not r.flags & GROUP_RECORD or r.annotation != term:
        r.flags = np.uint16(GROUP_RECORD)
        r.annotation = term
        r.count = 0
        r.last_at = 0


@njit(cache=True, nogil=True)
def _count_version(t, w, group, flush):
    """A follower counts the versions that the leader sends."""
    g = record_of(t, w, group)
    if g < 0:
        return
    begin_versions(t, w, group, g)
    r = v.records(t)[g]
    if r.last_at != flush:
        r.last_at = flush
        r.count += 1


@njit(cache=True, nogil=True)
def _consume(t, order, position, i, ref, action, samples, discard_nan, flush, out, tally):
    """Processes record ``i`` of window ``order[position]``; see the module."""
    w = order[position]
    spec = v.specs(t)[np.int64(v.elements(t)[ref].spec)]
    x = v.windows(t)[w]
    b = x.bucket
    slot = ref - (b << layout.SLOT_BITS)
    stamp = v.buckets(t)[b].stamp
    state = np.int64(v.records(t)[i + 1].call)
    flushed = state & layout.STATE_FLUSHED != 0
    if state & layout.STATE_LATE:
        x.late -= 1
    if state & layout.STATE_DIRTY and state & layout.STATE_RESEND:
        _cascade(t, slot, order, position)
    state &= ~(
        layout.STATE_LATE | layout.STATE_DIRTY | layout.STATE_CASCADE | layout.STATE_RESEND_SEEN | layout.STATE_TOUCHED
    )
    if state & layout.STATE_RESEND:
        state |= layout.STATE_RESEND_SEEN
    v.records(t)[i + 1].call = np.uint16(state | layout.STATE_FLUSHED)
    before = np.int64(-1)
    before_ns = np.int64(0)
    if spec.flags & layout.SPEC_BINARY:
        before, before_ns = _previous_record(t, b, slot, order, position)
        if before >= 0:
            before_ns += stamp
    sums = _sums(t, b, slot, spec)
    logged = spec.flags & layout.SPEC_LOG
    first = samples.starts[slot] if logged else np.int64(0)
    count = samples.starts[slot + 1] - first if logged else np.int64(0)
    if count > 1:
        sort_range(samples.values, first, first + count)
    changed = False
    for k in range(np.int64(spec.outputs)):
        value = _value(t, i, spec, v.outputs(t)[np.int64(spec.outputs_at) + k], samples.values, first, count)
        value = _transform(t, value, i, k, spec, before, before_ns, x.start + stamp, sums)
        if discard_nan and value != value:
            tally.discarded += 1
            continue
        at = state_word(i, np.int64(spec.outputs) + k)
        previous = v.record_words(t)[at]
        if not flushed or (discard_nan and previous != previous):
            previous = 0.0
        v.record_words(t)[at] = value
        if flushed and (value == previous or (value != value and previous != previous)):
            continue
        changed = True
        if action == layout.ACTION_DISCARD:
            tally.discarded += 1
        else:
            _put_out(t, i, k, ref, spec, value, previous, 0, out, tally)
    if changed and action == layout.ACTION_DISCARD and spec.target != 0 and state & layout.STATE_RESEND:
        _count_version(t, w, np.int64(v.elements(t)[ref + 1].entry) - 1, flush)


@njit(cache=True, nogil=True)
def most_contributions(t, w):
    """At most so many values of window ``w`` go to rollups in one flush."""
    b = v.windows(t)[w].bucket
    most = np.int64(0)
    slot = np.int64(0)
    while slot < v.buckets(t)[b].slots:
        i = record_at(t, w, slot)
        if i < 0:
            slot = ((slot >> layout.PAGE_BITS) + 1) << layout.PAGE_BITS
            continue
        if v.records(t)[i].flags & layout.RECORD_EXISTS:
            spec = v.specs(t)[np.int64(v.elements(t)[(b << layout.SLOT_BITS) | slot].spec)]
            if spec.target != 0:
                most += np.int64(spec.outputs)
        slot += 1
    return most


@njit(cache=True, nogil=True)
def consume_window(t, order, position, actions, flushed, samples, discard_nan, flush, out, counted):
    """Processes what is due of window ``order[position]``; ``order``: rows of the bucket's windows in order of time (int64).

    ``actions`` (uint8) and ``flushed`` (int64): per shard, what happens to the window and up to where the list was flushed before.
    ``samples``: timer samples, as ``gather_log`` leaves them. ``flush``: number of this flush. ``out``: contributions (CONTRIBUTION).
    ``counted``: TALLY, one row.
    """
    tally = counted[0]
    w = order[position]
    b = v.windows(t)[w].bucket
    due = v.windows(t)[w].start + v.buckets(t)[b].due
    slot = np.int64(0)
    while slot < v.buckets(t)[b].slots:
        page = np.int64(v.page_table(t)[w, slot >> layout.PAGE_BITS])
        if page == 0:
            slot = ((slot >> layout.PAGE_BITS) + 1) << layout.PAGE_BITS
            continue
        i = ((page - 1) << layout.PAGE_BITS) | (slot & (layout.PAGE_ROWS - 1))
        ref = (b << layout.SLOT_BITS) | slot
        slot += 1
        if not v.records(t)[i].flags & layout.RECORD_EXISTS:
            continue
        element = v.elements(t)[ref]
        spec = v.specs(t)[np.int64(element.spec)]
        state = np.int64(v.records(t)[i + 1].call) if spec.flags & layout.SPEC_STATE else np.int64(layout.STATE_REMOVED)
        if state & layout.STATE_REMOVED:
            continue
        shard = np.int64(v.entries(t)[np.int64(element.entry)].shard)
        action = np.int64(actions[shard])
        if element.state == layout.ELEMENT_DROPPED:
            if state & layout.STATE_LATE:
                v.windows(t)[w].late -= 1
            v.records(t)[i + 1].call = np.uint16(layout.STATE_REMOVED)
            v.records(t)[i + 1].annotation = np.uint32(0)
        elif action == layout.ACTION_NONE:
            continue
        elif state & (layout.STATE_DIRTY | layout.STATE_CASCADE):
            _consume(t, order, position, i, ref, action, samples, discard_nan, flush, out, tally)
        elif state & layout.STATE_FLUSHED and due > flushed[shard] and action == layout.ACTION_EMIT:
            _emit_again(t, i, ref, spec, discard_nan, out, tally)

# mypy: ignore-errors
# ruff: noqa: PLR0124
"""Compiled transformations: what a flush does with the elements that have state (docs/m3/aggregation.md, consuming a window).

``consume_window`` is called for the windows of a bucket in order of time, when a flush begins. It computes the values of every record that
is due, writes what came out into the record's state, and either marks it to be emitted (``flush.emit`` does that later) or
puts it among the contributions to rollups (``flush.forward``). So what a flush puts out is fixed at its beginning, though the window may
take further values.
"""

import numpy as np
from numba import njit

from aggregator.engine.state.state import base_record, is_kept, state_word
from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.windows.pages import exists, next_record, record_at, record_of
from aggregator.engine.windows.samples import copy_samples, put_in_places
from aggregator.engine.windows.values import record_value
from m3metrics.pipeline import TransformationType


@njit(cache=True, nogil=True)
def _derivative(op, previous, previous_ns, value, time_ns):
    """PerSecond or Increase (docs/m3/metrics.md, transformations)."""
    if previous_ns >= time_ns or value != value:
        return np.nan
    if previous != previous:
        if op == TransformationType.PER_SECOND:
            return np.nan
        previous = 0.0
    difference = value - previous
    if not difference >= 0.0:
        return np.nan
    if op == TransformationType.INCREASE:
        return difference
    return (difference * 1e9) / float(time_ns - previous_ns)


@njit(cache=True, nogil=True)
def _previous_record(t, b, slot, order, position):
    """``(record, start)`` of the element's window before ``order[position]``: -1 if there is none."""
    for k in range(position - 1, -1, -1):
        i = record_at(t, order[k], slot)
        if is_kept(t, i):
            return i, v.windows(t)[order[k]].start
    j = base_record(t, b, slot, False)
    if exists(t, j) and v.base_records(t)[j].start < v.windows(t)[order[position]].start:
        return j, v.base_records(t)[j].start
    return np.int64(-1), np.int64(0)


@njit(cache=True, nogil=True)
def _cascade(t, slot, order, position):
    """The window after one that is flushed again is flushed again, too, if it was before (docs/m3/aggregation.md, consuming a window)."""
    for k in range(position + 1, len(order)):
        i = record_at(t, order[k], slot)
        if is_kept(t, i):
            state = np.int64(v.states(t)[i].marks)
            if not state & (layout.STATE_DIRTY | layout.STATE_TOUCHED) and state & layout.STATE_FLUSHED:
                v.states(t)[i].marks = np.uint16(state | layout.STATE_CASCADE)
            return


@njit(cache=True, nogil=True)
def _sums(t, b, slot, spec):
    """Row of the base record with the sums of the element's ``Add`` transformations; -1 without such, or without room."""
    if spec.adds == 0:
        return np.int64(-1)
    j = base_record(t, b, slot, True)
    if j >= 0 and not v.base_records(t)[j].flags & layout.BASE_SUMS:
        v.base_records(t)[j].flags |= np.uint16(layout.BASE_SUMS)
        for k in range(np.int64(spec.width) - 1):
            v.states(t)[j + k].flags = np.uint16(0)
        for k in range(np.int64(spec.adds)):
            v.record_words(t)[state_word(j, np.int64(spec.outputs) + k)] = 0.0
    return j


@njit(cache=True, nogil=True)
def _transform(t, value, i, k, spec, before, before_ns, time_ns, sums):
    """The element's transformations on one output of record ``i``; ``before``: the record of the window before, or -1."""
    adds = np.int64(spec.outputs)
    for n in range(np.int64(spec.ops)):
        op = np.int64(v.text(t)[np.int64(spec.ops_at) + n])
        if op == TransformationType.ABSOLUTE:
            value = abs(value)
        elif op == TransformationType.ADD:
            if sums >= 0:
                at = state_word(sums, adds)
                if value == value:
                    v.record_words(t)[at] += value
                value = v.record_words(t)[at]
            adds += 1
        elif op in (TransformationType.PER_SECOND, TransformationType.INCREASE):
            previous = v.record_words(t)[state_word(before, k)] if before >= 0 else np.nan
            v.record_words(t)[state_word(i, k)] = value
            value = _derivative(op, previous, before_ns, value, time_ns)
    return value


@njit(cache=True, nogil=True)
def _put_out(t, i, k, ref, spec, value, previous, again, out, tally):
    """One value that is to be emitted: a contribution, or marked in the state."""
    if spec.target == 0:
        v.states(t)[i].pending |= np.uint32(1 << k)
        return
    n = tally.contributions
    member = v.members(t)[ref]
    c = out[n]
    c.value = value
    c.previous = previous
    c.group = np.uint32(member.group - np.uint32(1))
    c.sequence = member.sequence
    c.annotation = v.records(t)[i].annotation
    c.attrs = v.elements(t)[ref].attrs
    c.resend = np.uint8(v.states(t)[i].marks & layout.STATE_RESEND_SEEN != 0)
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
    """The record ``g`` of a group in window ``w``; it counts from 0 if it is new or M3 has dropped the group meanwhile."""
    versions = v.versions(t)[g]
    term = v.terms(t)[v.reference(v.windows(t)[w].bucket, group)].number
    if not versions.flags & layout.GROUP_RECORD or versions.term != term:
        versions.flags = np.uint16(layout.GROUP_RECORD)
        versions.term = term
        versions.sent = 0
        versions.flush = 0
    return versions


@njit(cache=True, nogil=True)
def _count_version(t, w, group, flush):
    """A follower counts the versions that the leader sends."""
    g = record_of(t, w, group)
    if g < 0:
        return
    versions = begin_versions(t, w, group, g)
    if versions.flush != flush:
        versions.flush = flush
        versions.sent += 1


@njit(cache=True, nogil=True)
def _consume(t, order, position, i, ref, action, samples, discard_nan, flush, out, tally):
    """Processes record ``i`` of window ``order[position]``; see the module."""
    w = order[position]
    spec = v.specs(t)[np.int64(v.elements(t)[ref].spec)]
    x = v.windows(t)[w]
    b = x.bucket
    slot = ref & layout.SLOT_MASK
    stamp = v.buckets(t)[b].stamp
    state = np.int64(v.states(t)[i].marks)
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
    v.states(t)[i].marks = np.uint16(state | layout.STATE_FLUSHED)
    before = np.int64(-1)
    before_ns = np.int64(0)
    if spec.flags & layout.SPEC_BINARY:
        before, before_ns = _previous_record(t, b, slot, order, position)
        if before >= 0:
            before_ns += stamp
    sums = _sums(t, b, slot, spec)
    logged = spec.flags & layout.SPEC_LOG
    count = samples.counts[slot] if logged else np.int64(0)
    if count > 0:
        copy_samples(t, samples, slot, samples.values, np.int64(0))
        put_in_places(t, spec, samples.values, count)
    changed = False
    for k in range(np.int64(spec.outputs)):
        value = record_value(t, i, spec, v.outputs(t)[np.int64(spec.outputs_at) + k], samples.values, count)
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
        _count_version(t, w, np.int64(v.members(t)[ref].group) - 1, flush)


@njit(cache=True, nogil=True)
def most_contributions(t, w):
    """At most so many values of window ``w`` go to rollups in one flush."""
    b = v.windows(t)[w].bucket
    most = np.int64(0)
    slot = np.int64(-1)
    while True:
        slot, i = next_record(t, w, slot + 1)
        if i < 0:
            return most
        spec = v.specs(t)[np.int64(v.elements(t)[v.reference(b, slot)].spec)]
        if spec.target != 0:
            most += np.int64(spec.outputs)


@njit(cache=True, nogil=True)
def consume_window(t, order, position, actions, flushed, samples, discard_nan, flush, out, counted):
    """Processes what is due of window ``order[position]``; ``order``: rows of the bucket's windows in order of time (int64).

    ``actions`` (uint8) and ``flushed`` (int64): per shard, what happens to the window and up to where the list was flushed before.
    ``samples``: those of its timers (``samples.find_runs``). ``flush``: number of this flush. ``out``: contributions (CONTRIBUTION).
    ``counted``: TALLY, one row.
    """
    tally = counted[0]
    w = order[position]
    b = v.windows(t)[w].bucket
    due = v.windows(t)[w].start + v.buckets(t)[b].due
    slot = np.int64(-1)
    while True:
        slot, i = next_record(t, w, slot + 1)
        if i < 0:
            return
        ref = v.reference(b, slot)
        element = v.elements(t)[ref]
        spec = v.specs(t)[np.int64(element.spec)]
        if not spec.flags & layout.SPEC_STATE or not is_kept(t, i):
            continue
        state = np.int64(v.states(t)[i].marks)
        shard = np.int64(v.entries(t)[np.int64(element.entry)].shard)
        action = np.int64(actions[shard])
        if element.state == layout.ELEMENT_DROPPED:
            if state & layout.STATE_LATE:
                v.windows(t)[w].late -= 1
            v.states(t)[i].marks = np.uint16(layout.STATE_REMOVED)
            v.states(t)[i].pending = np.uint32(0)
        elif action == layout.ACTION_NONE:
            continue
        elif state & (layout.STATE_DIRTY | layout.STATE_CASCADE):
            _consume(t, order, position, i, ref, action, samples, discard_nan, flush, out, tally)
        elif state & layout.STATE_FLUSHED and due > flushed[shard] and action == layout.ACTION_EMIT:
            _emit_again(t, i, ref, spec, discard_nan, out, tally)

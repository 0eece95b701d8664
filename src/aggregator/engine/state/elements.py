# mypy: ignore-errors
"""Compiled work on elements: their slots, the groups that forward to one target, their place in the chain of an entry.

A group is all elements of one list (shard and bucket) that forward to the same target: what they send for one window is one message
(docs/m3/aggregation.md, forwarding). It has two slots of its own, GROUP and TERM; the record of the first counts the versions sent of a
window (VERSIONS).
"""

import numpy as np
from numba import njit

from aggregator.engine.state.state import RESEND_OFF, base_record, begin_state, is_kept, mark_written
from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.tables.index import grow_groups, insert, remove
from aggregator.engine.windows.pages import SLIM, exists, forget_record, next_window, record_at, record_of
from aggregator.engine.windows.slim import unpack

_GROUP_WIDTH = 2
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@njit(cache=True, nogil=True)
def make_list(t, b, shard, now_ns):
    """The list of bucket ``b`` on a shard exists from its first element on."""
    if v.list_born(t)[b, shard] == 0:
        v.list_born(t)[b, shard] = max(now_ns, 1)
        v.head(t).new_lists += 1


@njit(cache=True, nogil=True)
def _take_slots(t, b, width, slim):
    """First of ``width`` free slots in a row within a page, -1 if there is no room. ``slim``: for slim records, ``width`` is 1."""
    kind = np.int64(0) if slim else width
    free = v.free_slots(t)[b, kind]
    if free != 0:
        v.free_slots(t)[b, kind] = np.int64(v.free_elements(t)[v.reference(b, free - 1)].next)
        _count_slots(t, b, width, slim)
        return free - 1
    bucket = v.buckets(t)[b]
    slot = bucket.next_slim if slim else bucket.next_slot
    left = -slot & (layout.PAGE_ROWS - 1)
    if left < width:
        for k in range(slot, slot + left):
            _leave_slots(t, b, k, 1, False)
        if left > 0:
            bucket.next_slot = slot + left
            bucket.slots = max(bucket.slots, slot + left)
        slot = (bucket.slots + layout.PAGE_ROWS - 1) & ~(layout.PAGE_ROWS - 1)
    if slot + width > v.head(t).max_slots:
        return np.int64(-1)
    v.ranges(t)[b, slot >> layout.PAGE_BITS] = np.uint8(slim)
    bucket.slots = max(bucket.slots, slot + width)
    if slim:
        bucket.next_slim = slot + width
    else:
        bucket.next_slot = slot + width
    _count_slots(t, b, width, slim)
    return slot


@njit(cache=True, nogil=True)
def _count_slots(t, b, width, slim):
    """``width`` more slots are in use."""
    if slim:
        v.buckets(t)[b].taken_slim += width
    else:
        v.buckets(t)[b].taken += width


@njit(cache=True, nogil=True)
def _give_slots(t, b, slot, width, slim):
    """Gives back what ``_take_slots`` has returned."""
    _count_slots(t, b, -width, slim)
    _leave_slots(t, b, slot, width, slim)


@njit(cache=True, nogil=True)
def _leave_slots(t, b, slot, width, slim):
    """These slots are free for who asks for as many."""
    kind = np.int64(0) if slim else width
    for k in range(width):
        v.elements(t)[v.reference(b, slot + k)].state = np.uint8(layout.ELEMENT_FREE)
    v.free_elements(t)[v.reference(b, slot)].next = np.uint32(v.free_slots(t)[b, kind])
    v.free_slots(t)[b, kind] = slot + 1


@njit(cache=True, nogil=True)
def _group_hash(shard, target):
    h = ((np.uint64(target) << _32) | np.uint64(shard)) * np.uint64(0x9E3779B97F4A7C15)
    return (h ^ (h >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) >> _32


@njit(cache=True, nogil=True)
def _join_group(t, b, shard, target):
    """Slot of the group of a target on a list, with one more member; -1 if there is no room."""
    half = _group_hash(np.int64(b) << 32 | shard, target)
    mask = v.head(t).group_mask
    at = np.int64(half) & mask
    while True:
        word = v.group_index(t)[at]
        if word == np.uint64(0):
            break
        if word >> _32 == half:
            ref = np.int64(word & _LOW) - 1
            group = v.groups(t)[ref]
            if ref >> layout.SLOT_BITS == b and np.int64(group.shard) == shard and np.int64(group.target) == target:
                group.members += np.uint32(1)
                v.terms(t)[ref].registered += np.uint32(1)
                return ref & layout.SLOT_MASK
        at = (at + 1) & mask
    if 2 * v.head(t).groups > mask and not grow_groups(t):
        return np.int64(-1)
    slot = _take_slots(t, b, _GROUP_WIDTH, False)
    if slot < 0:
        return slot
    ref = v.reference(b, slot)
    term = v.terms(t)[ref]
    term.registered = np.uint32(1)
    term.number = np.uint32(0)
    term.state = np.uint8(layout.ELEMENT_STATE)
    group = v.groups(t)[ref]
    group.shard = np.uint32(shard)
    group.target = np.uint32(target)
    group.members = np.uint32(1)
    group.state = np.uint8(layout.ELEMENT_GROUP)
    insert(v.group_index(t), v.head(t).group_mask, half, ref)
    v.head(t).groups += 1
    return slot


@njit(cache=True, nogil=True)
def _unregister(t, b, slot):
    """A member is gone for M3."""
    term = v.terms(t)[v.reference(b, slot)]
    term.registered -= np.uint32(1)
    if term.registered == 0:
        term.number += np.uint32(1)


@njit(cache=True, nogil=True)
def _leave_group(t, b, slot):
    ref = v.reference(b, slot)
    group = v.groups(t)[ref]
    group.members -= np.uint32(1)
    if group.members == 0:
        half = _group_hash(np.int64(b) << 32 | np.int64(group.shard), np.int64(group.target))
        remove(v.group_index(t), v.head(t).group_mask, half, ref)
        v.head(t).groups -= 1
        _give_slots(t, b, slot, _GROUP_WIDTH, False)


@njit(cache=True, nogil=True)
def take_element(t, row, spec):
    """Reference of a live element with the slots and the group that its spec asks for, -1 if there is no room."""
    s = v.specs(t)[spec]
    b = np.int64(s.bucket)
    width = np.int64(s.width)
    group = np.int64(-1)
    if s.target != 0:
        group = _join_group(t, b, np.int64(v.entries(t)[row].shard), np.int64(s.target) - 1)
        if group < 0:
            return group
    slot = _take_slots(t, b, width, s.flags & layout.SPEC_SLIM != 0)
    if slot < 0:
        if group >= 0:
            _unregister(t, b, group)
            _leave_group(t, b, group)
        return slot
    ref = v.reference(b, slot)
    if width > 1:
        bucket = v.buckets(t)[b]
        for k in range(1, width):
            v.elements(t)[ref + k].state = np.uint8(layout.ELEMENT_STATE)
        member = v.members(t)[ref]
        member.group = np.uint32(group + 1)
        member.gone = np.uint8(0)
        member.sequence = np.uint32(bucket.made)
        bucket.made += 1
        bucket.stateful += 1
        j = base_record(t, b, slot, False)
        if j >= 0:
            v.base_records(t)[j].flags = np.uint16(0)
    x = v.elements(t)[ref]
    x.entry = np.uint32(row)
    x.spec = np.uint32(spec)
    x.next = np.uint32(0)
    x.state = np.uint8(layout.ELEMENT_LIVE)
    x.mark = np.uint8(layout.MARK_NONE)
    return ref


@njit(cache=True, nogil=True)
def free_element(t, ref):
    """Gives the slots of an element back, and its place in its group."""
    b = ref >> layout.SLOT_BITS
    slot = ref & layout.SLOT_MASK
    spec = v.specs(t)[np.int64(v.elements(t)[ref].spec)]
    width = np.int64(spec.width)
    if width > 1:
        v.buckets(t)[b].stateful -= 1
        member = v.members(t)[ref]
        group = np.int64(member.group) - 1
        if group >= 0:
            if member.gone == 0:
                _unregister(t, b, group)
            _leave_group(t, b, group)
    _give_slots(t, b, slot, width, spec.flags & layout.SPEC_SLIM != 0)


@njit(cache=True, nogil=True)
def unregister_elements(t, b):
    """Takes the tombstoned elements of a bucket out of their groups that have nothing left to be flushed, as M3 does after a pass."""
    for slot in range(v.buckets(t)[b].slots):
        ref = v.reference(b, slot)
        x = v.elements(t)[ref]
        if (
            x.state not in (layout.ELEMENT_TOMBSTONED, layout.ELEMENT_DROPPED)
            or v.specs(t)[np.int64(x.spec)].target == 0
        ):
            continue
        member = v.members(t)[ref]
        if member.gone == 0 and not _is_dirty(t, b, slot):
            member.gone = np.uint8(1)
            _unregister(t, b, np.int64(member.group) - 1)


@njit(cache=True, nogil=True)
def _is_dirty(t, b, slot):
    w = next_window(t, b, np.int64(0))
    while w >= 0:
        i = record_at(t, w, slot)
        if is_kept(t, i) and v.states(t)[i].marks & (layout.STATE_DIRTY | layout.STATE_TOUCHED):
            return True
        w = next_window(t, b, w + 1)
    j = base_record(t, b, slot, False)
    return exists(t, j) and v.states(t)[j].marks & layout.STATE_TOUCHED != 0


@njit(cache=True, nogil=True)
def new_element(t, row, spec, attrs, now_ns):
    """A live element of entry ``row``, not yet in its chain; returns its reference, or -1 if there is no room."""
    ref = take_element(t, row, spec)
    if ref < 0:
        return ref
    v.elements(t)[ref].attrs = np.uint16(attrs)
    e = v.entries(t)[row]
    e.held += np.uint16(1)
    make_list(t, ref >> layout.SLOT_BITS, np.int64(e.shard), now_ns)
    return ref


@njit(cache=True, nogil=True)
def tombstone(t, ref, state):
    """The element takes no more values; it is collected when no window holds any of it."""
    x = v.tombstones(t)[ref]
    bucket = v.buckets(t)[ref >> layout.SLOT_BITS]
    x.state = np.uint8(state)
    x.newest = np.uint32(bucket.sequence)
    bucket.tombstoned += 1


@njit(cache=True, nogil=True)
def find_element(t, row, spec):
    """Reference of the entry's element of that spec, or -1."""
    ref = np.int64(v.entries(t)[row].element) - 1
    while ref >= 0:
        x = v.elements(t)[ref]
        if np.int64(x.spec) == spec:
            return ref
        ref = np.int64(x.next) - 1
    return np.int64(-1)


@njit(cache=True, nogil=True)
def find_key(t, row, spec):
    """As ``find_element``, or of the spec with the same key that has state where this one has none, or the other way round."""
    ref = find_element(t, row, spec)
    twin = np.int64(v.specs(t)[spec].twin)
    if ref < 0 and twin != 0:
        ref = find_element(t, row, twin - 1)
    return ref


@njit(cache=True, nogil=True)
def append_element(t, row, spec, attrs, now_ns):
    """Adds one more element at the end of the entry's chain; returns its reference, or -1 if there is no room."""
    e = v.entries(t)[row]
    if np.int64(e.elements) >= layout.MAX_ELEMENTS or np.int64(e.held) >= 65535:
        return np.int64(-1)
    ref = new_element(t, row, spec, attrs, now_ns)
    if ref < 0:
        return ref
    if e.elements == 0:
        e.element = np.uint32(ref + 1)
        e.spec = np.uint32(spec)
    else:
        last = np.int64(e.element) - 1
        while v.elements(t)[last].next != 0:
            last = np.int64(v.elements(t)[last].next) - 1
        v.elements(t)[last].next = np.uint32(ref + 1)
    e.elements += np.uint16(1)
    return ref


@njit(cache=True, nogil=True)
def widen_element(t, row, old, spec):
    """Gives an element without state the slots of ``spec``, its twin with state; returns its new reference, or -1 if there is no room.

    Its records move with it, but for those of windows that are closed: these are put out, once more if need be, from where they are. Here
    they only say that the window is closed. The slot it leaves keeps the chain's ``next`` for the caller.
    """
    ref = take_element(t, row, spec)
    if ref < 0:
        return ref
    b = ref >> layout.SLOT_BITS
    slot = ref & layout.SLOT_MASK
    shard = np.int64(v.entries(t)[row].shard)
    was = old & layout.SLOT_MASK
    w = next_window(t, b, np.int64(0))
    while w >= 0:
        source = record_at(t, w, was)
        i = record_of(t, w, slot) if exists(t, source) else np.int64(-1)
        if i >= 0:
            if source >= SLIM:
                flags = v.specs(t)[np.int64(v.elements(t)[old].spec)].flags
                unpack(t, source, v.windows(t)[w].start, flags, v.records(t)[i], v.counter_records(t)[i])
            else:
                for k in range(8):
                    v.record_words(t)[(i << 3) + k] = v.record_words(t)[(source << 3) + k]
                v.records(t)[i].flags = np.uint16(layout.RECORD_EXISTS)
            begin_state(t, i, np.int64(v.specs(t)[spec].width))
            if v.windows(t)[w].start + v.buckets(t)[b].due <= v.closed_through(t)[b, shard]:
                v.states(t)[i].marks = np.uint16(layout.STATE_CLOSED)
            else:
                forget_record(t, source)
                mark_written(t, b, w, i, shard, RESEND_OFF)
        w = next_window(t, b, w + 1)
    v.elements(t)[ref].attrs = v.elements(t)[old].attrs
    v.elements(t)[ref].next = v.elements(t)[old].next
    return ref


@njit(cache=True, nogil=True)
def has_state(t, spec):
    """Whether elements of that spec have state."""
    return v.specs(t)[spec].flags & layout.SPEC_STATE != 0

# mypy: ignore-errors
"""Compiled work on elements: their slots, the groups that forward to one target, their place in the chain of an entry.

A group is all elements of one list (shard and bucket) that forward to the same target: what they send for one window is one message
(docs/m3/aggregation.md, forwarding). It has two slots of its own. The record of the first counts the versions sent of a window; its element
row holds the shard (``entry``), the target (``spec``) and the number of members (``next``). The second's row holds the members that M3
would still have (``entry``), and how often there were none left (``next``): then M3 counts versions from 0 again.
"""

import numpy as np
from numba import njit

from aggregator.engine.index_kernels import grow_groups, insert, remove
from aggregator.engine.state_kernels import RESEND_OFF, base_record, begin_state, mark_written, record_at
from aggregator.engine.tables import (
    ELEMENT_DROPPED,
    ELEMENT_FREE,
    ELEMENT_GROUP,
    ELEMENT_LIVE,
    ELEMENT_STATE,
    ELEMENT_TOMBSTONED,
    H_GROUP_MASK,
    H_GROUPS,
    H_MAX_SLOTS,
    H_NEW_LISTS,
    H_WINDOWS,
    MAX_ELEMENTS,
    PAGE_BITS,
    PAGE_ROWS,
    RECORD_EXISTS,
    SLOT_BITS,
    SLOT_MASK,
    SPEC_STATE,
    STATE_CLOSED,
    STATE_DIRTY,
    STATE_REMOVED,
    STATE_TOUCHED,
)
from aggregator.engine.view_kernels import (
    buckets,
    closed_through,
    elements,
    entries,
    free_slots,
    group_index,
    heads,
    list_born,
    page_table,
    record_words,
    records,
    specs,
    windows,
)
from aggregator.engine.window_kernels import record_of

_GROUP_WIDTH = 2
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@njit(cache=True, nogil=True)
def make_list(t, b, shard, now_ns):
    """The list of bucket ``b`` on a shard exists from its first element on."""
    if list_born(t)[b, shard] == 0:
        list_born(t)[b, shard] = max(now_ns, 1)
        heads(t)[H_NEW_LISTS] += 1


@njit(cache=True, nogil=True)
def _take_slots(t, b, width):
    """First of ``width`` free slots in a row within a page, -1 if there is no room."""
    free = free_slots(t)[b, width]
    if free != 0:
        free_slots(t)[b, width] = np.int64(elements(t)[(b << SLOT_BITS) | (free - 1)].next)
        return free - 1
    bucket = buckets(t)[b]
    slot = bucket.slots
    while (slot & (PAGE_ROWS - 1)) + width > PAGE_ROWS and slot < heads(t)[H_MAX_SLOTS]:
        bucket.slots = slot + 1
        _give_slots(t, b, slot, 1)
        slot += 1
    if slot + width > heads(t)[H_MAX_SLOTS]:
        return np.int64(-1)
    bucket.slots = slot + width
    return slot


@njit(cache=True, nogil=True)
def _give_slots(t, b, slot, width):
    for k in range(width):
        elements(t)[(b << SLOT_BITS) | (slot + k)].state = np.uint8(ELEMENT_FREE)
    elements(t)[(b << SLOT_BITS) | slot].next = np.uint32(free_slots(t)[b, width])
    free_slots(t)[b, width] = slot + 1


@njit(cache=True, nogil=True)
def _group_hash(shard, target):
    h = ((np.uint64(target) << _32) | np.uint64(shard)) * np.uint64(0x9E3779B97F4A7C15)
    return (h ^ (h >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) >> _32


@njit(cache=True, nogil=True)
def _join_group(t, b, shard, target):
    """Slot of the group of a target on a list, with one more member; -1 if there is no room."""
    half = _group_hash(np.int64(b) << 32 | shard, target)
    mask = heads(t)[H_GROUP_MASK]
    at = np.int64(half) & mask
    while True:
        word = group_index(t)[at]
        if word == np.uint64(0):
            break
        if word >> _32 == half:
            ref = np.int64(word & _LOW) - 1
            x = elements(t)[ref]
            if ref >> SLOT_BITS == b and np.int64(x.entry) == shard and np.int64(x.spec) == target:
                x.next += np.uint32(1)
                elements(t)[ref + 1].entry += np.uint32(1)
                return ref & SLOT_MASK
        at = (at + 1) & mask
    if 2 * heads(t)[H_GROUPS] > mask and not grow_groups(t):
        return np.int64(-1)
    slot = _take_slots(t, b, _GROUP_WIDTH)
    if slot < 0:
        return slot
    ref = (np.int64(b) << SLOT_BITS) | slot
    elements(t)[ref + 1].entry = np.uint32(1)
    elements(t)[ref + 1].next = np.uint32(0)
    elements(t)[ref + 1].state = np.uint8(ELEMENT_STATE)
    x = elements(t)[ref]
    x.entry = np.uint32(shard)
    x.spec = np.uint32(target)
    x.next = np.uint32(1)
    x.state = np.uint8(ELEMENT_GROUP)
    insert(group_index(t), heads(t)[H_GROUP_MASK], half, ref)
    heads(t)[H_GROUPS] += 1
    return slot


@njit(cache=True, nogil=True)
def _unregister(t, b, slot):
    """A member is gone for M3."""
    x = elements(t)[(np.int64(b) << SLOT_BITS) | (slot + 1)]
    x.entry -= np.uint32(1)
    if x.entry == 0:
        x.next += np.uint32(1)


@njit(cache=True, nogil=True)
def _leave_group(t, b, slot):
    ref = (np.int64(b) << SLOT_BITS) | slot
    x = elements(t)[ref]
    x.next -= np.uint32(1)
    if x.next == 0:
        half = _group_hash(np.int64(b) << 32 | np.int64(x.entry), np.int64(x.spec))
        remove(group_index(t), heads(t)[H_GROUP_MASK], half, ref)
        heads(t)[H_GROUPS] -= 1
        _give_slots(t, b, slot, _GROUP_WIDTH)


@njit(cache=True, nogil=True)
def _take_element(t, row, spec):
    """Reference of a live element with the slots and the group that its spec asks for, -1 if there is no room."""
    s = specs(t)[spec]
    b = np.int64(s.bucket)
    width = np.int64(s.width)
    group = np.int64(-1)
    if s.target != 0:
        group = _join_group(t, b, np.int64(entries(t)[row].shard), np.int64(s.target) - 1)
        if group < 0:
            return group
    slot = _take_slots(t, b, width)
    if slot < 0:
        if group >= 0:
            _unregister(t, b, group)
            _leave_group(t, b, group)
        return slot
    ref = (b << SLOT_BITS) | slot
    if width > 1:
        bucket = buckets(t)[b]
        for k in range(1, width):
            elements(t)[ref + k].state = np.uint8(ELEMENT_STATE)
        elements(t)[ref + 1].entry = np.uint32(group + 1)
        elements(t)[ref + 1].spare = np.uint8(0)
        elements(t)[ref + 1].next = np.uint32(bucket.made)
        bucket.made += 1
        bucket.stateful += 1
        j = base_record(t, b, slot, False)
        if j >= 0:
            records(t)[j].flags = np.uint16(0)
    x = elements(t)[ref]
    x.entry = np.uint32(row)
    x.spec = np.uint32(spec)
    x.next = np.uint32(0)
    x.state = np.uint8(ELEMENT_LIVE)
    x.spare = np.uint8(0)
    return ref


@njit(cache=True, nogil=True)
def free_element(t, ref):
    """Gives the slots of an element back, and its place in its group."""
    b = ref >> SLOT_BITS
    slot = ref & SLOT_MASK
    width = np.int64(specs(t)[np.int64(elements(t)[ref].spec)].width)
    if width > 1:
        buckets(t)[b].stateful -= 1
        group = np.int64(elements(t)[ref + 1].entry) - 1
        if group >= 0:
            if elements(t)[ref + 1].spare == 0:
                _unregister(t, b, group)
            _leave_group(t, b, group)
    _give_slots(t, b, slot, width)


@njit(cache=True, nogil=True)
def unregister_elements(t, b):
    """Takes the tombstoned elements of a bucket out of their groups that have nothing left to be flushed, as M3 does after a pass."""
    for slot in range(buckets(t)[b].slots):
        ref = (np.int64(b) << SLOT_BITS) | slot
        x = elements(t)[ref]
        if x.state not in (ELEMENT_TOMBSTONED, ELEMENT_DROPPED) or specs(t)[np.int64(x.spec)].target == 0:
            continue
        if elements(t)[ref + 1].spare == 0 and not _is_dirty(t, b, slot):
            elements(t)[ref + 1].spare = np.uint8(1)
            _unregister(t, b, np.int64(elements(t)[ref + 1].entry) - 1)


@njit(cache=True, nogil=True)
def _is_dirty(t, b, slot):
    for w in range(heads(t)[H_WINDOWS]):
        if windows(t)[w].used != 0 and windows(t)[w].bucket == b:
            i = record_at(t, w, slot)
            exists = i >= 0 and records(t)[i].flags & RECORD_EXISTS != 0
            state = np.int64(records(t)[i + 1].call) if exists else np.int64(STATE_REMOVED)
            if not state & STATE_REMOVED and state & (STATE_DIRTY | STATE_TOUCHED):
                return True
    j = base_record(t, b, slot, False)
    return j >= 0 and records(t)[j].flags & RECORD_EXISTS != 0 and records(t)[j + 1].call & STATE_TOUCHED != 0


@njit(cache=True, nogil=True)
def new_element(t, row, spec, attrs, now_ns):
    """A live element of entry ``row``, not yet in its chain; returns its reference, or -1 if there is no room."""
    ref = _take_element(t, row, spec)
    if ref < 0:
        return ref
    elements(t)[ref].attrs = np.uint16(attrs)
    e = entries(t)[row]
    e.held += np.uint16(1)
    make_list(t, ref >> SLOT_BITS, np.int64(e.shard), now_ns)
    return ref


@njit(cache=True, nogil=True)
def tombstone(t, ref, state):
    """The element takes no more values; it is collected when no window holds any of it."""
    x = elements(t)[ref]
    bucket = buckets(t)[ref >> SLOT_BITS]
    x.state = np.uint8(state)
    x.next = np.uint32(bucket.sequence)
    bucket.tombstoned += 1


@njit(cache=True, nogil=True)
def find_element(t, row, spec):
    """Reference of the entry's element of that spec, or -1."""
    ref = np.int64(entries(t)[row].element) - 1
    while ref >= 0:
        x = elements(t)[ref]
        if np.int64(x.spec) == spec:
            return ref
        ref = np.int64(x.next) - 1
    return np.int64(-1)


@njit(cache=True, nogil=True)
def find_key(t, row, spec):
    """As ``find_element``, or of the spec with the same key that has state where this one has none, or the other way round."""
    ref = find_element(t, row, spec)
    twin = np.int64(specs(t)[spec].twin)
    if ref < 0 and twin != 0:
        ref = find_element(t, row, twin - 1)
    return ref


@njit(cache=True, nogil=True)
def append_element(t, row, spec, attrs, now_ns):
    """Adds one more element at the end of the entry's chain; returns its reference, or -1 if there is no room."""
    e = entries(t)[row]
    if np.int64(e.elements) >= MAX_ELEMENTS or np.int64(e.held) >= 65535:
        return np.int64(-1)
    ref = new_element(t, row, spec, attrs, now_ns)
    if ref < 0:
        return ref
    if e.elements == 0:
        e.element = np.uint32(ref + 1)
        e.spec = np.uint32(spec)
    else:
        last = np.int64(e.element) - 1
        while elements(t)[last].next != 0:
            last = np.int64(elements(t)[last].next) - 1
        elements(t)[last].next = np.uint32(ref + 1)
    e.elements += np.uint16(1)
    return ref


@njit(cache=True, nogil=True)
def widen_element(t, row, old, spec):
    """Gives an element without state the slots of ``spec``, its twin with state; returns its new reference, or -1 if there is no room.

    Its records move with it, but for those of windows that are closed: these are put out, once more if need be, from where they are. Here
    they only say that the window is closed. The slot it leaves keeps the chain's ``next`` for the caller.
    """
    ref = _take_element(t, row, spec)
    if ref < 0:
        return ref
    b = ref >> SLOT_BITS
    slot = ref & SLOT_MASK
    shard = np.int64(entries(t)[row].shard)
    was = old & SLOT_MASK
    for w in range(heads(t)[H_WINDOWS]):
        x = windows(t)[w]
        page = np.int64(page_table(t)[w, was >> PAGE_BITS])
        if x.used == 0 or x.bucket != b or page == 0:
            continue
        source = ((page - 1) << PAGE_BITS) | (was & (PAGE_ROWS - 1))
        if not records(t)[source].flags & RECORD_EXISTS:
            continue
        i = record_of(t, w, slot)
        if i < 0:
            continue
        for k in range(8):
            record_words(t)[(i << 3) + k] = record_words(t)[(source << 3) + k]
        records(t)[i].flags = np.uint16(RECORD_EXISTS)
        begin_state(t, i, np.int64(specs(t)[spec].width))
        if x.start + buckets(t)[b].due <= closed_through(t)[b, shard]:
            records(t)[i + 1].call = np.uint16(STATE_CLOSED)
        else:
            records(t)[source].flags = np.uint16(0)
            mark_written(t, b, w, i, shard, RESEND_OFF)
    elements(t)[ref].attrs = elements(t)[old].attrs
    elements(t)[ref].next = elements(t)[old].next
    return ref


@njit(cache=True, nogil=True)
def has_state(t, spec):
    """Whether elements of that spec have state."""
    return specs(t)[spec].flags & SPEC_STATE != 0

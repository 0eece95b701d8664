# mypy: ignore-errors
"""Compiled work on entries: find, make, give other aggregations, expire, collect. ``tables.index`` tells how the index works."""

import numpy as np
from numba import njit

from aggregator.engine import reasons as why
from aggregator.engine.state.elements import (
    find_key,
    free_element,
    has_state,
    make_list,
    new_element,
    tombstone,
    widen_element,
)
from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.tables.ids import add_id
from aggregator.engine.tables.index import insert, remove
from aggregator.engine.windows.pages import next_window
from m3x.kernels import base, bytes_equal, hash_bytes, murmur3_32, prefetch

_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_ELEMENT_BYTES = layout.ELEMENT.itemsize
_AHEAD = 16
"""So many rows before an entry is killed what that touches is asked for."""


@njit(cache=True, nogil=True)
def key_hash(address, size, category, metric_type):
    """The 32-bit hash of an entry's key; ``address`` and ``size`` (uint64) are the id's bytes."""
    seed = (np.uint64(category) << np.uint64(8)) | np.uint64(metric_type)
    return hash_bytes(address, size, seed) >> _32


@njit(cache=True, nogil=True)
def is_entry(t, row, category, metric_type, address, size):
    """Whether entry ``row`` is a live one with that key; ``address`` and ``size``: the id's bytes."""
    e = v.entries(t)[row]
    return (
        np.int64(e.id_size) == size
        and np.int64(e.category) == category
        and np.int64(e.metric_type) == metric_type
        and e.state == layout.ENTRY_LIVE
        and bytes_equal(base(v.ids(t)) + np.uint64(e.id_at), address, size)
    )


@njit(cache=True, nogil=True)
def probe(t, half, category, metric_type, address, size):
    """Row of the entry with that key, or -1. ``half``: its ``key_hash`` (uint64); ``address``: the id's bytes."""
    words = v.entry_index(t)
    mask = v.head(t).index_mask
    at = np.int64(half) & mask
    while True:
        word = words[at]
        if word == np.uint64(0):
            return np.int64(-1)
        if word >> _32 == half:
            row = np.int64(word & _LOW) - 1
            if is_entry(t, row, category, metric_type, address, size):
                return row
        at = (at + 1) & mask


@njit(cache=True, nogil=True)
def create_entry(t, half, category, metric_type, buf, id_at, id_size, shard, now_ns):
    """A new live entry with the id ``buf[id_at:id_at + id_size]``, without elements; returns its row, or -1 if there is no room."""
    head = v.head(t)
    free = head.free_entry
    if head.ids + layout.ID_HEAD + id_size > head.max_ids:
        return np.int64(-1)
    if free != 0:
        row = free - 1
        head.free_entry = np.int64(v.free_entries(t)[row].next)
    else:
        row = head.entries
        if row >= head.max_entries:
            return np.int64(-1)
        head.entries = row + 1
    e = v.entries(t)[row]
    add_id(t, row, buf, id_at, id_size)
    e.last_access = now_ns
    e.cutover = np.int64(layout.MIN_INT64)
    e.rate_second = np.uint32(0)
    e.rate_count = np.uint32(0)
    e.stage = np.uint32(0)
    e.element = np.uint32(0)
    e.spec = np.uint32(0)
    e.shard = np.uint32(shard)
    e.hash = np.uint32(half)
    e.elements = np.uint16(0)
    e.held = np.uint16(0)
    e.category = np.uint8(category)
    e.metric_type = np.uint8(metric_type)
    e.state = np.uint8(layout.ENTRY_LIVE)
    insert(v.entry_index(t), head.index_mask, half, row)
    head.live += 1
    v.shards(t)[shard].entries += 1
    v.fresh(t)[v.counts(t)[why.C_NEW_ENTRIES] & (layout.FRESH - 1)] = np.uint32(row)
    v.counts(t)[why.C_NEW_ENTRIES] += 1
    return row


@njit(cache=True, nogil=True)
def _free_entry(t, row):
    e = v.entries(t)[row]
    e.state = np.uint8(layout.ENTRY_FREE)
    v.head(t).dead_ids += layout.ID_HEAD + np.int64(e.id_size)
    v.free_entries(t)[row].next = np.uint32(v.head(t).free_entry)
    v.head(t).free_entry = row + 1


@njit(cache=True, nogil=True)
def _give_up(t, made):
    """There is no room for a stage: what has been made for it goes again."""
    for j in range(made):
        x = v.elements(t)[np.int64(v.chain(t)[j])]
        if x.mark == layout.MARK_NEW:
            tombstone(t, np.int64(v.chain(t)[j]), layout.ELEMENT_TOMBSTONED)
        x.mark = np.uint8(layout.MARK_NONE)


@njit(cache=True, nogil=True)
def _widen(t, row, old, spec):
    """``widen_element`` in the entry's chain; the old element stays until the windows that it has closed are gone."""
    ref = widen_element(t, row, old, spec)
    if ref < 0:
        return ref
    e = v.entries(t)[row]
    if np.int64(e.element) - 1 == old:
        e.element = np.uint32(ref + 1)
        e.spec = np.uint32(spec)
    else:
        before = np.int64(e.element) - 1
        while np.int64(v.elements(t)[before].next) - 1 != old:
            before = np.int64(v.elements(t)[before].next) - 1
        v.elements(t)[before].next = np.uint32(ref + 1)
    e.held += np.uint16(1)
    tombstone(t, old, layout.ELEMENT_TOMBSTONED)
    return ref


@njit(cache=True, nogil=True)
def apply_stage(t, row, stage, now_ns):
    """Gives entry ``row`` the aggregations of a stage (docs/m3/aggregation.md, aggregation keys); returns ``D_NONE`` or why it failed.

    Elements whose key stays are kept with their windows, the others are tombstoned: they emit what they have.
    """
    e = v.entries(t)[row]
    s = v.stages(t)[stage]
    n = np.int64(s.specs)
    first = np.int64(s.specs_at)
    if np.int64(e.held) + n > 65535:
        return why.D_MEMORY
    for k in range(n):
        want = v.stage_specs(t)[first + k]
        ref = find_key(t, row, np.int64(want.spec))
        if ref >= 0 and has_state(t, np.int64(want.spec)) and not has_state(t, np.int64(v.elements(t)[ref].spec)):
            ref = _widen(t, row, ref, np.int64(want.spec))
            if ref < 0:
                _give_up(t, k)
                return why.D_MEMORY
        if ref < 0:
            ref = new_element(t, row, np.int64(want.spec), np.int64(want.attrs), now_ns)
            if ref < 0:
                _give_up(t, k)
                return why.D_MEMORY
            v.elements(t)[ref].mark = np.uint8(layout.MARK_NEW)
        else:
            v.elements(t)[ref].attrs = np.uint16(want.attrs)
            v.elements(t)[ref].mark = np.uint8(layout.MARK_KEPT)
        v.chain(t)[k] = np.uint32(ref)
    ref = np.int64(e.element) - 1
    while ref >= 0:
        x = v.elements(t)[ref]
        following = np.int64(x.next) - 1
        if x.mark == layout.MARK_NONE:
            tombstone(t, ref, layout.ELEMENT_TOMBSTONED)
        ref = following
    e.element = np.uint32(0)
    e.spec = np.uint32(0)
    for k in range(n - 1, -1, -1):
        ref = np.int64(v.chain(t)[k])
        x = v.elements(t)[ref]
        x.mark = np.uint8(layout.MARK_NONE)
        x.next = e.element
        e.element = np.uint32(ref + 1)
        e.spec = x.spec
    e.elements = np.uint16(n)
    e.cutover = s.cutover
    e.stage = np.uint32(stage + 1)
    v.counts(t)[why.C_UPDATES + np.int64(e.category)] += 1
    return why.D_NONE


@njit(cache=True, nogil=True)
def refuse_stage(t, row, stage, now_ns):
    """Makes the lists of the aggregations before the one that stage ``stage`` is refused for; entry ``row`` stays as it is.

    M3 leaves elements without an owner behind there: they never hold a value, but their lists are flushed from then on
    (docs/m3/aggregation.md, aggregation keys).
    """
    s = v.stages(t)[stage]
    shard = np.int64(v.entries(t)[row].shard)
    for k in range(np.int64(s.specs)):
        spec = np.int64(v.stage_specs(t)[np.int64(s.specs_at) + k].spec)
        make_list(t, np.int64(v.specs(t)[spec].bucket), shard, now_ns)


@njit(cache=True, nogil=True)
def _kill(t, row, state):
    """Takes an entry out of the index and tombstones its elements."""
    e = v.entries(t)[row]
    remove(v.entry_index(t), v.head(t).index_mask, np.uint64(e.hash), row)
    v.head(t).live -= 1
    v.shards(t)[np.int64(e.shard)].entries -= 1
    ref = np.int64(e.element) - 1
    while ref >= 0:
        following = np.int64(v.elements(t)[ref].next) - 1
        tombstone(t, ref, state)
        ref = following
    e.element = np.uint32(0)
    e.elements = np.uint16(0)
    e.state = np.uint8(layout.ENTRY_DEAD)
    if e.held == 0:
        _free_entry(t, row)


@njit(cache=True, nogil=True)
def _ask_for(t, row):
    """What killing an entry touches."""
    e = v.entries(t)[row]
    prefetch(base(v.entry_index(t)) + np.uint64((np.int64(e.hash) & v.head(t).index_mask) << 3))
    if e.element != 0:
        prefetch(base(v.elements(t)) + np.uint64((np.int64(e.element) - 1) * _ELEMENT_BYTES))


@njit(cache=True, nogil=True)
def expire_entries(t, before_ns):
    """Kills the live entries not accessed since ``before_ns`` (exclusive); returns how many."""
    killed = 0
    rows = v.head(t).entries
    for row in range(rows):
        if row + _AHEAD < rows:
            later = v.entries(t)[row + _AHEAD]
            if later.state == layout.ENTRY_LIVE and later.last_access < before_ns:
                _ask_for(t, row + _AHEAD)
        e = v.entries(t)[row]
        if e.state == layout.ENTRY_LIVE and e.last_access < before_ns:
            v.counts(t)[why.C_EXPIRED + np.int64(e.category)] += 1
            _kill(t, row, layout.ELEMENT_TOMBSTONED)
            killed += 1
    return killed


@njit(cache=True, nogil=True)
def reshard_entries(t):
    """Kills the entries of shards that are not owned any more: their windows are dropped. ``head.num_shards`` may have changed."""
    n = np.uint32(v.head(t).num_shards)
    for row in range(v.head(t).entries):
        e = v.entries(t)[row]
        if e.state != layout.ENTRY_LIVE:
            continue
        shard = np.int64(murmur3_32(v.ids(t), e.id_at, np.int64(e.id_size)) % n)
        if shard != np.int64(e.shard) or v.shards(t)[shard].owned == 0:
            _kill(t, row, layout.ELEMENT_DROPPED)


@njit(cache=True, nogil=True)
def reset_value_limits(t):
    """Forgets what every entry has used of its value limit."""
    for row in range(v.head(t).entries):
        v.entries(t)[row].rate_second = np.uint32(0)
        v.entries(t)[row].rate_count = np.uint32(0)


@njit(cache=True, nogil=True)
def collect_elements(t, b):
    """Frees the tombstoned elements of bucket ``b`` that no window holds any more, and dead entries left without elements."""
    oldest = np.int64(1) << 62
    w = next_window(t, b, np.int64(0))
    while w >= 0:
        oldest = min(oldest, v.windows(t)[w].sequence)
        w = next_window(t, b, w + 1)
    bucket = v.buckets(t)[b]
    if bucket.tombstoned == 0:
        return 0
    collected = 0
    for slot in range(bucket.slots):
        ref = v.reference(b, slot)
        x = v.tombstones(t)[ref]
        if x.state not in (layout.ELEMENT_TOMBSTONED, layout.ELEMENT_DROPPED) or np.int64(x.newest) >= oldest:
            continue
        row = np.int64(x.entry)
        free_element(t, ref)
        collected += 1
        e = v.entries(t)[row]
        e.held -= np.uint16(1)
        if e.held == 0 and e.state == layout.ENTRY_DEAD:
            _free_entry(t, row)
    bucket.tombstoned -= collected
    v.counts(t)[why.C_COLLECTED] += collected
    return collected


@njit(cache=True, nogil=True)
def mark_entries(t, totals):
    """Counts live entries by category into ``totals`` (int64, 3) and live elements per bucket into ``totals[3:]``."""
    for row in range(v.head(t).entries):
        e = v.entries(t)[row]
        if e.state == layout.ENTRY_LIVE:
            totals[np.int64(e.category)] += 1
            ref = np.int64(e.element) - 1
            while ref >= 0:
                totals[3 + (ref >> layout.SLOT_BITS)] += 1
                ref = np.int64(v.elements(t)[ref].next) - 1

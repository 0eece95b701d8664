# mypy: ignore-errors
"""Compiled source sets: which source has sent which version of a forwarded metric to a window (docs/m3/aggregation.md, windows).

One hash table per window over (slot, source, block of 64 versions), open addressing, at most two thirds full. Tables have sizes that are
powers of two; those given back wait, by size, to be used again.
"""

import numpy as np
from numba import njit

from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.tables.memory import over_limit

_FIRST_BITS = 6
_0 = np.uint64(0)
_1 = np.uint64(1)


@njit(cache=True, nogil=True)
def _allocate(t, bits):
    """First row of ``2**bits`` cleared rows, -1 if there is no room."""
    if over_limit(t):
        return np.int64(-1)
    free = v.free_sources(t)[bits]
    if free != 0:
        at = free - 1
        v.free_sources(t)[bits] = np.int64(v.free_tables(t)[at].next)
    else:
        at = v.head(t).sources
        if at + (1 << bits) > layout.MAX_SOURCES:
            return np.int64(-1)
        v.head(t).sources = at + (1 << bits)
    for k in range(at, at + (1 << bits)):
        v.sources(t)[k].used = np.uint32(0)
    v.head(t).used_sources += 1 << bits
    return at


@njit(cache=True, nogil=True)
def _bits(size):
    bits = 0
    while (1 << bits) < size:
        bits += 1
    return bits


@njit(cache=True, nogil=True)
def _free(t, at, size):
    bits = _bits(size)
    v.head(t).used_sources -= size
    v.free_tables(t)[at].next = np.uint64(v.free_sources(t)[bits])
    v.free_sources(t)[bits] = at + 1


@njit(cache=True, nogil=True)
def _place(t, at, size, key, block):
    """Row of that key, or of the free place for it."""
    h = (key ^ (np.uint64(block) * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xD6E8FEB86659FD93)
    h ^= h >> np.uint64(32)
    k = np.int64(h & np.uint64(size - 1))
    while True:
        row = v.sources(t)[at + k]
        if row.used == 0 or (row.key == key and row.block == block):
            return at + k
        k = (k + 1) & (size - 1)


@njit(cache=True, nogil=True)
def _grow(t, w):
    """Makes the table of a window twice as large; whether there was room."""
    x = v.windows(t)[w]
    bits = _FIRST_BITS if x.sources_size == 0 else _bits(x.sources_size) + 1
    at = _allocate(t, bits)
    if at < 0:
        return False
    for k in range(x.sources_at, x.sources_at + x.sources_size):
        row = v.sources(t)[k]
        if row.used != 0:
            to = _place(t, at, np.int64(1) << bits, row.key, row.block)
            v.sources(t)[to].key = row.key
            v.sources(t)[to].block = row.block
            v.sources(t)[to].bits = row.bits
            v.sources(t)[to].used = np.uint32(1)
    if x.sources_size != 0:
        _free(t, x.sources_at, x.sources_size)
    x.sources_at = at
    x.sources_size = np.int64(1) << bits
    return True


SEEN, FIRST, FULL = range(3)


@njit(cache=True, nogil=True)
def see_source(t, w, slot, source, version):
    """Enters a version of a source for a record: ``FIRST`` time, ``SEEN`` before, or ``FULL``."""
    x = v.windows(t)[w]
    if 3 * (x.sources_used + 1) > 2 * x.sources_size and not _grow(t, w):
        return FULL
    key = (np.uint64(slot) << np.uint64(32)) | np.uint64(source)
    block = np.uint32(version >> 6)
    row = v.sources(t)[_place(t, x.sources_at, x.sources_size, key, block)]
    if row.used == 0:
        row.key = key
        row.block = block
        row.bits = _0
        row.used = np.uint32(1)
        x.sources_used += 1
    bit = _1 << np.uint64(version & 63)
    if row.bits & bit != _0:
        return SEEN
    row.bits |= bit
    return FIRST


@njit(cache=True, nogil=True)
def has_source(t, w, slot, source, version):
    """Whether that version of a source has been entered for a record."""
    x = v.windows(t)[w]
    if x.sources_size == 0:
        return False
    key = (np.uint64(slot) << np.uint64(32)) | np.uint64(source)
    row = v.sources(t)[_place(t, x.sources_at, x.sources_size, key, np.uint32(version >> 6))]
    return row.used != 0 and row.bits & (_1 << np.uint64(version & 63)) != _0


@njit(cache=True, nogil=True)
def enter_source(t, w, slot, source, block, bits):
    """Enters versions ``bits`` of a block of a source for a record, before any of it; whether there was room."""
    x = v.windows(t)[w]
    if 3 * (x.sources_used + 1) > 2 * x.sources_size and not _grow(t, w):
        return False
    key = (np.uint64(slot) << np.uint64(32)) | np.uint64(source)
    row = v.sources(t)[_place(t, x.sources_at, x.sources_size, key, block)]
    row.key = key
    row.block = block
    row.bits = bits
    row.used = np.uint32(1)
    x.sources_used += 1
    return True


@njit(cache=True, nogil=True)
def forget_sources(t, w, slot):
    """A record begins anew: forgets what has been entered for it."""
    x = v.windows(t)[w]
    for k in range(x.sources_at, x.sources_at + x.sources_size):
        row = v.sources(t)[k]
        if row.used != 0 and np.int64(row.key >> np.uint64(32)) == slot:
            row.bits = _0


@njit(cache=True, nogil=True)
def release_sources(t, w):
    """Gives the table of a window back."""
    x = v.windows(t)[w]
    if x.sources_size != 0:
        _free(t, x.sources_at, x.sources_size)
    x.sources_size = 0
    x.sources_used = 0

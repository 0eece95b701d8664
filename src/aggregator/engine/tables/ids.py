# mypy: ignore-errors
"""Compiled arena of ids: one behind the other, each behind ``ID_HEAD`` bytes that say whose it is and how long.

Ids of entries that are gone stay where they are until the others are moved together, in place and a piece at a time (``move_ids``): new
ones come in between, behind all others.
"""

import numpy as np
from numba import njit

from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from m3x.kernels import base, copy_bytes, load64, prefetch, store64

_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_ENTRY_BYTES = np.uint64(layout.ENTRY.itemsize)
_AHEAD = 16
"""So many ids before an entry is looked at it is asked for."""


@njit(cache=True, nogil=True)
def add_id(t, row, buf, at, size):
    """Gives entry ``row`` the id ``buf[at:at + size]``; there is room."""
    head = v.head(t)
    e = v.entries(t)[row]
    store64(base(v.ids(t)) + np.uint64(head.ids), np.uint64(row) | np.uint64(size) << _32)
    e.id_at = head.ids + layout.ID_HEAD
    e.id_size = np.uint32(size)
    head.ids = copy_bytes(v.ids(t), e.id_at, buf, at, size)


@njit(cache=True, nogil=True)
def _after(t, at):
    """Asks for the entry that the id at ``at`` belongs to; returns where the next id is."""
    if at >= v.head(t).ids:
        return at
    word = load64(base(v.ids(t)) + np.uint64(at))
    prefetch(base(v.entries(t)) + (word & _LOW) * _ENTRY_BYTES)
    return at + layout.ID_HEAD + np.int64(word >> _32)


@njit(cache=True, nogil=True)
def move_ids(t, nbytes):
    """Looks at the next ``nbytes`` of the arena and moves those of entries in use to the others; returns whether that was the end.

    What is then behind ``head.ids`` is nobody's.
    """
    head = v.head(t)
    at, to = head.ids_seen, head.ids_moved
    stop = min(at + nbytes, head.ids)
    ahead = at
    for _ in range(_AHEAD):
        ahead = _after(t, ahead)
    while at < stop:
        ahead = _after(t, ahead)
        word = load64(base(v.ids(t)) + np.uint64(at))
        size = layout.ID_HEAD + np.int64(word >> _32)
        e = v.entries(t)[np.int64(word & _LOW)]
        if e.state != layout.ENTRY_FREE and e.id_at == at + layout.ID_HEAD:
            if to != at:
                # Words are copied in ascending order, to where at least the head of one that is gone was: nothing is lost.
                copy_bytes(v.ids(t), to, v.ids(t), at, size)
                e.id_at = to + layout.ID_HEAD
            to += size
        else:
            head.dead_ids -= size
        at += size
    head.ids_seen, head.ids_moved = at, to
    if at < head.ids:
        return False
    head.ids = to
    head.ids_seen = head.ids_moved = 0
    return True

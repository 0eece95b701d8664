# mypy: ignore-errors
"""Compiled index over interned metadata bytes: what ``apply`` looks into for every metadata that its entry has not used last."""

import numpy as np
from numba import njit

from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from m3x.kernels import base, bytes_equal, hash_bytes

_32 = np.uint64(32)


@njit(cache=True, nogil=True)
def link_metadata(t, row):
    """Enters metadata row ``row`` in the index over the metadata bytes."""
    m = v.metas(t)[row]
    half = hash_bytes(base(v.text(t)) + np.uint64(m.at), np.uint64(m.size), np.uint64(m.key)) >> _32
    m.hash = np.uint32(half)
    place = np.int64(half) & (layout.META_INDEX - 1)
    while v.meta_index(t)[place] != 0:
        place = (place + 1) & (layout.META_INDEX - 1)
    v.meta_index(t)[place] = np.uint32(row + 1)


@njit(cache=True, nogil=True)
def link_all(t):
    """Makes the index anew, of the rows that are in use."""
    for place in range(layout.META_INDEX):
        if v.meta_index(t)[place] != 0:
            v.meta_index(t)[place] = np.uint32(0)
    for row in range(v.head(t).metas):
        if v.metas(t)[row].key != 0:
            link_metadata(t, row)


@njit(cache=True, nogil=True)
def find_metadata(t, buf, at, size, key):
    """Row of interned metadata bytes (``key``: payload << 8 | metric type), -1 if they have not been seen."""
    address = base(buf) + np.uint64(at)
    half = hash_bytes(address, np.uint64(size), np.uint64(key)) >> _32
    place = np.int64(half) & (layout.META_INDEX - 1)
    while v.meta_index(t)[place] != 0:
        row = np.int64(v.meta_index(t)[place]) - 1
        m = v.metas(t)[row]
        if (
            np.uint64(m.hash) == half
            and np.int64(m.key) == key
            and np.int64(m.size) == size
            and bytes_equal(base(v.text(t)) + np.uint64(m.at), address, size)
        ):
            return row
        place = (place + 1) & (layout.META_INDEX - 1)
    return np.int64(-1)

# mypy: ignore-errors
"""Compiled index over interned metadata bytes: what ``ingest_kernels`` looks into for every metadata that its entry has not used last."""

import numpy as np
from numba import njit

from aggregator.engine import tables as layout
from aggregator.engine import view_kernels as v
from m3x.kernels import base, hash_bytes

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

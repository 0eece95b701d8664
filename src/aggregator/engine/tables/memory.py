# mypy: ignore-errors
"""Compiled accounting of memory: what the tables hold, and what series that are known will need of it.

What counts is what is in use. Rows, slots, pages and tables that were given back wait for others of their kind and do not count. So what
counts falls when series expire, and new ones are taken again.
"""

import numpy as np
from numba import njit

from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v

_RECORD_BYTES = layout.RECORD.itemsize
_SLIM_BYTES = layout.SLIM_LAST.itemsize
_PAGE_BYTES = layout.PAGE_ROWS * _RECORD_BYTES
_SLIM_PAGE_BYTES = layout.PAGE_ROWS * _SLIM_BYTES
_CHUNK_BYTES = layout.LOG_CHUNK * 8
_ENTRY_BYTES = layout.ENTRY.itemsize
_ELEMENT_BYTES = layout.ELEMENT.itemsize
_SOURCE_BYTES = layout.SOURCE.itemsize
_LAST_SHIFT = 3
"""The last eighth of the limit is for series that are known."""


@njit(cache=True, nogil=True)
def used_bytes(t):
    """Memory of windows, timer logs and source sets together."""
    head = v.head(t)
    return (
        head.used_pages * _PAGE_BYTES
        + head.used_slim_pages * _SLIM_PAGE_BYTES
        + head.used_chunks * _CHUNK_BYTES
        + head.used_sources * _SOURCE_BYTES
    )


@njit(cache=True, nogil=True)
def held_bytes(t):
    """``(now, soon)``: memory of all that is in use, and what it is when each series has a value in every window.

    Then there is also room for an index that grows, and is there twice for a moment.
    """
    head = v.head(t)
    series = (
        (head.index_mask + 1 + head.group_mask + 1 + head.repeats_mask + 1) * 8
        + head.live * _ENTRY_BYTES
        + head.ids
        + head.metadata_bytes
    )
    records = np.int64(0)
    for b in range(head.buckets):
        bucket = v.buckets(t)[b]
        series += (bucket.taken + bucket.taken_slim) * _ELEMENT_BYTES
        records += bucket.open * (bucket.taken * _RECORD_BYTES + bucket.taken_slim * _SLIM_BYTES)
    windows = used_bytes(t)
    rest = head.used_chunks * _CHUNK_BYTES + head.used_sources * _SOURCE_BYTES
    return series + windows, series + max(windows, records + rest) + ((head.index_mask + 1) << 2)


@njit(cache=True, nogil=True)
def over_limit(t):
    """Whether nothing more is taken, of known series either."""
    return v.head(t).memory_limit > 0 and held_bytes(t)[0] >= v.head(t).memory_limit


@njit(cache=True, nogil=True)
def over_new_limit(t):
    """Whether no new series is taken: those that are known have the rest for their windows."""
    limit = v.head(t).memory_limit
    return limit > 0 and held_bytes(t)[1] >= limit - (limit >> _LAST_SHIFT)

# mypy: ignore-errors
"""Compiled table of annotations: bytes that come with values, each kept once."""

import numpy as np
from numba import njit

from aggregator.engine import reasons as why
from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from m3x.kernels import base, bytes_equal, copy_bytes, hash_bytes


@njit(cache=True, nogil=True)
def annotation_row(t, buf, at, size):
    """Row + 1 of an interned annotation, 0 if it is empty or there is no room."""
    if size == 0:
        return np.int64(0)
    address = base(buf) + np.uint64(at)
    mask = layout.ANNOTATION_INDEX - 1
    place = np.int64(hash_bytes(address, np.uint64(size), np.uint64(7)) & np.uint64(mask))
    while v.annotation_index(t)[place] != 0:
        row = np.int64(v.annotation_index(t)[place])
        x = v.annotations(t)[row - 1]
        if np.int64(x.size) == size and bytes_equal(base(v.annotation_bytes(t)) + np.uint64(x.at), address, size):
            return row
        place = (place + 1) & mask
    row = v.head(t).annotations
    used = v.head(t).annotation_bytes
    if row >= layout.MAX_ANNOTATIONS or used + size > layout.ANNOTATION_BYTES:
        v.counts(t)[why.C_ANNOTATIONS_DROPPED] += 1
        return np.int64(0)
    x = v.annotations(t)[row]
    x.at = np.uint32(used)
    x.size = np.uint32(size)
    v.head(t).annotation_bytes = copy_bytes(v.annotation_bytes(t), used, buf, at, size)
    v.head(t).annotations = row + 1
    v.annotation_index(t)[place] = np.uint32(row + 1)
    return row + 1

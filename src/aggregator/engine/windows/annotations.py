# mypy: ignore-errors
"""Compiled table of annotations: bytes that come with values, each kept once."""

import numpy as np
from numba import njit

from aggregator.engine import reasons as why
from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from m3x.kernels import base
from m3x.table_kernels import add, hash_half, head, probe

_NO_CONTEXT = np.uint64(0)


@njit(cache=True, nogil=True)
def annotation_row(t, buf, at, size):
    """Row + 1 of an interned annotation, 0 if it is empty or there is no room."""
    if size == 0:
        return np.int64(0)
    table = base(v.annotation_table(t))
    address = base(buf) + np.uint64(at)
    half = hash_half(address, size, _NO_CONTEXT)
    row = probe(table, half, address, size, _NO_CONTEXT)
    if row < 0:
        if head(table).count >= layout.MAX_ANNOTATIONS or head(table).used + size > layout.ANNOTATION_BYTES:
            v.counts(t)[why.C_ANNOTATIONS_DROPPED] += 1
            return np.int64(0)
        row = add(table, half, address, size, _NO_CONTEXT)
    return row + 1

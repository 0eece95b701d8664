# mypy: ignore-errors
"""Compiled: look-ups of keys that mostly come in the order in which they were added to a table, as series do window after window.

First the key behind the one that was found last is compared: without a hash, and in memory that lies in a row. Where that is another one,
some keys are looked up as ``m3x.table_kernels`` does it, so that keys in any order cost hardly more than there.
"""

import numpy as np
from numba import njit

from m3x.kernels import base, bytes_equal, record_of
from m3x.table_kernels import ROW, Keys, find, hash_keys, head, row_address, value_of

_BLOCK = 32
"""So many keys are looked up by their hash before the next one is compared with the row behind the last of them."""

_row = record_of(ROW)


@njit(cache=True, nogil=True)
def find_values_in_order(table, keys, values, row):
    """As ``table_kernels.find_values``; ``row`` is what the first key is compared with. ``keys.halves`` are known of unknown keys only.

    Returns how many are unknown, and the row behind that of the last key that was found.
    """
    buf, at, size, contexts, halves = keys
    arena, count = head(table).arena, head(table).count
    n, unknown, i = len(values), 0, 0
    while i < n:
        while i < n and row < count:
            key = _row(row_address(table, row))
            if key.size != size[i] or key.context != contexts[i]:
                break
            if not bytes_equal(arena + np.uint64(key.at), base(buf) + np.uint64(at[i]), np.int64(size[i])):
                break
            values[i] = key.value
            row += 1
            i += 1
        end = min(i + _BLOCK, n)
        if i < end:
            some = Keys(buf, at[i:end], size[i:end], contexts[i:end], halves[i:end])
            hash_keys(some)
            find(table, some, values[i:end])
            for k in range(i, end):
                if values[k] < 0:
                    unknown += 1
                else:
                    row = values[k] + 1
                    values[k] = value_of(table, values[k])
            i = end
    return unknown, row

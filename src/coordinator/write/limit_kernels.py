# mypy: ignore-errors
"""How many labels series have, how long they are, and how many series there are; public through ``coordinator.write.kernels``."""

import numpy as np
from numba import njit

from coordinator.write.request_kernels import label
from m3x.kernels import base, hash_bytes

MANY_LABELS, LONG_NAME, LONG_VALUE = 1, 2, 3
"""What ``beyond`` finds wrong with a series."""

_0, _1, _20 = np.uint64(0), np.uint64(1), np.uint64(20)


@njit(cache=True, nogil=True)
def _wrong(a, e, most, longest_name, longest_value):
    """Of the label fields ``[a, e)``: one of the numbers above, or 0. Broken ones are for whoever reads them."""
    labels = np.int64(0)
    while a < e:
        a, name_size, value_size = label(a, e)
        labels += 1
        if a == _0:
            return 0
        if labels > most:
            return MANY_LABELS
        if name_size > longest_name:
            return LONG_NAME
        if value_size > longest_value:
            return LONG_VALUE
    return 0


@njit(cache=True, nogil=True)
def beyond(buf, series, most, longest_name, longest_value, found):
    """Fills ``found`` (uint8, a row for each of ``series``, ``SERIES_ROW``) with what is wrong; how many rows have something wrong.

    ``buf``: uint8. ``most`` labels, and bytes of names and values, are allowed (int64).
    """
    origin = base(buf)
    count = np.int64(0)
    for i in range(len(series)):
        a = origin + np.uint64(series[i].labels_at)
        found[i] = _wrong(a, a + np.uint64(series[i].labels_size), most, longest_name, longest_value)
        if found[i] != 0:
            count += 1
    return count


@njit(cache=True, nogil=True)
def _place(slots, key):
    """Where ``key`` is, or would be."""
    mask = np.uint64(len(slots) - 1)
    at = (key >> _20) & mask
    while slots[at] != _0 and slots[at] != key:
        at = (at + _1) & mask
    return at


@njit(cache=True, nogil=True)
def enter_series(slots, seen, buf, series, room, admitted):
    """Enters the hashes of the labels of ``series`` (``SERIES_ROW``; ``buf``: uint8) that are new while there is ``room``; how many.

    ``slots``: uint64, a power of two of them, never more than half of them taken; ``seen`` (bool): which of them came in this period.
    ``admitted`` (bool, a row for each series): those that are there now.
    """
    origin = base(buf)
    entered = np.int64(0)
    for i in range(len(series)):
        size = np.int64(series[i].labels_size)
        key = hash_bytes(origin + np.uint64(series[i].labels_at), size, _0) | _1
        at = _place(slots, key)
        admitted[i] = slots[at] == key or entered < room
        if admitted[i]:
            if slots[at] != key:
                slots[at] = key
                entered += 1
            seen[at] = True
    return entered


@njit(cache=True, nogil=True)
def keep_seen(slots, seen, kept):
    """Enters what was ``seen`` into the empty slots ``kept``; how many."""
    count = np.int64(0)
    for i in range(len(slots)):
        if seen[i]:
            kept[_place(kept, slots[i])] = slots[i]
            count += 1
    return count

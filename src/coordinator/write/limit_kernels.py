# mypy: ignore-errors
"""How many labels series have, and how long they are; public through ``coordinator.write.kernels``."""

import numpy as np
from numba import njit

from coordinator.write.request_kernels import label
from m3x.kernels import base

MANY_LABELS, LONG_NAME, LONG_VALUE = 1, 2, 3
"""What ``beyond`` finds wrong with a series."""

_0 = np.uint64(0)


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

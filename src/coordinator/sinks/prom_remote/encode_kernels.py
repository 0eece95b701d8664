# mypy: ignore-errors
"""Compiled: rows of a batch → the bytes of a ``WriteRequest``, laid out as gogo's generated code does (zeros are left out).

Rows of one series become one ``TimeSeries`` wherever they stand in the batch, its samples in the order of the rows.
"""

import numpy as np
from numba import njit

from coordinator.sinks.prom_remote.label_kernels import AHEAD, prefetch_id, put_form
from m3metrics.tag_kernels import MOST_TAGS
from m3x.kernels import base, double_bits, prefetch, store8, store64
from m3x.protobuf.writing import int_size, length_size, put_int, put_length

GROUP = np.dtype([("number", np.uint32), ("first", np.int32), ("last", np.int32), ("size", np.int32)], align=True)
"""The rows of one series: places in the list of rows, chained by ``following``; ``size`` is that of its ``TimeSeries``."""

_SERIES, _SAMPLE, _VALUE, _TIME = (np.uint64(n) for n in (0x0A, 0x12, 0x09, 0x10))
_0, _1, _8, _9 = (np.uint64(n) for n in (0, 1, 8, 9))
_MIX = np.uint32(0x9E3779B1)


@njit(cache=True, nogil=True, inline="always")
def milliseconds(time_ns):
    """Nanoseconds → milliseconds toward zero, as Go divides (int64)."""
    whole = time_ns // 1_000_000
    if time_ns < 0 and whole * 1_000_000 != time_ns:
        whole += 1
    return whole


@njit(cache=True, nogil=True, inline="always")
def sample_size(value, time_ms):
    """Bytes of a Sample."""
    return (_0 if value == 0.0 else _9) + int_size(time_ms)


@njit(cache=True, nogil=True)
def group(series, time_ns, values, rows, entries, slots, groups, following):
    """Finds the rows of each series and the size of the request. Returns how many series there are, and the bytes.

    ``entries``: records by series number, with a ``size``: of what stands before samples. ``rows`` (int64): which rows of the columns, at
    least one. ``slots`` (int32): a power of two, at least twice the rows, zeroed here. ``groups`` (``GROUP``) and ``following`` (int32)
    have a place per row.
    """
    slots[:] = 0
    width = np.uint64(entries.itemsize)
    mask = np.uint32(len(slots) - 1)
    count = 0
    for k in range(len(rows)):
        if k + AHEAD < len(rows):
            prefetch(base(entries) + width * np.uint64(series[rows[k + AHEAD]]))
        row = rows[k]
        number = series[row]
        place = (number * _MIX) & mask
        while slots[place] != 0 and groups[slots[place] - 1].number != number:
            place = (place + np.uint32(1)) & mask
        at = slots[place] - 1
        following[k] = -1
        if at < 0:
            at = count
            count += 1
            slots[place] = count
            groups[at].number = number
            groups[at].first = k
            groups[at].size = entries[number].size
        else:
            following[groups[at].last] = k
        groups[at].last = k
        groups[at].size += np.int32(length_size(sample_size(values[row], milliseconds(time_ns[row]))))
    total = _0
    for at in range(count):
        total += length_size(np.uint64(groups[at].size))
    return count, np.int64(total)


@njit(cache=True, nogil=True)
def put_samples(a, time_ns, values, rows, following, k):
    """Writes the samples of a series at address ``a``, ``rows[k]`` and what follows it; the address behind them."""
    while k >= 0:
        value, time_ms = values[rows[k]], milliseconds(time_ns[rows[k]])
        a = put_length(a, _SAMPLE, sample_size(value, time_ms))
        if value != 0.0:
            store8(a, _VALUE)
            store64(a + _1, double_bits(value))
            a += _9
        a = put_int(a, _TIME, time_ms)
        k = following[k]
    return a


@njit(cache=True, nogil=True)
def write(time_ns, values, rows, forms, arena, orders, ids, id_at, groups, count, following, out):
    """Writes the request that ``group`` has measured; returns its bytes. ``ids``, ``id_at``: those of all series by number."""
    a = base(out)
    kept, tags, places = base(arena), base(ids), np.empty(MOST_TAGS, np.uint64)
    for at in range(count):
        if at + AHEAD < count:
            prefetch_id(tags + np.uint64(id_at[groups[at + AHEAD].number]))
        number = groups[at].number
        a = put_length(a, _SERIES, np.uint64(groups[at].size))
        a = put_form(a, forms[number], tags + np.uint64(id_at[number]), kept, orders, places)
        a = put_samples(a, time_ns, values, rows, following, groups[at].first)
    return np.int64(a - base(out))

# mypy: ignore-errors
"""Compiled loops of queues and delivery: hashes of ids and rows, numbers within a segment, lanes, and rows put together into batches.

Columns are those of ``coordinator.sinks.values.Values``; ``hashes`` are ``SeriesTable.hashes``.
"""

import numpy as np
from numba import njit

from m3x.kernels import base, copy_short, double_bits, hash_bytes

_32 = np.uint64(32)
_M1 = np.uint64(0x9E3779B97F4A7C15)
_M2 = np.uint64(0xC2B2AE3D27D4EB4F)
_SEED = np.uint64(0x5EED)


@njit(cache=True, nogil=True)
def hash_ids(arena, at, size, first, hashes):
    """``hashes[i]`` (uint64) of the ids ``arena[at[i]:at[i] + size[i]]``, from number ``first`` on."""
    for i in range(first, len(at)):
        hashes[i] = hash_bytes(base(arena) + np.uint64(at[i]), np.int64(size[i]), _SEED)


@njit(cache=True, nogil=True)
def split(hashes, series, lanes, order, bounds):
    """Rows by lane: those of lane ``k`` are ``order[bounds[k]:bounds[k + 1]]`` (uint32), in the order in which they stand in the batch."""
    many = np.uint64(lanes)
    bounds[:] = 0
    for i in range(len(series)):
        bounds[np.int64((hashes[series[i]] >> _32) * many >> _32) + 1] += 1
    for k in range(lanes):
        bounds[k + 1] += bounds[k]
    fill = bounds[:-1].copy()
    for i in range(len(series)):
        lane = np.int64((hashes[series[i]] >> _32) * many >> _32)
        order[fill[lane]] = i
        fill[lane] += 1


@njit(cache=True, nogil=True)
def gather(rows, columns, renumbered, out, at):
    """Copies ``rows`` (uint32) of one batch's columns to ``out`` from ``at`` on; destinations are looked up in ``renumbered`` (uint16)."""
    series, times, values, destination = columns
    to_series, to_times, to_values, to_destination = out
    for k in range(len(rows)):
        i = rows[k]
        to_series[at + k] = series[i]
        to_times[at + k] = times[i]
        to_values[at + k] = values[i]
        to_destination[at + k] = renumbered[destination[i]]


@njit(cache=True, nogil=True)
def lay_out(columns, renumbered, known, stamp, first, out, fresh):
    """The columns of a record into ``out`` (uint8, 22 bytes a row): times, values, series and destinations as numbers within the segment.

    ``renumbered`` (uint16): the destinations within the segment. ``known[number]`` (uint64) holds the stamp of the segment in its upper and
    the series' number within it in its lower half; those that are not in it yet are numbered from ``first`` on, and written to ``fresh``
    (uint32). Returns how many they are, and whether all rows have the same destination.
    """
    series, times, values, destination = columns
    rows = len(series)
    to_times, to_values = out[: 8 * rows].view(np.int64), out[8 * rows : 16 * rows].view(np.float64)
    to_series, to_destination = out[16 * rows : 20 * rows].view(np.uint32), out[20 * rows :].view(np.uint16)
    mark = np.uint64(stamp) << _32
    count, same = 0, True
    for i in range(rows):
        to_times[i] = times[i]
        to_values[i] = values[i]
        number = renumbered[destination[i]]
        to_destination[i] = number
        same &= number == to_destination[0]
        word = known[series[i]]
        if word >> _32 != np.uint64(stamp):
            word = mark | np.uint64(first + count)
            known[series[i]] = word
            fresh[count] = series[i]
            count += 1
        to_series[i] = np.uint32(word)
    return count, same


@njit(cache=True, nogil=True)
def copy_ids(arena, at, size, fresh, out):
    """The bytes of the ids ``fresh`` one after another into ``out``."""
    to = base(out)
    for k in range(len(fresh)):
        n = np.uint64(size[fresh[k]])
        copy_short(to, base(arena) + np.uint64(at[fresh[k]]), n)
        to += n


@njit(cache=True, nogil=True)
def hash_rows(hashes, columns, destinations, out):
    """Hashes of (id, time, destination, value) into ``out`` (uint64), never 0; ``destinations`` (uint64) are those of the destinations."""
    series, times, values, destination = columns
    for i in range(len(series)):
        a = (hashes[series[i]] ^ np.uint64(times[i])) * _M1
        a = ((a << np.uint64(29)) | (a >> np.uint64(35))) ^ double_bits(values[i])
        a = (a * _M2) ^ destinations[destination[i]]
        a = (a ^ (a >> _32)) * _M1
        a ^= a >> np.uint64(29)
        out[i] = a if a != np.uint64(0) else np.uint64(1)


@njit(cache=True, nogil=True)
def remember(keys, owners, hashes, owner):
    """Enters ``hashes`` with their ``owner`` (int64) in the table ``keys``, ``owners``, at least half of which is free."""
    mask = np.uint64(len(keys) - 1)
    for i in range(len(hashes)):
        at = hashes[i] & mask
        while keys[at] != np.uint64(0) and keys[at] != hashes[i]:
            at = (at + np.uint64(1)) & mask
        keys[at] = hashes[i]
        owners[at] = owner


@njit(cache=True, nogil=True)
def recall(keys, owners, hashes, out):
    """The owners of ``hashes`` into ``out`` (int64), -1 for those that are not in the table."""
    mask = np.uint64(len(keys) - 1)
    for i in range(len(hashes)):
        at = hashes[i] & mask
        while keys[at] != np.uint64(0) and keys[at] != hashes[i]:
            at = (at + np.uint64(1)) & mask
        out[i] = owners[at] if keys[at] != np.uint64(0) else -1


def warm() -> None:
    """Compiles every kernel for the dtypes that are used, or loads it from the cache."""
    arena, one = np.zeros(40, np.uint8), np.zeros(1, np.int64)
    hashes, series = np.zeros(2, np.uint64), np.zeros(1, np.uint32)
    # Ranges of ids are fields of a table's rows: not contiguous.
    at = size = np.zeros((2, 2), np.int64)[:, 0]
    hash_ids(arena, at, size, 0, hashes)
    split(hashes, series, 2, series.copy(), np.zeros(3, np.int64))
    columns = (series, one, np.zeros(1), np.zeros(1, np.uint16))
    gather(series, columns, np.zeros(1, np.uint16), columns, 0)
    lay_out(columns, np.zeros(1, np.uint16), np.zeros(1, np.uint64), 1, 0, np.zeros(22, np.uint8), series.copy())
    copy_ids(arena, at, size, series, np.zeros(9, np.uint8))
    hash_rows(hashes, columns, np.zeros(1, np.uint64), hashes.copy())
    table = np.zeros(4, np.uint64), np.zeros(4, np.int64)
    remember(*table, np.ones(1, np.uint64), 1)
    recall(*table, np.ones(1, np.uint64), one)

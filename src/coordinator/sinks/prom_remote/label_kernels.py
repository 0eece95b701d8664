# mypy: ignore-errors
"""Compiled: from encoded tags to the label fields of a ``TimeSeries``, once a series. What is odd is left to ``labels.label_fields``."""

import numpy as np
from numba import njit

from m3x.kernels import base, bytes_equal, load8, load16
from m3x.protobuf.writing import bytes_size, length_size, put_bytes, put_length

ENTRY = np.dtype([("at", np.int64), ("size", np.int32), ("state", np.int32)], align=True)
"""Label fields of one series: where they stand in the arena; ``state`` is a ``STATE_…``."""

STATE_NEW, STATE_READY, STATE_ODD, STATE_BAD = range(4)
"""Not met yet; usable; to be decided by the plain code; no tag set that can be stored."""

SIZE_FACTOR = 5
"""Label fields take at most so many times the bytes of an id: a tag of one byte, five in the id, takes 21 with its name replaced."""

_MAGIC = np.uint64(10101)
_MOST_TAGS = 64
_0, _1, _2, _4 = (np.uint64(n) for n in (0, 1, 2, 4))
_LABEL, _NAME, _VALUE = (np.uint64(n) for n in (0x0A, 0x0A, 0x12))


@njit(cache=True, nogil=True)
def _less(a, a_size, b, b_size):
    """Whether the bytes at ``a`` sort before those at ``b``."""
    n = min(a_size, b_size)
    k = _0
    while k < n:
        x, y = load8(a + k), load8(b + k)
        if x != y:
            return x < y
        k += _1
    return a_size < b_size


@njit(cache=True, nogil=True)
def _insert(tags, count, name, name_size, value, value_size):
    """Puts a tag where it belongs among the ``count`` before it; equal names stay in their order."""
    k = count
    while k > 0 and _less(name, name_size, tags[k - 1, 0], tags[k - 1, 1]):
        for column in range(4):
            tags[k, column] = tags[k - 1, column]
        k -= 1
    tags[k, 0], tags[k, 1], tags[k, 2], tags[k, 3] = name, name_size, value, value_size


@njit(cache=True, nogil=True)
def _read(tags, at, size, skipped, skipped_size):
    """The tags of the id at ``at``, sorted by name, without those named ``skipped``; how many, or -1 for what is odd."""
    if size < _4 or load16(at) != _MAGIC:
        return -1
    end = at + size
    left = load16(at + _2)
    at += _4
    count = 0
    while left > 0:
        left -= 1
        if at + _2 > end:
            return -1
        name_size = np.uint64(load16(at))
        name = at + _2
        at = name + name_size
        if name_size == _0 or at + _2 > end:
            return -1
        value_size = np.uint64(load16(at))
        value = at + _2
        at = value + value_size
        if at > end:
            return -1
        if name_size == skipped_size and bytes_equal(name, skipped, name_size):
            continue
        if value_size == _0 or count == _MOST_TAGS:
            return -1
        _insert(tags, count, name, name_size, value, value_size)
        count += 1
    return -1 if count == 0 or _repeats(tags, count) else count


@njit(cache=True, nogil=True)
def _repeats(tags, count):
    """Whether a name stands twice among the tags; only neighbours can be equal."""
    found = False
    for k in range(1, count):
        found |= tags[k, 1] == tags[k - 1, 1] and bytes_equal(tags[k, 0], tags[k - 1, 0], tags[k, 1])
    return found


@njit(cache=True, nogil=True)
def _write(tags, count, a):
    """The label fields of the tags at address ``a``; the address behind them."""
    for k in range(count):
        name, name_size, value, value_size = tags[k, 0], tags[k, 1], tags[k, 2], tags[k, 3]
        a = put_length(a, _LABEL, length_size(name_size) + bytes_size(value_size))
        a = put_bytes(a, _NAME, name, name_size)
        a = put_bytes(a, _VALUE, value, value_size)
    return a


@njit(cache=True, nogil=True)
def fill(series, first, ids, at, size, entries, arena, used, skipped, renamed, new_names):
    """Makes the label fields of the series ``series[first:]`` (uint32) that have none yet; ends early where ``arena`` may lack the room.

    ``ids``, ``at``, ``size``: the ids of all series by number (uint8, int64). ``skipped`` (uint8): the name of a tag to leave out, empty:
    none. ``renamed``, ``new_names``: names to be replaced, and by what: nothing, or two records each, a size (uint16) and 32 bytes.

    Returns how many rows were looked at, the bytes of ``arena`` in use, and how many rows were found ``STATE_ODD``.
    """
    tags = np.empty((_MOST_TAGS + 1, 4), np.uint64)
    ordered = np.empty((_MOST_TAGS + 1, 4), np.uint64)
    odd = 0
    for row in range(first, len(series)):
        number = series[row]
        if entries[number].state != STATE_NEW:
            continue
        if used + SIZE_FACTOR * size[number] > len(arena):
            return row, used, odd
        count = _read(
            tags, base(ids) + np.uint64(at[number]), np.uint64(size[number]), base(skipped), np.uint64(len(skipped))
        )
        if count < 0:
            entries[number].state = STATE_ODD
            odd += 1
            continue
        start = base(arena) + np.uint64(used)
        if len(renamed) == 0:
            written = _write(tags, count, start) - start
        else:
            for k in range(count):
                name, name_size = tags[k, 0], tags[k, 1]
                for one in range(2):
                    record = np.uint64(34 * one)
                    old = base(renamed) + record
                    if name_size == load16(old) and bytes_equal(name, old + _2, name_size):
                        name, name_size = base(new_names) + record + _2, np.uint64(load16(base(new_names) + record))
                        break
                _insert(ordered, k, name, name_size, tags[k, 2], tags[k, 3])
            written = _write(ordered, count, start) - start
        entries[number].at = used
        entries[number].size = written
        entries[number].state = STATE_READY
        used += np.int64(written)
    return len(series), used, odd

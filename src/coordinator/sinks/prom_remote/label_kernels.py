# mypy: ignore-errors
"""Compiled: from encoded tags to the label fields of a ``TimeSeries``, once a series. What is odd is left to ``labels.label_fields``."""

import numpy as np
from numba import njit

from m3metrics.tag_kernels import MOST_TAGS, insert_tag, read_tags
from m3x.kernels import base, bytes_equal, load16
from m3x.protobuf.writing import bytes_size, length_size, put_bytes, put_length

ENTRY = np.dtype([("at", np.int64), ("size", np.int32), ("state", np.int32)], align=True)
"""Label fields of one series: where they stand in the arena; ``state`` is a ``STATE_…``."""

STATE_NEW, STATE_READY, STATE_ODD, STATE_BAD = range(4)
"""Not met yet; usable; to be decided by the plain code; no tag set that can be stored."""

SIZE_FACTOR = 5
"""Label fields take at most so many times the bytes of an id: a tag of one byte, five in the id, takes 21 with its name replaced."""

_2 = np.uint64(2)
_LABEL, _NAME, _VALUE = (np.uint64(n) for n in (0x0A, 0x0A, 0x12))


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
    tags = np.empty((MOST_TAGS + 1, 4), np.uint64)
    ordered = np.empty((MOST_TAGS + 1, 4), np.uint64)
    odd = 0
    for row in range(first, len(series)):
        number = series[row]
        if entries[number].state != STATE_NEW:
            continue
        if used + SIZE_FACTOR * size[number] > len(arena):
            return row, used, odd
        address, length = base(ids) + np.uint64(at[number]), np.uint64(size[number])
        count = read_tags(tags, address, length, base(skipped), np.uint64(len(skipped)), False)
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
                insert_tag(ordered, k, name, name_size, tags[k, 2], tags[k, 3], False)
            written = _write(ordered, count, start) - start
        entries[number].at = used
        entries[number].size = written
        entries[number].state = STATE_READY
        used += np.int64(written)
    return len(series), used, odd

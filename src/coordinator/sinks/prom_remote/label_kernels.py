# mypy: ignore-errors
"""Compiled: from encoded tags to the label fields of a ``TimeSeries``. What is odd is left to ``labels.label_fields``.

Tags of an id that stand in the order of their names already, which those of coordinators do, are written as label fields each time that
they are asked for: of such a series only the size is kept. Other label fields are made once, and kept in an arena.
"""

import numpy as np
from numba import njit

from m3metrics.tag_kernels import MOST_TAGS, insert_tag, read_tags
from m3x.kernels import base, bytes_equal, copy_short, load16
from m3x.protobuf.writing import bytes_size, length_size, put_bytes, put_length

FORM = np.dtype([("size", np.int32), ("place", np.uint32)])
"""Label fields of one series: their bytes, and a ``PLACE_…``, or from ``PLACE_KEPT`` on where they stand in the arena, in words of
eight bytes."""

PLACE_NEW, PLACE_ID, PLACE_ODD, PLACE_BAD, PLACE_KEPT = range(5)
"""Not met yet; to be written from the tags of the id; to be decided by the plain code; no tag set that can be stored; kept."""

WORD = 8
SIZE_FACTOR = 5
"""Label fields take at most so many times the bytes of an id: a tag of one byte, five in the id, takes 21 with its name replaced."""

_2, _4 = np.uint64(2), np.uint64(4)
_LABEL, _NAME, _VALUE = (np.uint64(n) for n in (0x0A, 0x0A, 0x12))


@njit(cache=True, nogil=True)
def _label_size(name_size, value_size):
    """Bytes of the contents of a label field."""
    return length_size(name_size) + bytes_size(value_size)


@njit(cache=True, nogil=True)
def _put_label(a, name, name_size, value, value_size):
    a = put_length(a, _LABEL, _label_size(name_size, value_size))
    a = put_bytes(a, _NAME, name, name_size)
    return put_bytes(a, _VALUE, value, value_size)


@njit(cache=True, nogil=True)
def _put_labels(a, tags, skipped, skipped_size):
    """Writes the label fields of the tags of an id, whose address is ``tags``, at address ``a``; the address behind them."""
    here = tags + _4
    for _ in range(np.int64(load16(tags + _2))):
        name_size = np.uint64(load16(here))
        name = here + _2
        value_size = np.uint64(load16(name + name_size))
        value = name + name_size + _2
        here = value + value_size
        if name_size == skipped_size and bytes_equal(name, skipped, name_size):
            continue
        a = _put_label(a, name, name_size, value, value_size)
    return a


@njit(cache=True, nogil=True)
def put_form(a, form, address, arena, skipped, skipped_size):
    """Writes the label fields of a series, whose id is at ``address``, at address ``a``; the address behind them. ``arena``, ``skipped``:
    addresses as well."""
    if form.place == PLACE_ID:
        return _put_labels(a, address, skipped, skipped_size)
    copy_short(a, arena + np.uint64(form.place - PLACE_KEPT) * np.uint64(WORD), np.uint64(form.size))
    return a + np.uint64(form.size)


@njit(cache=True, nogil=True)
def fill(series, first, ids, at, size, forms, arena, used, skipped, renamed, new_names):
    """Finds out the ``FORM`` of the series ``series[first:]`` (uint32) that have none yet; ends early where ``arena`` may lack the room.

    ``ids``, ``at``, ``size``: the ids of all series by number (uint8, int64). ``skipped`` (uint8): the name of a tag to leave out, empty:
    none. ``renamed``, ``new_names``: names to be replaced, and by what: nothing, or two records each, a size (uint16) and 32 bytes.

    Returns how many rows were looked at, the bytes of ``arena`` in use, and how many rows were found ``PLACE_ODD``.
    """
    tags = np.empty((MOST_TAGS + 1, 4), np.uint64)
    ordered = np.empty((MOST_TAGS + 1, 4), np.uint64)
    odd = 0
    for row in range(first, len(series)):
        number = series[row]
        if forms[number].place != PLACE_NEW:
            continue
        address, length = base(ids) + np.uint64(at[number]), np.uint64(size[number])
        count = read_tags(tags, address, length, base(skipped), np.uint64(len(skipped)), False)
        if count < 0:
            forms[number].place = PLACE_ODD
            odd += 1
            continue
        if len(renamed) == 0:
            written, in_order = np.uint64(0), True
            for k in range(count):
                written += length_size(_label_size(tags[k, 1], tags[k, 3]))
                in_order &= k == 0 or tags[k, 0] > tags[k - 1, 0]
            forms[number].size = written
            if in_order:
                forms[number].place = PLACE_ID
                continue
        if used + SIZE_FACTOR * size[number] + WORD > len(arena):
            return row, used, odd
        start = base(arena) + np.uint64(used)
        chosen = tags
        if len(renamed) > 0:
            chosen = ordered
            for k in range(count):
                name, name_size = tags[k, 0], tags[k, 1]
                for one in range(2):
                    record = np.uint64(34 * one)
                    old = base(renamed) + record
                    if name_size == load16(old) and bytes_equal(name, old + _2, name_size):
                        name, name_size = base(new_names) + record + _2, np.uint64(load16(base(new_names) + record))
                        break
                insert_tag(ordered, k, name, name_size, tags[k, 2], tags[k, 3], False)
        a = start
        for k in range(count):
            a = _put_label(a, chosen[k, 0], chosen[k, 1], chosen[k, 2], chosen[k, 3])
        forms[number].size = a - start
        forms[number].place = np.uint32(PLACE_KEPT + used // WORD)
        used += (np.int64(a - start) + WORD - 1) // WORD * WORD
    return len(series), used, odd


@njit(cache=True, nogil=True)
def rows_with(fields, series, forms, arena, ids, at, skipped, room, found):
    """Which of ``series`` (uint32) have just these label fields (uint8): into ``found`` (int64); how many. ``room`` (uint8) has as many
    bytes as ``fields``."""
    count = 0
    for row in range(len(series)):
        form = forms[series[row]]
        if form.size != len(fields):
            continue
        address = base(ids) + np.uint64(at[series[row]])
        put_form(base(room), form, address, base(arena), base(skipped), np.uint64(len(skipped)))
        if bytes_equal(base(room), base(fields), np.uint64(len(fields))):
            found[count] = row
            count += 1
    return count

# mypy: ignore-errors
"""Compiled: from encoded tags to the label fields of a ``TimeSeries``. What is odd is left to ``labels.label_fields``.

Labels stand in the order of their names, tags of ids in another one (docs/m3/coordinator.md, tag order), but all ids of as many tags in
the same: there are few *orders*. So of a series only the size of its label fields and the number of its order are kept, and the fields are
written each time that they are asked for. Label fields that are not made like this are made once, and kept in an arena.
"""

import numpy as np
from numba import njit

from m3metrics.tag_kernels import MOST_TAGS, insert_tag, read_tags
from m3x.kernels import base, bytes_equal, copy_short, load16, prefetch
from m3x.protobuf.writing import bytes_size, length_size, put_bytes, put_length

FORM = np.dtype([("size", np.int32), ("place", np.uint32)])
"""Label fields of one series: their bytes; a ``PLACE_…``, from ``PLACE_ORDER`` on the number of an order, and from ``PLACE_KEPT`` on where
they stand in the arena, in words of eight bytes."""

ORDER = np.dtype([("tags", np.uint8), ("labels", np.uint8), ("which", np.uint8, MOST_TAGS)])
"""Of how many tags of an id how many are labels, and which they are, from 0, in the order of their names; zeros behind them."""

MOST_ORDERS = 256
PLACE_NEW, PLACE_ODD, PLACE_BAD, PLACE_ORDER = range(4)
"""Not met yet; to be decided by the plain code; no tag set that can be stored; to be written from the tags of the id."""
PLACE_KEPT = PLACE_ORDER + MOST_ORDERS

WORD = 8
SIZE_FACTOR = 5
"""Label fields take at most so many times the bytes of an id: a tag of one byte, five in the id, takes 21 with its name replaced."""

_2, _4 = np.uint64(2), np.uint64(4)
_LABEL, _NAME, _VALUE = (np.uint64(n) for n in (0x0A, 0x0A, 0x12))


AHEAD = 8
"""So many series before it is read an id is asked for; where it stands, as many more."""

_ID_LINES = 3


@njit(cache=True, nogil=True)
def prefetch_id(address):
    """Asks for the first lines of an id; more come by themselves."""
    for line in range(_ID_LINES):
        prefetch(address + np.uint64(64 * line))


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
def tags_of(address, places):
    """Where the tags of an id of at most ``MOST_TAGS`` tags begin that was read before: addresses, into ``places`` (uint64)."""
    here = address + _4
    for i in range(np.int64(load16(address + _2))):
        places[i] = here
        here += _2 + np.uint64(load16(here))
        here += _2 + np.uint64(load16(here))


@njit(cache=True, nogil=True)
def put_form(a, form, address, arena, orders, places):
    """Writes the label fields of a series, whose id is at ``address``, at address ``a``; the address behind them. ``arena``: an address
    as well; ``places`` (uint64): room for ``MOST_TAGS``."""
    if form.place >= PLACE_KEPT:
        copy_short(a, arena + np.uint64(form.place - PLACE_KEPT) * np.uint64(WORD), np.uint64(form.size))
        return a + np.uint64(form.size)
    tags_of(address, places)
    order = orders[form.place - PLACE_ORDER]
    for k in range(order.labels):
        name = places[order.which[k]] + _2
        name_size = np.uint64(load16(name - _2))
        value = name + name_size + _2
        a = _put_label(a, name, name_size, value, np.uint64(load16(value - _2)))
    return a


@njit(cache=True, nogil=True)
def _order_of(address, tags, count, orders, places):
    """The number of the order in which ``tags``, ``count`` of those of the id at ``address``, are sorted; -1: there is no room for it.

    ``orders`` (``ORDER``): those that have no tags are free, and behind all others.
    """
    total = np.int64(load16(address + _2))
    if total > MOST_TAGS:
        return -1
    tags_of(address, places)
    which = np.zeros(MOST_TAGS, np.uint8)
    for k in range(count):
        i = 0
        while places[i] + _2 != tags[k, 0]:
            i += 1
        which[k] = i
    for number in range(len(orders)):
        order = orders[number]
        if order.tags == 0:
            order.tags = total
            order.labels = count
            for k in range(count):
                order.which[k] = which[k]
            return number
        if order.tags == total and order.labels == count:
            k = 0
            while k < count and order.which[k] == which[k]:
                k += 1
            if k == count:
                return number
    return -1


@njit(cache=True, nogil=True)
def fill(series, first, ids, at, size, forms, arena, used, orders, skipped, renamed, new_names):
    """Finds out the ``FORM`` of the series ``series[first:]`` (uint32) that have none yet; ends early where ``arena`` may lack the room.

    ``ids``, ``at``, ``size``: the ids of all series by number (uint8, int64). ``orders``: see ``ORDER``; zeros are free. ``skipped``
    (uint8): the name of a tag to leave out, empty: none. ``renamed``, ``new_names``: names to be replaced, and by what: nothing, or two
    records each, a size (uint16) and 32 bytes.

    Returns how many rows were looked at, the bytes of ``arena`` in use, and how many rows were found ``PLACE_ODD``.
    """
    tags = np.empty((MOST_TAGS + 1, 4), np.uint64)
    ordered = np.empty((MOST_TAGS + 1, 4), np.uint64)
    places = np.empty(MOST_TAGS, np.uint64)
    stride = np.uint64(at.strides[0])
    odd = 0
    for row in range(first, len(series)):
        number = series[row]
        if row + 2 * AHEAD < len(series):
            prefetch(base(at) + stride * np.uint64(series[row + 2 * AHEAD]))
        if row + AHEAD < len(series) and forms[series[row + AHEAD]].place == PLACE_NEW:
            prefetch_id(base(ids) + np.uint64(at[series[row + AHEAD]]))
        if forms[number].place != PLACE_NEW:
            continue
        address, length = base(ids) + np.uint64(at[number]), np.uint64(size[number])
        count = read_tags(tags, address, length, base(skipped), np.uint64(len(skipped)), False)
        if count < 0:
            forms[number].place = PLACE_ODD
            odd += 1
            continue
        if len(renamed) == 0:
            order = _order_of(address, tags, count, orders, places)
            if order >= 0:
                written = np.uint64(0)
                for k in range(count):
                    written += length_size(_label_size(tags[k, 1], tags[k, 3]))
                forms[number].size = written
                forms[number].place = PLACE_ORDER + order
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
        forms[number].place = PLACE_KEPT + used // WORD
        used += (np.int64(a - start) + WORD - 1) // WORD * WORD
    return len(series), used, odd


@njit(cache=True, nogil=True)
def rows_with(fields, series, forms, arena, orders, ids, at, room, found):
    """Which of ``series`` (uint32) have just these label fields (uint8): into ``found`` (int64); how many. ``room`` (uint8) has as many
    bytes as ``fields``."""
    places = np.empty(MOST_TAGS, np.uint64)
    count = 0
    for row in range(len(series)):
        form = forms[series[row]]
        if form.size != len(fields):
            continue
        put_form(base(room), form, base(ids) + np.uint64(at[series[row]]), base(arena), orders, places)
        if bytes_equal(base(room), base(fields), np.uint64(len(fields))):
            found[count] = row
            count += 1
    return count

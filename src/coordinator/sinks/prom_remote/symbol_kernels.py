# mypy: ignore-errors
"""Compiled: rows of a batch → the bytes of a request of Remote Write 2.0 (``coordinator.prompb.REQUEST_2``).

Every text of a label has one number for as long as its series table lives. A request numbers those that it needs anew, from 0 in the order
in which they are met, by two columns over all numbers: ``stamps``, the last request that had the text, and ``local``, its number there.
"""

import numpy as np
from numba import njit

from coordinator.sinks.prom_remote.encode_kernels import put_samples
from coordinator.sinks.prom_remote.label_kernels import PLACE_KEPT, PLACE_ORDER, WORD, tags_of
from m3metrics.tag_kernels import MOST_TAGS
from m3x.kernels import base, copy_short, load8, load16
from m3x.protobuf.reading import chunk
from m3x.protobuf.writing import length_size, put_int, put_length, put_varint, varint_size

ENTRY = np.dtype([("at", np.int64), ("size", np.int32), ("known", np.int32)], align=True)
"""The texts of one series, names and values in turn: where their numbers are, and how many; ``known``: 1, or 0 where they are not there
yet."""

_SYMBOL, _SERIES, _REFS, _METADATA, _TYPE, _HELP, _UNIT = (
    np.uint64(n) for n in (0x22, 0x2A, 0x0A, 0x2A, 0x08, 0x18, 0x20)
)
_0, _1, _2 = (np.uint64(n) for n in range(3))


@njit(cache=True, nogil=True)
def spans(series, first, kept, forms, arena, orders, ids, id_at, entries, used, at, size):
    """The texts of the series ``series[first:]`` (uint32) that are not in ``entries`` (``ENTRY``) yet.

    ``forms``, ``arena``, ``orders``, ``ids``, ``id_at``: see ``label_kernels``. ``kept``: whether they are those of label fields that are
    kept, and stand in ``arena``; else those of tags of ids, in ``ids``. The others are left out. Into ``at`` and ``size`` (int64) go names
    and values, in turn; ``entries`` says how many, counted on from ``used``. Ends early where there is too little room. Returns how many
    rows were looked at, and how many texts there are.
    """
    origin = base(arena) if kept else base(ids)
    places = np.empty(MOST_TAGS, np.uint64)
    count = 0
    for row in range(first, len(series)):
        number = series[row]
        form = forms[number]
        if entries[number].known or form.place < PLACE_ORDER or (form.place >= PLACE_KEPT) != kept:
            continue
        if kept:
            start = origin + np.uint64(form.place - PLACE_KEPT) * np.uint64(WORD)
            found = _of_fields(start, start + np.uint64(form.size), origin, at, size, count)
        else:
            tags_of(origin + np.uint64(id_at[number]), places)
            found = _of_tags(orders[form.place - PLACE_ORDER], places, origin, at, size, count)
        if found < 0:
            return row, count
        entries[number].at = used + count
        entries[number].size = found - count
        entries[number].known = 1
        count = found
    return len(series), count


@njit(cache=True, nogil=True)
def _of_tags(order, places, origin, at, size, count):
    """The texts of the tags of an id at ``places``, in their order; how many there are with them, -1: there is no room."""
    if count + 2 * np.int64(order.labels) > len(at):
        return -1
    for k in range(order.labels):
        name = places[order.which[k]] + _2
        name_size = np.uint64(load16(name - _2))
        value = name + name_size + _2
        at[count], size[count] = np.int64(name - origin), np.int64(name_size)
        at[count + 1], size[count + 1] = np.int64(value - origin), np.int64(load16(value - _2))
        count += 2
    return count


@njit(cache=True, nogil=True)
def _of_fields(a, e, origin, at, size, count):
    """The same of label fields between two addresses."""
    while a < e:
        if count + 2 > len(at):
            return -1
        # Written by ourselves: one byte of tag, and no value where that is empty.
        inner, a = chunk(a + _1, e)
        for part in range(2):
            text, stop = a, a
            if inner < a and np.int64(load8(inner)) == 0x0A + 8 * part:
                text, stop = chunk(inner + _1, a)
                inner = stop
            at[count] = np.int64(text - origin)
            size[count] = np.int64(stop - text)
            count += 1
    return count


@njit(cache=True, nogil=True)
def _about(about, number):
    """``(type, help, unit)`` of a series, the texts by their numbers; 0: none."""
    types, names, helps, units, told = about
    if number >= len(types):
        return np.uint64(0), np.int64(0), np.int64(0)
    name = names[number]
    return np.uint64(types[number]), np.int64(told[helps[name]]), np.int64(told[units[name]])


@njit(cache=True, nogil=True)
def _about_bytes(kind, help_ref, unit_ref):
    """Of the contents of Metadata; the references are those within the request."""
    size = _0 if kind == _0 else _2
    size += _0 if help_ref == 0 else _1 + varint_size(np.uint64(help_ref))
    return size + (_0 if unit_ref == 0 else _1 + varint_size(np.uint64(unit_ref)))


@njit(cache=True, nogil=True)
def measure(entries, refs, about, groups, count, sizes, stamps, local, request, used, packed):
    """Numbers the texts of a request: ``(bytes of it, texts)``.

    ``groups`` come from ``encode_kernels.group`` with these ``entries``; their sizes are those of the messages afterwards. ``sizes``
    (int64): of all texts. ``request`` (int64): the number of this one, for ``stamps``. Into ``used`` (int64) go the texts in order, into
    ``packed`` (int32) the bytes of the references of each group. ``about``: the columns of ``Described``, and the numbers of its texts
    (int32).
    """
    # The first symbol is empty.
    used[0] = 0
    local[0] = 0
    stamps[0] = request
    texts = 1
    total = _2
    for at in range(count):
        number = groups[at].number
        entry = entries[number]
        kind, help_text, unit_text = _about(about, number)
        nbytes = _0
        for k in range(entry.at, entry.at + entry.size + 2):
            ref = refs[k] if k < entry.at + entry.size else help_text if k == entry.at + entry.size else unit_text
            if stamps[ref] != request:
                stamps[ref] = request
                local[ref] = texts
                used[texts] = ref
                total += length_size(np.uint64(sizes[ref]))
                texts += 1
            if k < entry.at + entry.size:
                nbytes += varint_size(np.uint64(local[ref]))
        packed[at] = np.int32(nbytes)
        size = np.uint64(groups[at].size - entry.size) + length_size(nbytes)
        told = _about_bytes(kind, local[help_text], local[unit_text])
        if told != _0:
            size += length_size(told)
        groups[at].size = np.int32(size)
        total += length_size(size)
    return np.int64(total), texts


@njit(cache=True, nogil=True)
def write_2(
    time_ns, values, rows, entries, refs, about, groups, count, following, arena, text_at, sizes, local, used, texts, packed, out
):  # fmt: skip
    """Writes the request that ``measure`` has measured; returns its bytes. ``arena``, ``text_at``, ``sizes``: where the texts stand."""
    a = base(out)
    for k in range(texts):
        n = np.uint64(sizes[used[k]])
        a = put_length(a, _SYMBOL, n)
        copy_short(a, base(arena) + np.uint64(text_at[used[k]]), n)
        a += n
    for at in range(count):
        number = groups[at].number
        entry = entries[number]
        a = put_length(a, _SERIES, np.uint64(groups[at].size))
        a = put_length(a, _REFS, np.uint64(packed[at]))
        for k in range(entry.at, entry.at + entry.size):
            a = put_varint(a, np.uint64(local[refs[k]]))
        a = put_samples(a, time_ns, values, rows, following, groups[at].first)
        kind, help_text, unit_text = _about(about, number)
        told = _about_bytes(kind, local[help_text], local[unit_text])
        if told != _0:
            a = put_length(a, _METADATA, told)
            a = put_int(a, _TYPE, np.int64(kind))
            a = put_int(a, _HELP, np.int64(local[help_text]))
            a = put_int(a, _UNIT, np.int64(local[unit_text]))
    return np.int64(a - base(out))

# mypy: ignore-errors
"""Compiled: rows of a batch → the bytes of a request of Remote Write 2.0 (``coordinator.prompb.REQUEST_2``).

Every text of a label has one number for as long as its series table lives. A request numbers those that it needs anew, from 0 in the order
in which they are met, by two columns over all numbers: ``stamps``, the last request that had the text, and ``local``, its number there.
"""

import numpy as np
from numba import njit

from coordinator.sinks.prom_remote.encode_kernels import put_samples
from coordinator.sinks.prom_remote.label_kernels import STATE_READY
from m3x.kernels import base, copy_short, store8
from m3x.protobuf.reading import chunk
from m3x.protobuf.writing import length_size, put_length, put_varint, varint_size

_SYMBOL, _SERIES, _REFS, _METADATA, _TYPE = (np.uint64(n) for n in (0x22, 0x2A, 0x0A, 0x2A, 0x08))
_0, _1, _2 = (np.uint64(n) for n in range(3))
_METADATA_BYTES = np.uint64(4)


@njit(cache=True, nogil=True)
def spans(series, first, labels, arena, entries, used, at, size):
    """The texts of the series ``series[first:]`` (uint32) that are not in ``entries`` (``ENTRY``) yet.

    ``labels`` (``ENTRY``) says where in ``arena`` their label fields are; what is not ready there is left out. Into ``at`` and ``size``
    (int64) go names and values, in turn; ``entries`` says how many, counted on from ``used``. Ends early where there is too little room.
    Returns how many rows were looked at, and how many texts there are.
    """
    origin = base(arena)
    count = 0
    for row in range(first, len(series)):
        number = series[row]
        if entries[number].state == STATE_READY or labels[number].state != STATE_READY:
            continue
        a = origin + np.uint64(labels[number].at)
        e = a + np.uint64(labels[number].size)
        begin = count
        while a < e:
            if count + 2 > len(at):
                return row, begin
            # Written by ourselves: one byte of tag, and no value where that is empty.
            inner, a = chunk(a + _1, e)
            for part in range(2):
                text, stop = a, a
                if inner < a and np.int64(arena[np.int64(inner - origin)]) == 0x0A + 8 * part:
                    text, stop = chunk(inner + _1, a)
                    inner = stop
                at[count] = np.int64(text - origin)
                size[count] = np.int64(stop - text)
                count += 1
        entries[number].at = used + begin
        entries[number].size = count - begin
        entries[number].state = STATE_READY
    return len(series), count


@njit(cache=True, nogil=True)
def measure(entries, refs, types, groups, count, sizes, stamps, local, request, used, packed):
    """Numbers the texts of a request: ``(bytes of it, texts)``.

    ``groups`` come from ``encode_kernels.group`` with these ``entries``; their sizes are those of the messages afterwards. ``sizes``
    (int64): of all texts. ``request`` (int64): the number of this one, for ``stamps``. Into ``used`` (int64) go the texts in order, into
    ``packed`` (int32) the bytes of the references of each group. ``types`` (uint8) by series number; beyond its end there are none.
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
        nbytes = _0
        for k in range(entry.at, entry.at + entry.size):
            ref = refs[k]
            if stamps[ref] != request:
                stamps[ref] = request
                local[ref] = texts
                used[texts] = ref
                total += length_size(np.uint64(sizes[ref]))
                texts += 1
            nbytes += varint_size(np.uint64(local[ref]))
        packed[at] = np.int32(nbytes)
        size = np.uint64(groups[at].size - entry.size) + length_size(nbytes)
        if number < len(types) and types[number] != 0:
            size += _METADATA_BYTES
        groups[at].size = np.int32(size)
        total += length_size(size)
    return np.int64(total), texts


@njit(cache=True, nogil=True)
def write_2(
    time_ns, values, rows, entries, refs, types, groups, count, following, arena, text_at, sizes, local, used, texts, packed, out
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
        if number < len(types) and types[number] != 0:
            store8(a, _METADATA)
            store8(a + _1, _2)
            store8(a + _2, _TYPE)
            store8(a + _2 + _1, np.uint64(types[number]))
            a += _METADATA_BYTES
    return np.int64(a - base(out))

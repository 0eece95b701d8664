# mypy: ignore-errors
"""Compiled: rows of a batch → the frames of ``writeTaggedBatchRaw`` calls (docs/m3/m3db_wire.md, batch write).

A form (``form_kernels``) is copied whole, so every element has the series id and the tag block that were made for its series. What stands
in front of the elements of a call is a template for each namespace, up to the number of elements.
"""

import numpy as np
from numba import njit

from m3db.write.form_kernels import STATE_READY
from m3x.kernels import base, copy_short, double_bits, load8, load64, prefetch, store8, store64
from m3x.protobuf.words import swap64
from m3x.protobuf.writing import put_be32

NOT_READY, NO_SUCH = -1, -2
"""A row whose series has no form, or with an index of no namespace or annotation."""

_MAX_FRAME = np.uint64(0xFFFF)
_CONTINUE = np.uint64(0x13)
_MORE_AT = np.uint64(16)
_CONTINUE_BYTES = 20
"""Header, flags, checksum type and the length of the only chunk of a continuation."""
_LENGTH_BEFORE = np.uint64(2)

_DOUBLE, _BINARY, _I32 = (np.uint64(n) for n in (4, 11, 8))
_0, _1, _2, _3, _4, _7, _8, _20 = (np.uint64(n) for n in (0, 1, 2, 3, 4, 7, 8, 20))
_LINE = np.uint64(64)
_AHEAD_ENTRIES, _AHEAD_FORMS = 16, 6

_ELEMENT_BYTES = 8 + 3 + 8 + 2
"""Of an element behind its form: timestamp, value, the ends of datapoint and element."""
_TIME_TYPE_BYTES, _ANNOTATION_BYTES = 7, 7


@njit(cache=True, nogil=True)
def measure(order, series, namespace, time_type, annotation, entries, annotation_size, namespaces):
    """Bytes of the elements of these rows (``order``, int64), without what is between them, or ``NOT_READY`` or ``NO_SUCH``.

    What it has measured ``encode`` can write. ``namespaces``: how many there are.
    """
    total = np.int64(0)
    for k in range(len(order)):
        if k + _AHEAD_ENTRIES < len(order):
            prefetch(base(entries) + np.uint64(16) * np.uint64(series[order[k + _AHEAD_ENTRIES]]))
        row = order[k]
        if series[row] >= len(entries) or entries[series[row]].state != STATE_READY:
            return np.int64(NOT_READY)
        if annotation[row] >= len(annotation_size) or namespace[row] >= namespaces:
            return np.int64(NO_SUCH)
        entry = entries[series[row]]
        total += np.int64(entry.size) + _ELEMENT_BYTES
        if time_type[row] != 0:
            total += _TIME_TYPE_BYTES
        size = annotation_size[annotation[row]]
        if size != 0:
            total += _ANNOTATION_BYTES + size
    return total


@njit(cache=True, nogil=True)
def _store_be16(a, n):
    store8(a, n >> _8)
    store8(a + _1, n)


@njit(cache=True, nogil=True)
def _move_up(a, n, by):
    """Moves the ``n`` bytes at ``a`` up by ``by``, at least eight."""
    k = n
    while k >= _8:
        k -= _8
        store64(a + k + by, load64(a + k))
    while k > _0:
        k -= _1
        store8(a + k + by, np.uint64(load8(a + k)))


@njit(cache=True, nogil=True)
def _split(a, frame, chunk, message_id):
    """Ends the frame at ``frame``, which is more than full, and begins its continuation with what is too much of it.

    ``chunk``: where the content of its last chunk begins. Returns where the next byte comes to, the last frame and its chunk.
    """
    end = frame + _MAX_FRAME
    while a > end:
        _move_up(end, a - end, np.uint64(_CONTINUE_BYTES))
        _store_be16(frame, _MAX_FRAME)
        store8(frame + _MORE_AT, _1)
        _store_be16(chunk - _LENGTH_BEFORE, end - chunk)
        frame = end
        store64(frame, _0)
        store64(frame + _8, _0)
        store8(frame + _2, _CONTINUE)
        put_be32(frame + _4, message_id)
        store8(frame + _MORE_AT, _0)
        store8(frame + _MORE_AT + _1, _0)
        chunk = frame + _20
        a += _20
        end = frame + _MAX_FRAME
    return a, frame, chunk


@njit(cache=True, nogil=True, inline="always")
def _put_rest(a, timestamp, time_type, value, text, text_size):
    """What follows a form: timestamp, value, annotation unless it is empty, unit unless it is seconds, the ends."""
    store64(a, swap64(np.uint64(timestamp)))
    store8(a + _8, _DOUBLE)
    _store_be16(a + _8 + _1, _2)
    store64(a + _8 + _3, swap64(double_bits(value)))
    a += _8 + _3 + _8
    if text_size != _0:
        store8(a, _BINARY)
        _store_be16(a + _1, _3)
        put_be32(a + _3, text_size)
        copy_short(a + _7, text, text_size)
        a += _7 + text_size
    if time_type != 0:
        store8(a, _I32)
        _store_be16(a + _1, _4)
        put_be32(a + _3, np.uint64(time_type))
        a += _7
    _store_be16(a, _0)
    return a + _2


@njit(cache=True, nogil=True)
def encode(
    order,
    series,
    namespace,
    timestamp,
    time_type,
    values,
    annotation,
    entries,
    arena,
    annotations,
    annotation_at,
    annotation_size,
    heads,
    head_at,
    head_size,
    content_at,
    most,
    first_id,
    out,
    call_at,
    call_row_at,
):
    """Writes the calls of the rows ``order`` (int64), whose namespaces stand together, into ``out``; returns how many calls.

    ``out`` (uint8) has the room that ``measure`` asks for, and that of the frames' beginnings. Columns by row: ``series`` (uint32),
    ``namespace`` (uint16), ``timestamp`` (int64), ``time_type`` (uint8), ``values`` (float64), ``annotation`` (uint16). ``annotations`` and
    ``heads`` (uint8) by number, with where each stands (int64); the struct of the arguments begins ``content_at`` bytes behind the begin of
    a head. A call has ``most`` elements at most; their ids count from ``first_id``. ``call_at`` and ``call_row_at`` (int64) get where each
    call begins in ``out`` and in ``order``, and where the last one ends.
    """  # fmt: skip
    start = base(out)
    a, forms, texts = start, base(arena), base(annotations)
    count, k, rows = 0, 0, len(order)
    while k < rows:
        call_at[count], call_row_at[count] = a - start, k
        number = namespace[order[k]]
        message_id = np.uint64(first_id + count)
        copy_short(a, base(heads) + np.uint64(head_at[number]), np.uint64(head_size[number]))
        put_be32(a + _4, message_id)
        frame, chunk = a, a + np.uint64(content_at)
        a += np.uint64(head_size[number])
        elements = a - _4
        last = min(rows, k + most)
        while k < last and namespace[order[k]] == number:
            if k + _AHEAD_ENTRIES < rows:
                prefetch(base(entries) + np.uint64(16) * np.uint64(series[order[k + _AHEAD_ENTRIES]]))
            if k + _AHEAD_FORMS < rows:
                ahead = entries[series[order[k + _AHEAD_FORMS]]]
                line = forms + np.uint64(ahead.at)
                stop = line + np.uint64(ahead.size)
                while line < stop:
                    prefetch(line)
                    line += _LINE
            row = order[k]
            entry = entries[series[row]]
            size = np.uint64(entry.size)
            copy_short(a, forms + np.uint64(entry.at), size)
            text = annotation[row]
            a = _put_rest(
                a + size, timestamp[row], time_type[row], values[row],
                texts + np.uint64(annotation_at[text]), np.uint64(annotation_size[text]),
            )  # fmt: skip
            if a > frame + _MAX_FRAME:
                a, frame, chunk = _split(a, frame, chunk, message_id)
            k += 1
        put_be32(elements, np.uint64(k - call_row_at[count]))
        _store_be16(a, _0)
        a += _2
        if a > frame + _MAX_FRAME:
            a, frame, chunk = _split(a, frame, chunk, message_id)
        _store_be16(frame, a - frame)
        _store_be16(chunk - _LENGTH_BEFORE, a - chunk)
        count += 1
    call_at[count], call_row_at[count] = a - start, rows
    return count

# mypy: ignore-errors
"""Compiled shorthand: what ingest applied, as rows from which the same can be applied again (``aggregator.journal`` keeps them).

A message of a series that is known, with the metadata that it had the last time, is a *short* row: number of the entry, time, value. Every
other message is a *whole* row: its bytes. Nothing but that is needed to do exactly the same once more, given what was done before and the
stamp of the batch (``apply.apply_to``). An entry's number is that of a whole row that named it, or that of a snapshot.

All numbers are little-endian. A row:

======  ====  =========================================================================================================
offset  size  field
======  ====  =========================================================================================================
0       4     number << 8 | form; number ``NO_NUMBER``: none
4       4     key of the message's shard, id and host (``repeats.message_key``)
8             form ``TIME_MS``: 4 bytes, milliseconds since that of the batch's stamp; ``TIME_NS``: 8 bytes, nanoseconds since 1970;
              neither: the message has no time
              form ``MANY``: 4 bytes, how many doubles follow; else one value of 8 bytes: int64 of an untimed counter, else a double
              form ``NOTE``: 2 bytes, how many bytes of annotation follow
              form ``WHOLE``: 4 bytes, how many bytes of a MetricWithMetadatas message follow, and nothing of the above;
              with ``AGAIN`` it was applied before, and is not applied here
======  ====  =========================================================================================================
"""

import numpy as np
from numba import njit

from aggregator.engine.ingest.apply import DONE, apply_row, apply_to
from aggregator.engine.ingest.entries import key_hash
from aggregator.engine.ingest.forwarded import category_of
from aggregator.engine.ingest.repeats import content
from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.windows.pages import record_address, record_at
from m3metrics.kernels import decode_metric
from m3metrics.rows import ROW_OK, Payload
from m3x.kernels import (
    base,
    copy_short,
    double_bits,
    load8,
    load32,
    load64,
    load_double,
    prefetch,
    store8,
    store32,
    store64,
)

TIME_MS, TIME_NS, NOTE, MANY, AGAIN, WHOLE = 1, 2, 4, 8, 64, 128
NO_NUMBER = (1 << 24) - 1
LARGEST_HEAD = 24
"""A row has at most this many bytes more than its message."""
_MS = 1_000_000
_MAX_NOTE = 65535
_BLOCK = 128

_2 = np.uint64(2)
_4 = np.uint64(4)
_8 = np.uint64(8)
_SHORT, _SKIP = (1 << 62) + 1, 1 << 62
"""``HINT.entry`` of a row that is being replayed: a short one, one that was applied before."""


@njit(cache=True, nogil=True)
def _put_whole(p, buf, row, number, form, key):
    store32(p, np.uint32(number << 8 | form))
    store32(p + _4, key)
    store32(p + _8, row.message_size)
    copy_short(p + np.uint64(12), base(buf) + np.uint64(row.message_at), np.uint64(row.message_size))
    return p + np.uint64(12) + np.uint64(row.message_size)


@njit(cache=True, nogil=True)
def _put_short(p, buf, row, number, key, now_ns):
    form = np.uint32(0)
    q = p + _8
    if row.time_ns != 0:
        ms = row.time_ns // _MS
        ahead = ms - now_ns // _MS
        if ms * _MS == row.time_ns and -(1 << 31) <= ahead < (1 << 31):
            form |= np.uint32(TIME_MS)
            store32(q, np.uint32(ahead & 0xFFFFFFFF))
            q += _4
        else:
            form |= np.uint32(TIME_NS)
            store64(q, np.uint64(row.time_ns))
            q += _8
    payload = np.int64(row.payload)
    if payload == Payload.COUNTER:
        store64(q, np.uint64(row.count))
        q += _8
    elif payload == Payload.TIMERS:
        size = np.uint64(row.values_size)
        if size != _8:
            form |= np.uint32(MANY)
            store32(q, np.uint32(size >> np.uint64(3)))
            q += _4
        copy_short(q, base(buf) + np.uint64(row.values_at), size)
        q += size
    else:
        store64(q, np.uint64(double_bits(row.value)))
        q += _8
    if row.annotation_size != 0:
        form |= np.uint32(NOTE)
        size = np.uint64(row.annotation_size)
        store8(q, size & np.uint64(255))
        store8(q + np.uint64(1), size >> _8)
        copy_short(q + _2, base(buf) + np.uint64(row.annotation_at), size)
        q += _2 + size
    store32(p, np.uint32(number << 8) | form)
    store32(p + _4, key)
    return q


@njit(cache=True, nogil=True)
def write_rows(buf, rows, hints, n, now_ns, out, at):
    """Writes the rows of the messages ``rows[:n]``, which were applied, to ``out[at:]`` (uint8); returns the position after them."""
    start = base(out)
    p = start + np.uint64(at)
    for i in range(n):
        entry = hints[i].entry
        row = rows[i]
        number = entry >> 1
        if entry <= layout.REPEATED:
            p = _put_whole(p, buf, row, min(layout.REPEATED - entry, NO_NUMBER), WHOLE | AGAIN, hints[i].key)
        elif entry < 0 or number >= NO_NUMBER:
            p = _put_whole(p, buf, row, np.int64(NO_NUMBER), WHOLE, hints[i].key)
        elif entry & 1 and row.payload != Payload.FORWARDED and row.annotation_size <= _MAX_NOTE:
            p = _put_short(p, buf, row, number, hints[i].key, now_ns)
        else:
            p = _put_whole(p, buf, row, number, WHOLE, hints[i].key)
    return np.int64(p - start)


@njit(cache=True, nogil=True)
def _read_row(buf, at, end, rows, hints, i, now_ns):
    """Reads the row at ``at`` into ``rows[i]`` and ``hints[i]``; returns where the next one is, or -1 where it is not whole."""
    row = rows[i]
    hint = hints[i]
    if at + 12 > end:
        return np.int64(-1)
    p = base(buf) + np.uint64(at)
    word = np.int64(load32(p))
    form = word & 255
    hint.number = np.uint32(word >> 8)
    hint.key = np.uint32(load32(p + _4))
    at += 8
    if form & WHOLE:
        size = np.int64(load32(p + _8))
        at += 4
        if at + size > end:
            return np.int64(-1)
        hint.entry = np.int64(_SKIP) if form & AGAIN else np.int64(layout.NO_ENTRY)
        hint.row = np.int64(-1)
        hint.found = np.uint64(0)
        if decode_metric(buf, at, at + size, rows, i) == ROW_OK:
            address = base(buf) + np.uint64(row.id_at)
            category = category_of(np.int64(row.payload))
            hint.half = key_hash(address, np.uint64(row.id_size), category, row.metric_type)
        return at + size
    hint.entry = np.int64(_SHORT)
    row.status = np.uint8(ROW_OK)
    row.id_size = np.uint32(0)
    row.id_at = np.uint32(0)
    row.version = np.uint32(0)
    row.payload = np.uint8(Payload.TIMERS)
    row.time_ns = 0
    if form & TIME_NS and at + 8 > end:
        return np.int64(-1)
    if form & TIME_MS:
        row.time_ns = (np.int64(np.int32(load32(p + _8))) + now_ns // _MS) * _MS
        at += 4
    elif form & TIME_NS:
        row.time_ns = np.int64(load64(p + _8))
        at += 8
    size = np.int64(8)
    if form & MANY:
        if at + 4 > end:
            return np.int64(-1)
        size = np.int64(load32(base(buf) + np.uint64(at))) << 3
        at += 4
    if at + size > end:
        return np.int64(-1)
    row.values_at = np.uint32(at)
    row.values_size = np.uint32(size)
    at += size
    row.annotation_size = np.uint32(0)
    if form & NOTE:
        if at + 2 > end:
            return np.int64(-1)
        note = base(buf) + np.uint64(at)
        row.annotation_size = np.uint32(np.int64(load8(note)) | np.int64(load8(note + np.uint64(1))) << 8)
        row.annotation_at = np.uint32(at + 2)
        at += 2 + np.int64(row.annotation_size)
    return at if at <= end else np.int64(-1)


@njit(cache=True, nogil=True)
def _entry_of(numbers, number):
    """Row of the entry of a number, -1: unknown."""
    return np.int64(numbers[np.int64(number)]) - 1 if np.int64(number) < len(numbers) else np.int64(-1)


@njit(cache=True, nogil=True)
def _read_block(t, buf, end, progress, rows, hints, numbers, now_ns):
    """Reads the next rows and asks for the memory that they will need; returns how many there are."""
    n = 0
    while n < _BLOCK and progress.position < end:
        after = _read_row(buf, progress.position, end, rows, hints, n, now_ns)
        if after < 0:
            progress.position = end
            progress.segment = -1
            break
        progress.position = after
        if hints[n].entry == _SHORT:
            hints[n].row = _entry_of(numbers, hints[n].number)
            if hints[n].row >= 0:
                prefetch(base(v.entries(t)) + np.uint64(hints[n].row << 6))
        n += 1
    for i in range(n):
        if hints[i].entry == _SHORT and hints[i].row >= 0:
            ref = np.int64(v.entries(t)[hints[i].row].element) - 1
            if ref >= 0:
                w = v.buckets(t)[ref >> layout.SLOT_BITS].window
                if w >= 0:
                    r = record_at(t, w, ref & layout.SLOT_MASK)
                    if r >= 0:
                        prefetch(record_address(t, r))
    return n


@njit(cache=True, nogil=True)
def _apply_short(t, buf, row, at, scratch, now_ns, call):
    """Applies a short row to entry ``at``; whether that could be done."""
    if at < 0 or v.entries(t)[at].state != layout.ENTRY_LIVE or v.entries(t)[at].stage == 0:
        return False
    key = np.int64(v.stages(t)[np.int64(v.entries(t)[at].stage) - 1].key)
    row.payload = np.uint8(key >> 8)
    row.metric_type = np.uint8(key & 255)
    value = base(buf) + np.uint64(row.values_at)
    if row.payload != Payload.TIMERS:
        if row.values_size < 8:
            return False
        row.values_size = np.uint32(0)
        row.count = np.int64(load64(value))
        row.value = load_double(value)
    apply_to(t, buf, row, at, np.int64(-1), np.uint64(0), scratch, now_ns, call)
    return True


@njit(cache=True, nogil=True)
def replay(t, buf, end, where, rows, hints, scratch, numbers, now_ns):
    """Applies rows from ``where.position`` to ``end`` of ``buf`` (uint8); returns ``DONE`` or ``NEED_*``, as ``scan.ingest`` does.

    ``where`` (PROGRESS, one row): ``call`` as it was, ``acks`` counts rows of which the number is not known, ``segment`` is -1 after a row
    that is not whole: nothing behind it was applied. ``numbers`` (uint32, by number): rows of entries + 1, 0: unknown.
    """
    buf, rows, hints, scratch, numbers = v.borrowed((buf, rows, hints, scratch, numbers))
    progress = where[0]
    while True:
        i = progress.row
        while i < progress.rows:
            hint = hints[i]
            if hint.entry == _SHORT:
                at = _entry_of(numbers, hint.number)
                if not _apply_short(t, buf, rows[i], at, scratch, now_ns, progress.call):
                    progress.acks += 1
            elif hint.entry != _SKIP:
                code = apply_row(t, buf, rows, i, hints, scratch, now_ns, progress.call)
                if code != DONE:
                    progress.row = i
                    return code
                if hint.entry >= 0 and np.int64(hint.number) < len(numbers):
                    numbers[np.int64(hint.number)] = np.uint32((hint.entry >> 1) + 1)
            i += 1
        progress.row = 0
        progress.rows = _read_block(t, buf, end, progress, rows, hints, numbers, now_ns)
        if progress.rows == 0:
            return DONE


@njit(cache=True, nogil=True)
def repeats_of(buf, at, end, rows, hints, numbers, now_ns, words):
    """Fills ``words`` (REPEAT) with what the rows ``buf[at:end]`` are known by, ``content`` 0 where there is no entry; returns how many.

    ``numbers``: as for ``replay``; empty: they are rows of entries.
    """
    buf, rows, hints, numbers = v.borrowed((buf, rows, hints, numbers))
    n = 0
    while at < end and n < len(words):
        at = _read_row(buf, at, end, rows, hints, 0, now_ns)
        if at < 0:
            break
        words[n].content = np.uint64(0)
        words[n].key = hints[0].key
        number = np.int64(hints[0].number)
        if number != NO_NUMBER and rows[0].status == ROW_OK:
            entry = number if len(numbers) == 0 else _entry_of(numbers, number)
            if entry >= 0:
                words[n].content = content(buf, rows[0], entry, hints[0].key)
        n += 1
    return n

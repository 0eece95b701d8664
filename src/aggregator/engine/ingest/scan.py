# mypy: ignore-errors
"""Compiled ingest: frames to applied samples and ack frames.

Blocks of ``BLOCK`` messages go through five passes, so that what one message waits for from memory overlaps with the work on others:

1. read frames (``shapes``), write their acks, try whether the entry is the one behind that of the message before, else hash the key and
   ask for the index word;
2. look for the entries' rows that are not found yet in the index, ask for the entries;
3. ask for the id's bytes, for the record of the window that the value will most likely fall into, and for what tells a repeat;
4. compare the key in full, if it has not been, and apply (``usual``, ``apply``), one message after another, in order;
5. write what was applied, if that is wanted (``shorthand``).

Senders have their series in some order and keep to it, and entries are made in the order in which they come first. So a message is most
often of the entry behind the last one. Where it is not, the index is asked at once, up to ``_RESTARTS`` times in a block: then there is no
order.

Pass 4 leaves the kernel where Python has to help (``NEED_*``); ``PROGRESS`` says where to go on.
"""

import numpy as np
from numba import njit

from aggregator.engine import reasons as why
from aggregator.engine.ingest.apply import DONE, NEED_REPEATS, apply_row, refuse
from aggregator.engine.ingest.entries import is_entry, key_hash, probe
from aggregator.engine.ingest.forwarded import category_of
from aggregator.engine.ingest.repeats import ask_for_repeat, comes_again, expect_once_more, message_key
from aggregator.engine.ingest.shapes import learn, read_as_before
from aggregator.engine.ingest.shorthand import write_rows
from aggregator.engine.ingest.usual import apply_usual, remember
from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.windows.pages import record_address, record_at
from m3metrics.kernels import decode_metric
from m3metrics.rows import ROW_OK
from m3msg.kernels import build_acks, frame_end, read_message
from m3msg.rows import PREFIX, SCAN_FULL, SCAN_MALFORMED, SCAN_MORE
from m3x.kernels import base, prefetch

BLOCK = 256
MAX_FRAME = (1 << 32) - 1
"""The front has checked the size of every frame."""
MAX_ACK_FRAME = 1 << 20
_RESTARTS = 4
_AHEAD = np.uint64(2048)
"""So many bytes before a message is read it is asked for: another process, most often on another processor, has written it."""

_32 = np.uint64(32)
_64 = np.uint64(64)
_LOW = np.uint64(0xFFFFFFFF)


@njit(cache=True, nogil=True)
def _read(buf, start, end, shapes, frames, rows, hints, n):
    """Reads the messages in ``buf[start:end]`` into ``frames[n:BLOCK]``, ``rows[n:BLOCK]`` and the shapes of ``hints[n:BLOCK]``.

    Returns ``(number of the last one + 1, position after it, SCAN_*)``.
    """
    origin = base(buf)
    a = origin + np.uint64(start)
    e = origin + np.uint64(end)
    while n < BLOCK:
        shape = read_as_before(origin, a, e, shapes, frames, rows, n)
        hints[n].shape = shape
        if shape >= 0:
            after = a + shapes[shape].size
            while a < after:
                prefetch(a + _AHEAD)
                a += _64
            a = after
        else:
            after, size, status = frame_end(a, e, MAX_FRAME)
            if after == np.uint64(0):
                return n, np.int64(a - origin), status
            f = frames[n]
            if not read_message(a + np.uint64(PREFIX), after, origin, f):
                return n, np.int64(a - origin), SCAN_MALFORMED
            f.frame_at = a - origin
            f.frame_size = size
            value = np.int64(f.value_at)
            if decode_metric(buf, value, value + np.int64(f.value_size), rows, n) == ROW_OK:
                learn(buf, shapes, frames, rows, n)
            a = after
        n += 1
    return n, np.int64(a - origin), SCAN_FULL


@njit(cache=True, nogil=True)
def _scan(t, buf, ends, hosts, connections, marks, shapes, progress, frames, rows, hints, acks, ack_sizes):
    """Reads the next messages of the batch into ``frames``, ``rows`` and ``hints``, and writes their acks; returns how many."""
    n = 0
    while progress.segment < len(ends) and n < BLOCK:
        segment = progress.segment
        first = n
        n, position, status = _read(buf, progress.position, ends[segment], shapes, frames, rows, hints, n)
        progress.acks = build_acks(buf, frames[first:n], n - first, acks, progress.acks, MAX_ACK_FRAME)
        for i in range(first, n):
            hints[i].key = hosts[segment]
        if len(marks) != 0 and comes_again(marks, connections[segment], frames, first, n) and progress.again == 0:
            progress.again = segment + 1
        progress.position = position
        if status == SCAN_FULL:
            break
        if status != SCAN_MORE or position != ends[segment]:
            refuse(t, why.OTHER, why.D_FRAME, buf, position, 0)
        ack_sizes[segment] = progress.acks - progress.segment_acks
        progress.segment_acks = progress.acks
        progress.position = ends[segment]
        progress.segment = segment + 1
    v.counts(t)[why.C_MESSAGES] += n
    return n


@njit(cache=True, nogil=True)
def _look_ahead(t, buf, frames, rows, hints, n, last):
    """Passes 1 (what does not depend on where a message is) to 3; ``last``: row of the entry of the message before, -1: not known."""
    words = v.entry_index(t)
    mask = v.head(t).index_mask
    expected = last + 1
    restarts = 0
    for i in range(n):
        f = frames[i]
        hints[i].key = message_key(f.shard, f.id, hints[i].key)
        hints[i].entry = layout.NO_ENTRY
        hints[i].row = np.int64(-1)
        hints[i].found = np.uint64(0)
        row = rows[i]
        if row.status == ROW_OK:
            category = category_of(np.int64(row.payload))
            metric_type = np.int64(row.metric_type)
            address = base(buf) + np.uint64(row.id_at)
            size = np.int64(row.id_size)
            at = np.int64(-1)
            if 0 <= expected < v.head(t).entries and is_entry(t, expected, category, metric_type, address, size):
                at = expected
            else:
                half = key_hash(address, np.uint64(size), category, row.metric_type)
                hints[i].half = half
                if restarts < _RESTARTS:
                    restarts += 1
                    at = probe(t, half, category, metric_type, address, size)
                if at < 0:
                    expected = np.int64(-1)
                    prefetch(base(words) + np.uint64((np.int64(half) & mask) << 3))
            if at >= 0:
                hints[i].row = at
                hints[i].found = np.uint64(1)
                expected = at + 1
    table = v.entries(t)
    for i in range(n):
        if rows[i].status == ROW_OK and hints[i].found == 0:
            half = hints[i].half
            at = np.int64(half) & mask
            word = words[at]
            while word != np.uint64(0):
                if word >> _32 == half:
                    hints[i].row = np.int64(word & _LOW) - 1
                    prefetch(base(table) + np.uint64(hints[i].row << 6))
                    break
                at = (at + 1) & mask
                word = words[at]
    expecting = v.head(t).repeats != 0
    for i in range(n):
        if hints[i].row >= 0:
            if expecting:
                ask_for_repeat(t, buf, rows[i], hints[i].row, hints[i].key)
            e = table[hints[i].row]
            address = base(v.ids(t)) + np.uint64(e.id_at)
            prefetch(address)
            if e.id_size > 64:
                prefetch(address + _64)
            ref = np.int64(e.element) - 1
            if ref >= 0:
                bucket = v.buckets(t)[ref >> layout.SLOT_BITS]
                w = bucket.window
                if w >= 0:
                    r = record_at(t, w, ref & layout.SLOT_MASK)
                    if r >= 0:
                        prefetch(record_address(t, r))


@njit(cache=True, nogil=True)
def ingest(
    t, buf, ends, hosts, connections, marks, shapes, at, frames, rows, hints, scratch, acks, ack_sizes, written, now_ns
):
    """Applies a batch: ``buf`` (uint8) holds frames, segment ``k`` ends at ``ends[k]`` and came from host ``hosts[k]`` (uint32), over
    connection ``connections[k]`` (uint64).

    Returns ``DONE`` or ``NEED_*``.

    ``frames`` (FRAME_ROW), ``rows`` (METRIC_ROW) and ``hints`` (HINT) have ``BLOCK`` rows; together with ``at`` (PROGRESS, one row) they
    hold the block that is being worked on. Ack frames go to ``acks`` and their bytes per segment to ``ack_sizes``; ``written`` (uint8) has
    room for the rows of ``shorthand``. ``shapes`` (SHAPE): ``SHAPES`` rows, in which no stage is told. ``marks`` (MARK): ``MARKS`` rows, or
    none where nobody asks for what comes again.
    """
    buf, shapes, frames, rows, hints, scratch, acks, written = v.borrowed(
        (buf, shapes, frames, rows, hints, scratch, acks, written)
    )
    progress = at[0]
    if progress.resumes != 0:
        progress.resumes = 0
        _look_ahead(t, buf, frames, rows, hints, progress.rows, progress.last)
    while True:
        n = progress.rows
        i = progress.row
        while i < n:
            shape = hints[i].shape
            if shape < 0 or not apply_usual(t, buf, rows[i], hints[i], shapes[shape], scratch, now_ns, progress.call):
                code = apply_row(t, buf, rows, i, hints, scratch, now_ns, progress.call)
                if code != DONE:
                    progress.row = i
                    return code
                if shape >= 0 and hints[i].entry >= 0 and hints[i].entry & 1 != 0:
                    remember(t, shapes[shape], hints[i].entry >> 1, rows[i], now_ns)
            if progress.expect != 0:
                expect_once_more(t, buf, rows[i], hints[i])
            i += 1
        if progress.written >= 0:
            progress.written = write_rows(buf, rows, hints, n, now_ns, written, progress.written)
        progress.row = 0
        last = hints[n - 1].entry >> 1 if n > 0 and hints[n - 1].entry >= 0 else np.int64(-1)
        n = _scan(t, buf, ends, hosts, connections, marks, shapes, progress, frames, rows, hints, acks, ack_sizes)
        progress.rows = n
        if n == 0:
            return DONE
        if progress.again > 0:
            progress.resumes = 1
            progress.last = last
            return NEED_REPEATS
        _look_ahead(t, buf, frames, rows, hints, n, last)


@njit(cache=True, nogil=True)
def ingest_one(t, buf, rows, hints, scratch, now_ns, call):
    """Applies the one MetricWithMetadatas message that ``buf`` is; returns ``DONE`` or ``NEED_*``."""
    if decode_metric(buf, 0, len(buf), rows, 0) == ROW_OK:
        row = rows[0]
        category = category_of(np.int64(row.payload))
        address = base(buf) + np.uint64(row.id_at)
        hints[0].half = key_hash(address, np.uint64(row.id_size), category, row.metric_type)
        hints[0].row = np.int64(-1)
        hints[0].found = np.uint64(0)
    return apply_row(t, buf, rows, 0, hints, scratch, now_ns, call)

# mypy: ignore-errors
"""A WriteRequest of known, ordinary series → its messages, in one pass; public through ``coordinator.write.kernels``.

What ``request_kernels``, ``prepare_kernels``, ``cache_kernels.expand`` and the encoder of ``m3metrics`` do one after the other, without the
columns between them: an id is written where its message wants it. The first thing that is anything else ends it, and they do it all.
"""

import numpy as np
from numba import njit

from coordinator.write.cache_kernels import DERIVED, ENTRY, FORM, cache_at, entry_at, form_at, guess, home, probe, touch
from coordinator.write.id_kernels import MOST_LABELS, id_size, put_id_quickly, put_long_id
from coordinator.write.request_kernels import plain_sample
from m3metrics.encode_kernels import SAMPLE_OVERHEAD
from m3x.kernels import base, load8, load16, load64, prefetch, store8, store64
from m3x.keyed_hash import hash_key
from m3x.protobuf.reading import chunk
from m3x.protobuf.words import CONTINUE, gather, spread
from m3x.protobuf.writing import length_size, put_length, put_raw

KNOWN_SLACK = 64
"""Bytes behind the request that may be read, whatever they are."""
ODD, NO_ROOM, UNKNOWN = -1, -2, -3
"""In place of a number of messages: something is not ordinary; the room for messages or for their bytes is too small; a series is not
known."""

_BLOCK = 32
_LABELS_AT, _LABELS_SIZE, _LABELS, _SAMPLES_AT, _END, _H1, _H2, _ENTRY = range(8)
_0, _1, _2, _4, _8, _9, _10, _16, _18 = (np.uint64(n) for n in (0, 1, 2, 4, 8, 9, 10, 16, 18))
_128 = np.uint64(128)
_ENTRY_BYTES, _FORM_BYTES = np.uint64(ENTRY.itemsize), np.uint64(FORM.itemsize)
_LOW56 = np.uint64((1 << 56) - 1)
_COUNTER = 1


@njit(cache=True, nogil=True)
def _read(secret, a, e, rows):
    """Finds the parts of at most ``_BLOCK`` series from the address ``a`` on: ``(series, address after them)``; no series: one is not
    ordinary."""
    n = 0
    while a < e and n < _BLOCK:
        if load8(a) != 0x0A:
            return 0, a
        begin, end = chunk(a + _1, e)
        if end == _0:
            return 0, a
        labels, at, long = 0, begin, False
        while at + _1 < end and load8(at) == 0x0A:
            size = np.uint64(load8(at + _1))
            if size >= _128:
                # At most two bytes; what is behind the end is some of the slack.
                size += (np.uint64(load8(at + _2)) << np.uint64(7)) - _128 + _1
                long = True
            at += size + _2
            labels += 1
        if labels == 0 or labels > MOST_LABELS or at >= end:
            return 0, a
        row = rows[n]
        row[_LABELS_AT], row[_LABELS_SIZE], row[_LABELS] = begin, at - begin, _0 if long else np.uint64(labels)
        row[_SAMPLES_AT], row[_END] = at, end
        row[_H1], row[_H2] = hash_key(secret, begin, at - begin, _0)
        n += 1
        a = end
    return n, a


@njit(cache=True, nogil=True)
def _look_up(cache, rows, n, last):
    """The entries of ``n`` series. ``last``: that of the series before, 0: there is none. Returns the entry of the last one; 0: one is not
    known.

    Series mostly come in the order of their entries, so that the next one is looked at before any slot, which costs a line of memory and
    often a page that the processor has no address of. Where that ends, slots of all the others are asked for together.
    """
    c = cache_at(cache)
    end = c.entries + np.uint64(c.high) * _ENTRY_BYTES
    first = 0
    if last == _0:
        last = rows[0, _ENTRY] = probe(cache, rows[0, _H1], rows[0, _H2])
        if last == _0:
            return _0
        first = 1
    while first < n:
        e = last + _ENTRY_BYTES
        if e >= end or load64(e) != rows[first, _H1] or load64(e + _8) != rows[first, _H2]:
            break
        last = rows[first, _ENTRY] = e
        first += 1
    for i in range(first, n):
        prefetch(home(cache, rows[i, _H1]))
    for i in range(first, n):
        rows[i, _ENTRY] = guess(cache, rows[i, _H1])
        prefetch(rows[i, _ENTRY])
    for i in range(first, n):
        e = rows[i, _ENTRY]
        if e != _0 and (load64(e) != rows[i, _H1] or load64(e + _8) != rows[i, _H2]):
            # Another one has the same half of a hash.
            e = rows[i, _ENTRY] = probe(cache, rows[i, _H1], rows[i, _H2])
        if e == _0:
            return _0
        last = e
    return last


@njit(cache=True, nogil=True)
def _sample(a, e, time_at, value_at):
    """The field ``samples`` at ``a``, as nearly all write it: the address after it, 0: it looks otherwise. See ``plain_sample``."""
    head = load16(a)
    if head == 0x1012:
        return a + _18 if a + _18 <= e and plain_sample(a + _2, a + _18, time_at, value_at) else _0
    # Zero is left out.
    if head != 0x0712 or a + _9 > e or load8(a + _2) != 0x10:
        return _0
    word = load64(a + _1) >> _16
    if word & np.uint64(0x808080808080) != np.uint64(0x008080808080):
        return _0
    store64(value_at, _0)
    store64(time_at, gather(word))
    return a + _9


@njit(cache=True, nogil=True)
def known(cache, buf, size, num_shards, out, offsets, shards):
    """Writes TIMED_METRIC_WITH_METADATAS messages of the WriteRequest ``buf[:size]``: ``(messages, bytes, time of the last one in ms)``.

    ``buf``: uint8, ``KNOWN_SLACK`` bytes longer than the request. ``out``: uint8; ``offsets`` (int64, one longer) and ``shards`` (uint32):
    room for as many messages as ``shards`` is long, filled as the encoders of ``m3metrics.kernels`` and ``expand`` do. Instead of the
    number of messages ``ODD``, ``NO_ROOM`` or ``UNKNOWN``; what is in the arrays then means nothing.
    """
    c = cache_at(cache)
    secret = c.secret
    a = base(buf)
    e = a + np.uint64(size)
    start = base(out)
    to, most = start, start + np.uint64(len(out))
    rows = np.empty((_BLOCK, 8), np.uint64)
    starts = np.empty(MOST_LABELS, np.uint64)
    sample = np.empty(2, np.uint64)
    time_at = base(sample)
    value_at = time_at + _8
    messages = np.int64(0)
    last = np.uint64(0)
    entry_before = np.uint64(0)
    stamp, ninth = _0, _0
    offsets[0] = 0
    while a < e:
        n, a = _read(secret, a, e, rows)
        if n == 0:
            return np.int64(ODD), np.int64(0), np.int64(0)
        entry_before = _look_up(cache, rows, n, entry_before)
        if entry_before == _0:
            return np.int64(UNKNOWN), np.int64(0), np.int64(0)
        for i in range(n):
            entry = entry_at(rows[i, _ENTRY])
            form = form_at(c.forms + np.uint64(entry.form) * _FORM_BYTES)
            if entry.kind != DERIVED or form.untimed != 0 or form.metric_type == _COUNTER:
                return np.int64(ODD), np.int64(0), np.int64(0)
            touch(cache, rows[i, _ENTRY])
            labels_at, labels_size = rows[i, _LABELS_AT], rows[i, _LABELS_SIZE]
            labels = rows[i, _LABELS]
            size_of_id = labels_size + _4 - _2 * labels if labels != _0 else id_size(labels_at, labels_size)
            meta_at, meta_size = c.arena + np.uint64(form.meta_at), np.uint64(form.meta_size)
            shard = entry.shard_hash % np.uint32(num_shards)
            # Behind an id as many bytes as there are of its labels, and 32, may be written.
            wanted = _2 * labels_size + meta_size + np.uint64(SAMPLE_OVERHEAD + 32)
            s = rows[i, _SAMPLES_AT]
            while s < rows[i, _END]:
                if to + wanted > most or messages == len(shards):
                    return np.int64(NO_ROOM), np.int64(0), np.int64(0)
                s = _sample(s, rows[i, _END], time_at, value_at)
                if s == _0:
                    return np.int64(ODD), np.int64(0), np.int64(0)
                if load64(time_at) != last:
                    last = load64(time_at)
                    time_ns = last * np.uint64(1_000_000)
                    if time_ns >> np.uint64(56) == _0:  # before 1972
                        return np.int64(ODD), np.int64(0), np.int64(0)
                    stamp, ninth = spread(time_ns & _LOW56)[0] | CONTINUE, time_ns >> np.uint64(56)
                value = load64(value_at)
                has_value = value << _1 != _0
                metric_size = length_size(size_of_id) + _10
                if has_value:
                    metric_size += _9
                if form.metric_type != 0:
                    metric_size += _2
                store8(to, np.uint64(0x08))
                store8(to + _1, np.uint64(6))
                to = put_length(to + _2, np.uint64(0x3A), length_size(metric_size) + length_size(meta_size))
                to = put_length(to, np.uint64(0x0A), metric_size)
                if form.metric_type != 0:
                    store8(to, np.uint64(0x08))
                    store8(to + _1, np.uint64(form.metric_type))
                    to += _2
                to = put_length(to, np.uint64(0x12), size_of_id)
                if labels != _0:
                    end = put_id_quickly(to, labels_at, labels_size, np.int64(entry.before), starts)
                else:
                    end = put_long_id(to, labels_at, labels_size, np.int64(entry.before), starts)
                if end != to + size_of_id:
                    return np.int64(ODD), np.int64(0), np.int64(0)
                store8(end, np.uint64(0x18))
                store64(end + _1, stamp)
                store8(end + _9, ninth)
                to = end + _10
                if has_value:
                    store8(to, np.uint64(0x21))
                    store64(to + _1, value)
                    to += _9
                to = put_length(to, np.uint64(0x12), meta_size)
                to = put_raw(to, meta_at, meta_size)
                shards[messages] = shard
                messages += 1
                offsets[messages] = np.int64(to - start)
    return messages, np.int64(to - start), np.int64(last)

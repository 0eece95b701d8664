# mypy: ignore-errors
"""Compiled loops of the producer: divide a block over a lane, write frames, mark acks, give up, collect how messages ended.

Rows are ``COPY_ROW``, runs ``RUN_ROW`` (one per shard), tables ``SHARD_ROW`` (one per shard); states are those of ``producer.rows``.
``inflight`` is int64 per connection of the lane: bytes that count in its window.
"""

import numpy as np
from numba import njit

from m3msg.producer.rows import (
    ABANDONED,
    ACKED,
    BIT_ACKED,
    BIT_CLOSED,
    BIT_FENCED,
    BIT_LOST,
    BIT_PENDING,
    BIT_UNWANTED,
    CLOSED,
    COPY_ROW,
    DROPPED,
    EXPIRED,
    FENCED,
    FRAME_OVERHEAD,
    MOVED,
    OUTCOME_ACKED,
    OUTCOME_CLOSED,
    OUTCOME_FENCED,
    OUTCOME_FILTERED,
    OUTCOME_LOST,
    OUTCOME_UNWANTED,
    QUEUED,
    RUN_ROW,
    SENT,
    SHARD_ROW,
    UNWANTED,
    WAITING,
)
from m3msg.rows import ACK_ROW
from m3x.kernels import base, copy32, load64, prefetch, store64
from m3x.protobuf.words import CONTINUE, spread
from m3x.protobuf.writing import put_be32

__all__ = [
    "collect", "encode_rows", "extract", "fill_parcel", "judge", "lapse", "largest", "mark_acks", "requeue", "settle", "warm",
]  # fmt: skip

_QUEUED = np.uint8(QUEUED)
_SENT = np.uint8(SENT)
_WAITING = np.uint8(WAITING)
_ACKED = np.uint8(ACKED)
_MOVED = np.uint8(MOVED)
_LOW56 = np.uint64((1 << 56) - 1)
_AHEAD = 8


@njit(cache=True, nogil=True)
def largest(offsets, shards):
    """The bytes of the largest of ``n`` messages, and the highest of their shards. ``offsets`` int64[n + 1], ``shards`` uint32[n]."""
    size = np.int64(0)
    shard = np.uint32(0)
    for i in range(len(shards)):
        size = max(size, offsets[i + 1] - offsets[i])
        shard = max(shard, shards[i])
    return size, shard


@njit(cache=True, nogil=True)
def fill_parcel(shards, offsets, accept, mask, table, order, rows, runs):
    """Makes the rows of one lane for a block of ``n`` messages.

    ``shards`` uint32[n], ``offsets`` int64[n + 1]; ``accept`` uint8 per shard; ``mask`` uint8[n], or empty for all messages; ``table``
    the lane's shards, whose ``last_id`` moves on; ``order`` uint32: all shards, by connection. ``rows`` has room for ``n``, ``runs`` is
    zeroed. Returns ``(number of rows, their payload bytes)``.
    """
    n = len(shards)
    limit = len(accept)
    masked = len(mask) > 0
    for i in range(n):
        s = np.int64(shards[i])
        if s < limit and accept[s] != 0 and (not masked or mask[i] != 0):
            runs[s].count += np.uint32(1)
    at = 0
    for k in range(limit):
        s = np.int64(order[k])
        c = np.int64(runs[s].count)
        if c > 0:
            runs[s].start = at
            runs[s].first_id = table[s].last_id + np.uint64(1)
            at += c
    total = np.int64(0)
    for i in range(n):
        s = np.int64(shards[i])
        if s < limit and accept[s] != 0 and (not masked or mask[i] != 0):
            entry = table[s]
            ident = entry.last_id + np.uint64(1)
            entry.last_id = ident
            run = runs[s]
            row = rows[np.int64(run.start) + np.int64(ident - run.first_id)]
            size = offsets[i + 1] - offsets[i]
            row.id = ident
            row.message = i
            row.writer = entry.writer
            row.size = size
            row.state = _QUEUED
            row.link = entry.link
            total += size
    return at, total


@njit(cache=True, nogil=True)
def encode_rows(rows, first, last, payload, offsets, resend, now_ns, out, at, room):
    """Writes the frames of ``rows[first:last]`` that are to be sent at ``out[at:]``.

    ``resend`` False: rows in state ``QUEUED``, which become ``SENT``; True: rows in state ``WAITING``, which stay so. ``now_ns`` becomes
    sentAtNanos. ``room`` is what the window still takes, in payload bytes; one message may overdraw it. Returns ``(row to go on with,
    position in out, payload bytes written, messages written)``; it stops early where ``out`` or the window is full.
    """
    want = _WAITING if resend else _QUEUED
    ninth = np.uint64(now_ns) >> np.uint64(56)
    stamp, stamp_size = spread(np.uint64(now_ns) & _LOW56)
    if ninth != np.uint64(0):  # every time after 1972
        stamp |= CONTINUE
        stamp_size = 9
    source = base(payload)
    target = base(out)
    come_end = np.int64(len(payload))
    end = np.int64(len(out))
    p = np.int64(at)
    sent = np.int64(0)
    count = np.int64(0)
    i = np.int64(first)
    while i < last:
        row = rows[i]
        if i + _AHEAD < last:  # payloads lie in order of arrival, rows in order of shard
            soon = source + np.uint64(offsets[np.int64(rows[i + _AHEAD].message)])
            prefetch(soon)
            prefetch(soon + np.uint64(64))
            prefetch(soon + np.uint64(128))
        if row.state == want:
            size = np.int64(row.size)
            if p + size + FRAME_OVERHEAD > end or (sent >= room and not resend):
                break
            start = p
            a = target + np.uint64(p + 6)
            writer = np.uint64(row.writer)
            if writer != np.uint64(0):
                word, n = spread(writer)
                store64(a, word << np.uint64(8) | np.uint64(0x08))
                a += np.uint64(n + 1)
            word, n = spread(np.uint64(row.id))
            store64(a, np.uint64(0x10))
            store64(a + np.uint64(1), word)
            a += np.uint64(n + 1)
            store64(a, np.uint64(0x18))
            store64(a + np.uint64(1), stamp)
            store64(a + np.uint64(9), ninth)
            a += np.uint64(stamp_size + 1)
            p = np.int64(a - target)
            out[start + 4] = np.uint8(0x0A)
            out[start + 5] = np.uint8(p - start - 6)
            if size > 0:
                word, n = spread(np.uint64(size))
                store64(a, word << np.uint64(8) | np.uint64(0x12))
                p += n + 1
                come = offsets[np.int64(row.message)]
                k = np.int64(0)
                if come + size + 32 <= come_end and p + size + 32 <= end:
                    to = target + np.uint64(p)
                    take = source + np.uint64(come)
                    while k < size:
                        copy32(to + np.uint64(k), take + np.uint64(k))
                        k += 32
                elif come + size + 8 <= come_end:
                    to = target + np.uint64(p)
                    take = source + np.uint64(come)
                    while k < size:  # eight at a time; FRAME_OVERHEAD leaves room for the last word
                        store64(to + np.uint64(k), load64(take + np.uint64(k)))
                        k += 8
                else:
                    while k < size:
                        out[p + k] = payload[come + k]
                        k += 1
                p += size
            put_be32(target + np.uint64(start), np.uint64(p - start - 4))
            if not resend:
                row.state = _SENT
            sent += size
            count += 1
        i += 1
    return i, p, sent, count


@njit(cache=True, nogil=True)
def mark_acks(acks, n, rows, runs, inflight):
    """Marks the rows that ``acks[:n]`` (``ACK_ROW``) name; what belongs elsewhere moves to the front of ``acks``.

    Returns ``(acks left, rows newly acked, their payload bytes)``. Acks of rows that are done already are used up silently.
    """
    shards = np.uint64(len(runs))
    left = 0
    marked = 0
    freed = np.int64(0)
    for i in range(n):
        ack = acks[i]
        writer = ack.shard
        ident = ack.id
        found = False
        run = runs[np.int64(writer % shards)]
        offset = ident - run.first_id
        if offset < np.uint64(run.count):
            row = rows[np.int64(run.start) + np.int64(offset)]
            if np.uint64(row.writer) == writer and row.state != _MOVED:
                found = True
                state = row.state
                if state <= _WAITING:
                    if state == _SENT:
                        inflight[np.int64(row.link)] -= np.int64(row.size)
                    row.state = _ACKED
                    marked += 1
                    freed += np.int64(row.size)
        if not found:
            keep = acks[left]
            keep.shard = writer
            keep.id = ident
            left += 1
    return left, marked, freed


@njit(cache=True, nogil=True)
def settle(rows, first, last, state, inflight):
    """Gives up what is pending in ``rows[first:last]``: it gets ``state``. Returns ``(rows given up, their payload bytes)``."""
    count = 0
    freed = np.int64(0)
    for i in range(first, last):
        row = rows[i]
        if row.state <= _WAITING:
            if row.state == _SENT:
                inflight[np.int64(row.link)] -= np.int64(row.size)
            row.state = state
            count += 1
            freed += np.int64(row.size)
    return count, freed


@njit(cache=True, nogil=True)
def lapse(rows, first, last, inflight):
    """The retry interval of ``rows[first:last]`` is over: ``SENT`` becomes ``WAITING``. Returns the number of rows that wait."""
    count = 0
    for i in range(first, last):
        row = rows[i]
        if row.state == _SENT:
            inflight[np.int64(row.link)] -= np.int64(row.size)
            row.state = _WAITING
        if row.state == _WAITING:
            count += 1
    return count


@njit(cache=True, nogil=True)
def requeue(rows, first, last, inflight):
    """The connection is gone: what was sent is to be sent again. Returns ``(pending rows, how many of them had been sent)``."""
    count = 0
    again = 0
    for i in range(first, last):
        row = rows[i]
        if row.state <= _WAITING:
            count += 1
            if row.state != _QUEUED:
                if row.state == _SENT:
                    inflight[np.int64(row.link)] -= np.int64(row.size)
                row.state = _QUEUED
                again += 1
    return count, again


@njit(cache=True, nogil=True)
def extract(rows, runs, wanted, out_rows, out_runs, inflight):
    """Moves all rows of the shards with ``wanted[shard]`` (uint8) to ``out_rows`` (room for all), ``out_runs`` (zeroed), still in order.

    What was sent is to be sent again. Returns ``(rows moved, pending among them, their payload bytes)``; done rows move along, so that
    ids stay consecutive, but their bytes are not counted.
    """
    shards = np.int64(len(runs))
    n = 0
    pending = 0
    total = np.int64(0)
    for i in range(len(rows)):
        row = rows[i]
        s = np.int64(row.writer) % shards
        if wanted[s] == 0 or row.state == _MOVED:
            continue
        if row.state == _SENT:
            inflight[np.int64(row.link)] -= np.int64(row.size)
        new = out_rows[n]
        new.id = row.id
        new.message = row.message
        new.writer = row.writer
        new.size = row.size
        new.link = row.link
        if row.state <= _WAITING:
            new.state = _QUEUED
            pending += 1
            total += np.int64(row.size)
        else:
            new.state = row.state
        row.state = _MOVED
        run = out_runs[s]
        if run.count == 0:
            run.first_id = new.id
            run.start = n
        run.count += np.uint32(1)
        n += 1
    return n, pending, total


@njit(cache=True, nogil=True)
def collect(rows, result):
    """Joins the ``BIT_*`` of every row into ``result`` (uint8 per message of the block)."""
    for i in range(len(rows)):
        row = rows[i]
        state = row.state
        if state <= _WAITING:
            bit = np.uint8(BIT_PENDING)
        elif state == _ACKED:
            bit = np.uint8(BIT_ACKED)
        elif state == CLOSED:
            bit = np.uint8(BIT_CLOSED)
        elif state == UNWANTED:
            bit = np.uint8(BIT_UNWANTED)
        elif state == FENCED:
            bit = np.uint8(BIT_FENCED)
        elif state in (DROPPED, EXPIRED, ABANDONED):
            bit = np.uint8(BIT_LOST)
        else:
            bit = np.uint8(0)
        result[np.int64(row.message)] |= bit


@njit(cache=True, nogil=True)
def judge(result, mask, outcome):
    """How each message ended for one consumer service: ``outcome[i]`` (uint8) rises to it. Returns whether all have ended.

    ``mask`` is the filter of ``fill_parcel`` (empty: none). A message with an ack and pending copies has ended: its other replicas
    cannot be reached, or the caller would not ask.
    """
    masked = len(mask) > 0
    for i in range(len(result)):
        if result[i] & (BIT_PENDING | BIT_ACKED) == BIT_PENDING:
            return False
    for i in range(len(result)):
        bits = result[i]
        if bits & BIT_ACKED:
            end = OUTCOME_ACKED
        elif bits & BIT_FENCED:
            end = OUTCOME_FENCED
        elif bits & BIT_LOST:
            end = OUTCOME_LOST
        elif bits & BIT_CLOSED:
            end = OUTCOME_CLOSED
        elif bits & BIT_UNWANTED:
            end = OUTCOME_UNWANTED
        elif masked and mask[i] == 0:
            end = OUTCOME_FILTERED
        else:
            end = OUTCOME_LOST  # refused: no message writer took it
        outcome[i] = max(outcome[i], end)
    return True


def warm():
    """Compiles every public kernel of this module, or loads it from the cache."""
    shards, offsets = np.zeros(1, np.uint32), np.array([0, 1], np.int64)
    bits, none = np.ones(1, np.uint8), np.zeros(0, np.uint8)
    table, order = np.zeros(1, SHARD_ROW), np.zeros(1, np.uint32)
    rows, runs, inflight = np.zeros(1, COPY_ROW), np.zeros(1, RUN_ROW), np.zeros(1, np.int64)
    largest(offsets, shards)
    n, _ = fill_parcel(shards, offsets, bits, none, table, order, rows, runs)
    out = np.zeros(256, np.uint8)
    encode_rows(rows, 0, n, bits, offsets, False, 1, out, 0, 100)
    mark_acks(np.zeros(1, ACK_ROW), 1, rows, runs, inflight)
    lapse(rows, 0, 1, inflight)
    requeue(rows, 0, 1, inflight)
    settle(rows, 0, 1, DROPPED, inflight)
    extract(rows, runs, bits, np.zeros(1, COPY_ROW), np.zeros(1, RUN_ROW), inflight)
    result = np.zeros(1, np.uint8)
    collect(rows, result)
    judge(result, none, result)

# mypy: ignore-errors
"""Compiled protocol of m3msg: find frames, read their metadata, build ack frames, read ack frames. Format: reference/m3msg.md §1.

Frames of the shape that encoders write (every field once, ascending) take a short path; any other legal shape takes the general
parser below, which follows the rules of M3's generated code: repeated metadata merges, the last value counts, unknown fields are
skipped, a known field of the wrong wire type is an error. Positions inside are ``uint64`` addresses; nothing outside
``[start, end)`` is read.
"""

import numpy as np
from numba import njit

from m3msg.rows import ACK_ROW, FRAME_ROW, MAX_FRAME, PREFIX, SCAN_FULL, SCAN_MALFORMED, SCAN_MORE, SCAN_OVERSIZE
from m3x.kernels import base, load8, load16, load32, load64, put_be32, put_varint, store64, varint_size
from m3x.wire_kernels import field_number, skip_field, swap32, varint

__all__ = ["ACK_BOUND", "ack_size_bound", "build_acks", "read_message", "scan_acks", "scan_frames", "warm"]

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_4 = np.uint64(4)
_7 = np.uint64(7)
_8 = np.uint64(8)

ACK_BOUND = 35
"""Largest number of bytes that one message takes in an ack frame: tag, length, three tags, three varints of ten bytes."""


@njit(cache=True, nogil=True)
def _metadata(a, e, row):
    """Merges the Metadata in ``[a, e)`` into ``row`` (fields ``shard`` and ``id``, and ``sent_at`` of a frame); whether it is legal."""
    shard = row.shard
    ident = row.id
    sent = _0
    has_sent = False
    while a < e:
        tag, a = varint(a, e)
        if a == _0:
            return False, shard, ident, sent, has_sent
        number = field_number(tag)
        wire = tag & _7
        if wire == _4 or number <= 0:
            return False, shard, ident, sent, has_sent
        if number <= 3:
            if wire != _0:
                return False, shard, ident, sent, has_sent
            value, a = varint(a, e)
            if a == _0:
                return False, shard, ident, sent, has_sent
            if number == 1:
                shard = value
            elif number == 2:
                ident = value
            else:
                sent = value
                has_sent = True
        else:
            a = skip_field(a, e, wire)
            if a == _0:
                return False, shard, ident, sent, has_sent
    return True, shard, ident, sent, has_sent


@njit(cache=True, nogil=True)
def _message(a, e, origin, row):
    """Reads any legal Message in ``[a, e)`` into ``row``; whether it is one. Positions are written relative to ``origin``."""
    row.shard = _0
    row.id = _0
    row.sent_at = _0
    row.meta_at = a - origin
    row.meta_size = 0
    row.value_at = e - origin
    row.value_size = 0
    while a < e:
        tag, a = varint(a, e)
        if a == _0:
            return False
        number = field_number(tag)
        wire = tag & _7
        if wire == _4 or number <= 0:
            return False
        if number <= 2:
            if wire != _2:
                return False
            n, a = varint(a, e)
            if a == _0 or n > e - a:
                return False
            if number == 1:
                good, shard, ident, sent, has_sent = _metadata(a, a + n, row)
                if not good:
                    return False
                row.shard = shard
                row.id = ident
                if has_sent:
                    row.sent_at = sent
            else:
                row.value_at = a - origin
                row.value_size = n
            a += n
        else:
            a = skip_field(a, e, wire)
            if a == _0:
                return False
    return True


@njit(cache=True, nogil=True)
def _short_metadata(a, e):
    """Reads the field ``metadata`` at ``a`` if it has the shape that encoders write.

    Returns ``(address after it, shard, id, sentAtNanos)``; the address is 0 where it has another shape.
    """
    if a + _2 > e:
        return _0, _0, _0, _0
    head = load16(a)
    if head & np.uint64(0x80FF) != np.uint64(0x0A):
        return _0, _0, _0, _0
    m = a + _2
    after = m + (head >> _8)
    if after > e:
        return _0, _0, _0, _0
    shard = _0
    ident = _0
    sent = _0
    if m < after and load8(m) == np.uint64(0x08):
        shard, m = varint(m + _1, after)
        if m == _0:
            return _0, _0, _0, _0
    if m < after and load8(m) == np.uint64(0x10):
        ident, m = varint(m + _1, after)
        if m == _0:
            return _0, _0, _0, _0
    if m < after and load8(m) == np.uint64(0x18):
        sent, m = varint(m + _1, after)
        if m == _0:
            return _0, _0, _0, _0
    if m != after:
        return _0, _0, _0, _0
    return after, shard, ident, sent


@njit(cache=True, nogil=True)
def _canonical(a, e, origin, row):
    """Reads a Message of the shape that encoders write; False: try ``_message``."""
    after, shard, ident, sent = _short_metadata(a, e)
    if after == _0:
        return False
    if after == e:
        row.value_at = e - origin
        row.value_size = 0
    else:
        if load8(after) != np.uint64(0x12):
            return False
        n, v = varint(after + _1, e)
        if v == _0 or n != e - v:
            return False
        row.value_at = v - origin
        row.value_size = n
    row.shard = shard
    row.id = ident
    row.sent_at = sent
    row.meta_at = a - origin
    row.meta_size = after - a
    return True


@njit(cache=True, nogil=True)
def read_message(a, e, origin, row):
    """Reads the Message in ``[a, e)`` into ``row`` (a record of ``FRAME_ROW``), positions relative to ``origin``; whether it is legal.

    ``frame_at`` and ``frame_size`` are left alone.
    """
    return _canonical(a, e, origin, row) or _message(a, e, origin, row)


@njit(cache=True, nogil=True)
def scan_frames(buf, start, end, max_frame, rows):
    """Finds the complete Message frames in ``buf[start:end]`` (uint8; positions below 4 GiB) and fills ``rows`` (``FRAME_ROW``).

    Returns ``(number of rows, position after the last frame taken, SCAN_*)``. Oversize is reported as soon as the length prefix is
    there. Frames before an oversize or malformed one have their rows: process and ack them, then close the connection.
    """
    origin = base(buf)
    a = origin + np.uint64(start)
    e = origin + np.uint64(end)
    limit = np.uint64(max_frame)
    n = 0
    while a + _4 <= e:
        size = swap32(load32(a))
        if size > limit:
            return n, np.int64(a - origin), SCAN_OVERSIZE
        body = a + _4
        if size > e - body:
            break
        if n == len(rows):
            return n, np.int64(a - origin), SCAN_FULL
        after = body + size
        row = rows[n]
        if not read_message(body, after, origin, row):
            return n, np.int64(a - origin), SCAN_MALFORMED
        row.frame_at = a - origin
        row.frame_size = size + _4
        n += 1
        a = after
    return n, np.int64(a - origin), SCAN_MORE


def ack_size_bound(n: int, max_frame: int = MAX_FRAME) -> int:
    """Size of an output buffer that ``build_acks`` never overruns for ``n`` rows (a little slack included)."""
    per_frame = max(max_frame // ACK_BOUND, 1)
    return n * ACK_BOUND + (n // per_frame + 1) * PREFIX + 40


@njit(cache=True, nogil=True)
def build_acks(buf, rows, n, out, at, max_frame):
    """Writes ack frames for ``rows[:n]`` (``FRAME_ROW``, ranges in ``buf``) at ``out[at:]``; returns the position after them.

    Each frame's payload is at most ``max_frame`` (≥ ``ACK_BOUND``) bytes long: M3's own consumer loses a larger ack batch entirely
    (reference/m3msg.md §25.11). ``out`` must have ``ack_size_bound(n, max_frame)`` bytes free. Nothing is written for ``n`` = 0.
    """
    source = base(buf)
    target = base(out)
    size = np.int64(len(buf))
    frame = np.int64(at)
    p = frame + PREFIX
    for i in range(n):
        row = rows[i]
        m = np.int64(row.meta_size)
        if m > 0:
            need = m
        else:
            body = 0
            if row.shard != _0:
                body += 1 + varint_size(row.shard)
            if row.id != _0:
                body += 1 + varint_size(row.id)
            if row.sent_at != _0:
                body += 1 + varint_size(row.sent_at)
            need = 2 + body
        if p + need - frame - PREFIX > max_frame:
            put_be32(out, frame, p - frame - PREFIX)
            frame = p
            p += PREFIX
        if m > 0:
            come = np.int64(row.meta_at)
            k = np.int64(0)
            if come + m + 8 <= size:  # eight bytes at a time, into bytes that the next entry overwrites
                while k < m:
                    store64(target + np.uint64(p + k), load64(source + np.uint64(come + k)))
                    k += 8
            else:
                while k < m:
                    out[p + k] = buf[come + k]
                    k += 1
            p += m
        else:
            out[p] = np.uint8(0x0A)
            out[p + 1] = np.uint8(need - 2)
            p += 2
            if row.shard != _0:
                out[p] = np.uint8(0x08)
                p = put_varint(out, p + 1, row.shard)
            if row.id != _0:
                out[p] = np.uint8(0x10)
                p = put_varint(out, p + 1, row.id)
            if row.sent_at != _0:
                out[p] = np.uint8(0x18)
                p = put_varint(out, p + 1, row.sent_at)
    if p == frame + PREFIX:
        return frame
    put_be32(out, frame, p - frame - PREFIX)
    return p


@njit(cache=True, nogil=True)
def scan_acks(buf, start, end, max_frame, rows):
    """Reads the complete Ack frames in ``buf[start:end]`` into ``rows`` (``ACK_ROW``), one row per metadata.

    Returns ``(number of rows, position after the last frame taken, SCAN_*)``. A frame is taken as a whole or not at all: ``rows``
    should have ``(end - start) // 2`` elements, which is enough for anything.
    """
    origin = base(buf)
    a = origin + np.uint64(start)
    e = origin + np.uint64(end)
    limit = np.uint64(max_frame)
    n = 0
    while a + _4 <= e:
        size = swap32(load32(a))
        if size > limit:
            return n, np.int64(a - origin), SCAN_OVERSIZE
        body = a + _4
        if size > e - body:
            break
        after = body + size
        k = n
        q = body
        while q < after:
            following, shard, ident, _sent = _short_metadata(q, after)
            if following != _0:
                if k == len(rows):
                    return n, np.int64(a - origin), SCAN_FULL
                row = rows[k]
                row.shard = shard
                row.id = ident
                k += 1
                q = following
                continue
            tag, q = varint(q, after)
            if q == _0:
                return n, np.int64(a - origin), SCAN_MALFORMED
            number = field_number(tag)
            wire = tag & _7
            if wire == _4 or number <= 0:
                return n, np.int64(a - origin), SCAN_MALFORMED
            if number == 1:
                if wire != _2:
                    return n, np.int64(a - origin), SCAN_MALFORMED
                length, q = varint(q, after)
                if q == _0 or length > after - q:
                    return n, np.int64(a - origin), SCAN_MALFORMED
                if k == len(rows):
                    return n, np.int64(a - origin), SCAN_FULL
                row = rows[k]
                row.shard = _0
                row.id = _0
                good, shard, ident, _sent, _has = _metadata(q, q + length, row)
                if not good:
                    return n, np.int64(a - origin), SCAN_MALFORMED
                row.shard = shard
                row.id = ident
                k += 1
                q += length
            else:
                q = skip_field(q, after, wire)
                if q == _0:
                    return n, np.int64(a - origin), SCAN_MALFORMED
        n = k
        a = after
    return n, np.int64(a - origin), SCAN_MORE


def warm():
    """Compiles every public kernel of this module, or loads it from the cache."""
    buf = np.zeros(64, np.uint8)
    buf[:6] = (0, 0, 0, 2, 0x0A, 0)
    rows = np.zeros(2, FRAME_ROW)
    n, _, _ = scan_frames(buf, 0, 6, MAX_FRAME, rows)
    out = np.zeros(ack_size_bound(n), np.uint8)
    size = build_acks(buf, rows, n, out, 0, MAX_FRAME)
    scan_acks(out, 0, size, MAX_FRAME, np.zeros(2, ACK_ROW))

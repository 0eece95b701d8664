# mypy: ignore-errors
"""Compiled protocol of m3msg: find frames, read their metadata, build ack frames, read ack frames. Format: docs/m3/m3msg.md, frames.

Frames of the shape that encoders write (every field once, ascending) take a short path; any other legal shape takes the general
parser below, which follows the rules of M3's generated code: repeated metadata merges, the last value counts, unknown fields are
skipped, a known field of the wrong wire type is an error. Positions inside are ``uint64`` addresses; nothing outside
``[start, end)`` is read.
"""

import numpy as np
from numba import njit

from m3msg.rows import ACK_ROW, FRAME_ROW, MAX_FRAME, PREFIX, SCAN_FULL, SCAN_MALFORMED, SCAN_MORE, SCAN_OVERSIZE
from m3x.kernels import base, load8, load16, load32, store8
from m3x.protobuf.reading import BYTES, VARINT, chunk, field, short_size, skip, skip_varint, varint
from m3x.protobuf.words import swap32
from m3x.protobuf.writing import int_size, put_be32, put_int, put_raw

__all__ = [
    "ACK_BOUND", "LEAST_USUAL", "ack_size_bound", "build_acks", "frame_end", "message_value", "read_message", "scan_acks",
    "scan_frames", "usual_value", "warm",
]  # fmt: skip

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_7 = np.uint64(7)
_8 = np.uint64(8)
_16 = np.uint64(16)
_PREFIX = np.uint64(PREFIX)
_TAG_1, _TAG_2 = np.uint64(0x0A), np.uint64(0x12)
"""Length-delimited fields 1 and 2."""
_SHARD, _ID, _SENT_AT = np.uint64(0x08), np.uint64(0x10), np.uint64(0x18)
"""The tags of a Metadata."""

LEAST_USUAL = np.uint64(32)
"""Shorter messages take the general walk, so that the short one may read a little ahead of what it checks."""

ACK_BOUND = 35
"""Largest number of bytes that one message takes in an ack frame: tag, length, three tags, three varints of ten bytes."""


@njit(cache=True, nogil=True)
def frame_end(a, e, limit):
    """The frame at ``a``: ``(address after it, its size, SCAN_*)``, all but the status ``uint64``; the size counts the prefix.

    The address is 0 where the frame does not end before ``e`` (``SCAN_MORE``; its size is 4 while it is not known) and where its payload is
    longer than ``limit`` (``SCAN_OVERSIZE``, as soon as the prefix is there).
    """
    if a + _PREFIX > e:
        return _0, _PREFIX, SCAN_MORE
    size = swap32(load32(a))
    after = a + _PREFIX + size
    if size > limit:
        return _0, size + _PREFIX, SCAN_OVERSIZE
    if after > e:
        return _0, size + _PREFIX, SCAN_MORE
    return after, size + _PREFIX, SCAN_MORE


@njit(cache=True, nogil=True)
def _metadata(a, e, shard, ident, sent):
    """Merges the Metadata in ``[a, e)`` into the other three: ``(whether it is legal, shard, id, sentAtNanos)``."""
    while a < e:
        number, wire, a = field(a, e)
        if a == _0:
            return False, shard, ident, sent
        if number > 3:
            a = skip(a, e, wire)
        elif wire != VARINT:
            return False, shard, ident, sent
        elif number == 1:
            shard, a = varint(a, e)
        elif number == 2:
            ident, a = varint(a, e)
        else:
            sent, a = varint(a, e)
        if a == _0:
            return False, shard, ident, sent
    return True, shard, ident, sent


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
        number, wire, a = field(a, e)
        if a == _0:
            return False
        if number > 2:
            a = skip(a, e, wire)
        elif wire != BYTES:
            return False
        else:
            start, a = chunk(a, e)
            if a != _0 and number == 1:
                good, row.shard, row.id, row.sent_at = _metadata(start, a, row.shard, row.id, row.sent_at)
                if not good:
                    return False
            elif a != _0:
                row.value_at = start - origin
                row.value_size = a - start
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
    if head & np.uint64(0x80FF) != _TAG_1:
        return _0, _0, _0, _0
    m = a + _2
    after = m + (head >> _8)
    if after > e:
        return _0, _0, _0, _0
    shard = _0
    ident = _0
    sent = _0
    if m < after and load8(m) == _SHARD:
        shard, m = varint(m + _1, after)
        if m == _0:
            return _0, _0, _0, _0
    if m < after and load8(m) == _ID:
        ident, m = varint(m + _1, after)
        if m == _0:
            return _0, _0, _0, _0
    if m < after and load8(m) == _SENT_AT:
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
    start = e
    if after != e:
        if load8(after) != _TAG_2:
            return False
        start, stop = chunk(after + _1, e)
        if stop != e:
            return False
    row.value_at = start - origin
    row.value_size = e - start
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
def usual_value(a, e):
    """``(start, stop)`` of the value in the Message at ``[a, e)``; start 0: not the shape that encoders write.

    ``_canonical`` for whoever needs no metadata: its varints are skipped.
    """
    if e - a < LEAST_USUAL:
        return _0, _0
    head = np.uint64(load16(a))
    if head & np.uint64(0x80FF) != _TAG_1:
        return _0, _0
    p = a + _2
    after = p + (head >> _8)
    # Behind the metadata: a tag and a length here, and so much more that nothing below can read past ``e``.
    if after + _16 > e:
        return _0, _0
    last = _0
    while p < after:
        tag = np.uint64(load8(p))
        if tag <= last or tag > _SENT_AT or tag & _7 != VARINT:
            return _0, _0
        last = tag
        p = skip_varint(p + _1)
        if p == _0:
            return _0, _0
    if p != after or load8(p) != _TAG_2:
        return _0, _0
    n, p = short_size(p + _1)
    if p == _0 or p + n != e:
        return _0, _0
    return p, e


@njit(cache=True, nogil=True)
def message_value(a, e, origin, row):
    """``(start, stop)``, addresses, of the value in the Message at ``[a, e)``, an absent one is empty; start 0: it is none.

    ``row`` (a record of ``FRAME_ROW``) is room for the general parser, ``origin`` an address at or before ``a``.
    """
    at, stop = usual_value(a, e)
    if at != _0:
        return at, stop
    if not read_message(a, e, origin, row):
        return _0, _0
    at = origin + np.uint64(row.value_at)
    return at, at + np.uint64(row.value_size)


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
    while True:
        after, size, status = frame_end(a, e, limit)
        if after == _0:
            return n, np.int64(a - origin), status
        if n == len(rows):
            return n, np.int64(a - origin), SCAN_FULL
        row = rows[n]
        if not read_message(a + _PREFIX, after, origin, row):
            return n, np.int64(a - origin), SCAN_MALFORMED
        row.frame_at = a - origin
        row.frame_size = size
        n += 1
        a = after


def ack_size_bound(n: int, max_frame: int = MAX_FRAME) -> int:
    """Size of an output buffer that ``build_acks`` never overruns for ``n`` rows (a little slack included)."""
    per_frame = max(max_frame // ACK_BOUND, 1)
    return n * ACK_BOUND + (n // per_frame + 1) * PREFIX + 40


@njit(cache=True, nogil=True)
def build_acks(buf, rows, n, out, at, max_frame):
    """Writes ack frames for ``rows[:n]`` (``FRAME_ROW``, ranges in ``buf``) at ``out[at:]``; returns the position after them.

    Each frame's payload is at most ``max_frame`` (≥ ``ACK_BOUND``) bytes long: M3's own consumer loses a larger ack batch entirely
    (docs/m3/m3msg.md, ack batches). ``out`` must have ``ack_size_bound(n, max_frame)`` bytes free. Nothing is written for ``n`` = 0.
    """
    source = base(buf)
    target = base(out)
    limit = np.uint64(max_frame)
    frame = target + np.uint64(at)
    p = frame + _PREFIX
    for i in range(n):
        row = rows[i]
        echo = np.uint64(row.meta_size)
        need = echo
        if echo == _0:
            need = _2 + int_size(row.shard) + int_size(row.id) + int_size(row.sent_at)
        if p + need - frame - _PREFIX > limit:
            put_be32(frame, p - frame - _PREFIX)
            frame = p
            p += _PREFIX
        if echo != _0:
            p = put_raw(p, source + np.uint64(row.meta_at), echo)
        else:
            store8(p, _TAG_1)
            store8(p + _1, need - _2)
            p = put_int(p + _2, _SHARD, row.shard)
            p = put_int(p, _ID, row.id)
            p = put_int(p, _SENT_AT, row.sent_at)
    if p == frame + _PREFIX:
        return np.int64(frame - target)
    put_be32(frame, p - frame - _PREFIX)
    return np.int64(p - target)


@njit(cache=True, nogil=True)
def _ack_field(a, e):
    """Reads any field of an Ack at ``a``: ``(address after it, whether it is a metadata, its shard, its id)``; address 0: not legal."""
    number, wire, a = field(a, e)
    if a == _0:
        return _0, False, _0, _0
    if number != 1:
        return skip(a, e, wire), False, _0, _0
    if wire != BYTES:
        return _0, False, _0, _0
    start, stop = chunk(a, e)
    if stop == _0:
        return _0, False, _0, _0
    good, shard, ident, _sent = _metadata(start, stop, _0, _0, _0)
    return stop if good else _0, True, shard, ident


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
    while True:
        after, _size, status = frame_end(a, e, limit)
        if after == _0:
            return n, np.int64(a - origin), status
        k = n
        q = a + _PREFIX
        while q < after:
            following, shard, ident, _sent = _short_metadata(q, after)
            found = following != _0
            if not found:
                following, found, shard, ident = _ack_field(q, after)
            q = following
            if q == _0:
                return n, np.int64(a - origin), SCAN_MALFORMED
            if found:
                if k == len(rows):
                    return n, np.int64(a - origin), SCAN_FULL
                row = rows[k]
                row.shard = shard
                row.id = ident
                k += 1
        n = k
        a = after


def warm():
    """Compiles every public kernel of this module, or loads it from the cache."""
    buf = np.zeros(64, np.uint8)
    buf[:6] = (0, 0, 0, 2, 0x0A, 0)
    rows = np.zeros(2, FRAME_ROW)
    n, _, _ = scan_frames(buf, 0, 6, MAX_FRAME, rows)
    out = np.zeros(ack_size_bound(n), np.uint8)
    size = build_acks(buf, rows, n, out, 0, MAX_FRAME)
    scan_acks(out, 0, size, MAX_FRAME, np.zeros(2, ACK_ROW))

# mypy: ignore-errors
"""Compiled loops of the front: cut a byte stream into m3msg frames, and hand each frame to the worker of its metric.

A frame is a big-endian 32-bit length and a ``msgpb.Message`` (docs/m3/m3msg.md, frames). Both loops look only at the outside of
a message: that it is a ``Message`` at all (a frame that is none ends its connection, as in M3), where its value starts, and where the
metric id is in that value (docs/m3/metrics.md, wrappers). The shape that encoders write takes a short path, any other one the general
walk. Every read is checked against the end of its enclosing field; positions are byte offsets (int64), addresses are uint64. Frames and
messages are ``m3msg.kernels``' to walk.

``scan``    which part of a buffer is complete, legal frames: all that one worker needs
``route``   the same, and copies each frame into the staging buffer of the worker that owns its shard
``owner_of`` the worker of one single frame

``route`` works on blocks of frames, in three passes: find the ids, hash them (four side by side), copy.
"""

import numpy as np
from numba import njit

from m3msg.kernels import LEAST_USUAL, frame_end, message_value
from m3msg.rows import FRAME_ROW, PREFIX, SCAN_FULL, SCAN_MALFORMED, SCAN_MORE, SCAN_OVERSIZE
from m3x.kernels import base, copy_short, load8, load32, murmur3_32_of_four
from m3x.protobuf.reading import BYTES, FIXED64, VARINT, chunk, field, short_size, skip, skip_varint, varint

MORE = SCAN_MORE
"""All complete frames are done; the rest of the buffer is the beginning of the next one."""
OVERSIZE = SCAN_OVERSIZE
"""A length prefix above the limit: the stream cannot be followed any further."""
MALFORMED = SCAN_MALFORMED
"""A frame that is no ``msgpb.Message``."""
FULL = SCAN_FULL
"""The staging buffer of a worker has no room for the next frame."""
_GO_ON = 4
"""A block of frames is full."""

# Columns of the table that ``route`` reads and writes, one row per worker.
ADDRESS, CAPACITY, USED, COUNT, DISCARD, DISCARDED, DISCARDED_BYTES, COLUMNS = range(8)

_BLOCK = 64
"""Frames per block: their ids are still in the nearest cache when they are copied."""

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_3 = np.uint64(3)
_6 = np.uint64(6)
_7 = np.uint64(7)
_8 = np.uint64(8)
_9 = np.uint64(9)
_16 = np.uint64(16)
_FF = np.uint64(0xFF)
_80 = np.uint64(0x80)
_PREFIX = np.uint64(PREFIX)

_TAG_1, _TAG_2 = np.uint64(0x0A), np.uint64(0x12)
"""Length-delimited fields 1 and 2."""


@njit(cache=True, nogil=True)
def _usual_id(a, e):
    """``(start, stop)`` of the id in the ``MetricWithMetadatas`` at ``[a, e)``; start 0: not the shape that encoders write."""
    if e - a < LEAST_USUAL:
        return _0, _0
    head = np.uint64(load32(a))
    kind = (head >> _8) & _FF
    if head & _FF != _8 or kind < _1 or kind > _6 or (head >> _16) & _FF != (((kind + _1) << _3) | _2):
        return _0, _0
    n, p = short_size(a + _3)
    if p == _0 or p + n != e or load8(p) != _TAG_1:
        return _0, _0
    n, p = short_size(p + _1)
    stop = p + n
    # Behind the metric come a tag, a length and what it counts, so two bytes more may be read anywhere in the metric.
    if p == _0 or n < _2 or stop + _3 > e or load8(stop) != _TAG_2:
        return _0, _0
    n, q = short_size(stop + _1)
    if q == _0 or q + n != e:
        return _0, _0
    tag = _TAG_1
    if kind > _3:
        tag = _TAG_2
        if load8(p) == _8 and load8(p + _1) < _80:
            p += _2
    if p >= stop or np.uint64(load8(p)) != tag:
        return _0, _0
    n, p = short_size(p + _1)
    after = p + n
    if p == _0 or after > stop:
        return _0, _0
    q = after
    while q < stop:
        found = np.uint64(load8(q))
        if found <= (tag | _7) or found >= _80:
            return _0, _0
        if found & _7 == FIXED64:
            q += _9
        elif found & _7 == VARINT and q + _16 <= e:
            q = skip_varint(q + _1)
        else:
            q = skip(q + _1, stop, found & _7)
        if q == _0 or q > stop:
            return _0, _0
    return p, after


@njit(cache=True, nogil=True)
def _last_bytes(a, e, number):
    """``(legal, start, stop)`` of the last length-delimited field ``number``; start 0: there is none."""
    start = _0
    stop = _0
    while a < e:
        found, wire, a = field(a, e)
        if a == _0:
            return False, _0, _0
        if found != number:
            a = skip(a, e, wire)
        elif wire == BYTES:
            start, a = chunk(a, e)
            stop = a
        else:
            return False, _0, _0
        if a == _0:
            return False, _0, _0
    return True, start, stop


@njit(cache=True, nogil=True)
def _payload_type(a, e):
    """``MetricWithMetadatas.type`` of ``[a, e)``; 0 if it is absent or anything is broken."""
    kind = _0
    while a < e:
        found, wire, a = field(a, e)
        if a == _0:
            return _0
        if found != 1:
            a = skip(a, e, wire)
        elif wire == VARINT:
            kind, a = varint(a, e)
        else:
            return _0
        if a == _0:
            return _0
    return kind


@njit(cache=True, nogil=True)
def metric_id(a, e):
    """``(start, stop)`` of the metric id in the ``MetricWithMetadatas`` at ``[a, e)`` (docs/m3/metrics.md, messages); start 0: no metric.

    Repeated fields: the last one counts, as it does when Go's decoder merges them. A metric without an id has the empty one.
    """
    at, stop = _usual_id(a, e)
    if at != _0:
        return at, stop
    kind = _payload_type(a, e)
    if kind < _1 or kind > _7:
        return _0, _0
    legal, at, stop = _last_bytes(a, e, np.int64(kind) + 1)
    if not legal or at == _0:
        return _0, _0
    legal, at, stop = _last_bytes(at, stop, 1)
    if legal and at != _0:
        legal, at, stop = _last_bytes(at, stop, 1 if kind <= _3 else 2)
    if not legal:
        return _0, _0
    if at == _0:
        return e, e
    return at, stop


@njit(cache=True, nogil=True)
def scan(buf, start, end, max_frame):
    """Walks over the complete frames of ``buf[start:end]`` (uint8).

    Returns ``(next, count, status, need)``: the position after the last good frame, how many there are, ``MORE``, ``OVERSIZE`` or
    ``MALFORMED``, and the whole size of the frame at ``next`` in bytes (4 while its length is unknown).
    """
    origin = base(buf)
    row = np.empty(1, FRAME_ROW)[0]
    a = origin + np.uint64(start)
    e = origin + np.uint64(end)
    limit = np.uint64(max_frame)
    count = 0
    while True:
        after, size, status = frame_end(a, e, limit)
        if after != _0 and message_value(a + _PREFIX, after, origin, row)[0] == _0:
            after, status = _0, MALFORMED
        if after == _0:
            return np.int64(a - origin), count, status, np.int64(size)
        a = after
        count += 1


@njit(cache=True, nogil=True)
def _locate(origin, a, e, limit, row, starts, ids, sizes):
    """First pass of ``route``: the frames from ``a`` on, at most a block, and the ids of their metrics.

    Fills ``starts`` (addresses; one more than frames: where the last one ends), ``ids`` (addresses, 0: no metric) and ``sizes``, all
    uint64. Returns ``(count, status, need)`` as ``route``, ``_GO_ON`` after a full block.
    """
    n = 0
    while True:
        starts[n] = a
        if n == _BLOCK:
            return n, _GO_ON, np.int64(PREFIX)
        after, size, status = frame_end(a, e, limit)
        if after == _0:
            return n, status, np.int64(size)
        at, stop = message_value(a + _PREFIX, after, origin, row)
        if at == _0:
            return n, MALFORMED, np.int64(size)
        at, stop = metric_id(at, stop)
        ids[n] = at
        sizes[n] = stop - at
        a = after
        n += 1


@njit(cache=True, nogil=True)
def _hash_all(n, ids, sizes, hashes):
    """Second pass of ``route``: the hashes of the first ``n`` ids; there is room for three more, which repeat the first."""
    for k in range(n, n + 3):
        ids[k] = ids[0]
        sizes[k] = sizes[0]
    for k in range(0, n, 4):
        murmur3_32_of_four(ids, sizes, k, hashes)


@njit(cache=True, nogil=True)
def route(buf, start, end, max_frame, owners, table):
    """``scan`` that also copies each frame into the staging buffer of its worker.

    ``owners`` (int32, one per shard) names the worker of each shard, negative for nobody here. ``table`` (int64, workers ×
    ``COLUMNS``): reads ``ADDRESS`` and ``CAPACITY`` of the staging buffer and ``DISCARD``; adds to ``USED`` and ``COUNT``, or to
    ``DISCARDED`` and ``DISCARDED_BYTES`` if ``DISCARD`` is set. Returns as ``scan``; with ``FULL``, ``need`` is the worker
    whose staging buffer must be emptied before the call is repeated from ``next``.
    """
    origin = base(buf)
    e = origin + np.uint64(end)
    limit = np.uint64(max_frame)
    row = np.empty(1, FRAME_ROW)[0]
    starts = np.empty(_BLOCK + 1, np.uint64)
    ids = np.empty(_BLOCK + 3, np.uint64)
    sizes = np.empty(_BLOCK + 3, np.uint64)
    hashes = np.empty(_BLOCK + 3, np.uint32)
    shards = np.uint32(len(owners))
    starts[0] = origin + np.uint64(start)
    count = 0
    status = _GO_ON
    need = np.int64(PREFIX)
    while status == _GO_ON:
        n, status, need = _locate(origin, starts[0], e, limit, row, starts, ids, sizes)
        _hash_all(n, ids, sizes, hashes)
        for k in range(n):
            worker = np.int64(0)
            if ids[k] != _0:
                worker = np.int64(max(owners[hashes[k] % shards], 0))
            at = starts[k]
            total = np.int64(starts[k + 1] - at)
            if table[worker, DISCARD] != 0:
                table[worker, DISCARDED] += 1
                table[worker, DISCARDED_BYTES] += total
            else:
                used = table[worker, USED]
                if used + total > table[worker, CAPACITY]:
                    return np.int64(at - origin), count, FULL, worker
                copy_short(np.uint64(table[worker, ADDRESS] + used), at, np.uint64(total))
                table[worker, USED] = used + total
                table[worker, COUNT] += 1
            count += 1
        starts[0] = starts[n]
    return np.int64(starts[0] - origin), count, status, need


@njit(cache=True, nogil=True)
def owner_of(buf, start, end, owners):
    """Worker of the one legal frame at ``buf[start:end]``; ``owners`` as in ``route``."""
    origin = base(buf)
    row = np.empty(1, FRAME_ROW)[0]
    ids = np.zeros(4, np.uint64)
    sizes = np.zeros(4, np.uint64)
    hashes = np.empty(4, np.uint32)
    at, stop = message_value(origin + np.uint64(start) + _PREFIX, origin + np.uint64(end), origin, row)
    at, stop = metric_id(at, stop)
    if at == _0:
        return np.int64(0)
    ids[0] = at
    sizes[0] = stop - at
    _hash_all(1, ids, sizes, hashes)
    return np.int64(max(owners[hashes[0] % np.uint32(len(owners))], 0))


def warm() -> None:
    """Compiles both loops, or loads them from the cache."""
    frame = np.array([0, 0, 0, 2, 0x0A, 0], np.uint8)
    staging = np.zeros(64, np.uint8)
    table = np.zeros((1, COLUMNS), np.int64)
    table[0, ADDRESS], table[0, CAPACITY] = staging.ctypes.data, len(staging)
    owners = np.zeros(1, np.int32)
    scan(frame, 0, len(frame), 1024)
    route(frame, 0, len(frame), 1024, owners, table)
    owner_of(frame, 0, len(frame), owners)

# mypy: ignore-errors
"""Compiled loops of the front: cut a byte stream into m3msg frames, and hand each frame to the worker of its metric.

A frame is a big-endian 32-bit length and a ``msgpb.Message`` (docs/m3/m3msg.md, frames). Both loops look only at the outside of
a message: that it is a ``Message`` at all (a frame that is none ends its connection, as in M3), where its value starts, and where the
metric id is in that value (docs/m3/metrics.md, wrappers). The shape that encoders write takes a short path, any other one the general
walk. ``route`` does not walk at all where a frame looks like one before (``ids``). Every read is checked against the end of its enclosing
field; positions are byte offsets (int64), addresses are uint64. Frames and messages are ``m3msg.kernels``' to walk.

``scan``    which part of a buffer is complete, legal frames: all that one worker needs
``route``   the same, and copies each frame into the staging buffer of the worker that owns its shard
``owner_of`` the worker of one single frame

``route`` works on blocks of frames, in three passes: find the ids, hash them (four side by side), copy.
"""

import numpy as np
from numba import njit

from aggregator.front.ids import SHAPE, SHAPES, learn, metric_id
from m3msg.kernels import frame_end, message_value
from m3msg.rows import FRAME_ROW, PREFIX, SCAN_FULL, SCAN_MALFORMED, SCAN_MORE, SCAN_OVERSIZE
from m3msg.shapes import find
from m3x.kernels import base, copy_short, murmur3_32_of_four

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
_PREFIX = np.uint64(PREFIX)


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
def _locate(origin, a, e, limit, shapes, row, starts, ids, sizes):
    """First pass of ``route``: the frames from ``a`` on, at most a block, and the ids of their metrics.

    Fills ``starts`` (addresses; one more than frames: where the last one ends), ``ids`` (addresses, 0: no metric) and ``sizes``, all
    uint64. Returns ``(count, status, need)`` as ``route``, ``_GO_ON`` after a full block.
    """
    n = 0
    while True:
        starts[n] = a
        if n == _BLOCK:
            return n, _GO_ON, np.int64(PREFIX)
        place = find(a, e, shapes)
        if place >= 0 and shapes[place].size <= limit:
            s = shapes[place]
            ids[n] = a + s.id_at
            sizes[n] = s.id_size
            a += s.size
            n += 1
            continue
        after, size, status = frame_end(a, e, limit)
        if after == _0:
            return n, status, np.int64(size)
        at, stop = message_value(a + _PREFIX, after, origin, row)
        if at == _0:
            return n, MALFORMED, np.int64(size)
        at, stop = metric_id(at, stop)
        ids[n] = at
        sizes[n] = stop - at
        learn(a, np.int64(size), at, stop, shapes)
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
def route(buf, start, end, max_frame, owners, table, shapes):
    """``scan`` that also copies each frame into the staging buffer of its worker.

    ``owners`` (int32, one per shard) names the worker of each shard, negative for nobody here. ``table`` (int64, workers ×
    ``COLUMNS``): reads ``ADDRESS`` and ``CAPACITY`` of the staging buffer and ``DISCARD``; adds to ``USED`` and ``COUNT``, or to
    ``DISCARDED`` and ``DISCARDED_BYTES`` if ``DISCARD`` is set. ``shapes`` (``ids.SHAPE``, ``SHAPES`` rows) is its to keep from call to
    call. Returns as ``scan``; with ``FULL``, ``need`` is the worker
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
        n, status, need = _locate(origin, starts[0], e, limit, shapes, row, starts, ids, sizes)
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
    route(frame, 0, len(frame), 1024, owners, table, np.zeros(SHAPES, SHAPE))
    owner_of(frame, 0, len(frame), owners)

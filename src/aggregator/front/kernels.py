# mypy: ignore-errors
"""Compiled loops of the front: cut a byte stream into m3msg frames, and hand each frame to the worker of its metric.

A frame is a big-endian 32-bit length and a ``msgpb.Message`` (reference/m3msg.md §1.2, §1.3). Both loops look only at the outside of
a message: that it is a ``Message`` at all (a frame that is none ends its connection, as in M3), where its value starts, and where the
metric id is in that value (§2.2). Every read is checked against the end of its enclosing field; positions are byte offsets (int64),
addresses are uint64.

``scan``    which part of a buffer is complete, legal frames: all that one worker needs
``route``   the same, and copies each frame into the staging buffer of the worker that owns its shard
``owner_of`` the worker of one single frame
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from m3x.kernels import base, load8, load32, load64, murmur3_32

MORE = 0
"""All complete frames are done; the rest of the buffer is the beginning of the next one."""
OVERSIZE = 1
"""A length prefix above the limit: the stream cannot be followed any further."""
MALFORMED = 2
"""A frame that is no ``msgpb.Message``."""
FULL = 3
"""The staging buffer of a worker has no room for the next frame."""

# Columns of the table that ``route`` reads and writes, one row per worker.
ADDRESS, CAPACITY, USED, COUNT, DISCARD, DISCARDED, DISCARDED_BYTES, COLUMNS = range(8)

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_3 = np.uint64(3)
_4 = np.uint64(4)
_6 = np.uint64(6)
_7 = np.uint64(7)
_8 = np.uint64(8)
_10 = np.uint64(10)
_80 = np.uint64(0x80)
_HIGH = np.uint64(0x8080808080808080)
_MAX_FIELD_TAG = np.uint64((1 << 34) - 1)

_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = _0, _1, _2, _3, _4, np.uint64(5)


@intrinsic
def _trailing_zeros(_context, _word):
    def generate(_c, builder, _s, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


@njit(cache=True, nogil=True)
def _skip_varint(a, end):
    """Address after the varint at ``a``; 0 if it is longer than ten bytes or runs past ``end``."""
    if a < end and load8(a) < _80:
        return a + _1
    if a + _8 <= end:
        stops = ~load64(a) & _HIGH
        if stops != _0:
            return a + (_trailing_zeros(stops) >> _3) + _1
        a += _8
        if a < end and load8(a) < _80:
            return a + _1
        a += _1
        if a < end and load8(a) < _80:
            return a + _1
        return _0
    while a < end:
        a += _1
        if load8(a - _1) < _80:
            return a
    return _0


@njit(cache=True, nogil=True)
def _varint(a, end):
    """``(value, address after it)`` of the varint at ``a``; the address is 0 on failure."""
    if a < end and load8(a) < _80:
        return load8(a), a + _1
    stop = _skip_varint(a, end)
    value = _0
    shift = _0
    while a < stop:
        value |= (load8(a) & np.uint64(0x7F)) << shift
        shift += _7
        a += _1
    return value, stop


@njit(cache=True, nogil=True)
def _chunk(a, end):
    """``(start, stop)`` of the length-delimited field whose length is at ``a``; ``stop`` is 0 if it does not fit before ``end``."""
    size, a = _varint(a, end)
    if a == _0 or size > end - a:
        return _0, _0
    return a, a + size


@njit(cache=True, nogil=True)
def _skip_group(a, end):
    """Address after the end tag that closes the group whose content starts at ``a``; 0 if there is none."""
    depth = 1
    while depth > 0:
        tag, a = _varint(a, end)
        if a == _0:
            return _0
        wire = tag & _7
        if wire == _GROUP:
            depth += 1
        elif wire == _END_GROUP:
            depth -= 1
        elif wire == _VARINT:
            a = _skip_varint(a, end)
        elif wire == _BYTES:
            _, a = _chunk(a, end)
        elif wire == _FIXED64 and end - a >= _8:
            a += _8
        elif wire == _FIXED32 and end - a >= _4:
            a += _4
        else:
            return _0
        if a == _0:
            return _0
    return a


@njit(cache=True, nogil=True)
def _skip(a, end, wire):
    """Address after the field value of wire type ``wire`` at ``a``; 0 if it is broken."""
    if wire == _BYTES:
        _, stop = _chunk(a, end)
        return stop
    if wire == _VARINT:
        return _skip_varint(a, end)
    if wire == _FIXED64:
        return a + _8 if end - a >= _8 else _0
    if wire == _FIXED32:
        return a + _4 if end - a >= _4 else _0
    if wire == _GROUP:
        return _skip_group(a, end)
    return _0


@njit(cache=True, nogil=True)
def _field(a, end):
    """``(field number, wire type, address after the tag)``; the address is 0 for a tag that no message may have."""
    tag, a = _varint(a, end)
    number = tag >> _3
    if _0 in (a, number) or tag > _MAX_FIELD_TAG or (tag & _7) > _FIXED32 or (tag & _7) == _END_GROUP:
        return _0, _0, _0
    return number, tag & _7, a


@njit(cache=True, nogil=True)
def _metadata_ok(a, end):
    """Whether ``[a, end)`` is a ``msgpb.Metadata``: varints 1..3, unknown fields skipped."""
    while a < end:
        tag = load8(a)
        if tag == _8 or tag == np.uint64(0x10) or tag == np.uint64(0x18):
            a = _skip_varint(a + _1, end)
        else:
            number, wire, a = _field(a, end)
            if a == _0 or (number <= _3 and wire != _VARINT):
                return False
            a = _skip(a, end, wire)
        if a == _0:
            return False
    return True


@njit(cache=True, nogil=True)
def _value(a, end):
    """``(legal, start, stop)`` of ``value`` in the ``msgpb.Message`` at ``[a, end)``; an absent value is empty."""
    start = end
    stop = end
    while a < end:
        number, wire, a = _field(a, end)
        if a == _0 or (number <= _2 and wire != _BYTES):
            return False, _0, _0
        if wire == _BYTES:
            at, after = _chunk(a, end)
            if after == _0 or (number == _1 and not _metadata_ok(at, after)):
                return False, _0, _0
            if number == _2:
                start, stop = at, after
            a = after
        else:
            a = _skip(a, end, wire)
            if a == _0:
                return False, _0, _0
    return True, start, stop


@njit(cache=True, nogil=True)
def _last_bytes(a, end, number):
    """``(legal, start, stop)`` of the last length-delimited field ``number``; start 0: there is none."""
    start = _0
    stop = _0
    while a < end:
        found, wire, a = _field(a, end)
        if a == _0:
            return False, _0, _0
        if wire == _BYTES:
            at, a = _chunk(a, end)
            if found == number:
                start, stop = at, a
        elif found == number:
            return False, _0, _0
        else:
            a = _skip(a, end, wire)
        if a == _0:
            return False, _0, _0
    return True, start, stop


@njit(cache=True, nogil=True)
def _payload_type(a, end):
    """``MetricWithMetadatas.type`` of ``[a, end)``; 0 if it is absent or anything is broken."""
    kind = _0
    while a < end:
        number, wire, a = _field(a, end)
        if a == _0:
            return _0
        if number == _1:
            if wire != _VARINT:
                return _0
            kind, a = _varint(a, end)
        else:
            a = _skip(a, end, wire)
        if a == _0:
            return _0
    return kind


@njit(cache=True, nogil=True)
def _usual_id(a, end):
    """``_metric_id`` for the one shape that encoders write; start 0: another shape, or no metric."""
    if end - a < _8 or load8(a) != _8:
        return _0, _0
    kind = np.uint64(load8(a + _1))
    if kind < _1 or kind > _6 or load8(a + _2) != (((kind + _1) << _3) | _2):
        return _0, _0
    p, stop = _chunk(a + _3, end)
    if stop != end or p == stop or load8(p) != _10:
        return _0, _0
    p, metric_stop = _chunk(p + _1, stop)
    if metric_stop == _0:
        return _0, _0
    if metric_stop < stop:
        if load8(metric_stop) != np.uint64(0x12):
            return _0, _0
        _, after = _chunk(metric_stop + _1, stop)
        if after != stop:
            return _0, _0
    id_tag = _10
    if kind > _3:
        id_tag = np.uint64(0x12)
        if metric_stop - p > _2 and load8(p) == _8 and load8(p + _1) < _80:
            p += _2
    if p >= metric_stop or load8(p) != id_tag:
        return _0, _0
    at, id_stop = _chunk(p + _1, metric_stop)
    p = id_stop
    if id_stop == _0:
        return _0, _0
    while p < metric_stop:
        tag = np.uint64(load8(p))
        if tag <= (id_tag | _7) or tag >= _80:
            return _0, _0
        p = _skip(p + _1, metric_stop, tag & _7)
        if p == _0:
            return _0, _0
    return at, id_stop


@njit(cache=True, nogil=True)
def _metric_id(a, end):
    """``(found, start, stop)`` of the metric id in the ``MetricWithMetadatas`` at ``[a, end)`` (reference/m3msg.md §2.1, §2.2).

    Repeated fields: the last one counts, as it does when Go's decoder merges them. A metric without an id has the empty one.
    """
    at, stop = _usual_id(a, end)
    if at != _0:
        return True, at, stop
    kind = _payload_type(a, end)
    if kind < _1 or kind > _7:
        return False, _0, _0
    legal, at, stop = _last_bytes(a, end, kind + _1)
    if not legal or at == _0:
        return False, _0, _0
    legal, at, stop = _last_bytes(at, stop, _1)
    if not legal:
        return False, _0, _0
    if at == _0:
        return True, end, end
    legal, at, stop = _last_bytes(at, stop, _1 if kind <= _3 else _2)
    if not legal:
        return False, _0, _0
    if at == _0:
        return True, end, end
    return True, at, stop


@njit(cache=True, nogil=True)
def _frame_size(a):
    """The length prefix at ``a``."""
    word = load32(a)
    swapped = ((word & np.uint64(0xFF)) << _8 * _3) | ((word & np.uint64(0xFF00)) << _8)
    return np.int64(swapped | ((word >> _8) & np.uint64(0xFF00)) | (word >> (_8 * _3)))


@intrinsic
def _copy(_context, _target, _source, _n):
    """``_copy(target, source, n)``: ``n`` bytes between addresses; the ranges do not overlap."""

    def generate(context, builder, _s, args):
        byte_pointer = ir.IntType(8).as_pointer()
        target, source = (builder.inttoptr(a, byte_pointer) for a in args[:2])
        cgutils.raw_memcpy(builder, target, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.int64), generate


@njit(cache=True, nogil=True)
def _worker(buf, origin, at, stop, owners):
    """Owner of the metric id in the value at ``[at, stop)``; 0 where there is no metric, or nobody here owns its shard."""
    found, id_at, id_stop = _metric_id(at, stop)
    if not found:
        return np.int64(0)
    shard = murmur3_32(buf, np.int64(id_at - origin), np.int64(id_stop - id_at)) % np.uint32(len(owners))
    return np.int64(max(owners[shard], 0))


@njit(cache=True, nogil=True)
def scan(buf, start, end, max_frame):
    """Walks over the complete frames of ``buf[start:end]`` (uint8).

    Returns ``(next, count, status, need)``: the position after the last good frame, how many there are, ``MORE``, ``OVERSIZE`` or
    ``MALFORMED``, and the whole size of the frame at ``next`` in bytes (4 while its length is unknown).
    """
    origin = base(buf)
    p = start
    count = 0
    while p + 4 <= end:
        size = _frame_size(origin + np.uint64(p))
        if size > max_frame:
            return p, count, OVERSIZE, size + 4
        stop = p + 4 + size
        if stop > end:
            return p, count, MORE, size + 4
        legal, _, _ = _value(origin + np.uint64(p + 4), origin + np.uint64(stop))
        if not legal:
            return p, count, MALFORMED, size + 4
        p = stop
        count += 1
    return p, count, MORE, 4


@njit(cache=True, nogil=True)
def route(buf, start, end, max_frame, owners, table):
    """``scan`` that also copies each frame into the staging buffer of its worker.

    ``owners`` (int32, one per shard) names the worker of each shard, negative for nobody here. ``table`` (int64, workers ×
    ``COLUMNS``): reads ``ADDRESS`` and ``CAPACITY`` of the staging buffer and ``DISCARD``; adds to ``USED`` and ``COUNT``, or to
    ``DISCARDED`` and ``DISCARDED_BYTES`` if ``DISCARD`` is set. Returns as ``scan``; with ``FULL``, ``need`` is the worker
    whose staging buffer must be emptied before the call is repeated from ``next``.
    """
    origin = base(buf)
    p = start
    count = 0
    while p + 4 <= end:
        size = _frame_size(origin + np.uint64(p))
        if size > max_frame:
            return p, count, OVERSIZE, size + 4
        stop = p + 4 + size
        if stop > end:
            return p, count, MORE, size + 4
        legal, value_at, value_stop = _value(origin + np.uint64(p + 4), origin + np.uint64(stop))
        if not legal:
            return p, count, MALFORMED, size + 4
        worker = _worker(buf, origin, value_at, value_stop, owners)
        total = size + 4
        if table[worker, DISCARD] != 0:
            table[worker, DISCARDED] += 1
            table[worker, DISCARDED_BYTES] += total
        else:
            used = table[worker, USED]
            if used + total > table[worker, CAPACITY]:
                return p, count, FULL, worker
            _copy(np.uint64(table[worker, ADDRESS] + used), origin + np.uint64(p), total)
            table[worker, USED] = used + total
            table[worker, COUNT] += 1
        p = stop
        count += 1
    return p, count, MORE, 4


@njit(cache=True, nogil=True)
def owner_of(buf, start, end, owners):
    """Worker of the one legal frame at ``buf[start:end]``; ``owners`` as in ``route``."""
    origin = base(buf)
    _, value_at, value_stop = _value(origin + np.uint64(start + 4), origin + np.uint64(end))
    return _worker(buf, origin, value_at, value_stop, owners)


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

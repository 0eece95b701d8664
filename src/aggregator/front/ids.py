# mypy: ignore-errors
"""Compiled: where the metric id is in the value of a message (docs/m3/metrics.md, wrappers), and in a frame that looks like one before.

Values of the shape that encoders write take a short walk, any other legal one the general walk. Of a frame that takes the short ones a
shape is kept (``m3msg.shapes``): all bits decide but for

* the bytes of the id, of doubles and of what has a length and stands in the metric behind the id, and of the metadata;
* seven bits of each byte of a varint: shard, id and time of sending of the message, what stands in the metric behind the id.
"""

import numpy as np
from numba import njit

from m3msg.kernels import LEAST_USUAL, usual_value
from m3msg.rows import PREFIX
from m3msg.shapes import SHAPES, keep, leave_out_varint, shape_of, vacant
from m3x.kernels import load8, load32
from m3x.protobuf.reading import BYTES, FIXED64, VARINT, chunk, field, short_size, skip, skip_varint, varint

__all__ = ["SHAPE", "SHAPES", "learn", "metric_id"]

_PATTERNS = 6
SHAPE = shape_of(
    _PATTERNS,
    [
        ("id_at", np.uint64),  # from the frame on
        ("id_size", np.uint64),
    ],
)
"""Where the id is in a frame, in a table of ``SHAPES`` rows."""

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
def _leave_out_numbers(a, masks, p, stop):
    """Takes out of ``masks`` what the fields say that stand between ``p`` and ``stop`` in a metric that ``_usual_id`` has walked over."""
    while p < stop:
        wire = np.uint64(load8(p)) & _7
        after = skip(p + _1, stop, wire)
        if wire == VARINT:
            leave_out_varint(a, masks, np.int64(p - a), np.int64(stop - a), load8(p))
        elif wire == FIXED64:
            masks[p + _1 - a : after - a] = 0
        elif wire == BYTES:
            start, _ = chunk(p + _1, stop)
            masks[start - a : after - a] = 0
        p = after


@njit(cache=True, nogil=True)
def learn(a, size, id_at, id_stop, shapes):
    """Has the legal frame of ``size`` bytes at ``a``, whose metric has its id at ``[id_at, id_stop)``, recognised the next time."""
    place = np.int64(-1)
    if id_at != _0:
        place = vacant(a, size, shapes)
    if place < 0:
        return
    end = a + np.uint64(size)
    value, _ = usual_value(a + _PREFIX, end)
    if value == _0 or _usual_id(value, end)[0] != id_at:
        return
    masks = np.full(size, 0xFF, np.uint8)
    p = np.int64(PREFIX) + 2
    last = p + np.int64(load8(a + _PREFIX + _1))
    while p < last:
        p += 1 + leave_out_varint(a, masks, p, last, load8(a + np.uint64(p)))
    _, payload = short_size(value + _3)
    metric_size, metric = short_size(payload + _1)
    stop = metric + metric_size
    masks[id_at - a : id_stop - a] = 0
    _leave_out_numbers(a, masks, id_stop, stop)
    _, metadata = short_size(stop + _1)
    masks[metadata - a :] = 0
    s = shapes[place]
    if keep(a, masks, s):
        s.id_at = id_at - a
        s.id_size = id_stop - id_at

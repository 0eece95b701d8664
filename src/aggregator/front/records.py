# mypy: ignore-errors
"""Compiled loops for raw TCP: cut a byte stream into records, and write each as the m3msg frame that the rest of the front works with.

A record is a size and a ``MetricWithMetadatas`` (docs/m3/metrics.md, raw TCP stream); the size is a signed varint, zigzag. What ends
a connection in M3 ends it here: a size that is none, not positive, or above the limit, and a record in which there is no metric. What is
wrong further inside is for the worker to find, as it is with m3msg.

``reframe``  records to frames
``head_of``  the beginning of the frame of a single long record
``is_metric`` whether the value of a frame has a metric
"""

import numpy as np
from numba import njit

from aggregator.front.ids import metric_id
from aggregator.front.kernels import FULL, MALFORMED, MORE, OVERSIZE
from m3msg.kernels import message_value
from m3msg.rows import FRAME_ROW, PREFIX
from m3x.kernels import base, copy_short, load8, store8
from m3x.protobuf.writing import put_be32, put_varint, varint_size

__all__ = ["HEAD_BOUND", "NO_METRIC", "head_of", "is_metric", "reframe", "size_at", "warm"]

NO_METRIC = 5
"""A record in which there is no metric; other results are those of ``kernels``."""
HEAD_BOUND = 32
"""A frame is longer than its record by less than this."""

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_7 = np.uint64(7)
_63 = np.uint64(63)
_7F = np.uint64(0x7F)
_80 = np.uint64(0x80)
_METADATA, _ID, _VALUE = np.uint64(0x0A), np.uint64(0x10), np.uint64(0x12)


@njit(cache=True, nogil=True)
def _size(a, e, limit):
    """``(size, address behind it, status)`` of the record at ``a``: ``MORE`` with size 0 while it is not complete."""
    value = _0
    shift = _0
    p = a
    while p < e:
        byte = np.uint64(load8(p))
        p += _1
        if shift == _63 and byte > _1:
            return _0, p, MALFORMED
        value |= (byte & _7F) << shift
        if byte < _80:
            if value == _0 or value & _1:
                return _0, p, MALFORMED
            size = value >> _1
            return size, p, OVERSIZE if size > limit else MORE
        if shift == _63:
            return _0, p, MALFORMED
        shift += _7
    return _0, p, MORE


@njit(cache=True, nogil=True)
def size_at(buf, start, end, limit):
    """``(size, position behind it, status)`` of the record that begins at ``buf[start:end]`` (uint8); size 0: not known yet, or none."""
    origin = base(buf)
    size, p, status = _size(origin + np.uint64(start), origin + np.uint64(end), np.uint64(limit))
    return np.int64(size), np.int64(p - origin), status


@njit(cache=True, nogil=True)
def _put_head(p, size, ident):
    """Writes all of a frame that comes before its value; returns the address behind it."""
    meta = _1 + varint_size(ident)
    put_be32(p, _2 + meta + _1 + varint_size(size) + size)
    p += np.uint64(4)
    store8(p, _METADATA)
    store8(p + _1, meta)
    store8(p + _2, _ID)
    p = put_varint(p + np.uint64(3), ident)
    store8(p, _VALUE)
    return put_varint(p + _1, size)


@njit(cache=True, nogil=True)
def reframe(buf, start, end, limit, ident, out, at):
    """Writes the complete records of ``buf[start:end]`` (uint8) as frames to ``out[at:]`` (uint8), numbered from ``ident`` on.

    Returns ``(next, count, status, position behind the last frame)``: the position after the last record that was written, how many
    there are, and ``MORE``; ``FULL`` where ``out`` has no room for the next one; ``OVERSIZE``, ``MALFORMED`` (no size) or ``NO_METRIC``.
    """
    origin, target = base(buf), base(out)
    a, e = origin + np.uint64(start), origin + np.uint64(end)
    q, last = target + np.uint64(at), target + np.uint64(len(out))
    number = np.uint64(ident)
    count = 0
    while True:
        size, p, status = _size(a, e, np.uint64(limit))
        if status == MORE and size != _0 and p + size <= e:
            if q + size + np.uint64(HEAD_BOUND) > last:
                status = FULL
            elif metric_id(p, p + size)[0] == _0:
                status = NO_METRIC
            else:
                q = _put_head(q, size, number)
                copy_short(q, p, size)
                q += size
                a = p + size
                number += _1
                count += 1
                continue
        return np.int64(a - origin), count, status, np.int64(q - target)


@njit(cache=True, nogil=True)
def _head(size, ident, out):
    return np.int64(_put_head(base(out), np.uint64(size), np.uint64(ident)) - base(out))


def head_of(size: int, ident: int) -> bytes:
    """What a frame begins with whose value has ``size`` bytes."""
    out = np.empty(HEAD_BOUND, np.uint8)
    return out[: _head(size, ident, out)].tobytes()


@njit(cache=True, nogil=True)
def is_metric(buf):
    """Whether the value of the one frame that ``buf`` (uint8) is has a metric."""
    origin = base(buf)
    row = np.empty(1, FRAME_ROW)[0]
    at, stop = message_value(origin + np.uint64(PREFIX), origin + np.uint64(len(buf)), origin, row)
    return at != _0 and metric_id(at, stop)[0] != _0


def warm() -> None:
    """Compiles the loops, or loads them from the cache."""
    record, out = np.array([4, 8, 1], np.uint8), np.zeros(64, np.uint8)
    reframe(record, 0, len(record), 1024, 1, out, 0)
    size_at(record, 0, len(record), 1024)
    is_metric(out)
    head_of(1, 1)

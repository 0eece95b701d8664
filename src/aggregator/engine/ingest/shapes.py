# mypy: ignore-errors
"""Compiled reading of messages that look like one that was read before (``m3msg.shapes``): their numbers are taken from where those were.

Bits that decide are all bits, but for

* the bytes of the id and of the value, or of the values of a timer: nothing looks at them;
* seven bits of each byte of a varint: shard, id and time of sending of the message, time of the metric, a count.

``usual`` applies messages that have a shape.
"""

import numpy as np
from numba import njit

from m3metrics.rows import METRIC_ROW, Payload
from m3msg.shapes import SHAPES, find, keep, leave_out_varint, shape_of, vacant
from m3x.kernels import base, copy32, load8, load64, load_double
from m3x.protobuf.words import gather

__all__ = ["SHAPE", "SHAPES", "learn", "read_as_before"]

_PATTERNS = 12
"""Messages of which more bits decide than so many patterns have get no shape."""
_0, _1, _8, _32, _48, _56 = (np.uint64(n) for n in (0, 1, 8, 32, 48, 56))

SHAPE = shape_of(
    _PATTERNS,
    [
        ("row", np.uint8, (METRIC_ROW.itemsize,)),  # METRIC_ROW, but for what differs
        # Varints: where, and a mask of so many of its first eight bytes as there are; 0: it is absent.
        ("shard_at", np.uint64),
        ("shard_mask", np.uint64),
        ("number_at", np.uint64),  # the id of the message
        ("number_mask", np.uint64),
        ("time_at", np.uint64),
        ("time_mask", np.uint64),
        ("count_at", np.uint64),
        ("count_mask", np.uint64),
        ("ninth", np.uint64),  # of the time: where its ninth byte is; 0: there is none
        ("value_at", np.uint64),  # 0: there is none
        ("id_at", np.uint32),
        ("metadata_at", np.uint32),
        ("values_at", np.uint32),  # of a timer; 0: there are none
        ("message_at", np.uint32),
        ("message_size", np.uint32),
        ("echo", np.uint32),  # bytes of the metadata of the message
        # What follows holds during a batch only (``usual``).
        ("stage", np.uint32),  # row + 1 of that of its entries; 0: not known
        ("spec", np.uint32),  # of their only element
        ("flags", np.int64),  # of the spec
        ("window", np.int64),  # row, for times in [from_ns, until_ns)
        ("start", np.int64),  # of the window
        ("from_ns", np.int64),
        ("until_ns", np.int64),
    ],
)
"""A shape, in a table of ``SHAPES`` rows."""
_ROW_AT = np.uint64(SHAPE.fields["row"][1])
_SHAPE_SIZE = np.uint64(SHAPE.itemsize)
_ROW_SIZE = np.uint64(METRIC_ROW.itemsize)
assert METRIC_ROW.itemsize == 80


@njit(cache=True, nogil=True, inline="always")
def _number(address, mask):
    return gather(load64(address) & mask)


@njit(cache=True, nogil=True)
def read_as_before(origin, a, e, shapes, frames, rows, n):
    """Reads the message whose frame begins at ``a``, before ``e``, into ``frames[n]`` (FRAME_ROW) and ``rows[n]`` (METRIC_ROW).

    Returns its shape, a row of ``shapes`` (SHAPE), or -1 where it has none of these. ``origin``: what positions count from.
    ``frame_at``, ``frame_size`` and ``sent_at`` are left alone.
    """
    place = find(a, e, shapes)
    if place < 0:
        return place
    s = shapes[place]
    from_row = base(shapes) + np.uint64(place) * _SHAPE_SIZE + _ROW_AT
    f = frames[n]
    at = np.uint32(a - origin)
    f.shard = _number(a + s.shard_at, s.shard_mask)
    f.id = _number(a + s.number_at, s.number_mask)
    f.meta_at = at + np.uint32(4)
    f.meta_size = s.echo
    f.value_at = at + s.message_at
    f.value_size = s.message_size
    to = base(rows) + np.uint64(n) * _ROW_SIZE
    copy32(to, from_row)
    copy32(to + _32, from_row + _32)
    copy32(to + _48, from_row + _48)
    row = rows[n]
    row.message_at = at + s.message_at
    row.id_at = at + s.id_at
    row.meta_at = at + s.metadata_at
    if s.time_mask != _0:
        time = _number(a + s.time_at, s.time_mask)
        if s.ninth != _0:
            time |= np.uint64(load8(a + s.ninth)) << _56
        row.time_ns = np.int64(time)
    if s.value_at != _0:
        row.value = load_double(a + s.value_at)
    if s.count_mask != _0:
        row.count = np.int64(_number(a + s.count_at, s.count_mask))
    if s.values_at != np.uint32(0):
        row.values_at = at + s.values_at
    return place


@njit(cache=True, nogil=True)
def _mask(width):
    """Of so many bytes of a word."""
    return ~_0 if width >= 8 else (_1 << np.uint64(8 * width)) - _1


@njit(cache=True, nogil=True)
def _find_numbers(a, f, row, s, masks):
    """Where the numbers of the message at ``a`` are, into ``s`` (SHAPE) and ``masks``; whether a shape can say so."""
    start = np.int64(f.frame_at)
    size = len(masks)
    end = 4 + np.int64(f.meta_size)
    shard = np.int64(6)
    shard_width = leave_out_varint(a, masks, shard, end, 0x08)
    ident = shard + shard_width + (shard_width > 0)
    ident_width = leave_out_varint(a, masks, ident, end, 0x10)
    sent = ident + ident_width + (ident_width > 0)
    sent_width = leave_out_varint(a, masks, sent, end, 0x18)
    if sent + sent_width + (sent_width > 0) != end:
        return False
    payload = row.payload
    timed = payload >= Payload.TIMED
    id_at = np.int64(row.id_at) - start
    p = id_at + np.int64(row.id_size)
    masks[id_at:p] = 0
    end = np.int64(row.meta_at) - start
    time = p
    time_width = np.int64(0)
    if timed:
        time_width = leave_out_varint(a, masks, time, end, 0x18)
        p += time_width + (time_width > 0)
    value = np.int64(0)
    count = p
    count_width = np.int64(0)
    s.values_at = np.uint32(0)
    if payload == Payload.COUNTER:
        count_width = leave_out_varint(a, masks, count, end, 0x10)
        p += count_width + (count_width > 0)
    elif payload == Payload.TIMERS:
        if row.values_size != 0:
            s.values_at = np.uint32(np.int64(row.values_at) - start)
            p = np.int64(s.values_at) + np.int64(row.values_size)
            masks[np.int64(s.values_at) : p] = 0
    elif load8(a + np.uint64(p)) == (0x21 if timed else 0x11):
        value = p + 1
        p += 9
        masks[value:p] = 0
    if not timed and payload != Payload.TIMERS:
        time = p
        time_width = leave_out_varint(a, masks, time, end, 0x20)
    s.shard_at, s.shard_mask = np.uint64(shard + 1), _mask(shard_width)
    s.number_at, s.number_mask = np.uint64(ident + 1), _mask(ident_width)
    s.time_at, s.time_mask = np.uint64(time + 1), _mask(time_width)
    s.ninth = np.uint64(time + 9) if time_width == 9 else _0
    s.count_at, s.count_mask = np.uint64(count + 1), _mask(count_width)
    s.value_at = np.uint64(value)
    widest = max(shard_width, ident_width, count_width, time_width - 1)
    return widest <= 8 and max(time, count) + 9 <= size


@njit(cache=True, nogil=True)
def learn(buf, shapes, frames, rows, n):
    """Has the message in ``frames[n]`` and ``rows[n]``, which the parsers have read (``ROW_OK``), recognised the next time."""
    f = frames[n]
    row = rows[n]
    size = np.int64(f.frame_size)
    start = np.int64(f.frame_at)
    if (
        f.meta_size == 0
        or np.int64(f.meta_at) != start + 4
        or row.payload in (Payload.FORWARDED, Payload.PASSTHROUGH)
        or row.annotation_size != 0
        or row.id_size == 0
    ):
        return
    a = base(buf) + np.uint64(start)
    place = vacant(a, size, shapes)
    if place < 0:
        return
    s = shapes[place]
    s.stage = np.uint32(0)
    masks = np.full(size, 0xFF, np.uint8)
    if not _find_numbers(a, f, row, s, masks) or not keep(a, masks, s):
        return
    s.id_at = np.uint32(np.int64(row.id_at) - start)
    s.metadata_at = np.uint32(np.int64(row.meta_at) - start)
    s.message_at = f.value_at - f.frame_at
    s.message_size = f.value_size
    s.echo = f.meta_size
    from_row = base(rows) + np.uint64(n) * _ROW_SIZE
    to = base(shapes) + np.uint64(place) * _SHAPE_SIZE + _ROW_AT
    copy32(to, from_row)
    copy32(to + _32, from_row + _32)
    copy32(to + _48, from_row + _48)

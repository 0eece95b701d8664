# mypy: ignore-errors
"""The Prometheus ``WriteRequest`` in columns; public through ``coordinator.write.kernels``.

Fields: docs/m3/coordinator.md, request of a write.
"""

import numpy as np
from numba import njit

from m3x.kernels import base, load8, load64, record_of, store64
from m3x.protobuf.reading import BYTES, FIXED64, VARINT, chunk, field, skip, varint
from m3x.protobuf.words import gather

SERIES_ROW = np.dtype(
    [
        ("labels_at", np.uint32),  # the label fields of the TimeSeries, tags and lengths included
        ("labels_size", np.uint32),
        ("message_at", np.uint32),  # the whole TimeSeries message
        ("message_size", np.uint32),
        ("sample_from", np.uint32),  # its samples are rows [sample_from, sample_from + samples)
        ("samples", np.uint32),
        ("m3_type", np.int32),  # field 101
        ("source", np.int32),  # field 102
        ("prom_type", np.int32),  # field 1001
        ("exemplars", np.int32),  # how many it has
        ("histograms", np.int32),  # native ones
        ("scattered", np.int32),  # 1: something stands between the label fields, so that labels_* says nothing
    ],
    align=True,
)
"""One row per TimeSeries of a WriteRequest."""
row_at = record_of(SERIES_ROW)
ROW_BYTES = np.uint64(SERIES_ROW.itemsize)

DONE, FULL_SERIES, FULL_SAMPLES, BROKEN = 0, 1, 2, 3
"""Status of ``request``: too little room in the output, or the bytes are not a WriteRequest (``prompb.error_of`` says why)."""

EXEMPLARS, HISTOGRAMS, METADATA, UNKNOWN, STARTED, UNREAD_SERIES, UNREAD_SAMPLES = range(7)
OTHERS = 7
"""``others`` of ``request``: exemplars and native histograms of all series, metadata records, and fields no WriteRequest has. Of Remote
Write 2.0 besides: created timestamps, and series whose labels cannot be told, with their samples."""


_0, _1, _2, _3, _4, _5, _6, _8, _9, _16 = (np.uint64(n) for n in (0, 1, 2, 3, 4, 5, 6, 8, 9, 16))
_128 = np.uint64(128)


@njit(cache=True, nogil=True)
def sample(a, e, time_at, value_at):
    """Parses a Sample into the time (int64) and the value (float64) at these addresses: 0 if it is none, else 1; with a third field, 2.0's
    created timestamp, 2, or 3 if it is no number."""
    store64(time_at, _0)
    store64(value_at, _0)
    found = 1
    while a < e:
        number, wire, a = field(a, e)
        if a == _0:
            return 0
        if number == 1:
            if wire != FIXED64 or a + _8 > e:
                return 0
            store64(value_at, load64(a))
            a += _8
        elif number == 2:
            if wire != VARINT:
                return 0
            value, a = varint(a, e)
            store64(time_at, value)
        else:
            if number == 3 and found != 3:
                found = 2 if wire == VARINT else 3
            a = skip(a, e, wire)
        if a == _0:
            return 0
    return found


@njit(cache=True, nogil=True)
def plain_sample(a, e, time_at, value_at):
    """As ``sample``, where it is as every client writes it, a double and then a time of six bytes; False: it looks otherwise."""
    if e - a != _16 or load8(a) != 0x09 or load8(a + _9) != 0x10:
        return False
    # Six varint bytes: 42 bits, which hold every time in milliseconds from 2004 to 2109.
    word = load64(a + _8) >> _16
    if word & np.uint64(0x808080808080) != np.uint64(0x008080808080):
        return False
    store64(value_at, load64(a + _1))
    store64(time_at, gather(word))
    return True


@njit(cache=True, nogil=True)
def _other(number, wire, a, e, row):
    """Any field of a TimeSeries but labels and samples, attributes and counts into ``row``; the address after it, 0 for none."""
    if number == 3:
        row.exemplars += 1
    elif number == 4:
        row.histograms += 1
    if number == 101 or number == 102 or number == 1001:  # noqa: PLR1714 - a set would be built in the loop
        if wire != VARINT:
            return _0
        value, a = varint(a, e)
        small = np.int32(np.uint32(value & np.uint64(0xFFFFFFFF)))
        if number == 101:
            row.m3_type = small
        elif number == 102:
            row.source = small
        else:
            row.prom_type = small
        return a
    return skip(a, e, wire)


@njit(cache=True, nogil=True)
def _past_labels(a, e):
    """The address behind the labels that begin at ``a``, as far as each has less than 128 bytes."""
    while a + _1 < e and load8(a) == 0x0A:
        size = np.uint64(load8(a + _1))
        if size >= np.uint64(128) or a + size + _2 > e:
            break
        a += size + _2
    return a


@njit(cache=True, nogil=True)
def begin_row(row, origin, a, e, used):
    """A series whose TimeSeries is what lies from address ``a`` to ``e``, its samples from row ``used`` on: nothing is known of it yet."""
    row.message_at = np.uint32(a - origin)
    row.message_size = np.uint32(e - a)
    row.sample_from = np.uint32(used)
    row.m3_type = 0
    row.source = 0
    row.prom_type = 0
    row.scattered = 0
    row.exemplars = 0
    row.histograms = 0


@njit(cache=True, nogil=True)
def _time_series(origin, a, e, row, times_ms, values, used, most):
    """Parses a TimeSeries into ``row`` and its samples from row ``used`` on of ``most``; ``(status, samples used)``."""
    begin_row(row, origin, a, e, used)
    begin = used
    labels_at = a
    labels_end = a
    while a < e:
        if labels_end in (labels_at, a):
            end = _past_labels(a, e)
            if end != a:
                if labels_end == labels_at:
                    labels_at = a
                labels_end = a = end
                continue
        at = a
        number, wire, a = field(at, e)
        if a == _0:
            return BROKEN, used
        if number > 2:
            a = _other(number, wire, a, e, row)
            if a == _0:
                return BROKEN, used
            continue
        if wire != BYTES:
            return BROKEN, used
        inner, a = chunk(a, e)
        if a == _0:
            return BROKEN, used
        if number == 1:
            if labels_end == labels_at:
                labels_at = at
            elif at != labels_end:
                row.scattered = 1
            labels_end = a
        else:
            if used == most:
                return FULL_SAMPLES, used
            time_at, value_at = times_ms + _8 * np.uint64(used), values + _8 * np.uint64(used)
            if not plain_sample(inner, a, time_at, value_at) and sample(inner, a, time_at, value_at) == 0:
                return BROKEN, used
            used += 1
    row.labels_at = np.uint32(labels_at - origin)
    row.labels_size = np.uint32(labels_end - labels_at)
    row.samples = np.uint32(used - begin)
    return DONE, used


@njit(cache=True, nogil=True)
def request(buf, series, times_ms, values, others):
    """Decodes a WriteRequest: ``(status, series, samples)``.

    ``buf``: uint8. ``series``: ``SERIES_ROW`` rows; ``times_ms`` (int64) and ``values`` (float64): a row per sample, in order; ``others``
    (int64, ``OTHERS``): how many there are of what is neither. With status ``FULL_SERIES`` or ``FULL_SAMPLES`` call again with more
    room. Labels are not looked into: whoever meets a series for the first time does (``prepare``), and repeated ones are known by their
    bytes.
    """
    origin = base(buf)
    a = origin
    e = origin + np.uint64(len(buf))
    rows = np.int64(0)
    used = np.int64(0)
    others[:] = 0
    while a < e:
        number, wire, a = field(a, e)
        if a == _0:
            return BROKEN, rows, used
        if number != 1:
            others[METADATA if number == 3 else UNKNOWN] += 1
            a = skip(a, e, wire)
            if a == _0:
                return BROKEN, rows, used
            continue
        if wire != BYTES:
            return BROKEN, rows, used
        inner, a = chunk(a, e)
        if a == _0:
            return BROKEN, rows, used
        if rows == len(series):
            return FULL_SERIES, rows, used
        row = row_at(base(series) + np.uint64(rows) * ROW_BYTES)
        status, used = _time_series(origin, inner, a, row, base(times_ms), base(values), used, len(values))
        if status != DONE:
            return status, rows, used
        others[EXEMPLARS] += row.exemplars
        others[HISTOGRAMS] += row.histograms
        rows += 1
    return DONE, rows, used


@njit(cache=True, nogil=True)
def label(a, e):
    """The field ``labels`` at ``a``: ``(address after it, size of its name, size of its value)``, sizes int64; address 0: it is broken."""
    name_size = np.int64(0)
    value_size = np.int64(0)
    _, wire, a = field(a, e)
    if a == _0 or wire != BYTES:
        return _0, name_size, value_size
    a, stop = chunk(a, e)
    while a < stop:
        number, wire, a = field(a, stop)
        if a == _0:
            return _0, name_size, value_size
        if number > 2:
            a = skip(a, stop, wire)
        elif wire != BYTES:
            return _0, name_size, value_size
        else:
            text, a = chunk(a, stop)
            if number == 1:
                name_size = np.int64(a - text)
            else:
                value_size = np.int64(a - text)
        if a == _0:
            return _0, name_size, value_size
    return stop, name_size, value_size


@njit(cache=True, nogil=True)
def _past_short_label(a, e):
    """The address behind the field ``labels`` at ``a``, if it has less than 128 bytes, a name and a value, and is written as all write it;
    else 0."""
    if a + _6 > e or load8(a) != 0x0A:
        return _0
    size = np.uint64(load8(a + _1))
    if size >= _128 or a + size + _2 > e or load8(a + _2) != 0x0A:
        return _0
    name = np.uint64(load8(a + _3))
    if name + _4 > size or load8(a + name + _4) != 0x12 or name + np.uint64(load8(a + name + _5)) + _4 != size:
        return _0
    return a + size + _2


@njit(cache=True, nogil=True)
def check_labels(buf, key_at, key_size, rows, limit):
    """Whether the labels of ``rows`` are sound: ``(status, row, name size, value size)``; ``DONE`` and row -1: all are.

    ``DONE`` with a row: its first label whose name or value is longer than ``limit``. ``BROKEN``: the bytes of that row are not labels.
    """
    origin = base(buf)
    for j in range(len(rows)):
        i = rows[j]
        a = origin + np.uint64(key_at[i])
        e = a + np.uint64(key_size[i])
        while a < e:
            behind = _past_short_label(a, e) if limit >= 127 else _0
            if behind != _0:
                a = behind
                continue
            a, name_size, value_size = label(a, e)
            if a == _0:
                return BROKEN, i, np.int64(0), np.int64(0)
            if name_size > limit or value_size > limit:
                return DONE, i, name_size, value_size
    return DONE, np.int64(-1), np.int64(0), np.int64(0)

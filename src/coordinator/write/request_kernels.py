# mypy: ignore-errors
"""The Prometheus ``WriteRequest`` in columns; public through ``coordinator.write.kernels``. Fields: reference/coordinator.md §8.2."""

import numpy as np
from numba import njit

from m3x.kernels import OVERFLOW, base, load8, load64, load_double, read_varint

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

DONE, FULL_SERIES, FULL_SAMPLES = 0, 1, 2
ERROR_END, ERROR_OVERFLOW, ERROR_TAG, ERROR_WIRE, ERROR_LENGTH, ERROR_GROUP = 3, 4, 5, 6, 7, 8
"""Status of ``request``: too little room in the output, or why the bytes are not a WriteRequest."""

EXEMPLARS, HISTOGRAMS, METADATA, UNKNOWN = 0, 1, 2, 3
OTHERS = 4
"""``others`` of ``request``: exemplars and native histograms of all series, metadata records, and fields no WriteRequest has."""


@njit(cache=True, nogil=True)
def _skip(buf, p, end, wire):
    """Position after a field of no interest, or a negative status."""
    if wire == 0:
        _, p = read_varint(buf, p, end)
        return p if p >= 0 else (-ERROR_OVERFLOW if p == OVERFLOW else -ERROR_END)
    if wire == 1:
        return p + 8 if p + 8 <= end else -ERROR_END
    if wire == 5:
        return p + 4 if p + 4 <= end else -ERROR_END
    if wire == 2:
        size, q = read_varint(buf, p, end)
        if q < 0:
            return -ERROR_OVERFLOW if q == OVERFLOW else -ERROR_END
        if size > np.uint64(0x7FFFFFFF):
            return -ERROR_LENGTH
        q += np.int64(size)
        return q if q <= end else -ERROR_END
    return -ERROR_GROUP


@njit(cache=True, nogil=True)
def _skip_group(buf, p, end):
    """Position after a group whose start tag was read, nested ones included, or a negative status."""
    depth = 1
    while depth > 0:
        tag, p = read_varint(buf, p, end)
        if p < 0:
            return -ERROR_OVERFLOW if p == OVERFLOW else -ERROR_END
        wire = np.int64(tag & np.uint64(7))
        if wire == 3:
            depth += 1
        elif wire == 4:
            depth -= 1
        else:
            p = _skip(buf, p, end, wire)
            if p < 0:
                return p
    return p


@njit(cache=True, nogil=True)
def _field(buf, p, end):
    """Reads a tag: ``(field number, wire type, position after it)``; the position is a negative status on failure."""
    tag, q = read_varint(buf, p, end)
    if q < 0:
        return np.int64(0), np.int64(0), np.int64(-ERROR_OVERFLOW if q == OVERFLOW else -ERROR_END)
    number = np.int64(np.int32(np.uint32((tag >> np.uint64(3)) & np.uint64(0xFFFFFFFF))))
    wire = np.int64(tag & np.uint64(7))
    if number <= 0 or wire == 4:
        return number, wire, np.int64(-ERROR_TAG)
    return number, wire, np.int64(q)


@njit(cache=True, nogil=True)
def _chunk(buf, p, end):
    """Reads a length: ``(position of the bytes, position after them)``; the second is a negative status on failure."""
    size, q = read_varint(buf, p, end)
    if q < 0:
        return np.int64(0), np.int64(-ERROR_OVERFLOW if q == OVERFLOW else -ERROR_END)
    if size > np.uint64(0x7FFFFFFF):
        return np.int64(0), np.int64(-ERROR_LENGTH)
    if q + np.int64(size) > end:
        return np.int64(0), np.int64(-ERROR_END)
    return np.int64(q), np.int64(q) + np.int64(size)


@njit(cache=True, nogil=True)
def _size(b, p, end):
    """The length varint at ``p``, if it has at most three bytes and its bytes lie before ``end``: ``(position of the bytes, after them)``.

    ``b``: address of the buffer. ``(0, 0)``: the general reader must look.
    """
    if p + 3 > end:
        return np.int64(0), np.int64(0)
    c = np.int64(load8(b + np.uint64(p)))
    p += 1
    if c >= 128:
        d = np.int64(load8(b + np.uint64(p)))
        p += 1
        c = (c & 127) | ((d & 127) << 7)
        if d >= 128:
            d = np.int64(load8(b + np.uint64(p)))
            p += 1
            if d >= 128:
                return np.int64(0), np.int64(0)
            c |= d << 14
    return (p, p + c) if p + c <= end else (np.int64(0), np.int64(0))


@njit(cache=True, nogil=True)
def _sample(buf, p, end, times_ms, values, k):
    """Parses a Sample into row ``k``; returns a status, 0 if good."""
    values[k] = 0.0
    times_ms[k] = 0
    while p < end:
        number, wire, p = _field(buf, p, end)
        if p < 0:
            return -p
        if number == 1:
            if wire != 1:
                return ERROR_WIRE
            if p + 8 > end:
                return ERROR_END
            values[k] = load_double(base(buf) + np.uint64(p))
            p += 8
        elif number == 2:
            if wire != 0:
                return ERROR_WIRE
            value, q = read_varint(buf, p, end)
            if q < 0:
                return ERROR_OVERFLOW if q == OVERFLOW else ERROR_END
            times_ms[k] = np.int64(value)
            p = np.int64(q)
        else:
            p = _skip_group(buf, p, end) if wire == 3 else _skip(buf, p, end, wire)
            if p < 0:
                return -p
    return 0


@njit(cache=True, nogil=True)
def _plain_sample(b, p, end, times_ms, values, k):
    """A Sample as every client writes it, a double and then a time of six bytes, into row ``k``; False: it looks otherwise."""
    if end - p != 16 or load8(b + np.uint64(p)) != 0x09 or load8(b + np.uint64(p + 9)) != 0x10:
        return False
    # Six varint bytes: 42 bits, which hold every time in milliseconds from 2004 to 2109.
    word = load64(b + np.uint64(p + 8)) >> np.uint64(16)
    if word & np.uint64(0x808080808080) != np.uint64(0x008080808080):
        return False
    time = np.uint64(0)
    for shift in range(6):
        time |= ((word >> np.uint64(8 * shift)) & np.uint64(0x7F)) << np.uint64(7 * shift)
    values[k] = load_double(b + np.uint64(p + 1))
    times_ms[k] = np.int64(time)
    return True


@njit(cache=True, nogil=True)
def _other(buf, at, end, row):
    """Any field of a TimeSeries but labels and samples, attributes and counts into ``row``; the position after it, or a negative status."""
    number, wire, p = _field(buf, at, end)
    if p < 0:
        return p
    if number == 3:
        row.exemplars += 1
    elif number == 4:
        row.histograms += 1
    if number == 101 or number == 102 or number == 1001:  # noqa: PLR1714 - a set would be built in the loop
        if wire != 0:
            return np.int64(-ERROR_WIRE)
        value, q = read_varint(buf, p, end)
        if q < 0:
            return np.int64(-ERROR_OVERFLOW if q == OVERFLOW else -ERROR_END)
        small = np.int32(np.uint32(value & np.uint64(0xFFFFFFFF)))
        if number == 101:
            row.m3_type = small
        elif number == 102:
            row.source = small
        else:
            row.prom_type = small
        return np.int64(q)
    return np.int64(_skip_group(buf, p, end) if wire == 3 else _skip(buf, p, end, wire))


@njit(cache=True, nogil=True)
def _time_series(buf, p, end, row, times_ms, values, used):
    """Parses a TimeSeries into ``row`` and its samples from row ``used`` on; ``(status, samples used)``."""
    b = base(buf)
    row.message_at = np.uint32(p)
    row.message_size = np.uint32(end - p)
    row.sample_from = np.uint32(used)
    row.m3_type = 0
    row.source = 0
    row.prom_type = 0
    row.scattered = 0
    row.exemplars = 0
    row.histograms = 0
    begin = used
    labels_at = p
    labels_end = p
    while p < end:
        at = p
        tag = load8(b + np.uint64(p))
        label = tag == 0x0A
        sample = tag == 0x12
        inner = np.int64(0)
        if label or sample:
            inner, p = _size(b, p + 1, end)
            if p == 0:
                inner, p = _chunk(buf, at + 1, end)
        elif tag >= 128 or tag >> np.uint8(3) <= 2:
            # A known field under a long tag, or of a wrong wire type.
            number, wire, q = _field(buf, p, end)
            if q < 0:
                return -q, used
            label = number == 1
            sample = number == 2
            if label or sample:
                if wire != 2:
                    return ERROR_WIRE, used
                inner, p = _chunk(buf, q, end)
            else:
                p = _other(buf, p, end, row)
        else:
            p = _other(buf, p, end, row)
        if p < 0:
            return -p, used
        if label:
            if labels_end == labels_at:
                labels_at = at
            elif at != labels_end:
                row.scattered = 1
            labels_end = p
        elif sample:
            if used == len(values):
                return FULL_SAMPLES, used
            if not _plain_sample(b, inner, p, times_ms, values, used):
                status = _sample(buf, inner, p, times_ms, values, used)
                if status != 0:
                    return status, used
            used += 1
    row.labels_at = np.uint32(labels_at)
    row.labels_size = np.uint32(labels_end - labels_at)
    row.samples = np.uint32(used - begin)
    return 0, used


@njit(cache=True, nogil=True)
def request(buf, series, times_ms, values, others):
    """Decodes a WriteRequest: ``(status, series, samples)``.

    ``buf``: uint8. ``series``: ``SERIES_ROW`` rows; ``times_ms`` (int64) and ``values`` (float64): a row per sample, in order; ``others``
    (int64, ``OTHERS``): how many there are of what is neither. With status ``FULL_SERIES`` or ``FULL_SAMPLES`` call again with more
    room. Labels are not looked into: whoever meets a series for the first time does (``prepare``), and repeated ones are known by their
    bytes.
    """
    p = np.int64(0)
    end = np.int64(len(buf))
    rows = np.int64(0)
    used = np.int64(0)
    others[:] = 0
    while p < end:
        number, wire, p = _field(buf, p, end)
        if p < 0:
            return -p, rows, used
        if number == 1:
            if wire != 2:
                return ERROR_WIRE, rows, used
            inner, p = _chunk(buf, p, end)
            if p < 0:
                return -p, rows, used
            if rows == len(series):
                return FULL_SERIES, rows, used
            status, used = _time_series(buf, inner, p, series[rows], times_ms, values, used)
            if status != 0:
                return status, rows, used
            others[EXEMPLARS] += series[rows].exemplars
            others[HISTOGRAMS] += series[rows].histograms
            rows += 1
        else:
            others[METADATA if number == 3 else UNKNOWN] += 1
            p = _skip_group(buf, p, end) if wire == 3 else _skip(buf, p, end, wire)
            if p < 0:
                return -p, rows, used
    return DONE, rows, used


@njit(cache=True, nogil=True)
def check_labels(buf, key_at, key_size, rows, limit):
    """Whether the labels of ``rows`` are sound: ``(status, row, name size, value size)``; status 0 and row -1: all are.

    Status 0 with a row: its first label whose name or value is longer than ``limit``. Otherwise why the bytes are not labels.
    """
    for j in range(len(rows)):
        i = rows[j]
        p = np.int64(key_at[i])
        end = p + np.int64(key_size[i])
        while p < end:
            _, _, p = _field(buf, p, end)
            q, p = _chunk(buf, p, end)
            name_size = np.int64(0)
            value_size = np.int64(0)
            while q < p:
                number, wire, q = _field(buf, q, p)
                if q < 0:
                    return -q, i, np.int64(0), np.int64(0)
                if number == 1 or number == 2:  # noqa: PLR1714
                    if wire != 2:
                        return ERROR_WIRE, i, np.int64(0), np.int64(0)
                    text, q = _chunk(buf, q, p)
                    if q < 0:
                        return -q, i, np.int64(0), np.int64(0)
                    if number == 1:
                        name_size = q - text
                    else:
                        value_size = q - text
                else:
                    q = _skip_group(buf, q, p) if wire == 3 else _skip(buf, q, p, wire)
                    if q < 0:
                        return -q, i, np.int64(0), np.int64(0)
            if name_size > limit or value_size > limit:
                return 0, i, name_size, value_size
    return 0, np.int64(-1), np.int64(0), np.int64(0)

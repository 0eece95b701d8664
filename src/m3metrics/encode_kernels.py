# mypy: ignore-errors
# ruff: noqa: PLR0917
"""Compiled encoders of the messages that carry metrics; public through ``m3metrics.kernels``. Formats: reference/m3msg.md §2.1-2.6.

They write what M3's own encoder writes: zero values (``-0.0`` too) and empty bytes are left out, sub-messages never. Positions are
``int64`` indices into the output; the caller provides the room that the size bounds name.
"""

import numpy as np
from numba import njit

from m3x.kernels import base, double_bits, load64, put_varint, store64, varint_size

AGGREGATED_OVERHEAD = 64
"""``encode_aggregated`` writes at most this many bytes on top of id, annotation and policy bytes."""
SAMPLE_OVERHEAD = 80
"""A metric sample takes at most this many bytes on top of id, annotation, metadata and (of timers) values."""

_0 = np.uint64(0)
_8 = np.uint64(8)


@njit(cache=True, nogil=True)
def _copy(out, p, buf, at, n):
    """``out[p:p+n] = buf[at:at+n]`` (int64 positions); returns ``p + n``."""
    to = base(out) + np.uint64(p)
    come = base(buf) + np.uint64(at)
    if n >= 8:
        last = np.uint64(n) - _8
        k = _0
        while k < last:
            store64(to + k, load64(come + k))
            k += _8
        store64(to + last, load64(come + last))
    else:
        for k in range(n):
            out[p + k] = buf[at + k]
    return p + n


@njit(cache=True, nogil=True)
def _put_double(out, p, tag, value):
    """A double field, left out when zero (either sign); returns the position after it."""
    if value == 0.0:
        return p
    out[p] = tag
    store64(base(out) + np.uint64(p + 1), double_bits(value))
    return p + 9


@njit(cache=True, nogil=True)
def _put_int(out, p, tag, value):
    """An int64 field as plain varint, left out when zero; returns the position after it."""
    if value == 0:
        return p
    out[p] = tag
    return put_varint(out, p + 1, np.uint64(value))


@njit(cache=True, nogil=True)
def _put_bytes(out, p, tag, buf, at, n):
    """A bytes field, left out when empty; returns the position after it."""
    if n == 0:
        return p
    out[p] = tag
    p = put_varint(out, p + 1, np.uint64(n))
    return _copy(out, p, buf, at, n)


@njit(cache=True, nogil=True)
def _bytes_field(n):
    """Bytes that ``_put_bytes`` writes."""
    return 0 if n == 0 else 1 + varint_size(np.uint64(n)) + n


@njit(cache=True, nogil=True)
def _int_field(value):
    """Bytes that ``_put_int`` writes."""
    return 0 if value == 0 else 1 + varint_size(np.uint64(value))


@njit(cache=True, nogil=True)
def aggregated_size_bound(id_size, annotation_size, policy_size):
    """Bytes that ``encode_aggregated`` writes at most; ``id_size`` counts prefix, id and suffix."""
    return id_size + annotation_size + policy_size + AGGREGATED_OVERHEAD


@njit(cache=True, nogil=True)
def encode_aggregated(
    out,
    p,
    metric_type,
    prefix,
    prefix_at,
    prefix_size,
    ident,
    id_at,
    id_size,
    suffix,
    suffix_at,
    suffix_size,
    time_ns,
    value,
    annotation,
    annotation_at,
    annotation_size,
    policy,
    policy_at,
    policy_size,
):
    """Writes one AggregatedMetric message (m3msg.md §2.1-2.6) at ``out[p:]``; returns the position after it.

    The id is prefix + ident + suffix, each a range ``(uint8 array, start, size)`` with int64 numbers. ``policy`` is the range of
    ``m3metrics.codec.aggregated_policy_fields(policy, traffic_types)``. ``metric_type`` is 0 in what M3's aggregator sends
    (left out on the wire) and below 128. ``out`` has room for ``aggregated_size_bound`` bytes at ``p``.
    """
    name_size = prefix_size + id_size + suffix_size
    metric_size = _bytes_field(name_size) + _int_field(time_ns) + _bytes_field(annotation_size)
    if metric_type != 0:
        metric_size += 2
    if value != 0.0:
        metric_size += 9
    size = 1 + varint_size(np.uint64(metric_size)) + metric_size + policy_size
    out[p] = 0x0A
    p = put_varint(out, p + 1, np.uint64(size))
    out[p] = 0x0A
    p = put_varint(out, p + 1, np.uint64(metric_size))
    if metric_type != 0:
        out[p] = 0x08
        out[p + 1] = metric_type
        p += 2
    if name_size != 0:
        out[p] = 0x12
        p = put_varint(out, p + 1, np.uint64(name_size))
        p = _copy(out, p, prefix, prefix_at, prefix_size)
        p = _copy(out, p, ident, id_at, id_size)
        p = _copy(out, p, suffix, suffix_at, suffix_size)
    p = _put_int(out, p, 0x18, time_ns)
    p = _put_double(out, p, 0x21, value)
    p = _put_bytes(out, p, 0x2A, annotation, annotation_at, annotation_size)
    return _copy(out, p, policy, policy_at, policy_size)


@njit(cache=True, nogil=True)
def samples_size_bound(templates, series_index):
    """Bytes that an encoder of samples writes at most for ``series_index`` (of timers: without their values)."""
    total = np.int64(0)
    for k in range(len(series_index)):
        t = templates[series_index[k]]
        total += np.int64(t.id_size) + np.int64(t.meta_size) + np.int64(t.annotation_size) + SAMPLE_OVERHEAD
    return total


@njit(cache=True, nogil=True)
def _put_head(out, p, payload, metric_size, meta_size):
    """``type``, and the tags and lengths of the payload and its metric; returns the position of the metric's first field."""
    size = 1 + varint_size(np.uint64(metric_size)) + metric_size + 1 + varint_size(np.uint64(meta_size)) + meta_size
    out[p] = 0x08
    out[p + 1] = payload
    out[p + 2] = (payload + 1) * 8 + 2
    p = put_varint(out, p + 3, np.uint64(size))
    out[p] = 0x0A
    return put_varint(out, p + 1, np.uint64(metric_size))


@njit(cache=True, nogil=True)
def _put_metadata(out, p, arena, at, size):
    """The field ``metadatas``, present even when empty; returns the position after it."""
    out[p] = 0x12
    p = put_varint(out, p + 1, np.uint64(size))
    return _copy(out, p, arena, at, size)


@njit(cache=True, nogil=True)
def _put_sample(out, p, payload, arena, t, time_ns, count, value, values, first, last):
    """One sample of payload 1 (``count``), 2 (``values[first:last]``), 3 or 6 (``value``) from template ``t``; the position after it."""
    id_size = np.int64(t.id_size)
    annotation_size = np.int64(t.annotation_size)
    metric_size = _bytes_field(id_size) + _bytes_field(annotation_size) + _int_field(time_ns)
    if payload == 1:
        metric_size += _int_field(count)
    elif payload == 2:
        metric_size += _bytes_field((last - first) * 8)
    elif value != 0.0:
        metric_size += 9
    if payload == 6 and t.metric_type != 0:
        metric_size += 2
    p = _put_head(out, p, payload, metric_size, np.int64(t.meta_size))
    if payload == 6:
        if t.metric_type != 0:
            out[p] = 0x08
            out[p + 1] = t.metric_type
            p += 2
        p = _put_bytes(out, p, 0x12, arena, np.int64(t.id_at), id_size)
        p = _put_int(out, p, 0x18, time_ns)
        p = _put_double(out, p, 0x21, value)
        p = _put_bytes(out, p, 0x2A, arena, np.int64(t.annotation_at), annotation_size)
    else:
        p = _put_bytes(out, p, 0x0A, arena, np.int64(t.id_at), id_size)
        if payload == 1:
            p = _put_int(out, p, 0x10, count)
        elif payload == 3:
            p = _put_double(out, p, 0x11, value)
        elif last > first:
            out[p] = 0x12
            p = put_varint(out, p + 1, np.uint64((last - first) * 8))
            to = base(out) + np.uint64(p)
            for k in range(first, last):
                store64(to + np.uint64((k - first) * 8), double_bits(values[k]))
            p += (last - first) * 8
        p = _put_bytes(out, p, 0x1A, arena, np.int64(t.annotation_at), annotation_size)
        p = _put_int(out, p, 0x20, time_ns)
    return _put_metadata(out, p, arena, np.int64(t.meta_at), np.int64(t.meta_size))


_NO_VALUES = np.zeros(1, np.float64)


@njit(cache=True, nogil=True)
def encode_timed_samples(arena, templates, series_index, time_ns, value, out, offsets):
    """Writes TIMED_METRIC_WITH_METADATAS messages, one per sample, into ``out``; returns the bytes used.

    ``templates``: ``METRIC_TEMPLATE`` rows whose ranges lie in ``arena`` (uint8). ``series_index`` (int64, shape n): the template of
    each sample; ``time_ns`` (int64) and ``value`` (float64) have its shape. ``out``: at least ``samples_size_bound`` bytes.
    ``offsets`` (int64, shape n + 1) is filled: message k is ``out[offsets[k]:offsets[k + 1]]``, beginning at 0.
    """
    p = np.int64(0)
    offsets[0] = 0
    for k in range(len(series_index)):
        t = templates[series_index[k]]
        p = _put_sample(out, p, 6, arena, t, time_ns[k], np.int64(0), value[k], _NO_VALUES, 0, 0)
        offsets[k + 1] = p
    return p


@njit(cache=True, nogil=True)
def encode_gauge_samples(arena, templates, series_index, time_ns, value, out, offsets):
    """Writes GAUGE_WITH_METADATAS messages; ``time_ns`` are client times (0: left out). Arguments as ``encode_timed_samples``."""
    p = np.int64(0)
    offsets[0] = 0
    for k in range(len(series_index)):
        t = templates[series_index[k]]
        p = _put_sample(out, p, 3, arena, t, time_ns[k], np.int64(0), value[k], _NO_VALUES, 0, 0)
        offsets[k + 1] = p
    return p


@njit(cache=True, nogil=True)
def encode_counter_samples(arena, templates, series_index, time_ns, count, out, offsets):
    """Writes COUNTER_WITH_METADATAS messages; ``count`` is int64. Arguments otherwise as ``encode_gauge_samples``."""
    p = np.int64(0)
    offsets[0] = 0
    for k in range(len(series_index)):
        t = templates[series_index[k]]
        p = _put_sample(out, p, 1, arena, t, time_ns[k], count[k], 0.0, _NO_VALUES, 0, 0)
        offsets[k + 1] = p
    return p


@njit(cache=True, nogil=True)
def encode_timer_samples(arena, templates, series_index, time_ns, values, value_offsets, out, offsets):
    """Writes BATCH_TIMER_WITH_METADATAS messages; sample k has ``values[value_offsets[k]:value_offsets[k + 1]]`` (float64, int64).

    ``out``: at least ``samples_size_bound`` bytes plus 8 per value. Arguments otherwise as ``encode_gauge_samples``.
    """
    p = np.int64(0)
    offsets[0] = 0
    for k in range(len(series_index)):
        t = templates[series_index[k]]
        p = _put_sample(
            out, p, 2, arena, t, time_ns[k], np.int64(0), 0.0, values, value_offsets[k], value_offsets[k + 1]
        )
        offsets[k + 1] = p
    return p

# mypy: ignore-errors
"""Compiled encoders of the messages that carry metrics; public through ``m3metrics.kernels``. Formats: docs/m3/metrics.md, messages.

They write what M3's own encoder writes: zero values (``-0.0`` too) and empty bytes are left out, sub-messages never. The caller
provides the room that the size bounds name. Inside, only addresses (``uint64``) are passed on (``m3x.protobuf.writing`` says why).
"""

import numpy as np
from numba import njit

from m3x.kernels import base, store8
from m3x.protobuf.writing import (
    bytes_size,
    int_size,
    length_size,
    put_bytes,
    put_double,
    put_int,
    put_length,
    put_raw,
)

AGGREGATED_OVERHEAD = 64
"""``encode_aggregated`` writes at most this many bytes on top of id, annotation and policy bytes."""
FORWARDED_OVERHEAD = 160
"""``put_forwarded`` writes at most this many bytes on top of id, annotation, metadata and both lists of values."""
SAMPLE_OVERHEAD = 80
"""A metric sample takes at most this many bytes on top of id, annotation, metadata and (of timers) values."""

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_8 = np.uint64(8)
_9 = np.uint64(9)


@njit(cache=True, nogil=True)
def aggregated_size_bound(id_size, annotation_size, policy_size):
    """Bytes that ``encode_aggregated`` writes at most; ``id_size`` counts prefix, id and suffix."""
    return id_size + annotation_size + policy_size + AGGREGATED_OVERHEAD


@njit(cache=True, nogil=True)
def put_aggregated(
    a,
    metric_type,
    prefix,
    prefix_size,
    ident,
    id_size,
    suffix,
    suffix_size,
    time_ns,
    value,
    annotation,
    annotation_size,
    policy,
    policy_size,
):
    """``encode_aggregated`` over addresses: every argument is ``uint64`` but ``time_ns`` (int64) and ``value``.

    Writes at the address ``a`` and returns the address after the message.
    """
    name_size = prefix_size + id_size + suffix_size
    metric_size = bytes_size(name_size) + int_size(time_ns) + bytes_size(annotation_size)
    if metric_type != _0:
        metric_size += _2
    if value != 0.0:
        metric_size += _9
    a = put_length(a, np.uint64(0x0A), length_size(metric_size) + policy_size)
    a = put_length(a, np.uint64(0x0A), metric_size)
    if metric_type != _0:
        store8(a, np.uint64(0x08))
        store8(a + _1, metric_type)
        a += _2
    if name_size != _0:
        a = put_length(a, np.uint64(0x12), name_size)
        a = put_raw(a, prefix, prefix_size)
        a = put_raw(a, ident, id_size)
        a = put_raw(a, suffix, suffix_size)
    a = put_int(a, np.uint64(0x18), time_ns)
    a = put_double(a, np.uint64(0x21), value)
    a = put_bytes(a, np.uint64(0x2A), annotation, annotation_size)
    return put_raw(a, policy, policy_size)


@njit(cache=True, nogil=True, inline="always")
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
    """Writes one AggregatedMetric message (docs/m3/metrics.md, messages) at ``out[p:]``; returns the position after it.

    The id is prefix + ident + suffix, each a range ``(uint8 array, start, size)`` with int64 numbers. ``policy`` is the range of
    ``m3metrics.codec.aggregated_policy_fields(policy, traffic_types)``. ``metric_type`` is 0 in what M3's aggregator sends
    (left out on the wire) and below 128. ``out`` has room for ``aggregated_size_bound`` bytes at ``p``.
    """
    start = base(out) + np.uint64(p)
    end = put_aggregated(
        start,
        np.uint64(metric_type),
        base(prefix) + np.uint64(prefix_at),
        np.uint64(prefix_size),
        base(ident) + np.uint64(id_at),
        np.uint64(id_size),
        base(suffix) + np.uint64(suffix_at),
        np.uint64(suffix_size),
        np.int64(time_ns),
        value,
        base(annotation) + np.uint64(annotation_at),
        np.uint64(annotation_size),
        base(policy) + np.uint64(policy_at),
        np.uint64(policy_size),
    )
    return p + np.int64(end - start)


@njit(cache=True, nogil=True)
def put_forwarded(
    a,
    metric_type,
    ident,
    id_size,
    time_ns,
    values,
    previous,
    values_size,
    annotation,
    annotation_size,
    version,
    meta,
    meta_size,
    source,
    times,
    resend,
    traffic,
):
    """Writes one FORWARDED_METRIC_WITH_METADATA message (docs/m3/metrics.md, messages) at the address ``a``; returns the address after it.

    Every argument is ``uint64`` but ``time_ns`` and ``times`` (int64). ``values`` and ``previous`` are ``values_size`` bytes of packed
    doubles each; ``meta`` holds the fields aggregation_id, storage_policy and pipeline of the ForwardMetadata.
    """
    metric_size = bytes_size(id_size) + int_size(time_ns) + bytes_size(annotation_size)
    metric_size += _2 * bytes_size(values_size) + int_size(np.int64(version))
    if metric_type != _0:
        metric_size += _2
    routing_size = int_size(np.int64(traffic))
    metadata_size = meta_size + int_size(np.int64(source)) + int_size(times) + length_size(routing_size)
    if resend != _0:
        metadata_size += _2
    store8(a, np.uint64(0x08))
    store8(a + _1, np.uint64(4))
    a = put_length(a + _2, np.uint64(0x2A), length_size(metric_size) + length_size(metadata_size))
    a = put_length(a, np.uint64(0x0A), metric_size)
    if metric_type != _0:
        store8(a, np.uint64(0x08))
        store8(a + _1, metric_type)
        a += _2
    a = put_bytes(a, np.uint64(0x12), ident, id_size)
    a = put_int(a, np.uint64(0x18), time_ns)
    a = put_bytes(a, np.uint64(0x22), values, values_size)
    a = put_bytes(a, np.uint64(0x2A), annotation, annotation_size)
    a = put_bytes(a, np.uint64(0x32), previous, values_size)
    a = put_int(a, np.uint64(0x38), np.int64(version))
    a = put_length(a, np.uint64(0x12), metadata_size)
    a = put_raw(a, meta, meta_size)
    a = put_int(a, np.uint64(0x20), np.int64(source))
    a = put_int(a, np.uint64(0x28), times)
    if resend != _0:
        store8(a, np.uint64(0x30))
        store8(a + _1, _1)
        a += _2
    a = put_length(a, np.uint64(0x3A), routing_size)
    return put_int(a, np.uint64(0x08), np.int64(traffic))


@njit(cache=True, nogil=True)
def samples_size_bound(templates, series_index):
    """Bytes that an encoder of samples writes at most for ``series_index`` (of timers: without their values)."""
    total = np.int64(0)
    for k in range(len(series_index)):
        t = templates[series_index[k]]
        total += np.int64(t.id_size) + np.int64(t.meta_size) + np.int64(t.annotation_size) + SAMPLE_OVERHEAD
    return total


@njit(cache=True, nogil=True)
def _put_sample(a, payload, arena, t, time_ns, count, value, values, values_size):
    """One sample of payload 1 (``count``), 2 (``values_size`` bytes at ``values``), 3 or 6 (``value``); the address after it.

    ``arena`` is the address of the template's bytes; ``payload`` is uint64.
    """
    timed = payload == np.uint64(6)
    id_size = np.uint64(t.id_size)
    annotation_size = np.uint64(t.annotation_size)
    meta_size = np.uint64(t.meta_size)
    metric_size = bytes_size(id_size) + bytes_size(annotation_size) + int_size(time_ns)
    metric_size += int_size(count) + bytes_size(values_size)
    if value != 0.0:
        metric_size += _9
    if timed and t.metric_type != 0:
        metric_size += _2
    store8(a, np.uint64(0x08))
    store8(a + _1, payload)
    a = put_length(a + _2, payload * _8 + np.uint64(10), length_size(metric_size) + length_size(meta_size))
    a = put_length(a, np.uint64(0x0A), metric_size)
    if timed:
        if t.metric_type != 0:
            store8(a, np.uint64(0x08))
            store8(a + _1, np.uint64(t.metric_type))
            a += _2
        a = put_bytes(a, np.uint64(0x12), arena + np.uint64(t.id_at), id_size)
        a = put_int(a, np.uint64(0x18), time_ns)
        a = put_double(a, np.uint64(0x21), value)
        a = put_bytes(a, np.uint64(0x2A), arena + np.uint64(t.annotation_at), annotation_size)
    else:
        a = put_bytes(a, np.uint64(0x0A), arena + np.uint64(t.id_at), id_size)
        a = put_int(a, np.uint64(0x10), count)
        a = put_double(a, np.uint64(0x11), value)
        a = put_bytes(a, np.uint64(0x12), values, values_size)
        a = put_bytes(a, np.uint64(0x1A), arena + np.uint64(t.annotation_at), annotation_size)
        a = put_int(a, np.uint64(0x20), time_ns)
    a = put_length(a, np.uint64(0x12), meta_size)
    return put_raw(a, arena + np.uint64(t.meta_at), meta_size)


@njit(cache=True, nogil=True)
def encode_timed_samples(arena, templates, series_index, time_ns, value, out, offsets):
    """Writes TIMED_METRIC_WITH_METADATAS messages, one per sample, into ``out``; returns the bytes used.

    ``templates``: ``METRIC_TEMPLATE`` rows whose ranges lie in ``arena`` (uint8). ``series_index`` (int64, shape n): the template of
    each sample; ``time_ns`` (int64) and ``value`` (float64) have its shape. ``out``: at least ``samples_size_bound`` bytes.
    ``offsets`` (int64, shape n + 1) is filled: message k is ``out[offsets[k]:offsets[k + 1]]``, beginning at 0.
    """
    start = base(out)
    bytes_at = base(arena)
    a = start
    offsets[0] = 0
    for k in range(len(series_index)):
        t = templates[series_index[k]]
        a = _put_sample(a, np.uint64(6), bytes_at, t, time_ns[k], np.int64(0), value[k], _0, _0)
        offsets[k + 1] = np.int64(a - start)
    return np.int64(a - start)


@njit(cache=True, nogil=True)
def encode_samples(arena, templates, series_index, time_ns, value, out, offsets):
    """As ``encode_timed_samples``, but samples of ``untimed`` templates become what their metric type says: COUNTER_WITH_METADATAS,
    BATCH_TIMER_WITH_METADATAS with one value, or GAUGE_WITH_METADATAS; ``time_ns`` is their client time.

    Values of counters are whole numbers within int64. ``out``: at least ``samples_size_bound`` bytes plus 8 per sample.
    """
    start = base(out)
    bytes_at = base(arena)
    values_at = base(value)
    a = start
    offsets[0] = 0
    for k in range(len(series_index)):
        t = templates[series_index[k]]
        if t.untimed == 0:
            a = _put_sample(a, np.uint64(6), bytes_at, t, time_ns[k], np.int64(0), value[k], _0, _0)
        elif t.metric_type == 1:
            a = _put_sample(a, np.uint64(1), bytes_at, t, time_ns[k], np.int64(value[k]), 0.0, _0, _0)
        elif t.metric_type == 2:
            one = values_at + np.uint64(k) * _8
            a = _put_sample(a, np.uint64(2), bytes_at, t, time_ns[k], np.int64(0), 0.0, one, _8)
        else:
            a = _put_sample(a, np.uint64(3), bytes_at, t, time_ns[k], np.int64(0), value[k], _0, _0)
        offsets[k + 1] = np.int64(a - start)
    return np.int64(a - start)


@njit(cache=True, nogil=True)
def encode_gauge_samples(arena, templates, series_index, time_ns, value, out, offsets):
    """Writes GAUGE_WITH_METADATAS messages; ``time_ns`` are client times (0: left out). Arguments as ``encode_timed_samples``."""
    start = base(out)
    bytes_at = base(arena)
    a = start
    offsets[0] = 0
    for k in range(len(series_index)):
        t = templates[series_index[k]]
        a = _put_sample(a, np.uint64(3), bytes_at, t, time_ns[k], np.int64(0), value[k], _0, _0)
        offsets[k + 1] = np.int64(a - start)
    return np.int64(a - start)


@njit(cache=True, nogil=True)
def encode_counter_samples(arena, templates, series_index, time_ns, count, out, offsets):
    """Writes COUNTER_WITH_METADATAS messages; ``count`` is int64. Arguments otherwise as ``encode_gauge_samples``."""
    start = base(out)
    bytes_at = base(arena)
    a = start
    offsets[0] = 0
    for k in range(len(series_index)):
        t = templates[series_index[k]]
        a = _put_sample(a, np.uint64(1), bytes_at, t, time_ns[k], count[k], 0.0, _0, _0)
        offsets[k + 1] = np.int64(a - start)
    return np.int64(a - start)


@njit(cache=True, nogil=True)
def encode_timer_samples(arena, templates, series_index, time_ns, values, value_offsets, out, offsets):
    """Writes BATCH_TIMER_WITH_METADATAS messages; sample k has ``values[value_offsets[k]:value_offsets[k + 1]]`` (float64, int64).

    ``out``: at least ``samples_size_bound`` bytes plus 8 per value. Arguments otherwise as ``encode_gauge_samples``.
    """
    start = base(out)
    bytes_at = base(arena)
    values_at = base(values)
    a = start
    offsets[0] = 0
    for k in range(len(series_index)):
        t = templates[series_index[k]]
        first = values_at + np.uint64(value_offsets[k]) * _8
        size = np.uint64(value_offsets[k + 1] - value_offsets[k]) * _8
        a = _put_sample(a, np.uint64(2), bytes_at, t, time_ns[k], np.int64(0), 0.0, first, size)
        offsets[k + 1] = np.int64(a - start)
    return np.int64(a - start)

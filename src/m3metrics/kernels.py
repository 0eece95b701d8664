# mypy: ignore-errors
"""Compiled codecs of the messages that carry metrics, and the shard hash of a batch. Formats: docs/m3/metrics.md, messages.

Decoding accepts exactly the shapes that encoders write: every field once, in ascending order, sub-messages present where M3 always
writes them. Whatever else lies in a message makes its row ``ROW_ODD``, and the plain decoder (``m3metrics.codec``) decides. Staged
metadatas and policies are located, not parsed: they repeat, so whoever reads rows interns their bytes.

Inside, positions are ``uint64`` addresses; ``0`` as a returned address means "not the canonical shape". Nothing outside
``[start, end)`` is read. The encoders live in ``m3metrics.encode_kernels`` and are exported here.
"""

import numpy as np
from numba import njit

from m3metrics.encode_kernels import (
    AGGREGATED_OVERHEAD,
    FORWARDED_OVERHEAD,
    SAMPLE_OVERHEAD,
    aggregated_size_bound,
    encode_aggregated,
    encode_counter_samples,
    encode_gauge_samples,
    encode_samples,
    encode_timed_samples,
    encode_timer_samples,
    put_aggregated,
    put_forwarded,
    samples_size_bound,
)
from m3metrics.rows import AGGREGATED_ROW, METRIC_ROW, METRIC_TEMPLATE, ROW_ODD, ROW_OK
from m3x.kernels import base, load8, load64, load_double, murmur3_32
from m3x.protobuf.reading import chunk, varint
from m3x.protobuf.words import CONTINUE, gather

__all__ = [
    "AGGREGATED_OVERHEAD",
    "FORWARDED_OVERHEAD",
    "SAMPLE_OVERHEAD",
    "aggregated_size_bound",
    "decode_aggregated",
    "decode_aggregated_one",
    "decode_metric",
    "decode_metrics",
    "encode_aggregated",
    "encode_counter_samples",
    "encode_gauge_samples",
    "encode_samples",
    "encode_timed_samples",
    "encode_timer_samples",
    "put_aggregated",
    "put_forwarded",
    "read_aggregated",
    "read_metric",
    "samples_size_bound",
    "shards_of",
    "warm",
]

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_7 = np.uint64(7)
_9 = np.uint64(9)
_MAX_U32 = np.uint64(0xFFFFFFFF)


@njit(cache=True, nogil=True)
def _untimed(origin, payload, a, e, row):
    """Fields of Counter, BatchTimer or Gauge (docs/m3/metrics.md, metrics) in ``[a, e)``; whether they have the canonical shape."""
    id_at = _0
    id_size = _0
    annotation_at = _0
    annotation_size = _0
    values_at = _0
    values_size = _0
    count = np.int64(0)
    value = 0.0
    time_ns = np.int64(0)
    if a < e and load8(a) == 0x0A:
        id_at, a = chunk(a + _1, e)
        id_size = a - id_at
        if a == _0:
            return False
    if payload == 3:
        if a < e and load8(a) == 0x11:
            if e - a < _9:
                return False
            value = load_double(a + _1)
            a += _9
    elif payload == 1:
        if a < e and load8(a) == 0x10:
            raw, a = varint(a + _1, e)
            if a == _0:
                return False
            count = np.int64(raw)
    elif a < e and load8(a) == 0x12:
        values_at, a = chunk(a + _1, e)
        values_size = a - values_at
        if a == _0 or values_size & _7 != _0:
            return False
    if a < e and load8(a) == 0x1A:
        annotation_at, a = chunk(a + _1, e)
        annotation_size = a - annotation_at
        if a == _0:
            return False
    if a < e and load8(a) == 0x20:
        raw, a = varint(a + _1, e)
        if a == _0:
            return False
        if payload != 2:
            time_ns = np.int64(raw)
    if a != e:
        return False
    row.value = value
    row.count = count
    row.time_ns = time_ns
    row.id_at = np.uint32(id_at - origin) if id_size else np.uint32(0)
    row.id_size = np.uint32(id_size)
    row.annotation_at = np.uint32(annotation_at - origin) if annotation_size else np.uint32(0)
    row.annotation_size = np.uint32(annotation_size)
    row.values_at = np.uint32(values_at - origin) if values_size else np.uint32(0)
    row.values_size = np.uint32(values_size)
    row.previous_at = np.uint32(0)
    row.previous_size = np.uint32(0)
    row.version = np.uint32(0)
    row.metric_type = np.uint8(payload)
    return True


@njit(cache=True, nogil=True)
def _timed(origin, payload, a, e, row):
    """Fields of TimedMetric, or of ForwardedMetric for payload 4, in ``[a, e)``; whether they have the canonical shape.

    docs/m3/metrics.md, metrics.
    """
    metric_type = np.uint8(0)
    id_at = _0
    id_size = _0
    annotation_at = _0
    annotation_size = _0
    values_at = _0
    values_size = _0
    previous_at = _0
    previous_size = _0
    version = _0
    value = 0.0
    time_ns = np.int64(0)
    if a + _1 < e and load8(a) == 0x08:
        metric_type = load8(a + _1)
        if metric_type > 3:
            return False
        a += _2
    if a < e and load8(a) == 0x12:
        id_at, a = chunk(a + _1, e)
        id_size = a - id_at
        if a == _0:
            return False
    if a < e and load8(a) == 0x18:
        # The nine bytes of a present-day time; other sizes take the loop.
        if e - a > _9 and load8(a + _9) < 128 and ~load64(a + _1) & CONTINUE == _0:
            time_ns = np.int64(gather(load64(a + _1)) | (np.uint64(load8(a + _9)) << np.uint64(56)))
            a += np.uint64(10)
        else:
            raw, a = varint(a + _1, e)
            if a == _0:
                return False
            time_ns = np.int64(raw)
    if payload == 4:
        if a < e and load8(a) == 0x22:
            values_at, a = chunk(a + _1, e)
            values_size = a - values_at
            if a == _0 or values_size & _7 != _0:
                return False
    elif a < e and load8(a) == 0x21:
        if e - a < _9:
            return False
        value = load_double(a + _1)
        a += _9
    if a < e and load8(a) == 0x2A:
        annotation_at, a = chunk(a + _1, e)
        annotation_size = a - annotation_at
        if a == _0:
            return False
    if payload == 4:
        if a < e and load8(a) == 0x32:
            previous_at, a = chunk(a + _1, e)
            previous_size = a - previous_at
            if a == _0 or previous_size & _7 != _0:
                return False
        if a < e and load8(a) == 0x38:
            version, a = varint(a + _1, e)
            if a == _0 or version > _MAX_U32:
                return False
    if a != e:
        return False
    row.value = value
    row.count = np.int64(0)
    row.time_ns = time_ns
    row.id_at = np.uint32(id_at - origin) if id_size else np.uint32(0)
    row.id_size = np.uint32(id_size)
    row.annotation_at = np.uint32(annotation_at - origin) if annotation_size else np.uint32(0)
    row.annotation_size = np.uint32(annotation_size)
    row.values_at = np.uint32(values_at - origin) if values_size else np.uint32(0)
    row.values_size = np.uint32(values_size)
    row.previous_at = np.uint32(previous_at - origin) if previous_size else np.uint32(0)
    row.previous_size = np.uint32(previous_size)
    row.version = np.uint32(version)
    row.metric_type = metric_type
    return True


@njit(cache=True, nogil=True)
def read_metric(origin, start, end, row):
    """``decode_metric`` with the address of the buffer and one row in place of the arrays, whose references would be counted."""
    a = origin + np.uint64(start)
    e = origin + np.uint64(end)
    row.message_at = np.uint32(start)
    row.message_size = np.uint32(end - start)
    row.status = np.uint8(ROW_ODD)
    if e - a < np.uint64(6) or load8(a) != 0x08:
        return ROW_ODD
    payload = load8(a + _1)
    if payload < 1 or payload > 7 or load8(a + _2) != (payload + 1) * 8 + 2:
        return ROW_ODD
    a, tail = chunk(a + np.uint64(3), e)
    if tail != e or a == e or load8(a) != 0x0A:
        return ROW_ODD
    a, rest = chunk(a + _1, e)
    if rest == _0 or rest >= e or load8(rest) != 0x12:
        return ROW_ODD
    meta, tail = chunk(rest + _1, e)
    if tail == _0:
        return ROW_ODD
    if payload == 7:
        if tail != e:
            if load8(tail) != 0x1A:
                return ROW_ODD
            _, tail = chunk(tail + _1, e)
        meta = rest
    if tail != e:
        return ROW_ODD
    if payload <= 3:
        if not _untimed(origin, payload, a, rest, row):
            return ROW_ODD
    elif not _timed(origin, payload, a, rest, row):
        return ROW_ODD
    row.meta_at = np.uint32(meta - origin)
    row.meta_size = np.uint32(e - meta)
    row.payload = payload
    row.spare = np.uint8(0)
    row.status = np.uint8(ROW_OK)
    return ROW_OK


@njit(cache=True, nogil=True, inline="always")
def decode_metric(buf, start, end, rows, i):
    """Parses the MetricWithMetadatas message at ``buf[start:end]`` into ``rows[i]`` (``METRIC_ROW``); returns its status.

    ``buf`` is a contiguous ``uint8`` array, ``0 <= start <= end <= len(buf) < 2**32``. A row that is ``ROW_ODD`` has
    ``message_at``, ``message_size`` and ``status`` only. The metadata range of a passthrough metric (payload 7) holds the fields
    storage_policy and routing_policy with their tags: ``m3metrics.codec.decode_passthrough_policies`` reads them.
    """
    return read_metric(base(buf), start, end, rows[i])


@njit(cache=True, nogil=True)
def decode_metrics(buf, starts, ends, n, rows):
    """Parses the messages ``buf[starts[i]:ends[i]]``, ``i < n``, into ``rows[:n]`` (see ``decode_metric``); returns how many are odd."""
    odd = 0
    origin = base(buf)
    for i in range(n):
        if read_metric(origin, np.int64(starts[i]), np.int64(ends[i]), rows[i]) != ROW_OK:
            odd += 1
    return odd


@njit(cache=True, nogil=True)
def read_aggregated(origin, start, end, row):
    """``decode_aggregated_one`` with the address of the buffer and one row in place of the arrays."""
    a = origin + np.uint64(start)
    e = origin + np.uint64(end)
    row.message_at = np.uint32(start)
    row.message_size = np.uint32(end - start)
    row.status = np.uint8(ROW_ODD)
    if e - a < np.uint64(4) or load8(a) != 0x0A:
        return ROW_ODD
    a, close = chunk(a + _1, e)
    if close == _0:
        return ROW_ODD
    encode_ns = _0
    if close != e:
        if load8(close) != 0x10:
            return ROW_ODD
        encode_ns, tail = varint(close + _1, e)
        if tail != e:
            return ROW_ODD
    if a == close or load8(a) != 0x0A:
        return ROW_ODD
    a, e = chunk(a + _1, close)
    if e == _0 or e >= close or load8(e) != 0x12:
        return ROW_ODD
    policy, tail = chunk(e + _1, close)
    if tail == _0:
        return ROW_ODD
    policy_size = tail - policy
    traffic = _0
    if tail != close:
        if load8(tail) != 0x1A:
            return ROW_ODD
        tail, stop = chunk(tail + _1, close)
        if stop != close:
            return ROW_ODD
        if tail != close:
            if load8(tail) != 0x08:
                return ROW_ODD
            traffic, tail = varint(tail + _1, close)
            if tail != close:
                return ROW_ODD
    metric_type = np.uint8(0)
    if a + _1 < e and load8(a) == 0x08:
        metric_type = load8(a + _1)
        if metric_type >= 128:
            return ROW_ODD
        a += _2
    id_at = _0
    id_size = _0
    if a < e and load8(a) == 0x12:
        id_at, a = chunk(a + _1, e)
        id_size = a - id_at
        if a == _0:
            return ROW_ODD
    time_ns = _0
    if a < e and load8(a) == 0x18:
        time_ns, a = varint(a + _1, e)
        if a == _0:
            return ROW_ODD
    value = 0.0
    if a < e and load8(a) == 0x21:
        if e - a < _9:
            return ROW_ODD
        value = load_double(a + _1)
        a += _9
    annotation_at = _0
    annotation_size = _0
    if a < e and load8(a) == 0x2A:
        annotation_at, a = chunk(a + _1, e)
        annotation_size = a - annotation_at
        if a == _0:
            return ROW_ODD
    if a != e:
        return ROW_ODD
    row.value = value
    row.time_ns = np.int64(time_ns)
    row.encode_ns = np.int64(encode_ns)
    row.traffic_types = traffic
    row.id_at = np.uint32(id_at - origin) if id_size else np.uint32(0)
    row.id_size = np.uint32(id_size)
    row.annotation_at = np.uint32(annotation_at - origin) if annotation_size else np.uint32(0)
    row.annotation_size = np.uint32(annotation_size)
    row.policy_at = np.uint32(policy - origin)
    row.policy_size = np.uint32(policy_size)
    row.metric_type = metric_type
    row.status = np.uint8(ROW_OK)
    return ROW_OK


@njit(cache=True, nogil=True, inline="always")
def decode_aggregated_one(buf, start, end, rows, i):
    """Parses the AggregatedMetric message at ``buf[start:end]`` into ``rows[i]`` (``AGGREGATED_ROW``); returns its status.

    Bounds as for ``decode_metric``. The storage policy is located, not parsed: an empty or invalid one is for the reader to refuse.
    """
    return read_aggregated(base(buf), start, end, rows[i])


@njit(cache=True, nogil=True)
def decode_aggregated(buf, starts, ends, n, rows):
    """Parses the AggregatedMetric messages ``buf[starts[i]:ends[i]]``, ``i < n``, into ``rows[:n]``; returns how many are odd."""
    odd = 0
    origin = base(buf)
    for i in range(n):
        if read_aggregated(origin, np.int64(starts[i]), np.int64(ends[i]), rows[i]) != ROW_OK:
            odd += 1
    return odd


@njit(cache=True, nogil=True)
def shards_of(buf, starts, sizes, num_shards, shards):
    """``shards[i] = murmur3-32(buf[starts[i]:starts[i] + sizes[i]]) mod num_shards`` for every row of ``shards`` (uint32).

    docs/m3/m3msg.md, shard of a metric.
    """
    modulus = np.uint32(num_shards)
    for i in range(len(shards)):
        shards[i] = murmur3_32(buf, np.int64(starts[i]), np.int64(sizes[i])) % modulus


def warm() -> None:
    """Compiles every public kernel for the dtypes that callers use, or loads it from the cache.

    Messages are read from writable and read-only arrays, at int64 or uint32 positions; encoders take writable arrays only, and
    ``shards_of`` the columns of rows, which are strided.
    """
    arena = np.frombuffer(b"idm", np.uint8).copy()
    templates = np.zeros(1, METRIC_TEMPLATE)
    templates[0] = (0, 2, 2, 1, 0, 0, 3, 0)
    which = np.zeros(1, np.int64)
    time_ns = np.ones(1, np.int64)
    value = np.ones(1, np.float64)
    out = np.zeros(samples_size_bound(templates, which) + 8, np.uint8)
    offsets = np.zeros(2, np.int64)
    encode_timed_samples(arena, templates, which, time_ns, value, out, offsets)
    encode_samples(arena, templates, which, time_ns, value, out, offsets)
    encode_gauge_samples(arena, templates, which, time_ns, value, out, offsets)
    encode_counter_samples(arena, templates, which, time_ns, which, out, offsets)
    encode_timer_samples(arena, templates, which, time_ns, value, np.array([0, 1]), out, offsets)
    rows = np.zeros(1, METRIC_ROW)
    for buffer in (out, np.frombuffer(out.tobytes(), np.uint8)):
        for positions in (offsets, offsets.astype(np.uint32)):
            decode_metrics(buffer, positions[:1], positions[1:], 1, rows)
            decode_aggregated(buffer, positions[:1], positions[1:], 1, np.zeros(1, AGGREGATED_ROW))
        shards_of(buffer, rows["id_at"], rows["id_size"], 64, np.zeros(1, np.uint32))
    room = np.zeros(aggregated_size_bound(2, 0, 0), np.uint8)
    encode_aggregated(room, 0, 0, arena, 0, 0, arena, 0, 2, arena, 0, 0, 1, 1.0, arena, 0, 0, arena, 0, 0)

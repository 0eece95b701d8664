# mypy: ignore-errors
"""Compiled codecs of the messages that carry metrics, and the shard hash of a batch. Formats: reference/m3msg.md §2.1-2.6.

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
from m3x.kernels import base, load8, load16, load64, load_double, murmur3_32

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
_7F = np.uint64(0x7F)
_80 = np.uint64(0x80)
_MAX_U32 = np.uint64(0xFFFFFFFF)


@njit(cache=True, nogil=True)
def _varint(a, e):
    """Returns ``(value, address after it)``; the address is 0 where the varint runs past ``e`` or into a tenth byte above 1."""
    value = _0
    shift = _0
    while a < e:
        byte = np.uint64(load8(a))
        a += _1
        if shift == np.uint64(63) and byte > _1:
            return _0, _0
        value |= (byte & _7F) << shift
        if byte < _80:
            return value, a
        shift += _7
    return _0, _0


@njit(cache=True, nogil=True)
def _chunk(a, e):
    """A length and the room for it: ``(address of the bytes, their length)``; the address is 0 where they do not fit before ``e``."""
    if a + _2 <= e:
        word = np.uint64(load16(a))
        if word & _80 == _0:
            n = word & _7F
            a += _1
        elif word & np.uint64(0x8000) == _0:
            n = (word & _7F) | ((word >> _1) & np.uint64(0x3F80))
            a += _2
        else:
            n, a = _varint(a, e)
    else:
        n, a = _varint(a, e)
    if a == _0 or n > e - a:
        return _0, _0
    return a, n


@njit(cache=True, nogil=True)
def _untimed(origin, payload, a, e, row):
    """Fields of Counter, BatchTimer or Gauge (m3msg.md §2.1) in ``[a, e)``; whether they have the canonical shape."""
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
        id_at, id_size = _chunk(a + _1, e)
        if id_at == _0:
            return False
        a = id_at + id_size
    if payload == 3:
        if a < e and load8(a) == 0x11:
            if e - a < _9:
                return False
            value = load_double(a + _1)
            a += _9
    elif payload == 1:
        if a < e and load8(a) == 0x10:
            raw, a = _varint(a + _1, e)
            if a == _0:
                return False
            count = np.int64(raw)
    elif a < e and load8(a) == 0x12:
        values_at, values_size = _chunk(a + _1, e)
        if values_at == _0 or values_size & _7 != _0:
            return False
        a = values_at + values_size
    if a < e and load8(a) == 0x1A:
        annotation_at, annotation_size = _chunk(a + _1, e)
        if annotation_at == _0:
            return False
        a = annotation_at + annotation_size
    if a < e and load8(a) == 0x20:
        raw, a = _varint(a + _1, e)
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
    """Fields of TimedMetric, or of ForwardedMetric for payload 4 (m3msg.md §2.1), in ``[a, e)``; whether they have the canonical shape."""
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
        id_at, id_size = _chunk(a + _1, e)
        if id_at == _0:
            return False
        a = id_at + id_size
    if a < e and load8(a) == 0x18:
        if e - a > np.uint64(9) and load8(a + _9) < 128:
            # The nine bytes of a present-day time; other sizes take the loop.
            word = load64(a + _1)
            if word & np.uint64(0x8080808080808080) == np.uint64(0x8080808080808080):
                word &= np.uint64(0x7F7F7F7F7F7F7F7F)
                word = (word & np.uint64(0x007F007F007F007F)) | ((word & np.uint64(0x7F007F007F007F00)) >> _1)
                word = (word & np.uint64(0x00003FFF00003FFF)) | ((word & np.uint64(0x3FFF00003FFF0000)) >> _2)
                word = (word & np.uint64(0x000000000FFFFFFF)) | ((word & np.uint64(0x0FFFFFFF00000000)) >> np.uint64(4))
                time_ns = np.int64(word | (np.uint64(load8(a + _9)) << np.uint64(56)))
                a += np.uint64(10)
            else:
                raw, a = _varint(a + _1, e)
                time_ns = np.int64(raw)
        else:
            raw, a = _varint(a + _1, e)
            time_ns = np.int64(raw)
        if a == _0:
            return False
    if payload == 4:
        if a < e and load8(a) == 0x22:
            values_at, values_size = _chunk(a + _1, e)
            if values_at == _0 or values_size & _7 != _0:
                return False
            a = values_at + values_size
    elif a < e and load8(a) == 0x21:
        if e - a < _9:
            return False
        value = load_double(a + _1)
        a += _9
    if a < e and load8(a) == 0x2A:
        annotation_at, annotation_size = _chunk(a + _1, e)
        if annotation_at == _0:
            return False
        a = annotation_at + annotation_size
    if payload == 4:
        if a < e and load8(a) == 0x32:
            previous_at, previous_size = _chunk(a + _1, e)
            if previous_at == _0 or previous_size & _7 != _0:
                return False
            a = previous_at + previous_size
        if a < e and load8(a) == 0x38:
            version, a = _varint(a + _1, e)
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
    a, n = _chunk(a + np.uint64(3), e)
    if n == _0 or a + n != e or load8(a) != 0x0A:
        return ROW_ODD
    a, n = _chunk(a + _1, e)
    if a == _0:
        return ROW_ODD
    rest = a + n
    if rest == e or load8(rest) != 0x12:
        return ROW_ODD
    meta, meta_size = _chunk(rest + _1, e)
    if meta == _0:
        return ROW_ODD
    if payload == 7:
        tail = meta + meta_size
        if tail != e:
            if load8(tail) != 0x1A:
                return ROW_ODD
            tail, routing_size = _chunk(tail + _1, e)
            if tail == _0 or tail + routing_size != e:
                return ROW_ODD
        meta = rest
        meta_size = e - rest
    elif meta + meta_size != e:
        return ROW_ODD
    if payload <= 3:
        if not _untimed(origin, payload, a, rest, row):
            return ROW_ODD
    elif not _timed(origin, payload, a, rest, row):
        return ROW_ODD
    row.meta_at = np.uint32(meta - origin)
    row.meta_size = np.uint32(meta_size)
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
    a, n = _chunk(a + _1, e)
    if a == _0:
        return ROW_ODD
    close = a + n
    encode_ns = _0
    if close != e:
        if load8(close) != 0x10:
            return ROW_ODD
        encode_ns, tail = _varint(close + _1, e)
        if tail != e:
            return ROW_ODD
    if a == close or load8(a) != 0x0A:
        return ROW_ODD
    a, n = _chunk(a + _1, close)
    if a == _0:
        return ROW_ODD
    e = a + n
    if e == close or load8(e) != 0x12:
        return ROW_ODD
    policy, policy_size = _chunk(e + _1, close)
    if policy == _0:
        return ROW_ODD
    traffic = _0
    tail = policy + policy_size
    if tail != close:
        if load8(tail) != 0x1A:
            return ROW_ODD
        tail, n = _chunk(tail + _1, close)
        if tail == _0 or tail + n != close:
            return ROW_ODD
        if n != _0:
            if load8(tail) != 0x08:
                return ROW_ODD
            traffic, tail = _varint(tail + _1, close)
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
        id_at, id_size = _chunk(a + _1, e)
        if id_at == _0:
            return ROW_ODD
        a = id_at + id_size
    time_ns = _0
    if a < e and load8(a) == 0x18:
        time_ns, a = _varint(a + _1, e)
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
        annotation_at, annotation_size = _chunk(a + _1, e)
        if annotation_at == _0:
            return ROW_ODD
        a = annotation_at + annotation_size
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
    """``shards[i] = murmur3-32(buf[starts[i]:starts[i] + sizes[i]]) mod num_shards`` for every row of ``shards`` (uint32; m3msg.md §4)."""
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

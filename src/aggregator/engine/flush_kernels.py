# mypy: ignore-errors
# ruff: noqa: PLR0124
"""Compiled flush: the records of a closed window, in the order of their slots, as encoded AggregatedMetric messages.

Aggregation values follow docs/m3/metrics.md, accumulators. Quantiles are exact: of ``N`` samples in ascending order the one of rank
``ceil(q·N)``, and for ``N`` ≤ 3 the one at index ``trunc(q·N)`` (docs/m3/metrics.md, quantiles). A kernel stops where the output is full
and goes on from ``CURSOR``.
"""

import math

import numpy as np
from numba import njit

from aggregator.engine import tables as layout
from aggregator.engine import view_kernels as v
from aggregator.engine.state_kernels import state_word
from aggregator.engine.window_kernels import exists, next_record, record_at
from m3metrics.aggregation import AggregationType
from m3metrics.kernels import AGGREGATED_OVERHEAD, encode_aggregated
from m3metrics.metric import MetricType
from m3x.kernels import murmur3_32
from m3x.protobuf.writing import bytes_size, int_size

_INSERTION = 24


@njit(cache=True, nogil=True)
def _stdev(n, squares, total):
    """Sample standard deviation; NaN where rounding makes the variance negative, as in M3."""
    pairs = n * (n - 1)
    if pairs == 0:
        return 0.0
    variance = (float(n) * squares - total * total) / float(pairs)
    return math.sqrt(variance) if variance >= 0.0 else np.nan


@njit(cache=True, nogil=True)
def counter_value(r, kind):
    """Value of an aggregation type of a counter's record (COUNTER_RECORD)."""
    if kind == AggregationType.SUM:
        return float(r.sum)
    if kind == AggregationType.COUNT:
        return float(r.count)
    if kind == AggregationType.MEAN:
        return 0.0 if r.count == 0 else float(r.sum) / float(r.count)
    if kind == AggregationType.MIN:
        return float(r.min)
    if kind == AggregationType.MAX:
        return float(r.max)
    if kind == AggregationType.SUM_SQ:
        return float(r.sum_sq)
    if kind == AggregationType.STDEV:
        return _stdev(r.count, float(r.sum_sq), float(r.sum))
    return 0.0


@njit(cache=True, nogil=True)
def gauge_value(r, kind):
    """Value of an aggregation type of a gauge's record (RECORD)."""
    if kind == AggregationType.LAST:
        return r.last
    if kind == AggregationType.SUM:
        return r.sum
    if kind == AggregationType.COUNT:
        return float(r.count)
    if kind == AggregationType.MEAN:
        return 0.0 if r.count == 0 else r.sum / float(r.count)
    if kind == AggregationType.MIN:
        return r.min
    if kind == AggregationType.MAX:
        return r.max
    if kind == AggregationType.SUM_SQ:
        return r.sum_sq
    if kind == AggregationType.STDEV:
        return _stdev(r.count, r.sum_sq, r.sum)
    return 0.0


@njit(cache=True, nogil=True)
def quantile(values, first, n, q):
    """The quantile of the ascending ``values[first:first + n]``; 0 without values."""
    if n == 0:
        return 0.0
    if n <= 3:
        return values[first + min(np.int64(q * float(n)), n - 1)]
    rank = np.int64(math.ceil(q * float(n)))
    return values[first + min(max(rank, 1), n) - 1]


@njit(cache=True, nogil=True)
def timer_value(r, kind, q, values, first, n):
    """Value of an aggregation type of a timer's record (RECORD); its logged samples are ``values[first:first + n]``, ascending."""
    if q >= 0.0:
        return quantile(values, first, n, q)
    if kind in (AggregationType.MIN, AggregationType.MAX):
        if r.count == 0:
            return 0.0
        return r.min if kind == AggregationType.MIN else r.max
    if kind == AggregationType.LAST:
        return 0.0
    return gauge_value(r, kind)


@njit(cache=True, nogil=True)
def sort_range(values, first, last):
    """Sorts ``values[first:last]`` in place."""
    if last - first > _INSERTION:
        values[first:last].sort()
        return
    for i in range(first + 1, last):
        x = values[i]
        j = i - 1
        while j >= first and values[j] > x:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = x


@njit(cache=True, nogil=True)
def gather_log(t, w, samples):
    """Fills ``samples`` (Samples, with room for the window's ``logged``) by slot, in order of arrival."""
    values = samples.values
    starts = samples.starts
    x = v.windows(t)[w]
    slots = len(starts) - 2
    starts[0] = 0
    starts[1] = 0
    for slot in range(slots):
        i = record_at(t, w, slot)
        n = np.int64(0)
        if exists(t, i):
            spec = v.specs(t)[np.int64(v.elements(t)[v.reference(x.bucket, slot)].spec)]
            if spec.metric_type == MetricType.TIMER and spec.flags & layout.SPEC_LOG:
                n = v.timer_logs(t)[i].samples
        starts[slot + 2] = starts[slot + 1] + n
    chunk = x.log_head
    while chunk != 0:
        first = (chunk - 1) * layout.LOG_CHUNK
        end = first + (x.log_used if chunk == x.log_tail else layout.LOG_CHUNK)
        at = first + 1
        while at + 1 < end:
            word = v.log_words(t)[at]
            slot = word >> 32
            n = word & 0xFFFFFFFF
            to = starts[slot + 1]
            for k in range(n):
                values[to + k] = v.log(t)[at + 1 + k]
            starts[slot + 1] = to + n
            at += 1 + n
        chunk = v.log_words(t)[first]


@njit(cache=True, nogil=True)
def record_value(t, i, spec, o, values, first, count):
    """Value of output ``o`` of record ``i``; its samples in the log are ``values[first:first + count]``, ascending."""
    if spec.metric_type == MetricType.GAUGE:
        return gauge_value(v.records(t)[i], o.kind)
    if spec.metric_type == MetricType.COUNTER:
        return counter_value(v.counter_records(t)[i], o.kind)
    return timer_value(v.records(t)[i], o.kind, o.quantile, values, first, count)


@njit(cache=True, nogil=True)
def _message_shard(out, end, time_ns, value, annotation_size, policy_size, name_size, topic_shards):
    """Topic shard of the message that ends at ``end``: the hash of the id inside it."""
    at = end - policy_size - name_size - np.int64(bytes_size(np.uint64(annotation_size)) + int_size(time_ns))
    if value != 0.0:
        at -= 9
    return murmur3_32(out, at, name_size) % np.uint32(topic_shards)


@njit(cache=True, nogil=True)
def _put_value(t, element, spec, o, annotation, time_ns, value, topic_shards, part):
    """Encodes one value as the next message of ``part``; returns 0, or the bytes that it needs where there is no room."""
    e = v.entries(t)[np.int64(element.entry)]
    policy = v.attrs(t)[np.int64(element.attrs)]
    annotation_at = np.int64(0)
    annotation_size = np.int64(0)
    if annotation != 0:
        note = v.annotations(t)[annotation - 1]
        annotation_at = np.int64(note.at)
        annotation_size = np.int64(note.size)
    name_size = np.int64(spec.prefix_size) + np.int64(e.id_size) + np.int64(o.suffix_size)
    need = name_size + annotation_size + np.int64(policy.size) + AGGREGATED_OVERHEAD
    n = part.tally[0].messages
    p = part.offsets[n]
    if n >= len(part.shards) or p + need > len(part.payload):
        return need
    p = encode_aggregated(
        part.payload,
        p,
        0,
        v.text(t),
        np.int64(spec.prefix_at),
        np.int64(spec.prefix_size),
        v.ids(t),
        e.id_at,
        np.int64(e.id_size),
        v.text(t),
        np.int64(o.suffix_at),
        np.int64(o.suffix_size),
        time_ns,
        value,
        v.annotation_bytes(t),
        annotation_at,
        annotation_size,
        v.text(t),
        np.int64(policy.at),
        np.int64(policy.size),
    )
    part.shards[n] = _message_shard(
        part.payload, p, time_ns, value, annotation_size, np.int64(policy.size), name_size, topic_shards
    )
    part.policies[n] = spec.policy
    part.origins[n] = e.shard
    part.offsets[n + 1] = p
    part.tally[0].messages = n + 1
    return np.int64(0)


@njit(cache=True, nogil=True)
def _take_late_mark(t, w, i):
    r = v.records(t)[i]
    if r.flags & layout.RECORD_LATE:
        r.flags = np.uint16(layout.RECORD_EXISTS)
        v.windows(t)[w].late -= 1


@njit(cache=True, nogil=True)
def _emit_record(t, w, i, slot, cursor, samples, discard_nan, topic_shards, part):
    """Encodes the values of record ``i`` from output ``cursor.output`` on; returns whether that was all."""
    bucket = v.buckets(t)[v.windows(t)[w].bucket]
    time_ns = v.windows(t)[w].start + bucket.stamp
    element = v.elements(t)[v.reference(v.windows(t)[w].bucket, slot)]
    spec = v.specs(t)[np.int64(element.spec)]
    state = spec.flags & layout.SPEC_STATE != 0
    logged = spec.flags & layout.SPEC_LOG and not state
    first = samples.starts[slot] if logged else np.int64(0)
    count = samples.starts[slot + 1] - first if logged else np.int64(0)
    k = cursor.output >> 1
    if k == 0 and count > 1:
        sort_range(samples.values, first, first + count)
    while k < np.int64(spec.outputs):
        o = v.outputs(t)[np.int64(spec.outputs_at) + k]
        if state:
            if not np.int64(v.states(t)[i].pending) >> k & 1:
                k += 1
                continue
            value = v.record_words(t)[state_word(i, np.int64(spec.outputs) + k)]
        else:
            value = record_value(t, i, spec, o, samples.values, first, count)
        if discard_nan and value != value:
            part.tally[0].discarded += 1
            k += 1
            continue
        # Twice where a zero follows; the lowest bit of the cursor says that the value itself is out.
        for follows in range(cursor.output & 1, 2 if spec.flags & layout.SPEC_RESET else 1):
            at_ns = time_ns + max(bucket.resolution // 2, np.int64(1)) if follows else time_ns
            annotation = np.int64(v.records(t)[i].annotation)
            need = _put_value(t, element, spec, o, annotation, at_ns, 0.0 if follows else value, topic_shards, part)
            if need != 0:
                cursor.output = k << 1 | follows
                cursor.need = need if part.tally[0].messages == 0 else 0
                return False
        cursor.output = 0
        k += 1
    return True


@njit(cache=True, nogil=True)
def emit_window(t, w, actions, uniform, late, where, samples, discard_nan, topic_shards, part):
    """Encodes records of window ``w``, behind what ``part`` holds, from ``where`` (CURSOR, one row) on; returns whether that was all.

    ``actions`` (uint8): what to do with the records of each shard, or ``uniform`` for all if it is not ``ACTION_NONE``. ``late``: only
    records marked so. Of elements with state, what their state says is put out, whatever the action. ``samples``: as ``gather_log``
    leaves them.
    """
    cursor = where[0]
    cursor.need = 0
    slot = cursor.next - 1
    while True:
        slot, i = next_record(t, w, slot + 1)
        if i < 0:
            break
        if late and not v.records(t)[i].flags & layout.RECORD_LATE:
            continue
        element = v.elements(t)[v.reference(v.windows(t)[w].bucket, slot)]
        spec = v.specs(t)[np.int64(element.spec)]
        state = spec.flags & layout.SPEC_STATE != 0
        action = uniform
        if element.state == layout.ELEMENT_DROPPED:
            action = layout.ACTION_NONE
        elif state:
            action = layout.ACTION_EMIT if v.states(t)[i].pending != 0 else layout.ACTION_NONE
        elif uniform == layout.ACTION_NONE:
            action = np.int64(actions[np.int64(v.entries(t)[np.int64(element.entry)].shard)])
        if action == layout.ACTION_NONE:
            if element.state == layout.ELEMENT_DROPPED and not state:
                _take_late_mark(t, w, i)
            continue
        if action == layout.ACTION_EMIT and not _emit_record(
            t, w, i, slot, cursor, samples, discard_nan, topic_shards, part
        ):
            cursor.next = slot
            return False
        if state:
            v.states(t)[i].pending = np.uint32(0)
        else:
            if action == layout.ACTION_DISCARD:
                part.tally[0].discarded += np.int64(spec.outputs)
            _take_late_mark(t, w, i)
        cursor.output = 0
    cursor.next = 0
    cursor.output = 0
    return True

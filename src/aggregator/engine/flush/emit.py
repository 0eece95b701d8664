# mypy: ignore-errors
# ruff: noqa: PLR0124
"""Compiled flush: the records of a closed window, in the order of their slots, as encoded AggregatedMetric messages.

A kernel stops where the output is full, and goes on from ``CURSOR``.
"""

import numpy as np
from numba import njit

from aggregator.engine.state.state import state_word
from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.windows.pages import SLIM, is_late, next_record
from aggregator.engine.windows.samples import copy_samples, put_in_places
from aggregator.engine.windows.values import record_value
from m3metrics.kernels import AGGREGATED_OVERHEAD, encode_aggregated
from m3x.kernels import murmur3_32
from m3x.protobuf.writing import bytes_size, int_size


@njit(cache=True, nogil=True)
def _message_shard(out, end, time_ns, value, annotation_size, policy_size, name_size, topic_shards):
    """Topic shard of the message that ends at ``end``: the hash of the id inside it."""
    at = end - policy_size - name_size - np.int64(bytes_size(np.uint64(annotation_size)) + int_size(time_ns))
    if value != 0.0:
        at -= 9
    return murmur3_32(out, at, name_size) % np.uint32(topic_shards)


@njit(cache=True, nogil=True, inline="always")
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
    if is_late(t, i):
        v.records(t)[i].flags = np.uint16(layout.RECORD_EXISTS)
        v.windows(t)[w].late -= 1


@njit(cache=True, nogil=True, inline="always")
def _emit_record(t, w, i, slot, cursor, samples, discard_nan, topic_shards, part):
    """Encodes the values of record ``i`` from output ``cursor.output`` on; returns whether that was all."""
    bucket = v.buckets(t)[v.windows(t)[w].bucket]
    time_ns = v.windows(t)[w].start + bucket.stamp
    element = v.elements(t)[v.reference(v.windows(t)[w].bucket, slot)]
    spec = v.specs(t)[np.int64(element.spec)]
    state = spec.flags & layout.SPEC_STATE != 0
    logged = spec.flags & layout.SPEC_LOG and not state
    count = samples.counts[slot] if logged else np.int64(0)
    annotation = np.int64(v.records(t)[i].annotation) if i < SLIM else np.int64(0)
    k = cursor.output >> 1
    if k == 0 and count > 0:
        copy_samples(t, samples, slot, samples.values, np.int64(0))
        put_in_places(t, spec, samples.values, count)
    while k < np.int64(spec.outputs):
        o = v.outputs(t)[np.int64(spec.outputs_at) + k]
        if state:
            if not np.int64(v.states(t)[i].pending) >> k & 1:
                k += 1
                continue
            value = v.record_words(t)[state_word(i, np.int64(spec.outputs) + k)]
        else:
            value = record_value(t, i, spec, o, samples.values, count)
        if discard_nan and value != value:
            part.tally[0].discarded += 1
            k += 1
            continue
        # Twice where a zero follows; the lowest bit of the cursor says that the value itself is out.
        for follows in range(cursor.output & 1, 2 if spec.flags & layout.SPEC_RESET else 1):
            at_ns = time_ns + max(bucket.resolution // 2, np.int64(1)) if follows else time_ns
            need = _put_value(t, element, spec, o, annotation, at_ns, 0.0 if follows else value, topic_shards, part)
            if need != 0:
                cursor.output = k << 1 | follows
                cursor.need = need if part.tally[0].messages == 0 else 0
                return False
        cursor.output = 0
        k += 1
    return True


@njit(cache=True, nogil=True)
def emit_window(t, w, until, actions, uniform, late, where, samples, discard_nan, topic_shards, part):
    """Encodes records of window ``w`` in slots below ``until``, behind what ``part`` holds, from ``where`` (CURSOR, one row) on; returns
    whether that was all.

    ``actions`` (uint8): what to do with the records of each shard, or ``uniform`` for all if it is not ``ACTION_NONE``. ``late``: only
    records marked so. Of elements with state, what their state says is put out, whatever the action. ``samples``: those of
    the window (``samples.find_runs``); its ``values`` stay until that record is out which was begun.
    """
    part = v.borrowed(part)
    samples = v.borrowed(samples)
    cursor = where[0]
    cursor.need = 0
    slot = cursor.next - 1
    while True:
        slot, i = next_record(t, w, slot + 1)
        if i < 0 or slot >= until:
            break
        if slot != cursor.next:
            # Some of a record that is not put out any more may be out.
            cursor.output = 0
        if late and not is_late(t, i):
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
        if action == layout.ACTION_EMIT:
            cursor.reached = max(cursor.reached, slot + 1)
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

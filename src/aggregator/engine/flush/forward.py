# mypy: ignore-errors
"""Compiled rollups: contributions of a window, grouped and encoded as ForwardedMetric messages (docs/m3/aggregation.md, forwarding).

All values of a group for one window go into one message, in the order in which the elements came to be; flag and routing of the last one
hold, and the last annotation that is not empty.
"""

import numpy as np
from numba import njit

from aggregator.engine.state.pipeline import begin_versions
from aggregator.engine.tables import views as v
from aggregator.engine.windows.pages import record_of
from m3metrics.kernels import FORWARDED_OVERHEAD, put_forwarded
from m3x.kernels import base


@njit(cache=True, nogil=True)
def group_end(rows, order, n, first):
    """Where the group that begins at ``order[first]`` ends."""
    last = first + 1
    while last < n and rows[order[last]].group == rows[order[first]].group:
        last += 1
    return last


@njit(cache=True, nogil=True)
def _sort_group(rows, order, first, last):
    """Sorts ``order[first:last]`` by sequence if it is not sorted; what has the same sequence stays in order."""
    sequences = np.empty(last - first, np.uint32)
    ascending = True
    for k in range(first, last):
        sequences[k - first] = rows[order[k]].sequence
        ascending &= k == first or sequences[k - first - 1] <= sequences[k - first]
    if ascending:
        return
    moved = order[first:last].copy()
    places = np.argsort(sequences, kind="mergesort")
    for k in range(first, last):
        order[k] = moved[places[k - first]]


@njit(cache=True, nogil=True)
def order_contributions(rows, n, counts, order):
    """Fills ``order[:n]`` (int64) with the rows by group, and by sequence within one; ``counts``: one more than slots, 0."""
    for k in range(n):
        counts[np.int64(rows[k].group) + 1] += 1
    for g in range(1, len(counts)):
        counts[g] += counts[g - 1]
    for k in range(n):
        g = np.int64(rows[k].group)
        order[counts[g]] = k
        counts[g] += 1
    # Rows come by slot; slots that are used again, the last one given back first, turn the order of the elements around.
    first = 0
    while first < n:
        last = group_end(rows, order, n, first)
        _sort_group(rows, order, first, last)
        first = last


@njit(cache=True, nogil=True)
def count_versions(t, w, rows, order, n, versions):
    """Numbers the messages of window ``w``: ``versions[k]`` for the group that begins at ``order[k]``.

    0, or one more than the last for windows that may be flushed again; what is emitted again after a change of leaders keeps 0.
    Returns the number of values in the largest message.
    """
    largest = 0
    first = 0
    while first < n:
        last = group_end(rows, order, n, first)
        row = rows[order[last - 1]]
        versions[first] = np.uint32(0)
        if row.resend:
            g = record_of(t, w, np.int64(row.group))
            if g >= 0:
                sent = begin_versions(t, w, np.int64(row.group), g)
                if not row.again:
                    versions[first] = np.uint32(sent.sent)
                    sent.sent += 1
                elif sent.sent == 0:
                    sent.sent = 1
        largest = max(largest, last - first)
        first = last
    return largest


@njit(cache=True, nogil=True)
def _collect(t, rows, order, first, last, values, previous):
    """Copies the values of the group ``order[first:last]``; ``(address, bytes)`` (uint64) of its last annotation that is not empty."""
    note = np.int64(0)
    for k in range(first, last):
        row = rows[order[k]]
        values[k - first] = row.value
        previous[k - first] = row.previous
        if row.annotation != 0:
            note = np.int64(row.annotation)
    if note == 0:
        return np.uint64(0), np.uint64(0)
    a = v.annotations(t)[note - 1]
    return base(v.annotation_bytes(t)) + np.uint64(a.at), np.uint64(a.size)


@njit(cache=True, nogil=True)
def emit_forwarded(t, w, time_ns, rows, order, versions, where, num_shards, values, previous, part):
    """Encodes the groups of window ``w``, behind what ``part`` holds, from ``where`` (CURSOR, one row) on; returns whether that was all.

    ``values``, ``previous``: float64, room for the largest group.
    """
    part = v.borrowed(part)
    n = len(rows)
    cursor = where[0]
    cursor.need = 0
    tally = part.tally[0]
    text = base(v.text(t))
    while cursor.next < n:
        first = cursor.next
        last = group_end(rows, order, n, first)
        row = rows[order[last - 1]]
        group = v.groups(t)[v.reference(v.windows(t)[w].bucket, row.group)]
        target = v.targets(t)[np.int64(group.target)]
        note_at, note_size = _collect(t, rows, order, first, last, values, previous)
        need = (
            np.int64(target.id_size) + np.int64(target.meta_size) + np.int64(note_size) + 16 * (last - first)
        ) + FORWARDED_OVERHEAD
        done = tally.messages
        p = part.offsets[done]
        if done >= len(part.shards) or p + need > len(part.payload):
            cursor.need = need if done == 0 else 0
            return False
        start = base(part.payload)
        end = put_forwarded(
            start + np.uint64(p),
            np.uint64(target.metric_type),
            text + np.uint64(target.id_at),
            np.uint64(target.id_size),
            time_ns,
            base(values),
            base(previous),
            np.uint64(last - first) * np.uint64(8),
            note_at,
            note_size,
            np.uint64(versions[first]),
            text + np.uint64(target.meta_at),
            np.uint64(target.meta_size),
            np.uint64(group.shard),
            np.int64(target.times),
            np.uint64(row.resend),
            np.uint64(v.attrs(t)[np.int64(row.attrs)].traffic),
        )
        part.shards[done] = target.hash % np.uint32(num_shards)
        part.policies[done] = target.policy
        part.origins[done] = group.shard
        part.offsets[done + 1] = np.int64(end - start)
        tally.messages = done + 1
        tally.forwarded += last - first
        cursor.next = last
    cursor.next = 0
    return True

# mypy: ignore-errors
"""The series cache and what comes out of it; public through ``coordinator.write.kernels``.

All but ``keys`` and ``expand`` work on one generation, whose arrays ``coordinator.write.series_cache`` owns.
"""

import numpy as np
from numba import njit

from m3x.kernels import base, bytes_equal, copy_bytes, hash_bytes, murmur3_32, prefetch

SLOT = np.dtype([("hash", np.uint64), ("entry", np.int64)], align=True)
"""Open addressing; ``entry`` is the entry's index + 1, 0: free."""

ENTRY = np.dtype(
    [
        ("key_at", np.uint32),
        ("key_size", np.uint32),
        ("context", np.uint64),  # what besides the key bytes decides over the templates
        (
            "first",
            np.int32,
        ),  # templates [first, first + count); without any, the code of the reason why nothing is sent
        ("count", np.int32),
    ],
    align=True,
)
"""One cached series."""

_SLOT_BYTES = SLOT.itemsize
_ENTRY_BYTES = ENTRY.itemsize

SHARED_BYTES = 1 << 18
"""The first bytes of every arena hold the same staged metadatas in both generations."""

ENTRIES, TEMPLATES, ARENA = 0, 1, 2
"""Positions in a generation's ``used`` (int64): entries, templates and arena bytes in use."""


@njit(cache=True, nogil=True)
def keys(series, n, context, key_at, key_size, contexts):
    """Fills the key columns of ``find`` for rows ``[0, n)``; returns the first row with an attribute out of range, or -1.

    ``contexts`` (uint64) says what besides the label bytes decides over the templates: ``context``, and the attributes in the lower
    16 bits.
    """
    wrong = np.int64(-1)
    for i in range(n):
        row = series[i]
        key_at[i] = row.labels_at
        key_size[i] = row.labels_size
        m3_type = np.int64(row.m3_type)
        source = np.int64(row.source)
        prom_type = np.int64(row.prom_type)
        if m3_type < 0 or m3_type > 2 or source < 0 or source > 2 or prom_type < 0 or prom_type > 7:
            contexts[i] = 0
            if wrong < 0:
                wrong = i
        else:
            contexts[i] = (np.uint64(context) << np.uint64(16)) | np.uint64((m3_type << 8) | (source << 4) | prom_type)
    return wrong


@njit(cache=True, nogil=True)
def _probe(slots, entries, arena, address, n, context, h):
    """Index of the entry with that key, or -1."""
    mask = np.uint64(len(slots) - 1)
    at = h & mask
    while True:
        slot = slots[at]
        if slot.entry == 0:
            return np.int64(-1)
        if slot.hash == h:
            entry = entries[slot.entry - 1]
            if (
                np.int64(entry.key_size) == n
                and entry.context == context
                and bytes_equal(base(arena) + np.uint64(entry.key_at), address, n)
            ):
                return np.int64(slot.entry - 1)
        at = (at + np.uint64(1)) & mask


@njit(cache=True, nogil=True)
def find(slots, entries, arena, buf, key_at, key_size, contexts, first, count, misses):
    """Looks keys up: fills ``first`` and ``count`` (int64) with template ranges, ``misses`` with rows not found; returns their number.

    In rounds over all rows, each of which asks for the memory that the next one reads: with many series every look-up would
    otherwise wait for memory four times.
    """
    rows = len(key_at)
    mask = np.uint64(len(slots) - 1)
    hashes = np.empty(rows, np.uint64)
    found = np.empty(rows, np.int64)
    for i in range(rows):
        h = hash_bytes(base(buf) + np.uint64(key_at[i]), np.int64(key_size[i]), contexts[i])
        hashes[i] = h
        prefetch(base(slots) + (h & mask) * np.uint64(_SLOT_BYTES))
    for i in range(rows):
        at = hashes[i] & mask
        while slots[at].entry != 0 and slots[at].hash != hashes[i]:
            at = (at + np.uint64(1)) & mask
        found[i] = slots[at].entry - 1
        if found[i] >= 0:
            prefetch(base(entries) + np.uint64(found[i]) * np.uint64(_ENTRY_BYTES))
    for i in range(rows):
        if found[i] >= 0:
            key = base(arena) + np.uint64(entries[found[i]].key_at)
            for line in range(3):
                prefetch(key + np.uint64(64 * line))
    n_misses = 0
    for i in range(rows):
        e = found[i]
        if e >= 0:
            entry = entries[e]
            address = base(buf) + np.uint64(key_at[i])
            n = np.int64(key_size[i])
            if not (
                np.int64(entry.key_size) == n
                and entry.context == contexts[i]
                and bytes_equal(base(arena) + np.uint64(entry.key_at), address, n)
            ):
                e = _probe(slots, entries, arena, address, n, contexts[i], hashes[i])
        if e < 0:
            misses[n_misses] = i
            n_misses += 1
        else:
            first[i] = entries[e].first
            count[i] = entries[e].count
    return n_misses


@njit(cache=True, nogil=True)
def _link(slots, h, entry):
    mask = np.uint64(len(slots) - 1)
    at = h & mask
    while slots[at].entry != 0:
        at = (at + np.uint64(1)) & mask
    slots[at].hash = h
    slots[at].entry = entry + 1


@njit(cache=True, nogil=True)
def insert(slots, entries, arena, used, buf, at, n, context, first, count):
    """Adds an entry for key ``buf[at:at+n]``, which is not there yet; the caller has made sure of the room."""
    h = hash_bytes(base(buf) + np.uint64(at), n, np.uint64(context))
    e = used[ENTRIES]
    entry = entries[e]
    entry.key_at = np.uint32(used[ARENA])
    entry.key_size = np.uint32(n)
    entry.context = np.uint64(context)
    entry.first = np.int32(first)
    entry.count = np.int32(count)
    used[ARENA] = copy_bytes(arena, used[ARENA], buf, at, n)
    used[ENTRIES] = e + 1
    _link(slots, h, e)


@njit(cache=True, nogil=True)
def hash_ids(arena, templates, begin, end, hashes):
    """``hashes[t]`` = murmur3-32 of the id of template ``t``, for ``begin <= t < end``."""
    for t in range(begin, end):
        hashes[t] = murmur3_32(arena, np.int64(templates[t].id_at), np.int64(templates[t].id_size))


@njit(cache=True, nogil=True)
def expand(
    series, n, first, count, hashes, templates, times, unit_ns, num_shards, values,
    series_index, time_ns, out_values, shards,
):  # fmt: skip
    """One output row per sample and template: template index, time in ns, value, shard; returns their number.

    ``times`` (int64) count ``unit_ns``; what does not fit 64 bits wraps, as in M3. ``first``/``count``: template range of each of the
    ``n`` series rows. Values of counters are cut to whole numbers as a 64-bit conversion of M3's platform does it (out of range and
    NaN: −2^63; docs/m3/coordinator.md, writing).
    """
    k = 0
    for i in range(n):
        row = series[i]
        for s in range(np.int64(row.sample_from), np.int64(row.sample_from) + np.int64(row.samples)):
            for t in range(first[i], first[i] + count[i]):
                value = values[s]
                if templates[t].metric_type == 1:
                    if value >= -9223372036854775808.0 and value < 9223372036854775808.0:
                        value = np.float64(np.int64(value))
                    else:
                        value = -9223372036854775808.0
                series_index[k] = t
                time_ns[k] = times[s] * np.int64(unit_ns)
                out_values[k] = value
                shards[k] = hashes[t] % np.uint32(num_shards)
                k += 1
    return k


@njit(cache=True, nogil=True)
def promote(
    old_slots, old_entries, old_arena, old_templates, old_hashes,
    slots, entries, arena, used, templates, hashes, buf, rows, key_at, key_size, contexts, first, count, left,
):  # fmt: skip
    """Copies entries of ``rows`` from the old generation: ``(rows handled, rows left in left)``; it stops early for want of room.

    Staged metadatas in the first ``SHARED_BYTES`` need no copy: they are in both arenas.
    """
    n_left = 0
    for j in range(len(rows)):
        i = rows[j]
        at = np.int64(key_at[i])
        n = np.int64(key_size[i])
        address = base(buf) + np.uint64(at)
        h = hash_bytes(address, n, contexts[i])
        known = _probe(slots, entries, arena, address, n, contexts[i], h)
        if known >= 0:
            first[i] = entries[known].first
            count[i] = entries[known].count
            continue
        e = _probe(old_slots, old_entries, old_arena, address, n, contexts[i], h)
        if e < 0:
            left[n_left] = i
            n_left += 1
            continue
        copied = np.int64(old_entries[e].count)
        begin = np.int64(old_entries[e].first)
        need = n
        for t in range(begin, begin + copied):
            need += np.int64(old_templates[t].id_size) + np.int64(old_templates[t].annotation_size)
            need += np.int64(old_templates[t].meta_size)
        if (
            used[ENTRIES] >= len(entries)
            or used[TEMPLATES] + copied > len(templates)
            or used[ARENA] + need > len(arena)
        ):
            return j, n_left
        # Without templates it is the reason for that.
        first[i] = used[TEMPLATES] if copied > 0 else begin
        count[i] = copied
        for t in range(begin, begin + copied):
            source = old_templates[t]
            k = used[TEMPLATES]
            target = templates[k]
            target.meta_at = source.meta_at
            target.meta_size = source.meta_size
            if np.int64(source.meta_at) >= SHARED_BYTES:
                target.meta_at = np.uint32(used[ARENA])
                used[ARENA] = copy_bytes(
                    arena, used[ARENA], old_arena, np.int64(source.meta_at), np.int64(source.meta_size)
                )
            target.metric_type = source.metric_type
            target.untimed = source.untimed
            target.id_size = source.id_size
            target.id_at = np.uint32(used[ARENA])
            used[ARENA] = copy_bytes(arena, used[ARENA], old_arena, np.int64(source.id_at), np.int64(source.id_size))
            target.annotation_size = source.annotation_size
            target.annotation_at = np.uint32(used[ARENA])
            used[ARENA] = copy_bytes(
                arena, used[ARENA], old_arena, np.int64(source.annotation_at), np.int64(source.annotation_size)
            )
            hashes[k] = old_hashes[t]
            used[TEMPLATES] = k + 1
        insert(slots, entries, arena, used, buf, at, n, contexts[i], first[i], copied)
    return len(rows), n_left

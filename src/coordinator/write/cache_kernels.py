# mypy: ignore-errors
"""The series cache and what comes out of it; public through ``coordinator.write.kernels``.

All but ``keys``, ``hash_ids`` and ``expand`` work on generations, whose arrays ``coordinator.write.series_cache`` owns: they take the
address of a ``GENERATION``, which is that of a table of ``m3x.table_kernels``, too.
"""

import numpy as np
from numba import njit

from m3metrics.rows import METRIC_TEMPLATE
from m3x.kernels import base, copy_short, load32, murmur3_32, record_of, store32
from m3x.table_kernels import HEAD, add, hash_keys, probe, row_address
from m3x.table_kernels import find as find_rows

ENTRY = np.dtype(
    [
        ("at", np.int64),
        ("size", np.int64),
        ("context", np.uint64),  # what besides the key bytes decides over the templates
        (
            "first",
            np.int32,
        ),  # templates [first, first + count); without any, the code of the reason why nothing is sent
        ("count", np.int32),
    ]
)
"""One cached series: a row of the table, with its value in two."""

GENERATION = np.dtype(
    [
        *((name, HEAD[name]) for name in HEAD.names),
        ("templates", np.uint64),  # address, of METRIC_TEMPLATE rows
        ("hashes", np.uint64),  # address, of the uint32 hash of each template's id
        ("template_count", np.int64),  # in use
        ("max_entries", np.int64),
        ("max_templates", np.int64),
        ("arena_bytes", np.int64),  # room
    ]
)
"""A table's head, and where its templates are."""

SHARED_BYTES = 1 << 18
"""The first bytes of every arena hold the same staged metadatas in both generations."""

generation_at = record_of(GENERATION)
_entry_at = record_of(ENTRY)
_template_at = record_of(METRIC_TEMPLATE)
_TEMPLATE_BYTES = np.uint64(METRIC_TEMPLATE.itemsize)


@njit(cache=True, nogil=True)
def entry(generation, row):
    """The entry of that number."""
    return _entry_at(row_address(generation, row))


@njit(cache=True, nogil=True)
def template(generation, t):
    """The template of that number."""
    return _template_at(generation_at(generation).templates + np.uint64(t) * _TEMPLATE_BYTES)


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
def find(generation, keys, first, count, misses):
    """Looks keys up: fills ``first`` and ``count`` (int64) with template ranges, ``misses`` with rows not found; returns their number.

    ``keys`` are ``m3x.table_kernels.Keys``, whose hashes are known afterwards.
    """
    hash_keys(keys)
    found = np.empty(len(misses), np.int64)
    find_rows(generation, keys, found)
    n_misses = 0
    for i in range(len(found)):
        if found[i] < 0:
            misses[n_misses] = i
            n_misses += 1
        else:
            first[i] = entry(generation, found[i]).first
            count[i] = entry(generation, found[i]).count
    return n_misses


@njit(cache=True, nogil=True)
def enter(generation, half, address, n, context, first, count):
    """Adds an entry for the key at ``address``, which is not there yet; the caller has made sure of the room."""
    made = entry(generation, add(generation, half, address, n, context))
    made.first = first
    made.count = count


@njit(cache=True, nogil=True)
def insert(generation, keys, i, first, count):
    """Adds an entry for key ``i``, which is not there yet; the caller has made sure of the room."""
    buf, at, size, contexts, halves = keys
    enter(generation, halves[i], base(buf) + np.uint64(at[i]), np.int64(size[i]), contexts[i], first, count)


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
def _copy(old, at, new, n):
    """Appends ``n`` bytes of the old arena to the new one; returns where they are there."""
    to = generation_at(new)
    begin = to.used
    copy_short(to.arena + np.uint64(begin), generation_at(old).arena + np.uint64(at), np.uint64(n))
    to.used = begin + np.int64(n)
    return np.uint32(begin)


@njit(cache=True, nogil=True)
def has_room(generation, templates, nbytes):
    """Whether one more entry, so many templates and bytes fit into it."""
    g = generation_at(generation)
    return (
        g.count < g.max_entries and g.template_count + templates <= g.max_templates and g.used + nbytes <= g.arena_bytes
    )


@njit(cache=True, nogil=True)
def _promote_template(old, t, new):
    """Copies a template with its bytes. Staged metadatas in the first ``SHARED_BYTES`` are in both arenas."""
    to = generation_at(new)
    source, target = template(old, t), template(new, to.template_count)
    target.meta_at = source.meta_at
    target.meta_size = source.meta_size
    if np.int64(source.meta_at) >= SHARED_BYTES:
        target.meta_at = _copy(old, source.meta_at, new, source.meta_size)
    target.metric_type = source.metric_type
    target.untimed = source.untimed
    target.id_size = source.id_size
    target.id_at = _copy(old, source.id_at, new, source.id_size)
    target.annotation_size = source.annotation_size
    target.annotation_at = _copy(old, source.annotation_at, new, source.annotation_size)
    moved = load32(generation_at(old).hashes + np.uint64(4 * t))
    store32(to.hashes + np.uint64(4 * to.template_count), np.uint64(moved))
    to.template_count += 1


@njit(cache=True, nogil=True)
def promote(old, new, keys, rows, first, count, left):
    """Copies entries of ``rows`` from the old generation: ``(rows handled, rows left in left)``; it stops early for want of room."""
    buf, key_at, key_size, contexts, halves = keys
    n_left = 0
    for j in range(len(rows)):
        i = rows[j]
        n = np.int64(key_size[i])
        address = base(buf) + np.uint64(key_at[i])
        known = probe(new, halves[i], address, n, contexts[i])
        if known >= 0:
            first[i] = entry(new, known).first
            count[i] = entry(new, known).count
            continue
        e = probe(old, halves[i], address, n, contexts[i])
        if e < 0:
            left[n_left] = i
            n_left += 1
            continue
        begin, copied = np.int64(entry(old, e).first), np.int64(entry(old, e).count)
        need = n
        for t in range(begin, begin + copied):
            x = template(old, t)
            need += np.int64(x.id_size) + np.int64(x.annotation_size) + np.int64(x.meta_size)
        if not has_room(new, copied, need):
            return j, n_left
        # Without templates it is the reason for that.
        first[i] = generation_at(new).template_count if copied > 0 else begin
        count[i] = copied
        for t in range(begin, begin + copied):
            _promote_template(old, t, new)
        enter(new, halves[i], address, n, contexts[i], first[i], copied)
    return len(rows), n_left

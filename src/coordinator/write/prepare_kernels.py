# mypy: ignore-errors
"""Ids of series met for the first time; public through ``coordinator.write.kernels``. Order of tags: docs/m3/coordinator.md, tag order."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from coordinator.write.cache_kernels import enter, entry, generation_at, has_room, template
from coordinator.write.interest_kernels import interesting
from m3x.kernels import base, copy_bytes, load8, murmur3_32, store32
from m3x.protobuf.reading import chunk
from m3x.table_kernels import probe

_GAUGE = 3
_0 = np.uint64(0)
_1 = np.uint64(1)


@njit(cache=True, nogil=True)
def _less(buf, a, a_size, b, b_size):
    """Whether ``buf[a:a+a_size]`` sorts before ``buf[b:b+b_size]``, bytewise."""
    n = min(a_size, b_size)
    for k in range(n):
        x = load8(base(buf) + np.uint64(a + k))
        y = load8(base(buf) + np.uint64(b + k))
        if x != y:
            return x < y
    return a_size < b_size


@njit(cache=True, nogil=True)
def label_spans(buf, at, size, spans):
    """Parses label fields in canonical shape into ``spans`` rows (name at, size, value at, size); their number, or -1: not canonical."""
    origin = base(buf)
    a = origin + np.uint64(at)
    e = a + np.uint64(size)
    n = 0
    while a < e:
        if n == len(spans) or load8(a) != 0x0A:
            return -1
        inner, a = chunk(a + _1, e)
        if a == _0:
            return -1
        for part in range(2):
            if inner >= a or load8(inner) != 0x0A + 8 * part:
                return -1
            text, inner = chunk(inner + _1, a)
            # An empty name or value is for the plain path, which knows the error text.
            if inner == text or inner - text > np.uint64(65535):
                return -1
            spans[n, 2 * part] = np.int64(text - origin)
            spans[n, 2 * part + 1] = np.int64(inner - text)
        if inner != a:
            return -1
        n += 1
    return n


@njit(cache=True, nogil=True)
def _sort(buf, spans, n):
    """Sorts by name; False if two names are equal."""
    for i in range(1, n):
        j = i
        while j > 0 and _less(buf, spans[j, 0], spans[j, 1], spans[j - 1, 0], spans[j - 1, 1]):
            for c in range(4):
                spans[j, c], spans[j - 1, c] = spans[j - 1, c], spans[j, c]
            j -= 1
    for i in range(1, n):  # noqa: SIM110 - numba has no generators here
        if not _less(buf, spans[i - 1, 0], spans[i - 1, 1], spans[i, 0], spans[i, 1]):
            return False
    return True


@njit(cache=True, nogil=True)
def _put_text(out, p, buf, at, n):
    out[p] = np.uint8(n & 0xFF)
    out[p + 1] = np.uint8(n >> 8)
    return copy_bytes(out, p + 2, buf, at, n)


@njit(cache=True, nogil=True)
def _put_id(arena, p, buf, spans, n):
    """Writes the encoded tags in M3's order; the position after them, or -1: a name begins with ``__m3``."""
    before = 0
    for i in range(n):
        at, size = spans[i, 0], spans[i, 1]
        if size >= 4 and buf[at] == 0x5F and buf[at + 1] == 0x5F and buf[at + 2] == 0x6D and buf[at + 3] == 0x33:
            return np.int64(-1)
        # Sorts before "__m3": decided by the first four bytes, a proper prefix of it included.
        less = False
        decided = False
        for k in range(4):
            want = (0x5F, 0x5F, 0x6D, 0x33)[k]
            if k == size:
                less, decided = True, True
            elif buf[at + k] != want:
                less, decided = buf[at + k] < want, True
            if decided:
                break
        if less:
            before = i + 1
    arena[p] = 0x75
    arena[p + 1] = 0x27
    arena[p + 2] = np.uint8(n & 0xFF)
    arena[p + 3] = np.uint8(n >> 8)
    p += 4
    rest = n - before
    for i in range(n):
        k = i
        if i >= before and rest > 1:
            j = i - before
            k = n - 1 - j if j < 2 else before + j - 2
        p = _put_text(arena, p, buf, spans[k, 0], spans[k, 1])
        p = _put_text(arena, p, buf, spans[k, 2], spans[k, 3])
    return np.int64(p)


class Plain(NamedTuple):
    """What an ordinary gauge is, and is given."""

    meta_at: int
    meta_size: int
    """The staged metadatas of its template."""
    largest: int
    """Bytes that its id and they may have."""
    tags: np.uint64
    lengths: NDArray[np.int32]
    values: np.uint64
    """What rules ask for: ``interest_kernels``."""


@njit(cache=True, nogil=True)
def _append_gauge(generation, arena, end, meta_at, meta_size):
    """The number of a new template, whose id is the arena's bytes from what was in use up to ``end``."""
    g = generation_at(generation)
    start, t = g.used, g.template_count
    made = template(generation, t)
    made.id_at = np.uint32(start)
    made.id_size = np.uint32(end - start)
    made.meta_at = np.uint32(meta_at)
    made.meta_size = np.uint32(meta_size)
    made.annotation_at = np.uint32(0)
    made.annotation_size = np.uint32(0)
    made.metric_type = np.uint8(_GAUGE)
    made.untimed = np.uint8(0)
    store32(g.hashes + np.uint64(4 * t), np.uint64(murmur3_32(arena, start, end - start)))
    g.used = end
    g.template_count = t + 1
    return t


@njit(cache=True, nogil=True)
def prepare(generation, arena, keys, rows, plain, spans, first, count, left):
    """Makes entry and template of each of ``rows`` that is an ordinary gauge: ``(rows handled, rows left in left)``.

    Ordinary: labels in canonical encoding, neither empty nor long nor twice, none that begins with ``__m3``, none that a rule asks for,
    and id and metadatas of at most ``plain.largest`` bytes; then the template has the id of M3's order and no annotation. What is not
    ordinary goes to ``left``. It stops early (fewer rows handled than given) when the generation has no room. ``arena``: its array.
    """
    buf, key_at, key_size, contexts, halves = keys
    meta_at, meta_size, largest, tags, lengths, values = plain
    n_left = 0
    for j in range(len(rows)):
        i = rows[j]
        at, n = np.int64(key_at[i]), np.int64(key_size[i])
        if not has_room(generation, 1, 2 * n + 64):
            return j, n_left
        # The same new series may stand twice in one request.
        address = base(buf) + np.uint64(at)
        known = probe(generation, halves[i], address, n, contexts[i])
        if known >= 0:
            first[i] = entry(generation, known).first
            count[i] = entry(generation, known).count
            continue
        n_labels = label_spans(buf, at, n, spans)
        ordinary = (
            n_labels > 0
            and not interesting(buf, spans, n_labels, tags, lengths, values)
            and _sort(buf, spans, n_labels)
        )
        start = generation_at(generation).used
        end = _put_id(arena, start, buf, spans, n_labels) if ordinary else np.int64(-1)
        if end < 0 or end - start + meta_size > largest:
            left[n_left] = i
            n_left += 1
            continue
        first[i] = _append_gauge(generation, arena, end, meta_at, meta_size)
        count[i] = 1
        enter(generation, halves[i], address, n, contexts[i], first[i], 1)
    return len(rows), n_left

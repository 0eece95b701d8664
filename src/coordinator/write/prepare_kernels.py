# mypy: ignore-errors
"""Keys → templates: of series that are known, and of ordinary gauges that are not; public through ``coordinator.write.kernels``."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from coordinator.write.cache_kernels import (
    DERIVED,
    FORM,
    KEY_HEAD,
    NOTHING,
    RECORD,
    STORED,
    cache_at,
    entry_at,
    form_at,
    guess,
    home,
    insert,
    probe,
    record_at,
    record_of_entry,
    room_in_log,
    template_at,
    touch,
    write_down,
)
from coordinator.write.id_kernels import (
    MOST_LABELS,
    before_types,
    in_order,
    label_spans,
    put_id,
    put_id_quickly,
    sort,
)
from coordinator.write.interest_kernels import interesting
from m3metrics.rows import METRIC_TEMPLATE
from m3x.kernels import base, bytes_equal, copy_short, load32, load64, murmur3_32, prefetch, store32
from m3x.keyed_hash import hash_key

NO_FORM = -1
"""As ``form``: the metadatas of a series are its own."""

_BLOCK = 32
"""So many keys are looked up together: enough to wait for memory only once, few enough for the processor to have all on their way."""
_WIDE = np.uint64(32)
"""Bytes behind labels and id that ``put_id_quickly`` touches."""
_0, _4, _8 = np.uint64(0), np.uint64(4), np.uint64(8)
_HEAD_BYTES = RECORD.itemsize
_TEMPLATE_BYTES = METRIC_TEMPLATE.itemsize
_FORM_BYTES = np.uint64(FORM.itemsize)


class Keys(NamedTuple):
    """Columns of keys ``buf[at:at + size]``."""

    buf: NDArray[np.uint8]
    at: NDArray[np.uint32]
    size: NDArray[np.uint32]
    contexts: NDArray[np.uint64]
    hashes: NDArray[np.uint64]
    """Shape (n, 2), filled by ``find``."""


class Plain(NamedTuple):
    """What an ordinary gauge is, and is given."""

    form: int
    largest: int
    """Bytes that its id and its metadatas may have."""
    tags: np.uint64
    lengths: NDArray[np.int32]
    values: np.uint64
    """What rules ask for: ``interest_kernels``."""


@njit(cache=True, nogil=True)
def _template(cache, t):
    return template_at(cache_at(cache).templates + np.uint64(t * _TEMPLATE_BYTES))


@njit(cache=True, nogil=True)
def _append(cache, end, form, shard_hash):
    """A template of a form, whose id is what of the arena was not in use up to ``end``; returns its number."""
    c = cache_at(cache)
    t = c.template_count
    f, made = form_at(c.forms + np.uint64(form) * _FORM_BYTES), _template(cache, t)
    made.id_at = np.uint32(c.used)
    made.id_size = np.uint32(end - c.used)
    made.meta_at = f.meta_at
    made.meta_size = f.meta_size
    made.annotation_at = np.uint32(0)
    made.annotation_size = np.uint32(0)
    made.metric_type = f.metric_type
    made.untimed = f.untimed
    store32(c.hashes + np.uint64(4 * t), np.uint64(shard_hash))
    c.used = end
    c.template_count = t + 1
    return t


@njit(cache=True, nogil=True)
def _derive(cache, arena, buf, at, n, before, spans, starts):
    """Writes the id of a series whose labels are known to be ordinary behind what is in use of the arena; where it ends, or -1."""
    c = cache_at(cache)
    if at + n + np.int64(_WIDE) <= len(buf):
        out = put_id_quickly(c.arena + np.uint64(c.used), base(buf) + np.uint64(at), n, before, starts)
        if out != _0:
            return np.int64(out - c.arena)
    labels = label_spans(buf, at, n, spans)
    if labels < 0:
        return np.int64(-1)
    return put_id(arena, c.used, buf, spans, labels, before)


@njit(cache=True, nogil=True)
def _has_room(cache, templates, nbytes):
    c = cache_at(cache)
    return c.template_count + templates <= c.most_templates and c.used + nbytes + np.int64(_WIDE) <= c.arena_bytes


@njit(cache=True, nogil=True)
def _recall(cache, record):
    """Copies the templates of the record at an address, and what they refer to, out of the log; the number of the first, -1: no room."""
    c = cache_at(cache)
    r = record_at(record)
    templates = np.int64(r.templates)
    head = _HEAD_BYTES + templates * (_TEMPLATE_BYTES + 4)
    nbytes = np.int64(r.size) - head
    if not _has_room(cache, templates, nbytes):
        return np.int64(-1)
    begin, moved = c.template_count, c.used - c.shared_bytes
    for k in range(templates):
        source = template_at(record + np.uint64(_HEAD_BYTES + k * _TEMPLATE_BYTES))
        target = _template(cache, begin + k)
        target.id_at = np.uint32(source.id_at + moved)
        target.id_size = source.id_size
        shared = np.int64(source.meta_at) < c.shared_bytes
        target.meta_at = source.meta_at if shared else np.uint32(source.meta_at + moved)
        target.meta_size = source.meta_size
        target.annotation_at = np.uint32(source.annotation_at + moved)
        target.annotation_size = source.annotation_size
        target.metric_type = source.metric_type
        target.untimed = source.untimed
        stored = record + np.uint64(_HEAD_BYTES + templates * _TEMPLATE_BYTES + 4 * k)
        store32(c.hashes + np.uint64(4 * (begin + k)), np.uint64(load32(stored)))
    copy_short(c.arena + np.uint64(c.used), record + np.uint64(head), np.uint64(nbytes))
    c.used += nbytes
    c.template_count += templates
    return begin


@njit(cache=True, nogil=True)
def _emit(cache, arena, e, buf, at, n, spans, starts):
    """The templates of the entry at an address, whose labels are given: ``(first, count)``; count -1: no room for them."""
    entry = entry_at(e)
    if entry.kind == NOTHING:
        return np.int64(entry.form), np.int64(0)
    if entry.kind == DERIVED:
        if not _has_room(cache, 1, n + 8):
            return np.int64(0), np.int64(-1)
        end = _derive(cache, arena, buf, at, n, np.int64(entry.before), spans, starts)
        if end < 0:
            return np.int64(0), np.int64(0)
        return np.int64(_append(cache, end, np.int64(entry.form), entry.shard_hash)), np.int64(1)
    record = record_of_entry(cache, e)
    first = _recall(cache, record)
    if first < 0:
        return np.int64(0), np.int64(-1)
    return first, np.int64(record_at(record).templates)


@njit(cache=True, nogil=True)
def find(cache, arena, keys, spans, first, count, misses):
    """Looks keys up: fills ``first`` and ``count`` (int64) with template ranges, ``misses`` with rows that are not known; returns their
    number, or -1: there is no room for all templates.

    The templates are appended to those of the cache, their bytes to ``arena``, its arena. ``spans``: room for labels. Looked up in
    rounds, each of which asks for the memory that the next one reads.
    """
    buf, key_at, key_size, contexts, hashes = keys
    c = cache_at(cache)
    secret = c.secret
    starts = np.empty(MOST_LABELS, np.uint64)
    entries = np.empty(_BLOCK, np.uint64)
    missing = 0
    origin = base(buf)
    last = len(buf) - np.int64(_WIDE)
    for begin in range(0, len(key_at), _BLOCK):
        end = min(begin + _BLOCK, len(key_at))
        for i in range(begin, end):
            h1, h2 = hash_key(secret, origin + np.uint64(key_at[i]), np.uint64(key_size[i]), contexts[i])
            hashes[i, 0], hashes[i, 1] = h1, h2
            prefetch(home(cache, h1))
        for i in range(begin, end):
            e = guess(cache, hashes[i, 0])
            entries[i - begin] = e
            prefetch(e)
        for i in range(begin, end):
            e = entries[i - begin]
            if e != _0 and (load64(e) != hashes[i, 0] or load64(e + _8) != hashes[i, 1]):
                # Another one has the same half of a hash.
                e = entries[i - begin] = probe(cache, hashes[i, 0], hashes[i, 1])
            if e != _0:
                touch(cache, e)
                if entry_at(e).kind == STORED:
                    record = record_of_entry(cache, e)
                    for line in range(4):
                        prefetch(record + np.uint64(64 * line))
        for i in range(begin, end):
            e = entries[i - begin]
            if e == _0:
                misses[missing] = i
                missing += 1
                continue
            at, n = np.int64(key_at[i]), np.int64(key_size[i])
            entry = entry_at(e)
            if entry.kind == DERIVED and at + n <= last and _has_room(cache, 1, n + 8):
                # What nearly all are, without handing arrays on.
                to = c.arena + np.uint64(c.used)
                out = put_id_quickly(to, origin + np.uint64(at), n, np.int64(entry.before), starts)
                if out != _0:
                    end = c.used + np.int64(out - to)
                    first[i] = _append(cache, end, np.int64(entry.form), entry.shard_hash)
                    count[i] = 1
                    continue
            first[i], count[i] = _emit(cache, arena, e, buf, at, n, spans, starts)
            if count[i] < 0:
                return np.int64(-1)
    return np.int64(missing)


@njit(cache=True, nogil=True)
def prepare(cache, arena, keys, rows, plain, spans, first, count, left):
    """Makes the template of each of ``rows`` that is an ordinary gauge, and remembers it: how many are left in ``left``, or -1: there is
    no room for all templates.

    Ordinary: labels in canonical encoding, neither empty nor long nor twice, none that begins with ``__m3``, none that a rule asks for,
    and id and metadatas of at most ``plain.largest`` bytes; then the template has the id of M3's order and no annotation. What is not
    ordinary goes to ``left``. ``keys.hashes`` are known, and there is room for the keys where they are written down.
    """
    buf, key_at, key_size, contexts, hashes = keys
    form, largest, tags, lengths, values = plain
    c = cache_at(cache)
    starts = np.empty(MOST_LABELS, np.uint64)
    meta_size = np.int64(form_at(c.forms + np.uint64(form) * _FORM_BYTES).meta_size)
    n_left = 0
    for j in range(len(rows)):
        i = rows[j]
        at, n = np.int64(key_at[i]), np.int64(key_size[i])
        if not _has_room(cache, 1, n + 8):
            return np.int64(-1)
        h1, h2 = hashes[i, 0], hashes[i, 1]
        # The same new series may stand twice in one request.
        e = probe(cache, h1, h2)
        if e != _0:
            first[i], count[i] = _emit(cache, arena, e, buf, at, n, spans, starts)
            if count[i] < 0:
                return np.int64(-1)
            continue
        labels = label_spans(buf, at, n, spans)
        ordinary = labels > 0 and not interesting(buf, spans, labels, tags, lengths, values)
        before, end, is_sorted = np.int64(-1), np.int64(-1), False
        if ordinary:
            is_sorted = in_order(buf, spans, labels)
            if is_sorted or sort(buf, spans, labels):
                before = before_types(buf, spans, labels)
        if before >= 0:
            end = put_id(arena, c.used, buf, spans, labels, before)
        if end < 0 or end - c.used + meta_size > largest:
            left[n_left] = i
            n_left += 1
            continue
        shard_hash = murmur3_32(arena, c.used, end - c.used)
        first[i] = _append(cache, end, form, shard_hash)
        count[i] = 1
        if is_sorted:
            _remember_derived(cache, h1, h2, form, shard_hash, before, base(buf) + np.uint64(at), n, contexts[i])
        else:
            # Sorting them again for every sample would cost several times what a copy of the id does.
            remember(cache, arena, keys, i, first[i], 1, NO_FORM, spans)
    return np.int64(n_left)


@njit(cache=True, nogil=True)
def _remember_derived(cache, h1, h2, form, shard_hash, before, address, n, context):
    e = insert(cache, h1, h2)
    if e == _0:
        return
    entry = entry_at(e)
    entry.kind = DERIVED
    entry.form = np.uint16(form)
    entry.shard_hash = np.uint32(shard_hash)
    entry.before = np.uint8(before)
    write_down(cache, address, n, context)


@njit(cache=True, nogil=True)
def _derivable(cache, arena, buf, at, n, spans, starts, t):
    """``before`` of labels of which the id of template ``t`` can be made again, or -1. What is in use of the arena stays."""
    labels = label_spans(buf, at, n, spans)
    if labels < 1 or labels > MOST_LABELS - 1:
        return np.int64(-1)
    if not in_order(buf, spans, labels):
        return np.int64(-1)
    told = before_types(buf, spans, labels)
    if told < 0 or not _has_room(cache, 0, n + 8):
        return np.int64(-1)
    c, made = cache_at(cache), _template(cache, t)
    size = _derive(cache, arena, buf, at, n, told, spans, starts) - c.used
    same = size == np.int64(made.id_size) and bytes_equal(
        c.arena + np.uint64(c.used), c.arena + np.uint64(made.id_at), np.uint64(size)
    )
    return told if same else np.int64(-1)


@njit(cache=True, nogil=True)
def remember(cache, arena, keys, i, begin, count, form, spans):
    """Remembers key ``i``, which is not known: its templates are ``[begin, begin + count)``, ``form`` that of a single one without
    annotation, or ``NO_FORM``; without templates it is the code of the reason. Templates' hashes are known.

    Their bytes beyond ``shared_bytes`` are the last of the arena, in one piece. There is room for the key where it is written down.
    """
    buf, key_at, key_size, contexts, hashes = keys
    c = cache_at(cache)
    at, n = np.int64(key_at[i]), np.int64(key_size[i])
    address, h1, h2 = base(buf) + np.uint64(at), hashes[i, 0], hashes[i, 1]
    if count == 0:
        e = insert(cache, h1, h2)
        if e != _0:
            entry = entry_at(e)
            entry.kind = NOTHING
            entry.form = np.uint16(form)
            write_down(cache, address, n, contexts[i])
        return
    if form != NO_FORM:
        before = _derivable(cache, arena, buf, at, n, spans, np.empty(MOST_LABELS, np.uint64), begin)
        if before >= 0:
            shard_hash = load32(c.hashes + np.uint64(4 * begin))
            _remember_derived(cache, h1, h2, form, shard_hash, before, address, n, contexts[i])
            return
    origin = np.int64(_template(cache, begin).id_at)
    nbytes = c.used - origin
    head = _HEAD_BYTES + count * (_TEMPLATE_BYTES + 4)
    size = (head + nbytes + 7) // 8 * 8
    place = room_in_log(cache, size)
    if place < 0:
        c.not_kept += 1
        return
    record = c.log + np.uint64(place * 8)
    r = record_at(record)
    r.h1 = h1
    r.h2 = h2
    r.size = np.uint32(size)
    r.templates = np.uint32(count)
    moved = origin - c.shared_bytes
    for k in range(count):
        source = _template(cache, begin + k)
        target = template_at(record + np.uint64(_HEAD_BYTES + k * _TEMPLATE_BYTES))
        target.id_at = np.uint32(source.id_at - moved)
        target.id_size = source.id_size
        shared = np.int64(source.meta_at) < c.shared_bytes
        target.meta_at = source.meta_at if shared else np.uint32(source.meta_at - moved)
        target.meta_size = source.meta_size
        target.annotation_at = np.uint32(source.annotation_at - moved)
        target.annotation_size = source.annotation_size
        target.metric_type = source.metric_type
        target.untimed = source.untimed
        stored = record + np.uint64(_HEAD_BYTES + count * _TEMPLATE_BYTES + 4 * k)
        store32(stored, np.uint64(load32(c.hashes + np.uint64(4 * (begin + k)))))
    copy_short(record + np.uint64(head), c.arena + np.uint64(origin), np.uint64(nbytes))
    e = insert(cache, h1, h2)
    if e == _0:
        return
    entry = entry_at(e)
    entry.kind = STORED
    entry.record = np.uint32(place)
    write_down(cache, address, n, contexts[i])


@njit(cache=True, nogil=True)
def still_known(cache, block, number, offsets, contexts, sizes):
    """Keys of a block (uint8), as they were written down, that the cache remembers from it: where they are, their contexts and sizes;
    returns their number. ``number``: of the block."""
    secret = cache_at(cache).secret
    a = np.int64(0)
    found = 0
    while a < len(block):
        address = base(block) + np.uint64(a)
        size, context = np.int64(load32(address)), load64(address + _4)
        a += KEY_HEAD
        h1, h2 = hash_key(secret, address + np.uint64(KEY_HEAD), np.uint64(size), context)
        e = probe(cache, h1, h2)
        if e != _0 and np.int64(entry_at(e).block) == number & 0xFFFF:
            offsets[found] = a
            contexts[found] = context
            sizes[found] = size
            found += 1
        a += size
    return found


@njit(cache=True, nogil=True)
def write_again(cache, block, number):
    """Writes the keys of an older block that are remembered down anew; there is room for them."""
    c = cache_at(cache)
    a = np.int64(0)
    while a < len(block):
        address = base(block) + np.uint64(a)
        size, context = np.int64(load32(address)), load64(address + _4)
        h1, h2 = hash_key(c.secret, address + np.uint64(KEY_HEAD), np.uint64(size), context)
        e = probe(cache, h1, h2)
        if e != _0 and np.int64(entry_at(e).block) == number & 0xFFFF:
            entry_at(e).block = np.uint16(c.block & 0xFFFF)
            write_down(cache, address + np.uint64(KEY_HEAD), size, context)
        a += KEY_HEAD + size


@njit(cache=True, nogil=True)
def missing(cache, keys, misses):
    """Fills ``misses`` (int64) with the rows whose keys are not known; returns their number."""
    buf, key_at, key_size, contexts, _ = keys
    secret = cache_at(cache).secret
    n = 0
    for i in range(len(key_at)):
        h1, h2 = hash_key(secret, base(buf) + np.uint64(key_at[i]), np.uint64(key_size[i]), contexts[i])
        if probe(cache, h1, h2) == _0:
            misses[n] = i
            n += 1
    return n

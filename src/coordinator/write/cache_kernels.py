# mypy: ignore-errors
"""The table and the log behind the series cache; public through ``coordinator.write.kernels``, what they are for: ``series_cache``.

All kernels but ``keys``, ``hash_ids`` and ``expand`` take the address of a ``CACHE``, whose arrays ``coordinator.write.series_cache``
owns.

*The table*: entries stand in the order in which they came, as series mostly come again in that order. Where an entry is, slots say: open
addressing with linear probing, cut into segments by the upper bits of the first hash word, each of which grows by a quarter, so that no
call ever moves more than one of them. A slot has the lower half of that word above the entry's number plus one; 0 is free. That half,
scaled to the slots in use, is the place, so that slots are moved without looking at entries, and what is taken out draws the ones behind
it closer. Where no entry may be added any more, one is given up: the next at the hand, which goes round, that was not seen of late, else
one from anywhere that was seen only once, else none.

*The log* has the messages of those series that cannot be made from labels. It is written chunk by chunk, and a chunk that is wanted again
keeps what is still remembered, was seen of late and more than once.
"""

import numpy as np
from numba import njit

from m3metrics.rows import METRIC_TEMPLATE
from m3x.kernels import copy_short, load32, load64, murmur3_32, record_of, store32, store64

ENTRY = np.dtype(
    [
        ("h1", np.uint64),  # hash of key and context (``m3x.keyed_hash``); 0: a free entry
        ("h2", np.uint64),
        ("shard_hash", np.uint32),  # DERIVED: murmur3-32 of the id
        ("form", np.uint16),  # DERIVED: number of the FORM; NOTHING: code of the reason why nothing is sent
        ("block", np.uint16),  # the block of keys that has its key, modulo 2**16
        ("record", np.uint32),  # STORED: where in the log, in words of 8 bytes
        ("seen", np.uint8),  # the minute of the last sample, modulo 256
        ("again", np.uint8),  # 1: it was seen more than once
        ("kind", np.uint8),
        ("before", np.uint8),  # DERIVED: labels before ``__m3``
    ]
)
"""One series. 32 bytes, of which a cache line has exactly two."""

NOTHING, DERIVED, STORED = 0, 1, 2
"""Kinds of entries: nothing is sent; one message with the id that the labels make, in a form; what a record of the log says."""

FORM = np.dtype(
    [("meta_at", np.uint32), ("meta_size", np.uint32), ("metric_type", np.uint8), ("untimed", np.uint8)], align=True
)
"""What a message has besides its id, with no annotation."""

SEGMENT = np.dtype([("size", np.int64), ("count", np.int64)])
"""Slots in use, and those that are taken."""

RECORD = np.dtype([("h1", np.uint64), ("h2", np.uint64), ("size", np.uint32), ("templates", np.uint32)])
"""Head of a record of the log, then its ``METRIC_TEMPLATE`` rows, then their bytes; ``size`` of all, a multiple of 8. Ranges count
from ``shared_bytes`` at the first of the bytes; metadatas below that are shared."""

CACHE = np.dtype(
    [
        ("secret", np.uint64),  # address, for ``m3x.keyed_hash``
        ("segments", np.uint64),  # address of SEGMENT rows
        ("slots", np.uint64),  # address, uint64, ``segment_slots`` for each segment
        ("spare", np.uint64),  # address, room for the slots of a segment that grows
        ("shift", np.uint64),  # the segment of an entry is h1 >> shift
        ("segment_slots", np.int64),
        ("entries", np.uint64),  # address of ENTRY rows
        ("most_entries", np.int64),
        ("high", np.int64),  # rows in use, free ones between them included
        ("free", np.uint64),  # address, uint32, numbers of free ones between them
        ("free_count", np.int64),
        ("hand", np.int64),  # the entry that is looked at next
        ("count", np.int64),  # entries
        ("table_bytes", np.int64),  # entries and slots in use
        ("limit_bytes", np.int64),  # what table, log and keys may have together
        ("other_bytes", np.int64),  # what keys and shared metadatas have
        ("now", np.int64),  # minute
        ("log", np.uint64),  # address
        ("chunk_bytes", np.int64),
        ("chunk_used", np.uint64),  # address, int64 of each chunk
        ("chunks", np.int64),  # in use
        ("most_chunks", np.int64),
        ("chunk", np.int64),  # the one that is written
        ("forms", np.uint64),  # address of FORM rows
        ("shared_bytes", np.int64),  # the first bytes of the arena, with staged metadatas
        ("arena", np.uint64),  # address, what templates refer to
        ("arena_bytes", np.int64),
        ("used", np.int64),
        ("templates", np.uint64),  # address of METRIC_TEMPLATE rows
        ("hashes", np.uint64),  # address, uint32 murmur3-32 of the id of each template
        ("most_templates", np.int64),
        ("template_count", np.int64),
        ("keys", np.uint64),  # address, where keys of new entries are written down
        ("keys_used", np.int64),
        ("keys_count", np.int64),
        ("block", np.int64),  # number of the block that they will be
        ("forgotten", np.int64),  # entries that were given up
        ("not_kept", np.int64),  # series for which there was no room
        ("full", np.int64),  # 1: something was refused for want of room since this was cleared
    ]
)
"""A cache: where its arrays are, and how full."""

STALE = 3
"""Minutes without a sample, the one that runs included, after which an entry gives way to any other."""
_FORGET = 60
"""Minutes after which an entry gives way although there is room."""
_LOOK_AT = 24
"""Entries that are looked at for one to give up, at a time; a sixth of that while there is room."""
_LEAST_SLOTS = 32
_TRIES = 2
"""Chunks that are put in order for one record."""
KEY_HEAD = 12
"""Bytes before each written key: its size (uint32) and context (uint64)."""

cache_at = record_of(CACHE)
entry_at = record_of(ENTRY)
form_at = record_of(FORM)
record_at = record_of(RECORD)
template_at = record_of(METRIC_TEMPLATE)
_segment_at = record_of(SEGMENT)
_ENTRY_BYTES = np.uint64(ENTRY.itemsize)
_SEGMENT_BYTES = np.uint64(SEGMENT.itemsize)
_0, _1, _4, _8 = (np.uint64(n) for n in (0, 1, 4, 8))
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


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
def _segment(cache, h1):
    c = cache_at(cache)
    return _segment_at(c.segments + (h1 >> c.shift) * _SEGMENT_BYTES)


@njit(cache=True, nogil=True)
def _slots(cache, h1):
    """Where the slots of its segment begin."""
    c = cache_at(cache)
    return c.slots + (h1 >> c.shift) * np.uint64(c.segment_slots) * _8


@njit(cache=True, nogil=True)
def _place(half, size):
    return np.int64((half * np.uint64(size)) >> _32)


@njit(cache=True, nogil=True)
def home(cache, h1):
    """The address of the slot at which an entry is looked for first."""
    return _slots(cache, h1) + np.uint64(_place(h1 & _LOW, _segment(cache, h1).size)) * _8


@njit(cache=True, nogil=True)
def entry_address(cache, number):
    """Where an entry is."""
    return cache_at(cache).entries + np.uint64(number) * _ENTRY_BYTES


@njit(cache=True, nogil=True)
def guess(cache, h1):
    """The address of the first entry whose slot has the same half, or 0: there is none."""
    size = _segment(cache, h1).size
    if size == 0:
        return _0
    slots, half = _slots(cache, h1), h1 & _LOW
    at = _place(half, size)
    word = load64(slots + np.uint64(at) * _8)
    while word != _0 and word >> _32 != half:
        at = at + 1 if at + 1 < size else 0
        word = load64(slots + np.uint64(at) * _8)
    return entry_address(cache, (word & _LOW) - _1) if word != _0 else _0


@njit(cache=True, nogil=True)
def probe(cache, h1, h2):
    """The address of an entry, or 0."""
    size = _segment(cache, h1).size
    if size == 0:
        return _0
    slots, half = _slots(cache, h1), h1 & _LOW
    at = _place(half, size)
    while True:
        word = load64(slots + np.uint64(at) * _8)
        if word == _0:
            return _0
        if word >> _32 == half:
            e = entry_address(cache, (word & _LOW) - _1)
            if load64(e) == h1 and load64(e + _8) == h2:
                return e
        at = at + 1 if at + 1 < size else 0


@njit(cache=True, nogil=True)
def age(cache, e):
    """Minutes since the entry at an address was seen, modulo 256."""
    return (cache_at(cache).now - np.int64(entry_at(e).seen)) & 255


@njit(cache=True, nogil=True)
def touch(cache, e):
    """The entry at an address is seen."""
    entry = entry_at(e)
    now = np.uint8(cache_at(cache).now & 255)
    if entry.seen != now or entry.again == 0:
        entry.seen = now
        entry.again = 1


@njit(cache=True, nogil=True)
def _link(slots, size, word):
    """Puts a slot's word to the first free slot from its place on."""
    at = _place(word >> _32, size)
    while load64(slots + np.uint64(at) * _8) != _0:
        at = at + 1 if at + 1 < size else 0
    store64(slots + np.uint64(at) * _8, word)


@njit(cache=True, nogil=True)
def _take_out(cache, e):
    """Takes the entry at an address out, whose row is free then; returns its number. What stands behind its slot is drawn closer."""
    c, h1 = cache_at(cache), load64(e)
    number = np.int64((e - c.entries) // _ENTRY_BYTES)
    segment, slots = _segment(cache, h1), _slots(cache, h1)
    size = segment.size
    gap = _place(h1 & _LOW, size)
    while load64(slots + np.uint64(gap) * _8) & _LOW != np.uint64(number + 1):
        gap = gap + 1 if gap + 1 < size else 0
    at = gap
    while True:
        at = at + 1 if at + 1 < size else 0
        word = load64(slots + np.uint64(at) * _8)
        if word == _0:
            break
        wanted = _place(word >> _32, size)
        # It may stay if its place is behind the gap, going round.
        if (gap < wanted <= at) if gap <= at else (wanted > gap or wanted <= at):
            continue
        store64(slots + np.uint64(gap) * _8, word)
        gap = at
    store64(slots + np.uint64(gap) * _8, _0)
    segment.count -= 1
    store64(e, _0)
    c.count -= 1
    c.forgotten += 1
    return number


@njit(cache=True, nogil=True)
def forget(cache, e):
    """Takes the entry at an address out."""
    number = _take_out(cache, e)
    c = cache_at(cache)
    store32(c.free + np.uint64(c.free_count) * _4, np.uint64(number))
    c.free_count += 1


@njit(cache=True, nogil=True)
def _room_for_table(cache):
    c = cache_at(cache)
    return c.limit_bytes - 3 * c.other_bytes // 2 - max(c.chunks * c.chunk_bytes, c.limit_bytes // 8) - c.table_bytes


@njit(cache=True, nogil=True)
def _room_for_log(cache):
    c = cache_at(cache)
    return c.limit_bytes - 3 * c.other_bytes // 2 - max(c.table_bytes, c.limit_bytes // 8)


@njit(cache=True, nogil=True)
def _has_slot(cache, h1):
    """Whether there is a slot for one more entry in its segment, which grows if it can."""
    c, segment, slots = cache_at(cache), _segment(cache, h1), _slots(cache, h1)
    old = segment.size
    if 4 * (segment.count + 1) <= 3 * old:
        return True
    size = min(max(old + old // 4, _LEAST_SLOTS), c.segment_slots)
    if size == old or (size - old) * 8 > _room_for_table(cache):
        # Longer ways are better than none.
        return 20 * (segment.count + 1) <= 19 * old
    taken = 0
    for at in range(old):
        word = load64(slots + np.uint64(at) * _8)
        if word != _0:
            store64(c.spare + np.uint64(taken) * _8, word)
            store64(slots + np.uint64(at) * _8, _0)
            taken += 1
    for k in range(taken):
        _link(slots, size, load64(c.spare + np.uint64(k) * _8))
    c.table_bytes += (size - old) * 8
    segment.size = size
    return True


@njit(cache=True, nogil=True)
def _stale(cache, looks, minutes):
    """The number of an entry that was taken out, one of those at the hand that were not seen for so long; -1: there is none."""
    c = cache_at(cache)
    for _ in range(min(looks, c.high)):
        e = entry_address(cache, c.hand)
        c.hand = c.hand + 1 if c.hand + 1 < c.high else 0
        if load64(e) != _0 and age(cache, e) >= minutes:
            return _take_out(cache, e)
    return np.int64(-1)


@njit(cache=True, nogil=True)
def _seen_once(cache, number):
    """The same for an entry that was seen only once, or not of late, of those from a number on."""
    c = cache_at(cache)
    for _ in range(min(_LOOK_AT, c.high)):
        e = entry_address(cache, number)
        number = number + 1 if number + 1 < c.high else 0
        if load64(e) != _0 and (entry_at(e).again == 0 or age(cache, e) >= STALE):
            return _take_out(cache, e)
    return np.int64(-1)


@njit(cache=True, nogil=True)
def _free_row(cache, h2):
    """The number of a free entry, or -1."""
    c = cache_at(cache)
    if c.free_count > 0:
        c.free_count -= 1
        return np.int64(load32(c.free + np.uint64(c.free_count) * _4))
    number = _stale(cache, _LOOK_AT // 6, _FORGET)
    if number >= 0:
        return number
    if c.high < c.most_entries and _room_for_table(cache) >= np.int64(_ENTRY_BYTES):
        c.high += 1
        c.table_bytes += np.int64(_ENTRY_BYTES)
        return c.high - 1
    c.full = 1
    if c.high == 0:
        return np.int64(-1)
    number = _stale(cache, _LOOK_AT, STALE)
    if number >= 0:
        return number
    # Anywhere: of series that come in turn, the ones at the hand would be those that come next.
    return _seen_once(cache, np.int64(h2 % np.uint64(c.high)))


@njit(cache=True, nogil=True)
def insert(cache, h1, h2):
    """The address of a new entry, seen once, whose ``kind`` and what belongs to it the caller fills in; 0: there is no room."""
    c = cache_at(cache)
    number = np.int64(-1)
    if _has_slot(cache, h1):
        number = _free_row(cache, h2)
    if number < 0:
        c.full = 1
        c.not_kept += 1
        return _0
    segment = _segment(cache, h1)
    _link(_slots(cache, h1), segment.size, ((h1 & _LOW) << _32) | np.uint64(number + 1))
    e = entry_address(cache, number)
    entry = entry_at(e)
    entry.h1 = h1
    entry.h2 = h2
    entry.seen = np.uint8(c.now & 255)
    entry.again = 0
    entry.block = np.uint16(c.block & 0xFFFF)
    segment.count += 1
    c.count += 1
    return e


@njit(cache=True, nogil=True)
def write_down(cache, address, n, context):
    """Appends a key to those that are written down; the caller has made sure of the room."""
    c = cache_at(cache)
    to = c.keys + np.uint64(c.keys_used)
    store64(to, np.uint64(n))
    store64(to + np.uint64(4), context)
    copy_short(to + np.uint64(KEY_HEAD), address, np.uint64(n))
    c.keys_used += KEY_HEAD + np.int64(n)
    c.keys_count += 1


@njit(cache=True, nogil=True)
def _log_at(cache, position):
    return cache_at(cache).log + np.uint64(position) * _8


@njit(cache=True, nogil=True)
def _used_of(cache, chunk):
    return cache_at(cache).chunk_used + np.uint64(chunk) * _8


@njit(cache=True, nogil=True)
def _tidy(cache, chunk):
    """Keeps of a chunk what is worth it."""
    c = cache_at(cache)
    begin = c.log + np.uint64(chunk * c.chunk_bytes)
    end = np.int64(load64(_used_of(cache, chunk)))
    kept = at = np.int64(0)
    while at < end:
        r = record_at(begin + np.uint64(at))
        size = np.int64(r.size)
        e = probe(cache, r.h1, r.h2)
        if e != _0:
            entry = entry_at(e)
            if entry.kind == STORED and np.int64(entry.record) == (chunk * c.chunk_bytes + at) // 8:
                if entry.again == 1 and age(cache, e) < STALE:
                    # From the front, so that what is still to be read is never written over.
                    for k in range(0, size, 8):
                        store64(begin + np.uint64(kept + k), load64(begin + np.uint64(at + k)))
                    entry.record = np.uint32((chunk * c.chunk_bytes + kept) // 8)
                    kept += size
                else:
                    forget(cache, e)
        at += size
    store64(_used_of(cache, chunk), np.uint64(kept))


@njit(cache=True, nogil=True)
def room_in_log(cache, size):
    """Where in the log, in words, there is room for so many bytes, a multiple of 8; -1: nowhere."""
    c = cache_at(cache)
    if size > c.chunk_bytes:
        return np.int64(-1)
    for tried in range(_TRIES + 1):
        if c.chunks > 0:
            used = np.int64(load64(_used_of(cache, c.chunk)))
            if used + size <= c.chunk_bytes:
                store64(_used_of(cache, c.chunk), np.uint64(used + size))
                return (c.chunk * c.chunk_bytes + used) // 8
        if c.chunks < c.most_chunks and (c.chunks + 1) * c.chunk_bytes <= _room_for_log(cache):
            c.chunk = c.chunks
            c.chunks += 1
            store64(_used_of(cache, c.chunk), _0)
        elif c.chunks == 0 or tried == _TRIES:
            break
        else:
            c.full = 1
            c.chunk = c.chunk + 1 if c.chunk + 1 < c.chunks else 0
            _tidy(cache, c.chunk)
    c.full = 1
    return np.int64(-1)


@njit(cache=True, nogil=True)
def record_of_entry(cache, e):
    """Where the record of the entry at an address is."""
    return _log_at(cache, entry_at(e).record)


@njit(cache=True, nogil=True)
def survey(cache, step):
    """Of every ``step``-th row: how many have an entry, and how many of these were seen of late."""
    entries = fresh = 0
    for number in range(0, cache_at(cache).high, step):
        e = entry_address(cache, number)
        if load64(e) != _0:
            entries += 1
            fresh += age(cache, e) < STALE
    return entries, fresh


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

# mypy: ignore-errors
"""Compiled: from encoded tags to the beginning of an element of a batch write, once a series. What is odd is left to ``forms.form_of``.

    0b 0001 u32 length, series id   0b 0002 u32 length, encoded tags   0c 0003   0a 0001

These are the first two fields of the element, and of its third, the datapoint, all that comes before the timestamp
(docs/m3/m3db_wire.md, structs).
"""

import numpy as np
from numba import njit

from m3metrics.tag_kernels import MAGIC, MOST_TAGS, read_tags
from m3x.kernels import base, bytes_equal, copy_short, load8, load16, load64, murmur3_32_seeded, store8, store64
from m3x.protobuf.writing import put_be32

ENTRY = np.dtype([("at", np.int64), ("size", np.uint32), ("state", np.uint32)], align=True)
"""The form of one series: where it stands in the arena; ``state`` is a ``STATE_…``."""

STATE_NEW, STATE_READY, STATE_ODD, STATE_BAD = range(4)
"""Not met yet; usable; to be decided by the plain code; no tag set that can be stored."""

SCHEME_QUOTED, SCHEME_PREPEND_META = range(2)

SIZE_FACTOR, SIZE_MORE = 4, 64
"""A form takes at most so many times the bytes of an id as it arrives, and so many more: the tags again, and a series id. Of a tag that
takes n bytes that has n, or with ``prepend_meta``, which writes two lengths of up to five digits for two of two bytes, less than 3 n."""

_0, _1, _2, _3, _4, _7, _8, _10 = (np.uint64(n) for n in (0, 1, 2, 3, 4, 7, 8, 10))
_LOW = np.uint64(0x0101010101010101)
_HIGH = np.uint64(0x8080808080808080)
_SPACES = np.uint64(0x20) * _LOW
_QUOTES = np.uint64(0x22) * _LOW
_DELETES = np.uint64(0x7F) * _LOW
_OPEN, _CLOSE, _QUOTE, _EQUALS, _COMMA, _BANG, _DOT, _DIGIT = (np.uint64(ord(c)) for c in '{}"=,!.0')
_RESERVED_SIZE = np.uint64(10)
_RESERVED_HEAD, _RESERVED_TAIL = (np.uint64(int.from_bytes(part, "little")) for part in (b"_m3ninx_", b"id"))
_BINARY, _STRUCT, _I64 = (np.uint64(n) for n in (11, 12, 10))


@njit(cache=True, nogil=True)
def _odd_word(word):
    """Not zero if one of the eight bytes is below 0x20, a quote, or above 0x7e."""
    quote, delete = word ^ _QUOTES, word ^ _DELETES
    return (((word - _SPACES) & ~word) | ((quote - _LOW) & ~quote) | ((delete - _LOW) & ~delete) | word) & _HIGH


@njit(cache=True, nogil=True)
def _put_plain(a, source, n):
    """Copies a literal that needs no escape; the address behind it, or 0 for one that may need one."""
    if n >= _8:
        last, k, odd = n - _8, _0, _0
        while k < last:
            word = load64(source + k)
            odd |= _odd_word(word)
            store64(a + k, word)
            k += _8
        word = load64(source + last)
        odd |= _odd_word(word)
        store64(a + last, word)
        return _0 if odd != _0 else a + n
    k = _0
    while k < n:
        byte = np.uint64(load8(source + k))
        if byte < np.uint64(0x20) or byte > np.uint64(0x7E) or byte == _QUOTE:
            return _0
        store8(a + k, byte)
        k += _1
    return a + n


@njit(cache=True, nogil=True)
def _put_quoted(a, tags, count):
    """``{name="value",…}``; 0 for what may need escapes."""
    store8(a, _OPEN)
    a += _1
    for k in range(count):
        if k > 0:
            store8(a, _COMMA)
            a += _1
        a = _put_plain(a, tags[k, 0], tags[k, 1])
        if a == _0:
            return _0
        store8(a, _EQUALS)
        store8(a + _1, _QUOTE)
        a = _put_plain(a + _2, tags[k, 2], tags[k, 3])
        if a == _0:
            return _0
        store8(a, _QUOTE)
        a += _1
    store8(a, _CLOSE)
    return a + _1


@njit(cache=True, nogil=True)
def _put_decimal(a, n):
    """A number below 100000."""
    scale = np.uint64(10000)
    while scale > n and scale > _1:
        scale //= _10
    while scale > _0:
        store8(a, _DIGIT + n // scale % _10)
        a += _1
        scale //= _10
    return a


@njit(cache=True, nogil=True)
def _put_prepended(a, tags, count):
    """All lengths, then all literals."""
    for k in range(count):
        for column in (1, 3):
            if k > 0 or column == 3:
                store8(a, _COMMA)
                a += _1
            a = _put_decimal(a, tags[k, column])
    store8(a, _BANG)
    a += _1
    for k in range(count):
        for column in (0, 2):
            copy_short(a, tags[k, column], tags[k, column + 1])
            a += tags[k, column + 1]
    return a


@njit(cache=True, nogil=True)
def _put_path(a, tags, count):
    """The values with dots between them."""
    for k in range(count):
        if k > 0:
            store8(a, _DOT)
            a += _1
        copy_short(a, tags[k, 2], tags[k, 3])
        a += tags[k, 3]
    return a


@njit(cache=True, nogil=True)
def _is_ascii(at, n):
    """Whether no byte has its highest bit set."""
    bits = _0
    k = _0
    while k + _8 <= n:
        bits |= load64(at + k)
        k += _8
    while k < n:
        bits |= np.uint64(load8(at + k))
        k += _1
    return bits & _HIGH == _0


@njit(cache=True, nogil=True)
def _may_be_indexed(tags, count):
    """Whether nodes surely take the tags: none has the name that they keep for themselves, all are ASCII."""
    for k in range(count):
        name, n = tags[k, 0], tags[k, 1]
        if n == _RESERVED_SIZE and load64(name) == _RESERVED_HEAD and np.uint64(load16(name + _8)) == _RESERVED_TAIL:
            return False
        if not (_is_ascii(name, n) and _is_ascii(tags[k, 2], tags[k, 3])):
            return False
    return True


@njit(cache=True, nogil=True)
def _put_16(a, n):
    """A little-endian number of two bytes."""
    store8(a, n)
    store8(a + _1, n >> _8)
    return a + _2


@njit(cache=True, nogil=True)
def _put_tags(a, tags, count):
    """The encoded tags: complete, whatever the id they come from is like."""
    a = _put_16(_put_16(a, MAGIC), np.uint64(count))
    for k in range(count):
        for column in (0, 2):
            a = _put_16(a, tags[k, column + 1])
            copy_short(a, tags[k, column], tags[k, column + 1])
            a += tags[k, column + 1]
    return a


@njit(cache=True, nogil=True)
def _put_field(a, kind, number):
    """Type and number of a Thrift field."""
    store8(a, kind)
    store8(a + _1, _0)
    store8(a + _2, number)
    return a + _3


@njit(cache=True, nogil=True)
def _put_form(a, tags, count, scheme, graphite):
    """The form at address ``a``, and the address and size of the series id in it; 0 where it has to be escaped."""
    series_id = _put_field(a, _BINARY, _1) + _4
    if graphite:
        end = _put_path(series_id, tags, count)
    elif scheme == SCHEME_QUOTED:
        end = _put_quoted(series_id, tags, count)
    else:
        end = _put_prepended(series_id, tags, count)
    if end == _0:
        return _0, _0, _0
    id_size = end - series_id
    put_be32(series_id - _4, id_size)
    encoded = _put_field(end, _BINARY, _2) + _4
    end = _put_tags(encoded, tags, count)
    put_be32(encoded - _4, end - encoded)
    end = _put_field(_put_field(end, _STRUCT, _3), _I64, _1)
    return end, series_id, id_size


@njit(cache=True, nogil=True)
def _is_graphite(at, size, marker, marker_size):
    """Whether the id has the tag whose encoding, both sizes included, is the ``marker``. For ids that are cut short: anything."""
    if marker_size == _0 or size < _4:
        return False
    end = at + size
    left = load16(at + _2)
    at += _4
    while left > 0:
        left -= 1
        if at + marker_size > end:
            return False
        if load16(at) == load16(marker) and bytes_equal(at, marker, marker_size):
            return True
        at += _2 + np.uint64(load16(at))
        if at + _2 > end:
            return False
        at += _2 + np.uint64(load16(at))
    return False


@njit(cache=True, nogil=True)
def fill(series, first, ids, at, size, entries, shards, arena, used, marker, name_size, scheme, seed, shard_count):
    """Makes the forms of the series ``series[first:]`` (uint32) that have none yet; ends early where ``arena`` may lack the room.

    ``ids``, ``at``, ``size``: the ids of all series by number (uint8, int64). ``marker`` (uint8): the encoding of the tag that marks
    graphite ids, empty: there is none; the first ``name_size`` bytes behind its size are the name of tags to leave out. ``scheme``: a
    ``SCHEME_…``. ``shards`` (uint32) by number gets murmur3-32 with ``seed`` (uint32) of the series id, modulo ``shard_count`` (uint32).

    Returns how many rows were looked at, the bytes of ``arena`` in use, and how many rows were found ``STATE_ODD``.
    """
    tags = np.empty((MOST_TAGS + 1, 4), np.uint64)
    marker_at, marker_size = base(marker), np.uint64(len(marker))
    odd = 0
    for row in range(first, len(series)):
        number = series[row]
        if entries[number].state != STATE_NEW:
            continue
        if used + SIZE_FACTOR * size[number] + SIZE_MORE > len(arena):
            return row, used, odd
        address, length = base(ids) + np.uint64(at[number]), np.uint64(size[number])
        graphite = _is_graphite(address, length, marker_at, marker_size)
        count = read_tags(tags, address, length, marker_at + _2, np.uint64(name_size), graphite)
        start = base(arena) + np.uint64(used)
        end, series_id, id_size = _0, _0, _0
        if count > 0 and _may_be_indexed(tags, count):
            end, series_id, id_size = _put_form(start, tags, count, scheme, graphite)
        if end == _0:
            entries[number].state = STATE_ODD
            odd += 1
            continue
        shards[number] = murmur3_32_seeded(series_id, id_size, np.uint32(seed)) % np.uint32(shard_count)
        entries[number].at = used
        entries[number].size = np.uint32(end - start)
        entries[number].state = STATE_READY
        used += np.int64(end - start)
    return len(series), used, odd

# mypy: ignore-errors
"""Compiled open addressing: byte strings, and what they are looked up with besides, to rows.

A table is three arrays and a ``HEAD`` that says where they are; kernels take the address of the head, which functions hand on for nothing
and nothing is reference-counted. Whoever calls them keeps the arrays alive. ``slots`` has a power of two of uint64 words, the upper half of
the key's hash above the row's number plus one; 0 is a free place. Linear probing starts at the hash half itself, so that ``rehash``
moves words without looking at any key. ``rows`` has a ``ROW`` for each key, whose ``value`` is the owner's: a number, or 8 bytes that
a dtype of his own calls otherwise. The bytes of the key are ``arena[at:at + size]``; ``context`` belongs to the key and goes into
the hash, 0 where there is none. Keys are never taken out: a table that may not grow for ever is begun anew, or is two tables of which
the older is forgotten.

``m3x.byte_table`` is the table that grows by itself. Who owns arrays of his own calls ``hash_keys``, ``find``, ``probe`` and ``add``; the
room is his to look after, and no more than half of the slots may be taken.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from m3x.kernels import base, bytes_equal, copy_short, hash_bytes, load64, prefetch, record_of, store64

HEAD = np.dtype(
    [
        ("slots", np.uint64),  # address
        ("mask", np.uint64),  # slots - 1
        ("rows", np.uint64),  # address
        ("arena", np.uint64),  # address
        ("count", np.int64),  # rows in use
        ("used", np.int64),  # bytes of the arena in use
    ]
)
"""Where a table is."""

ROW = np.dtype([("at", np.int64), ("size", np.int64), ("context", np.uint64), ("value", np.int64)])
"""One key. 32 bytes, of which a cache line has exactly two."""

_BLOCK = 32
"""So many keys are looked up together: enough to wait for memory only once, few enough for the processor to have all on their way."""

_KEY_LINES = 3
"""Cache lines of the stored key that are asked for; more come by themselves."""

_8 = np.uint64(8)
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_ROW_BYTES = np.uint64(ROW.itemsize)


class Keys(NamedTuple):
    """Columns of keys ``buf[at:at + size]``; ``at`` and ``size`` are integers of any width."""

    buf: NDArray[np.uint8]
    at: NDArray[np.integer]
    size: NDArray[np.integer]
    contexts: NDArray[np.uint64]
    halves: NDArray[np.uint32]
    """Filled by ``hash_keys``."""


head = record_of(HEAD)
_row = record_of(ROW)


@njit(cache=True, nogil=True)
def row_address(table, row):
    """Where that row of a table is."""
    return head(table).rows + np.uint64(row) * _ROW_BYTES


@njit(cache=True, nogil=True)
def value_of(table, row):
    """The value of a row."""
    return _row(row_address(table, row)).value


@njit(cache=True, nogil=True)
def hash_half(address, n, context):
    """The upper half (uint64) of the hash of the key of ``n`` bytes at ``address`` with its context (uint64)."""
    return hash_bytes(address, n, context) >> _32


@njit(cache=True, nogil=True)
def hash_keys(keys):
    """``keys.halves[i]`` = ``hash_half`` of key ``i``."""
    buf, at, size, contexts, halves = keys
    for i in range(len(at)):
        halves[i] = hash_half(base(buf) + np.uint64(at[i]), np.int64(size[i]), contexts[i])


@njit(cache=True, nogil=True)
def _is_key(table, row, address, n, context):
    key = _row(row_address(table, row))
    return key.size == n and key.context == context and bytes_equal(head(table).arena + np.uint64(key.at), address, n)


@njit(cache=True, nogil=True)
def probe(table, half, address, n, context):
    """The row of the key of ``n`` bytes at ``address`` with that context and ``hash_half``, or -1."""
    half = np.uint64(half)
    slots, mask = head(table).slots, head(table).mask
    at = half & mask
    word = load64(slots + at * _8)
    while word != np.uint64(0):
        if word >> _32 == half:
            row = np.int64(word & _LOW) - 1
            if _is_key(table, row, address, n, context):
                return row
        at = (at + np.uint64(1)) & mask
        word = load64(slots + at * _8)
    return np.int64(-1)


@njit(cache=True, nogil=True)
def find(table, keys, found):
    """``found[i]`` = row of key ``i``, or -1; ``keys.halves`` are known.

    In rounds, each of which asks for the memory that the next one reads: in a large table every look-up would otherwise wait for
    memory three times.
    """
    buf, key_at, size, contexts, halves = keys
    slots, mask, arena = head(table).slots, head(table).mask, head(table).arena
    for begin in range(0, len(found), _BLOCK):
        end = min(begin + _BLOCK, len(found))
        for i in range(begin, end):
            prefetch(slots + (np.uint64(halves[i]) & mask) * _8)
        for i in range(begin, end):
            half = np.uint64(halves[i])
            at = half & mask
            word = load64(slots + at * _8)
            while word != np.uint64(0) and word >> _32 != half:
                at = (at + np.uint64(1)) & mask
                word = load64(slots + at * _8)
            found[i] = np.int64(word & _LOW) - 1
            if found[i] >= 0:
                prefetch(row_address(table, found[i]))
        for i in range(begin, end):
            if found[i] >= 0:
                key = arena + np.uint64(_row(row_address(table, found[i])).at)
                for line in range(_KEY_LINES):
                    prefetch(key + np.uint64(64 * line))
        for i in range(begin, end):
            if found[i] >= 0:
                address, n = base(buf) + np.uint64(key_at[i]), np.int64(size[i])
                if not _is_key(table, found[i], address, n, contexts[i]):
                    found[i] = probe(table, halves[i], address, n, contexts[i])


@njit(cache=True, nogil=True)
def _link(slots, mask, half, row):
    at = half & mask
    while load64(slots + at * _8) != np.uint64(0):
        at = (at + np.uint64(1)) & mask
    store64(slots + at * _8, (half << _32) | np.uint64(row + 1))


@njit(cache=True, nogil=True)
def add(table, half, address, n, context):
    """Adds a key that is not there yet; returns its row, whose ``value`` is to be filled by the caller, who has made sure of the room."""
    h = head(table)
    row = h.count
    key = _row(row_address(table, row))
    key.at = h.used
    key.size = n
    key.context = context
    copy_short(h.arena + np.uint64(h.used), address, np.uint64(n))
    h.used += n
    h.count = row + 1
    _link(h.slots, h.mask, np.uint64(half), row)
    return row


@njit(cache=True, nogil=True)
def rehash(old, new):
    """Moves every word of the slots ``old`` into the empty slots ``new`` (arrays)."""
    for at in range(len(old)):
        word = old[at]
        if word != np.uint64(0):
            _link(base(new), np.uint64(len(new) - 1), word >> _32, np.int64(word & _LOW) - 1)


@njit(cache=True, nogil=True)
def find_values(table, keys, values):
    """``values[i]`` (int64) = value of key ``i``, or -1; returns how many are unknown."""
    hash_keys(keys)
    find(table, keys, values)
    unknown = 0
    for i in range(len(values)):
        if values[i] < 0:
            unknown += 1
        else:
            values[i] = value_of(table, values[i])
    return unknown


@njit(cache=True, nogil=True)
def add_values(table, keys, values):
    """Adds keys whose ``halves`` are known, with their values (int64)."""
    buf, at, size, contexts, halves = keys
    for i in range(len(values)):
        row = add(table, halves[i], base(buf) + np.uint64(at[i]), np.int64(size[i]), contexts[i])
        _row(row_address(table, row)).value = values[i]


@njit(cache=True, nogil=True)
def number_unknown(table, keys, found, values, limit):
    """Adds the keys of which ``found`` (int64) has -1, each once, and fills it in; ``halves`` are known.

    They get ``values[i]`` (int64), or if it is empty the numbers of their rows. Where ``limit`` rows are there nothing is added.
    """
    buf, at, size, contexts, halves = keys
    for i in range(len(found)):
        if found[i] >= 0:
            continue
        # The same key may have come before in this batch.
        address, n = base(buf) + np.uint64(at[i]), np.int64(size[i])
        row = probe(table, halves[i], address, n, contexts[i])
        if row < 0:
            if head(table).count >= limit:
                continue
            row = add(table, halves[i], address, n, contexts[i])
            _row(row_address(table, row)).value = values[i] if len(values) > 0 else row
        found[i] = value_of(table, row)

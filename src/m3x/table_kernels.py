# mypy: ignore-errors
"""Compiled open addressing: byte strings, and what they are looked up with besides, to rows.

A table is three arrays. ``slots`` has a power of two of uint64 words, the upper half of the key's hash above the row's number plus one; 0
is a free place. Linear probing starts at the hash half itself, so that ``rehash`` moves words without looking at any key. ``rows`` has
one row for each key, of any record dtype with the integer fields ``at``, ``size`` and ``context`` and whatever its owner looks up. The
bytes of the key are ``arena[at:at + size]``; ``context`` (uint64) belongs to the key and goes into the hash, 0 where there is none.
Keys are never taken out: a table that may not grow for ever is begun anew, or is two tables of which the older is forgotten.

``m3x.byte_table`` is the table that grows by itself. Who owns arrays of his own calls ``hash_keys``, ``find_rows``, ``probe`` and ``add``;
the room is his to look after, and no more than half of the slots may be taken.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from m3x.kernels import base, bytes_equal, copy_bytes, hash_bytes, prefetch

ROWS, BYTES = 0, 1
"""Positions in ``used``."""

ROW = np.dtype([("at", np.int64), ("size", np.int64), ("context", np.uint64), ("value", np.int64)])
"""A row of ``m3x.byte_table``. 32 bytes, of which a cache line has exactly two."""

BLOCK = 32
"""So many keys are looked up together: enough to wait for memory only once, few enough for the processor to have all on their way."""

_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


class Table(NamedTuple):
    """The arrays of one table, as one argument of a kernel."""

    slots: NDArray[np.uint64]
    rows: NDArray[np.void]
    arena: NDArray[np.uint8]
    used: NDArray[np.int64]
    """How much of ``rows`` and ``arena`` is taken, at ``ROWS`` and ``BYTES``."""


class Keys(NamedTuple):
    """Columns of keys ``buf[at:at + size]``; ``at`` and ``size`` are integers of any width."""

    buf: NDArray[np.uint8]
    at: NDArray[np.integer]
    size: NDArray[np.integer]
    contexts: NDArray[np.uint64]
    halves: NDArray[np.uint32]
    """Filled by ``hash_keys``."""


@njit(cache=True, nogil=True)
def hash_keys(table, keys, begin, end):
    """``keys.halves[i]`` = upper half of the hash of key ``i`` with its context, ``begin <= i < end``; asks for its home in ``table``."""
    slots = table.slots
    mask = np.uint64(len(slots) - 1)
    for i in range(begin, end):
        address = base(keys.buf) + np.uint64(keys.at[i])
        half = hash_bytes(address, np.int64(keys.size[i]), keys.contexts[i]) >> _32
        keys.halves[i] = np.uint32(half)
        prefetch(base(slots) + (half & mask) * np.uint64(8))


@njit(cache=True, nogil=True)
def probe(table, half, address, n, context):
    """The row of the key of ``n`` bytes at ``address`` with that context and hash half, or -1."""
    slots, rows = table.slots, table.rows
    mask = np.uint64(len(slots) - 1)
    at = np.uint64(half) & mask
    while slots[at] != np.uint64(0):
        word = slots[at]
        if word >> _32 == np.uint64(half):
            row = np.int64(word & _LOW) - 1
            key = rows[row]
            if (
                np.int64(key.size) == n
                and key.context == context
                and bytes_equal(base(table.arena) + np.uint64(key.at), address, n)
            ):
                return row
        at = (at + np.uint64(1)) & mask
    return np.int64(-1)


@njit(cache=True, nogil=True)
def find_rows(table, keys, begin, end, found):
    """``found[i]`` = row of key ``i``, or -1, for ``begin <= i < end``; ``keys.halves`` are known.

    In rounds, each of which asks for the memory that the next one reads: in a large table every look-up would otherwise wait for
    memory three times. Call it for ``BLOCK`` keys at a time.
    """
    slots, rows = table.slots, table.rows
    mask = np.uint64(len(slots) - 1)
    for i in range(begin, end):
        half = np.uint64(keys.halves[i])
        at = half & mask
        while slots[at] != np.uint64(0) and slots[at] >> _32 != half:
            at = (at + np.uint64(1)) & mask
        row = np.int64(slots[at] & _LOW) - 1
        found[i] = row
        if row >= 0:
            prefetch(base(rows) + np.uint64(row) * np.uint64(rows.itemsize))
    for i in range(begin, end):
        if found[i] >= 0:
            prefetch(base(table.arena) + np.uint64(rows[found[i]].at))
    for i in range(begin, end):
        if found[i] >= 0:
            key = rows[found[i]]
            address = base(keys.buf) + np.uint64(keys.at[i])
            n = np.int64(keys.size[i])
            if not (
                np.int64(key.size) == n
                and key.context == keys.contexts[i]
                and bytes_equal(base(table.arena) + np.uint64(key.at), address, n)
            ):
                found[i] = probe(table, keys.halves[i], address, n, keys.contexts[i])


@njit(cache=True, nogil=True)
def link(slots, half, row):
    """Enters a row in the first free place from its home on."""
    mask = np.uint64(len(slots) - 1)
    at = np.uint64(half) & mask
    while slots[at] != np.uint64(0):
        at = (at + np.uint64(1)) & mask
    slots[at] = (np.uint64(half) << _32) | np.uint64(row + 1)


@njit(cache=True, nogil=True)
def add(table, keys, i):
    """Adds key ``i``, which is not there yet; its row, of which the other fields are the caller's, who has made sure of the room."""
    used = table.used
    row = used[ROWS]
    key = table.rows[row]
    key.at = used[BYTES]
    key.size = keys.size[i]
    key.context = keys.contexts[i]
    used[BYTES] = copy_bytes(table.arena, used[BYTES], keys.buf, np.int64(keys.at[i]), np.int64(keys.size[i]))
    used[ROWS] = row + 1
    link(table.slots, keys.halves[i], row)
    return row


@njit(cache=True, nogil=True)
def rehash(old, new):
    """Moves every word of the slots ``old`` into the empty slots ``new``."""
    for at in range(len(old)):
        word = old[at]
        if word != np.uint64(0):
            link(new, word >> _32, np.int64(word & _LOW) - 1)


@njit(cache=True, nogil=True)
def find_values(table, keys, values):
    """``values[i]`` (int64, rows are ``ROW``) = value of key ``i``, or -1; returns how many are unknown."""
    unknown = 0
    for begin in range(0, len(values), BLOCK):
        end = min(begin + BLOCK, len(values))
        hash_keys(table, keys, begin, end)
        find_rows(table, keys, begin, end, values)
        for i in range(begin, end):
            if values[i] < 0:
                unknown += 1
            else:
                values[i] = table.rows[values[i]].value
    return unknown


@njit(cache=True, nogil=True)
def add_values(table, keys, values):
    """Adds keys whose halves are known, with their values (int64)."""
    for i in range(len(values)):
        row = add(table, keys, i)
        table.rows[row].value = values[i]


@njit(cache=True, nogil=True)
def number_unknown(table, keys, values):
    """Adds the keys of which ``values`` (int64) has -1, each once, with the number of its row as value. Halves are known."""
    for i in range(len(values)):
        if values[i] < 0:
            # The same key may have come before in this batch.
            address = base(keys.buf) + np.uint64(keys.at[i])
            row = probe(table, keys.halves[i], address, np.int64(keys.size[i]), keys.contexts[i])
            if row < 0:
                row = add(table, keys, i)
                table.rows[row].value = row
            values[i] = table.rows[row].value


def warm() -> None:
    """Compiles the kernels of ``m3x.byte_table``, or loads them from the cache."""
    table = Table(np.zeros(4, np.uint64), np.zeros(2, ROW), np.zeros(8, np.uint8), np.zeros(2, np.int64))
    one = np.ones(1, np.int64)
    keys = Keys(np.zeros(8, np.uint8), one, one, np.zeros(1, np.uint64), np.zeros(1, np.uint32))
    hash_keys(table, keys, 0, 1)
    add_values(table, keys, one)
    find_values(table, keys, one.copy())
    number_unknown(table, keys, -one)
    rehash(table.slots, np.zeros(8, np.uint64))

# mypy: ignore-errors
"""Compiled open addressing: words of (high half of a key's hash, row + 1), found by linear probing from the hash half.

The half gives the home position, so words can be moved without looking at what they point to. Deleting shifts the followers back: there
are no gravestones.
"""

import numpy as np
from numba import njit

from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v

_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@njit(cache=True, nogil=True)
def insert(words, mask, half, row):
    """Puts an entry's row in the first free place from its home on."""
    at = np.int64(half) & mask
    while words[at] != np.uint64(0):
        at = (at + 1) & mask
    words[at] = (np.uint64(half) << _32) | np.uint64(row + 1)


@njit(cache=True, nogil=True)
def remove(words, mask, half, row):
    """Takes an entry's row out and closes the gap."""
    at = np.int64(half) & mask
    while np.int64(words[at] & _LOW) - 1 != row:
        at = (at + 1) & mask
    gap = at
    while True:
        at = (at + 1) & mask
        word = words[at]
        if word == np.uint64(0):
            break
        home = np.int64(word >> _32) & mask
        if ((at - home) & mask) >= ((at - gap) & mask):
            words[gap] = word
            gap = at
    words[gap] = np.uint64(0)


@njit(cache=True, nogil=True)
def rehash(old, old_size, words, mask):
    """Moves the words of ``old[:old_size]`` into the empty ``words`` with another mask."""
    for at in range(old_size):
        word = old[at]
        if word != np.uint64(0):
            insert(words, mask, word >> _32, np.int64(word & _LOW) - 1)


@njit(cache=True, nogil=True)
def grow_groups(t):
    """Makes the index of groups twice as large, in place; whether there was room."""
    size = v.head(t).group_mask + 1
    if 2 * size > layout.MAX_GROUPS:
        return False
    words = v.group_index(t)
    for at in range(size):
        words[2 * size + at] = words[at]
        words[at] = np.uint64(0)
        words[size + at] = np.uint64(0)
    for at in range(2 * size, 3 * size):
        word = words[at]
        words[at] = np.uint64(0)
        if word != np.uint64(0):
            insert(words, 2 * size - 1, word >> _32, np.int64(word & _LOW) - 1)
    v.head(t).group_mask = 2 * size - 1
    return True

# mypy: ignore-errors
"""Rows of a write as its copies answer: ``m3db.consistency.judge`` for many rows at once, and rows sorted by where they go."""

import numpy as np
from numba import njit

from m3db.consistency import PENDING, RowState

__all__ = ["begin", "group", "record"]

_PENDING = int(PENDING)
_WRITTEN = int(RowState.WRITTEN)
_RETRY = int(RowState.RETRY)
_REFUSED = int(RowState.REFUSED)


_ALL = np.uint32(0xFFFFFFFF)
_NONE = np.uint32(0)
_ONE = np.uint32(1)


@njit(cache=True, inline="always")
def _bits(word):
    """How many bits are set."""
    word = word - ((word >> np.uint32(1)) & np.uint32(0x55555555))
    word = (word & np.uint32(0x33333333)) + ((word >> np.uint32(2)) & np.uint32(0x33333333))
    word = (word + (word >> np.uint32(4))) & np.uint32(0x0F0F0F0F)
    return np.int64(np.uint32(word * np.uint32(0x01010101)) >> np.uint32(24))


@njit(cache=True, inline="always")
def _count(counted, partners, shard, single):
    """Copies that count and are in the mask ``single``, and pairs of which both are."""
    found = _bits(np.uint32(counted & single))
    for slot in range(partners.shape[1]):
        other = partners[shard, slot]
        if other >= 0:
            both = np.uint32((_ONE << np.uint32(slot)) | (_ONE << np.uint32(other)))
            found += (single & both) == both
    return found


@njit(cache=True, inline="always")
def _failed_state(counted, partners, needed, shard, failed, bad):
    """Of a row that is not written yet."""
    if _count(counted, partners, shard, np.uint32(failed ^ _ALL)) >= needed:
        return _PENDING
    most = _count(counted, partners, shard, _ALL)
    without_bad = _count(counted, partners, shard, np.uint32(bad ^ _ALL))
    if without_bad < most and (without_bad == 0 if most < needed else without_bad < needed):
        return _REFUSED
    return _RETRY


@njit(cache=True)
def begin(counted, partners, needed, states):
    """Nobody has answered yet: ``states`` by shard."""
    for shard in range(len(states)):
        if needed[shard] == 0:
            states[shard] = _WRITTEN
        else:
            states[shard] = _failed_state(counted[shard], partners, needed[shard], shard, _NONE, _NONE)


@njit(cache=True)
def record(rows, outcomes, slots, shards, counted, partners, needed, succeeded, failed, bad, states):
    """What one host answered for ``rows``: ``outcomes`` 0 success, 1 error, 2 bad request. ``slots``: the host's, by shard.

    Returns how many rows are decided now that were not before.
    """
    decided = 0
    for at in range(len(rows)):
        row = rows[at]
        shard = np.int64(shards[row])
        bit = np.uint32(_ONE << np.uint32(slots[shard]))
        state = _PENDING
        if outcomes[at] == 0:
            succeeded[row] |= bit
            if states[row] == _PENDING and _count(counted[shard], partners, shard, succeeded[row]) >= needed[shard]:
                state = _WRITTEN
        else:
            failed[row] |= bit
            if outcomes[at] == 2:
                bad[row] |= bit
            if states[row] == _PENDING:
                state = _failed_state(counted[shard], partners, needed[shard], shard, failed[row], bad[row])
        if state != _PENDING:
            states[row] = state
            decided += 1
    return decided


@njit(cache=True)
def group(shards, set_of_shard, bounds, order):
    """Sorts rows by the set of hosts that they go to, else as they come.

    ``bounds[s]:bounds[s + 1]`` of ``order`` are the rows of set s; ``bounds`` comes with zeros.
    """
    for row in range(len(shards)):
        bounds[set_of_shard[shards[row]] + 1] += 1
    for at in range(1, len(bounds)):
        bounds[at] += bounds[at - 1]
    for row in range(len(shards)):
        number = set_of_shard[shards[row]]
        order[bounds[number]] = row
        bounds[number] += 1
    for at in range(len(bounds) - 1, 0, -1):
        bounds[at] = bounds[at - 1]
    bounds[0] = 0

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


@njit(cache=True)
def _count(counted, partners, shard, single):
    """Copies that count and are in the mask ``single``, and pairs of which both are."""
    found = 0
    left = np.uint32(counted[shard] & single)
    while left:
        left &= np.uint32(left - np.uint32(1))
        found += 1
    for slot in range(partners.shape[1]):
        other = partners[shard, slot]
        if other >= 0:
            both = np.uint32((np.uint32(1) << np.uint32(slot)) | (np.uint32(1) << np.uint32(other)))
            if (single & both) == both:
                found += 1
    return found


@njit(cache=True)
def _judge(counted, partners, needed, shard, succeeded, failed, bad):
    every = np.uint32(0xFFFFFFFF)
    if _count(counted, partners, shard, succeeded) >= needed[shard]:
        return _WRITTEN
    if _count(counted, partners, shard, np.uint32(failed ^ every)) >= needed[shard]:
        return _PENDING
    most = _count(counted, partners, shard, every)
    without_bad = _count(counted, partners, shard, np.uint32(bad ^ every))
    if without_bad < most:
        if most < needed[shard]:
            if without_bad == 0:
                return _REFUSED
        elif without_bad < needed[shard]:
            return _REFUSED
    return _RETRY


@njit(cache=True)
def begin(shards, counted, partners, needed, states):
    """Nobody has answered yet: fills ``states``; returns how many rows are decided all the same."""
    decided = 0
    none = np.uint32(0)
    for row in range(len(shards)):
        state = _judge(counted, partners, needed, shards[row], none, none, none)
        states[row] = state
        decided += state != _PENDING
    return decided


@njit(cache=True)
def record(rows, outcomes, slots, shards, counted, partners, needed, succeeded, failed, bad, states):
    """What one host answered for ``rows``: ``outcomes`` 0 success, 1 error, 2 bad request. ``slots``: the host's, by shard.

    Returns how many rows are decided now that were not before.
    """
    decided = 0
    for at in range(len(rows)):
        row = rows[at]
        shard = shards[row]
        bit = np.uint32(np.uint32(1) << np.uint32(slots[shard]))
        if outcomes[at] == 0:
            succeeded[row] |= bit
        else:
            failed[row] |= bit
            if outcomes[at] == 2:
                bad[row] |= bit
        if states[row] == _PENDING:
            state = _judge(counted, partners, needed, shard, succeeded[row], failed[row], bad[row])
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

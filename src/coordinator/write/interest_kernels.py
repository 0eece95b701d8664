# mypy: ignore-errors
"""Whether any rule could match a series, told from its labels; public through ``coordinator.write.kernels``.

The tables are made by ``coordinator.write.interest``: labels that some rule asks for, and by which beginning or whole value. They hold
hashes only: a collision costs a look at the rules themselves, and never hides a rule.
"""

import numpy as np
from numba import njit

from m3x.kernels import base, hash_bytes

TAG = np.dtype([("hash", np.uint64), ("first", np.int32), ("count", np.int32)], align=True)
"""Open addressing by the hash of a label's name; ``lengths[first:first+count]`` say what is asked of its value. ``count`` 0: free."""

PRESENT = 0
"""In ``lengths``: any value will do."""
WHOLE = -1
"""The whole value; other numbers: its first bytes."""

_NAME_SEED = np.uint64(0)


@njit(cache=True, nogil=True)
def name_hash(buf, at, n):
    """The hash of a label's name ``buf[at:at+n]``."""
    return hash_bytes(base(buf) + np.uint64(at), np.int64(n), _NAME_SEED)


@njit(cache=True, nogil=True)
def value_hash(buf, at, n, name, length):
    """The hash of the first ``n`` bytes of the value of the label whose name hashes to ``name``; never 0."""
    seed = name + np.uint64(length + 2)
    h = hash_bytes(base(buf) + np.uint64(at), np.int64(n), seed)
    return h if h != np.uint64(0) else np.uint64(1)


@njit(cache=True, nogil=True)
def _asked_for(buf, at, size, name, lengths, first, count, values):
    mask = np.uint64(len(values) - 1)
    for k in range(first, first + count):
        length = np.int64(lengths[k])
        if length == PRESENT:
            return True
        n = size
        if length != WHOLE:
            if size < length:
                continue
            n = length
        h = value_hash(buf, at, n, name, length)
        slot = h & mask
        while values[slot] != np.uint64(0):
            if values[slot] == h:
                return True
            slot = (slot + np.uint64(1)) & mask
    return False


@njit(cache=True, nogil=True)
def interesting(buf, spans, n, tags, lengths, values):
    """Whether a rule may match the ``n`` labels of ``spans`` (rows: name at, size, value at, size); ``tags`` empty: no rule."""
    if len(tags) == 0:
        return False
    mask = np.uint64(len(tags) - 1)
    for i in range(n):
        h = name_hash(buf, spans[i, 0], spans[i, 1])
        slot = h & mask
        while tags[slot].count != 0:
            if tags[slot].hash == h:
                first = np.int64(tags[slot].first)
                count = np.int64(tags[slot].count)
                if _asked_for(buf, spans[i, 2], np.int64(spans[i, 3]), h, lengths, first, count, values):
                    return True
                break
            slot = (slot + np.uint64(1)) & mask
    return False

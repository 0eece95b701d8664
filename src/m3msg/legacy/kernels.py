# mypy: ignore-errors
"""Compiled: the messages of a batch that go to one instance, as records of raw TCP (docs/m3/metrics.md, raw TCP stream)."""

import numpy as np
from numba import njit

from m3x.kernels import base, copy_short
from m3x.protobuf.writing import put_varint

__all__ = ["PREFIX_BOUND", "put_records", "warm"]

PREFIX_BOUND = 6
"""A record is longer than its message by less than this, as messages are shorter than 4 GiB."""

_1 = np.uint64(1)


@njit(cache=True, nogil=True)
def put_records(payload, offsets, shards, takes, out):
    """Writes a record for each message of whose shard ``takes`` (uint8, by shard) is not 0 to ``out`` (uint8).

    ``payload``, ``offsets``, ``shards``: as in a ``MessageBatch``. Messages of shards that ``takes`` does not have are left out.
    Returns ``(bytes, messages)``; ``out`` has room for all messages with ``PREFIX_BOUND`` bytes each.
    """
    origin, target = base(payload), base(out)
    q = target
    count = 0
    for i in range(len(shards)):
        shard = np.int64(shards[i])
        if shard < len(takes) and takes[shard] != 0:
            size = np.uint64(offsets[i + 1] - offsets[i])
            q = put_varint(q, size << _1)
            copy_short(q, origin + np.uint64(offsets[i]), size)
            q += size
            count += 1
    return np.int64(q - target), count


def warm() -> None:
    """Compiles it, or loads it from the cache."""
    out = np.zeros(64, np.uint8)
    put_records(np.zeros(4, np.uint8), np.array([0, 4]), np.zeros(1, np.uint32), np.ones(1, np.uint8), out)

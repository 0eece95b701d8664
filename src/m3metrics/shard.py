"""The shard of a metric id (docs/m3/m3msg.md, shard of a metric): MurmurHash3 x86 32-bit with seed 0, modulo the number of shards.

Of many ids at once: ``m3metrics.kernels.shards_of``.
"""

import mmh3

__all__ = ["MAX_SHARDS", "shard_of", "too_many_shards"]

MAX_SHARDS = 1 << 16
"""Shards of a placement or a topic, at most: tables of all of them are built. M3 has no bound; its placements have some thousands."""


def shard_of(ident: bytes, num_shards: int) -> int:
    """The shard of ``ident`` among ``num_shards``."""
    number: int = mmh3.hash(ident, 0, signed=False) % num_shards
    return number


def too_many_shards(number: int) -> str:
    """What is wrong with a placement or a topic of so many shards; empty: nothing."""
    return f"{number} shards, at most {MAX_SHARDS} are possible" if number > MAX_SHARDS else ""

"""Shards whose nodes do not answer: their values wait by themselves at once, instead of each batch waiting for them anew. Pure."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ailing"]

_SECOND = 1_000_000_000
_ASKED_AGAIN_NS = 5 * _SECOND
"""After that a batch may wait for them once more, if none of what is parked was written meanwhile."""


class Ailing:
    """By shard, until when."""

    def __init__(self, num_shards: int) -> None:
        self._until_ns = np.zeros(num_shards, np.int64)
        self.why = ""
        """What was said last of one of them."""

    def any(self, now_ns: int) -> bool:
        """Whether there are such shards."""
        return bool((self._until_ns > now_ns).any())

    def among(self, shards: NDArray[np.uint32], now_ns: int) -> NDArray[np.bool_]:
        """Which rows are of such shards; ``shards``: of each row."""
        ailing: NDArray[np.bool_] = self._until_ns > now_ns
        return ailing[shards]

    def unanswered(self, shards: NDArray[np.uint32], now_ns: int, why: str) -> None:
        """Rows of these waited in vain."""
        self._until_ns[shards] = now_ns + _ASKED_AGAIN_NS
        self.why = why

    def written(self, shards: NDArray[np.uint32]) -> None:
        """Rows of these are written."""
        if self._until_ns.any():
            self._until_ns[shards] = 0

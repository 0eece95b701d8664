"""How many of the write processes take connections: as few as have work enough.

A process that gets few requests pays for each as if it was the first: its caches are cold. And each has to know for itself the series that
come to it. So one process takes all connections until it is busy, then two, and so on; whoever is not in use sends its senders away.

Pure: what processes are busy with, and the time, come as arguments.
"""

import math
from collections.abc import Sequence

__all__ = ["LOOKS", "Use"]

LOOKS = 3
"""So often in a row there has to be more to do before more are in use. One that comes into use meets every series as a new one, which is
more to do as well; so at most twice as many are in use after each time."""
_CALM = 0.75
"""Fewer are in use again where they would be so much less busy than what brings in the next one."""
_CALM_NS = 60_000_000_000
"""... and have been for so long."""


class Use:
    """``next_at``: how busy those in use may be, as parts of what each can do, before one more is; not 0."""

    def __init__(self, next_at: float) -> None:
        self._next_at = next_at
        self._looks = 0
        """How often in a row there was more to do."""
        self._fewest = 1
        """How many would have done since ``_since_ns``."""
        self._since_ns = 0

    def begin(self, now_ns: int) -> None:
        """Nothing is known of what was before."""
        self._looks, self._fewest, self._since_ns = 0, 1, now_ns

    def of(self, in_use: int, busy: Sequence[float], now_ns: int) -> int:
        """How many of the living processes are to be in use, of which ``in_use`` are. ``busy``: which part of what it can do each does."""
        total = sum(busy)
        needed = min(self._enough(total, self._next_at), max(len(busy), 1))
        if needed > in_use:
            self._looks += 1
            self._fewest, self._since_ns = 1, now_ns
            if self._looks < LOOKS:
                return in_use
            in_use = min(needed, 2 * in_use)
        if needed >= in_use:
            self.begin(now_ns)
            return in_use
        self._looks = 0
        self._fewest = max(self._fewest, min(self._enough(total, self._next_at * _CALM), in_use))
        if now_ns - self._since_ns < _CALM_NS:
            return in_use
        fewest = self._fewest
        self.begin(now_ns)
        return fewest

    @staticmethod
    def _enough(total: float, each: float) -> int:
        return max(math.ceil(total / each), 1)

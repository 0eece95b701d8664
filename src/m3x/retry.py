"""M3's backoff rule (docs/m3/m3msg.md, backoff): initial × factor^(n−1), jitter halves at most, then the upper bound."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays between attempts, in seconds."""

    initial_s: float = 1.0
    factor: float = 2.0
    max_s: float = float("inf")
    jitter: bool = True

    def delay(self, attempt: int) -> float:
        """Delay before retry number ``attempt`` (1 is the first retry), in seconds."""
        try:
            delay = self.initial_s * self.factor ** (max(attempt, 1) - 1)
        except OverflowError:
            return self.max_s
        if self.jitter:
            delay = delay / 2 + random.random() * delay / 2
        return min(delay, self.max_s)

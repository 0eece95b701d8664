"""What senders of Remote Write 2.0 declare of metric families besides their types: help and unit, for stores that are told of them.

It comes with every series of every request, and hardly ever changes. So one request in ``ONE_IN`` is looked at, by chance, as
requests of many senders and shards follow each other in patterns; what is new of it is told.
"""

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.sinks.metric_types import family_of
from coordinator.write import kernels

__all__ = ["AGAIN_S", "ONE_IN", "Declare", "Declared"]

Declare = Callable[[bytes, bytes, bytes], None]
"""Takes a family, its help and its unit."""
ONE_IN = 16
AGAIN_S = 600.0
"""After so long all of it is told again: whoever was told may have missed it."""
_MOST_FAMILIES = 20_000
_LONGEST_BYTES = 1024
"""Of a help or unit; a longer one is left out."""


class Declared:
    """Of one process. ``tell``: whom; ``chance``: a number from 0 to 1 for each request; ``clock``: seconds."""

    def __init__(
        self,
        tell: Declare,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._chance = chance
        self._clock = clock
        self._told: dict[bytes, tuple[bytes, bytes]] = {}
        self._since_s = clock()
        self._found = np.zeros(1 << 8, kernels.DECLARATION)

    def look(
        self, buf: NDArray[np.uint8], labels: NDArray[np.uint8], series: NDArray[Any], symbols: NDArray[Any]
    ) -> None:
        """At a request that was decoded: its bytes, and what ``request_2`` has made of them; there is room for its ``symbols``."""
        if self._chance() * ONE_IN >= 1:
            return
        if self._clock() - self._since_s >= AGAIN_S:
            self._told.clear()
            self._since_s = self._clock()
        if len(self._found) < len(series):
            self._found = np.zeros(2 * len(series), kernels.DECLARATION)
        count = kernels.declarations(buf, labels, series, symbols, self._found)
        for name_at, name_size, kind, help_at, help_size, unit_at, unit_size in self._found[:count].tolist():
            family = family_of(labels[name_at : name_at + name_size].tobytes(), kind)
            said = buf[help_at : help_at + help_size].tobytes(), buf[unit_at : unit_at + unit_size].tobytes()
            if self._told.get(family) == said or max(help_size, unit_size) > _LONGEST_BYTES:
                continue
            if family in self._told or len(self._told) < _MOST_FAMILIES:
                self._told[family] = said
                self._tell(family, *said)

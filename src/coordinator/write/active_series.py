"""How many different series a tenant has sent of late: a table of 64-bit hashes of their labels, which has as many rows as are allowed.

Every ``PERIOD_S`` those that have not come in the period that ends are forgotten, so that a series counts for one to two periods.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.write import kernels

__all__ = ["PERIOD_S", "ActiveSeries"]

PERIOD_S = 600.0
_LEAST = 1 << 10


class ActiveSeries:
    """Of one tenant. ``most``: series that are allowed; ``now_s``: on the monotonic clock."""

    def __init__(self, most: int, now_s: float) -> None:
        self._most = most
        size = max(_LEAST, 1 << (2 * most - 1).bit_length())
        self._slots, self._seen = np.zeros(size, np.uint64), np.zeros(size, np.bool_)
        self._until_s = now_s + PERIOD_S
        self.count = 0

    def admit(self, buf: NDArray[np.uint8], series: NDArray[Any], now_s: float) -> NDArray[np.bool_] | None:
        """Which of ``series`` (``kernels.SERIES_ROW``) there is room for; None: all. Series that are known always have room."""
        if now_s >= self._until_s:
            self._turn(now_s)
        admitted = np.empty(len(series), np.bool_)
        room = self._most - self.count
        self.count += kernels.enter_series(self._slots, self._seen, buf, series, room, admitted)
        return None if admitted.all() else admitted

    def _turn(self, now_s: float) -> None:
        """Another period begins; if nothing came for the whole of one, nothing is known any more."""
        if now_s >= self._until_s + PERIOD_S:
            self._seen[:] = False
        slots = np.zeros_like(self._slots)
        self.count = kernels.keep_seen(self._slots, self._seen, slots)
        self._slots, self._seen = slots, np.zeros_like(self._seen)
        self._until_s = now_s + PERIOD_S

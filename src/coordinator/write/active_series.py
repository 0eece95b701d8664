"""How many different series a tenant has sent of late, in bounded memory: one bit of two tables says of each whether it was there.

A table has sixteen places for every series that is allowed, and a series has one of them by the hash of its labels. Two that have the same
place count as one, which lets in at most some three in a hundred more than allowed. The older table is forgotten when the newer one has
lasted for ``PERIOD_S``; series that still come are in the newer one by then.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from m3x.table_kernels import Keys, hash_keys

__all__ = ["PERIOD_S", "ActiveSeries"]

PERIOD_S = 600.0
_PLACES = 16
_LEAST = 1 << 10


class ActiveSeries:
    """Of one tenant. ``most``: series that are allowed; ``now_s``: on the monotonic clock."""

    def __init__(self, most: int, now_s: float) -> None:
        self._most = most
        size = max(_LEAST, 1 << (_PLACES * most - 1).bit_length())
        self._mask = np.uint32(size - 1)
        self._now, self._before = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        self._until_s = now_s + PERIOD_S
        self.count = 0
        """Places that are taken in either table."""

    def admit(self, buf: NDArray[np.uint8], series: NDArray[Any], now_s: float) -> NDArray[np.bool_] | None:
        """Which of ``series`` (``kernels.SERIES_ROW``) there is room for; None: all. Series that are known always have room."""
        if now_s >= self._until_s:
            self._turn(now_s)
        rows = len(series)
        halves = np.empty(rows, np.uint32)
        at, size = series["labels_at"].astype(np.uint32), series["labels_size"].astype(np.uint32)
        hash_keys(Keys(buf, at, size, np.zeros(rows, np.uint64), halves))
        places = halves & self._mask
        known = self._now[places] | self._before[places]
        admitted = None
        if not known.all():
            added, first = np.unique(places[~known], return_index=True)
            room = max(0, self._most - self.count)
            if len(added) > room:
                # Those that stand first in the request.
                added = added[np.argsort(first)[:room]]
                admitted = known | np.isin(places, added)
                places = places[admitted]
            self.count += len(added)
        self._now[places] = True
        return admitted

    def _turn(self, now_s: float) -> None:
        """The newer table becomes the older one; both are empty if nothing came for long."""
        idle = now_s >= self._until_s + PERIOD_S
        self._now, self._before = self._before, self._now
        self._now[:] = False
        if idle:
            self._before[:] = False
        self.count = int(np.count_nonzero(self._before))
        self._until_s = now_s + PERIOD_S

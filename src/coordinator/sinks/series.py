"""Numbers for series: one table for all sinks, so that what a sink knows of a series is an array indexed by its number."""

import numpy as np
from numpy.typing import NDArray

from coordinator.sinks import kernels
from m3x.byte_table import ByteTable

__all__ = ["SeriesTable"]

_RESERVED = (1 << 23, 2 << 30)
"""Address space for series and bytes of their ids: copying a table of millions would stop the event loop."""


class SeriesTable:
    """Ids (encoded tags, docs/m3/metrics.md) → numbers from 0, in the order in which they are first seen. Only grows.

    A table that has become too large is left to the batches that refer to it, and a new one is begun: see ``Hub.table``. What a sink keeps
    per series belongs to one table, never to a number alone: keep it in a ``weakref.WeakKeyDictionary`` by table, and it goes with it.
    """

    def __init__(self) -> None:
        self._ids = ByteTable(_RESERVED)
        self._hashes = np.zeros(1 << 8, np.uint64)
        self._hashed = 0

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def size_bytes(self) -> int:
        """Memory of the table."""
        return self._ids.size_bytes + self._hashes.nbytes

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """A hash of each id by number, the same in every table. Good until the next ``numbers``."""
        count = len(self._ids)
        if self._hashed < count:
            if count > len(self._hashes):
                grown = np.zeros(max(2 * len(self._hashes), count), np.uint64)
                grown[: self._hashed] = self._hashes[: self._hashed]
                self._hashes = grown
            kernels.hash_ids(*self._ids.ranges(), self._hashed, self._hashes)
            self._hashed = count
        return self._hashes[:count]

    def numbers(self, buf: NDArray[np.uint8], at: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Numbers of the ids ``buf[at[i]:at[i] + size[i]]``; new ones are added. ``buf`` is writable."""
        return self._ids.number(buf, at, size).astype(np.uint32)

    def number(self, series_id: bytes) -> int:
        """The number of one id, which is added if it is new."""
        found = int(self._ids.find_keys([series_id])[0])
        if found < 0:
            found = len(self._ids)
            self._ids.add([series_id], [found])
        return found

    def ids(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """The bytes of all ids, and where each stands in them (start and size, by number). Good until the next ``numbers``."""
        return self._ids.ranges()

    def id(self, number: int) -> bytes:
        """The id of one series."""
        return self._ids.key(number)

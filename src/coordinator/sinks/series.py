"""Numbers for series: one table for all sinks, so that what a sink knows of a series is an array indexed by its number."""

import numpy as np
from numpy.typing import NDArray

from m3x.byte_table import ByteTable

__all__ = ["SeriesTable"]


class SeriesTable:
    """Ids (encoded tags, docs/m3/metrics.md) → numbers from 0, in the order in which they are first seen. Only grows.

    A table that has become too large is left to the batches that refer to it, and a new one is begun: see ``Hub``. What a sink keeps per
    series belongs to one table, never to a number alone.
    """

    def __init__(self) -> None:
        self._ids = ByteTable()

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def size_bytes(self) -> int:
        """Memory of the table."""
        return self._ids.size_bytes

    def numbers(self, buf: NDArray[np.uint8], at: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Numbers of the ids ``buf[at[i]:at[i] + size[i]]``; new ones are added. ``buf`` is writable."""
        found, unknown = self._ids.find(buf, at, size)
        if unknown:
            rows = np.flatnonzero(found < 0).tolist()
            fresh = list(dict.fromkeys(buf[at[i] : at[i] + size[i]].tobytes() for i in rows))
            self._ids.add(fresh, range(len(self._ids), len(self._ids) + len(fresh)))
            found, _ = self._ids.find(buf, at, size)
        return found.astype(np.uint32)

    def ids(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """The bytes of all ids, and where each stands in them (start and size, by number). Good until the next ``numbers``."""
        return self._ids.ranges()

    def id(self, number: int) -> bytes:
        """The id of one series."""
        return self._ids.key(number)

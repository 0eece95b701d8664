"""A table from id bytes to a small number, without an object per id."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.store import kernels

__all__ = ["IdTable"]


class IdTable:
    """Keys are bytes, values are numbers from 0. About 24 bytes, 32 bytes of slots and the id itself per key."""

    def __init__(self) -> None:
        self._slots = np.zeros(1 << 10, kernels.SLOT)
        self._keys = np.zeros(1 << 8, kernels.KEY)
        self._arena = np.zeros(1 << 14, np.uint8)
        self._count = 0
        self._used = 0

    def __len__(self) -> int:
        return self._count

    @property
    def size_bytes(self) -> int:
        """Memory of the arrays."""
        return int(self._slots.nbytes + self._keys.nbytes + self._arena.nbytes)

    def find(
        self, buf: NDArray[np.uint8], at: NDArray[np.int64], size: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], int]:
        """Values of the ids ``buf[at[i]:at[i] + size[i]]``, -1 where unknown, and how many are unknown."""
        out = np.empty(len(at), np.int64)
        unknown = kernels.find(self._slots, self._keys, self._arena, buf, at, size, out)
        return out, int(unknown)

    def find_keys(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Values of some ids, -1 where unknown."""
        sizes = _sizes(keys)
        found, _ = self.find(_joined(keys), np.cumsum(sizes) - sizes, sizes)
        return found

    def add(self, keys: Sequence[bytes], values: Sequence[int] | NDArray[np.int64]) -> None:
        """Adds ids that are not in the table yet, and differ."""
        sizes, buf = _sizes(keys), _joined(keys)
        count, used = self._count + len(keys), self._used + len(buf)
        if count > len(self._keys):
            self._keys = _grown(self._keys, self._count, count)
        if used > len(self._arena):
            self._arena = _grown(self._arena, self._used, used)
        if 2 * count > len(self._slots):
            slots = np.zeros(1 << (2 * count - 1).bit_length(), kernels.SLOT)
            kernels.rehash(self._slots, slots)
            self._slots = slots
        kernels.insert(
            self._slots, self._keys, self._count, self._arena, self._used, buf, sizes, np.asarray(values, np.int64)
        )
        self._count, self._used = count, used

    def key(self, index: int) -> bytes:
        """The bytes of the ``index``-th id that was added."""
        at, size = int(self._keys[index]["at"]), int(self._keys[index]["size"])
        return self._arena[at : at + size].tobytes()

    def ranges(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """The arena, and where each id stands in it (start and size, by order of adding)."""
        keys = self._keys[: self._count]
        return self._arena, keys["at"], keys["size"]


def _sizes(keys: Sequence[bytes]) -> NDArray[np.int64]:
    return np.fromiter(map(len, keys), np.int64, len(keys))


def _joined(keys: Sequence[bytes]) -> NDArray[np.uint8]:
    # Writable like every buffer of a batch, or numba would compile the kernels a second time.
    data = bytearray(b"".join(keys))
    return np.frombuffer(data or bytearray(1), np.uint8)[: len(data)]


def _grown(array: NDArray[Any], used: int, least: int) -> NDArray[Any]:
    grown = np.zeros(max(2 * len(array), least), array.dtype)
    grown[:used] = array[:used]
    return grown

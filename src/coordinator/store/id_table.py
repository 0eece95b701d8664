"""A table from id bytes to a small number, without an object per id."""

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

    def get(self, key: bytes) -> int:
        """The value of one id, or -1."""
        found, _ = self.find(_array(key), np.zeros(1, np.int64), np.array([len(key)], np.int64))
        return int(found[0])

    def add(self, key: bytes, value: int) -> None:
        """Adds an id that is not in the table yet."""
        if self._count == len(self._keys):
            self._keys = np.concatenate([self._keys, np.zeros_like(self._keys)])
        if 2 * (self._count + 1) > len(self._slots):
            slots = np.zeros(2 * len(self._slots), kernels.SLOT)
            kernels.rehash(self._slots, slots)
            self._slots = slots
        if self._used + len(key) > len(self._arena):
            arena = np.zeros(max(2 * len(self._arena), self._used + len(key)), np.uint8)
            arena[: self._used] = self._arena[: self._used]
            self._arena = arena
        kernels.insert(
            self._slots,
            self._keys,
            self._count,
            self._arena,
            self._used,
            _array(key),
            value,
        )
        self._count += 1
        self._used += len(key)

    def key(self, index: int) -> bytes:
        """The bytes of the ``index``-th id that was added."""
        at, size = int(self._keys[index]["at"]), int(self._keys[index]["size"])
        return self._arena[at : at + size].tobytes()

    def ranges(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """The arena, and where each id stands in it (start and size, by order of adding)."""
        keys = self._keys[: self._count]
        return self._arena, keys["at"], keys["size"]


def _array(key: bytes) -> NDArray[np.uint8]:
    # Writable like every buffer of a batch, or numba would compile the kernels a second time.
    return np.frombuffer(bytearray(key) or bytearray(1), np.uint8)[: len(key)]

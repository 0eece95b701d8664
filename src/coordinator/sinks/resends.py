"""Values that wait to be safe, found again when they are sent once more. Pure."""

import numpy as np
from numpy.typing import NDArray

from coordinator.sinks import kernels
from coordinator.sinks.values import Values

__all__ = ["Resends", "hashes_of"]

_LEAST = 1 << 12
_RAW = 0x52415721
_64_BITS = 0xFFFFFFFFFFFFFFFF


def hashes_of(batch: Values) -> NDArray[np.uint64]:
    """64 bits for each row: of id, time, destination, value and annotation.

    Of a million rows two different ones are equal once in 40 million cases.
    """
    destinations = np.array(
        [
            hash(
                (
                    *(
                        (one.policy.window_ns, one.policy.precision_ns, one.policy.retention_ns)
                        if one.policy
                        else (_RAW,)
                    ),
                    one.unit,
                )
            )
            & _64_BITS
            for one in batch.destinations
        ],
        np.uint64,
    )
    hashes = np.empty(len(batch), np.uint64)
    kernels.hash_rows(batch.table.hashes, batch.columns, destinations, hashes)
    if batch.annotations is not None:
        texts = np.array([hash(one) & _64_BITS if one else 0 for one in batch.annotations.texts], np.uint64)
        hashes ^= texts[batch.annotations.column]
        hashes[hashes == 0] = 1
    return hashes


class Resends:
    """A table from hashes of rows to the numbers of the writes that they came with first."""

    def __init__(self) -> None:
        self._writes: dict[int, NDArray[np.uint64]] = {}
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self._writes.clear()
        self._keys = np.zeros(_LEAST, np.uint64)
        self._owners = np.zeros(_LEAST, np.int64)
        self._entered = 0

    def add(self, number: int, hashes: NDArray[np.uint64]) -> None:
        """The rows of a write."""
        self._writes[number] = hashes
        self._entered += len(hashes)
        if 2 * self._entered > len(self._keys):
            self._entered = sum(map(len, self._writes.values()))
            size = 1 << (4 * max(self._entered, _LEAST // 4) - 1).bit_length()
            self._keys, self._owners = np.zeros(size, np.uint64), np.zeros(size, np.int64)
            for other, known in self._writes.items():
                kernels.remember(self._keys, self._owners, known, other)
        else:
            kernels.remember(self._keys, self._owners, hashes, number)

    def remove(self, number: int) -> None:
        """That write does not wait any more."""
        del self._writes[number]
        if not self._writes:
            self.clear()

    def find(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The write that a row came with before, -1 where there is none that waits."""
        owners = np.empty(len(hashes), np.int64)
        kernels.recall(self._keys, self._owners, hashes, owners)
        for one in np.unique(owners).tolist():
            if one not in self._writes:
                owners[owners == one] = -1
        return owners

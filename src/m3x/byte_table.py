"""A table from byte strings to numbers, without an object for each: the arrays behind ``m3x.table_kernels``, which grow as needed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m3x import table_kernels as kernels
from m3x.ordered_kernels import find_values_in_order
from m3x.reserve import reserve

__all__ = ["ByteTable", "warm"]

_NONE = np.zeros(0, np.int64)


class ByteTable:
    """Keys are bytes, perhaps with a context (uint64); values are numbers from 0.

    A key costs 32 bytes, 16 to 32 bytes of slots, and its own.
    """

    def __init__(self, reserved: tuple[int, int] | None = None) -> None:
        """``reserved``: address space for so many keys and bytes of keys, if the system gives it (``m3x.reserve``).

        Up to there nothing is copied when the table grows, but for the slots.
        """
        rows, arena = _reserve(*reserved) if reserved is not None else (None, None)
        self._head = np.zeros(1, kernels.HEAD)
        self._count = self._head["count"]
        self._next = 0
        """The row behind the one that ``number`` found last."""
        self._slots = np.zeros(1 << 10, np.uint64)
        self._rows = np.zeros(1 << 8, kernels.ROW) if rows is None else rows
        self._arena = np.zeros(1 << 14, np.uint8) if arena is None else arena
        self.address = place(self._head, self._slots, self._rows, self._arena)
        """Of the head, for compiled code; good as long as the table lives."""

    def __len__(self) -> int:
        return int(self._count[0])

    @property
    def size_bytes(self) -> int:
        """Memory that is in use."""
        return int(self._slots.nbytes + len(self) * self._rows.itemsize + self._head["used"][0])

    def find(
        self,
        buf: NDArray[np.uint8],
        at: NDArray[np.int64],
        size: NDArray[np.int64],
        contexts: NDArray[np.uint64] | None = None,
    ) -> tuple[NDArray[np.int64], int]:
        """Values of the keys ``buf[at[i]:at[i] + size[i]]``, -1 where unknown, and how many are unknown."""
        values = np.empty(len(at), np.int64)
        unknown = kernels.find_values(self.address, _keys(buf, at, size, contexts), values)
        return values, int(unknown)

    def find_keys(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Values of some keys, -1 where unknown."""
        found, _ = self.find(*_columns(keys))
        return found

    def number(
        self,
        buf: NDArray[np.uint8],
        at: NDArray[np.int64],
        size: NDArray[np.int64],
        values: NDArray[np.int64] | None = None,
        *,
        limit: int = 1 << 31,
    ) -> NDArray[np.int64]:
        """Values of the keys ``buf[at[i]:at[i] + size[i]]``; those that are unknown are added, with ``values``.

        Without ``values`` a key gets how many there were before. Where ``limit`` keys are there nothing is added: -1. Keys that come in
        the order in which they were added cost least.
        """
        keys, found = _keys(buf, at, size, None), np.empty(len(at), np.int64)
        unknown, self._next = find_values_in_order(self.address, keys, found, self._next)
        if unknown:
            self._make_room(int(unknown), int(size[found < 0].sum()))
            kernels.number_unknown(self.address, keys, found, _NONE if values is None else values, limit)
        return found

    def add(
        self,
        keys: Sequence[bytes],
        values: Sequence[int] | NDArray[np.int64],
        contexts: NDArray[np.uint64] | None = None,
    ) -> None:
        """Adds keys that are not in the table yet, and differ."""
        columns = _keys(*_columns(keys), contexts)
        self._make_room(len(keys), len(columns.buf))
        kernels.hash_keys(columns)
        kernels.add_values(self.address, columns, np.asarray(values, np.int64))

    def key(self, index: int) -> bytes:
        """The bytes of the ``index``-th key that was added."""
        at, size = int(self._rows[index]["at"]), int(self._rows[index]["size"])
        return self._arena[at : at + size].tobytes()

    def ranges(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """The arena, and where each key stands in it (start and size, by order of adding)."""
        rows = self._rows[: len(self)]
        return self._arena, rows["at"], rows["size"]

    def _make_room(self, keys: int, nbytes: int) -> None:
        used = int(self._head["used"][0])
        count, size = len(self) + keys, used + nbytes
        if count <= len(self._rows) and size <= len(self._arena) and 2 * count <= len(self._slots):
            return
        if count > len(self._rows):
            self._rows = _grown(self._rows, len(self), count)
        if size > len(self._arena):
            self._arena = _grown(self._arena, used, size)
        if 2 * count > len(self._slots):
            slots = np.zeros(1 << (2 * count - 1).bit_length(), np.uint64)
            kernels.rehash(self._slots, slots)
            self._slots = slots
        place(self._head, self._slots, self._rows, self._arena)


def place(head: NDArray[Any], slots: NDArray[np.uint64], rows: NDArray[Any], arena: NDArray[np.uint8]) -> np.uint64:
    """Says in ``head`` (one row of ``HEAD``, or of a dtype that begins so) where the arrays of a table are; returns its address."""
    head["slots"], head["mask"] = slots.ctypes.data, len(slots) - 1
    head["rows"], head["arena"] = rows.ctypes.data, arena.ctypes.data
    return np.uint64(head.ctypes.data)


def _reserve(keys: int, nbytes: int) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    try:
        return reserve(keys, kernels.ROW), reserve(nbytes, np.uint8)
    except MemoryError:
        return None, None


def _keys(
    buf: NDArray[np.uint8], at: NDArray[np.int64], size: NDArray[np.int64], contexts: NDArray[np.uint64] | None
) -> kernels.Keys:
    n = len(at)
    return kernels.Keys(buf, at, size, np.zeros(n, np.uint64) if contexts is None else contexts, np.empty(n, np.uint32))


def _columns(keys: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    sizes = np.fromiter(map(len, keys), np.int64, len(keys))
    # Writable like every buffer of a batch, or numba would compile the kernels a second time.
    data = bytearray(b"".join(keys))
    return np.frombuffer(data or bytearray(1), np.uint8)[: len(data)], np.cumsum(sizes) - sizes, sizes


def _grown(array: NDArray[Any], used: int, least: int) -> NDArray[Any]:
    grown = np.zeros(max(2 * len(array), least), array.dtype)
    grown[:used] = array[:used]
    return grown


def warm() -> None:
    """Compiles the kernels of the table, or loads them from the cache."""
    table = ByteTable()
    table.add([b"a"], [0])
    table.find_keys([b"a"])
    table.number(*_columns([b"b"]))
    kernels.rehash(np.zeros(1, np.uint64), np.zeros(2, np.uint64))

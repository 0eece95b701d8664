"""Bytes that values carry beside their numbers (docs/m3/coordinator.md, annotation), in columns. Pure.

There are few different ones as a rule, so a value has the number of its annotation. They may be arbitrary all the same: what is kept is
bounded, and counts as memory of the batch that has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m3x.byte_table import ByteTable

__all__ = ["AnnotationTable", "Annotations", "joined_annotations"]

_OBJECT_BYTES = 50
"""Of a bytes object and its place in a tuple."""
_MOST_TEXTS = 256
_MOST_BYTES = 1 << 14
"""What ``AnnotationTable`` remembers from one batch to the next."""


@dataclass(slots=True)
class Annotations:
    """Those of a batch."""

    texts: tuple[bytes, ...]
    """Empty bytes: none."""
    column: NDArray[np.uint32]
    """One row per value: indexes into ``texts``."""

    @property
    def size_bytes(self) -> int:
        """Memory, with all texts: batches may share them."""
        return self.column.nbytes + sum(map(len, self.texts)) + _OBJECT_BYTES * len(self.texts)

    def rows(self, rows: NDArray[np.int64]) -> "Annotations":
        """Some of the rows, copied."""
        return Annotations(self.texts, self.column[rows])

    def used(self) -> "Annotations":
        """The same with those texts only that some row has, in the order of ``texts``."""
        if len(self.texts) == 1:
            return self
        is_used = np.zeros(len(self.texts), np.bool_)
        is_used[self.column] = True
        numbers = np.flatnonzero(is_used)
        if len(numbers) == len(self.texts):
            return self
        renumbered = np.cumsum(is_used, dtype=np.uint32) - np.uint32(1)
        return Annotations(tuple(self.texts[k] for k in numbers.tolist()), renumbered[self.column])


def joined_annotations(parts: Sequence[tuple[int, Annotations | None]]) -> Annotations | None:
    """Those of batches one after the other, each with its number of rows; None: no row of any has one."""
    if all(one is None for _, one in parts):
        return None
    numbers: dict[bytes, int] = {b"": 0}
    column = np.zeros(sum(rows for rows, _ in parts), np.uint32)
    last: tuple[bytes, ...] = ()
    renumbered = np.zeros(0, np.uint32)
    at = 0
    for rows, one in parts:
        if one is not None:
            if one.texts is not last:
                last = one.texts
                renumbered = np.array([numbers.setdefault(text, len(numbers)) for text in last], np.uint32)
            column[at : at + rows] = renumbered[one.column]
        at += rows
    return Annotations(tuple(numbers), column)


class AnnotationTable:
    """Annotations of one batch after the other as columns. Batches share their texts, until there are too many."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._known = ByteTable()
        self._known.add([b""], [0])
        self._texts: tuple[bytes, ...] = (b"",)

    def annotations(
        self, buf: NDArray[np.uint8], at: NDArray[np.uint32], size: NDArray[np.uint32]
    ) -> Annotations | None:
        """Those at ``buf[at[i]:at[i] + size[i]]`` (size 0: none), one row for each; None: there are none. ``buf`` is writable."""
        if not size.any():
            return None
        numbers = self._known.number(buf, at.astype(np.int64), size.astype(np.int64))
        if len(self._known) > len(self._texts):
            self._texts += tuple(self._known.key(k) for k in range(len(self._texts), len(self._known)))
        found = Annotations(self._texts, numbers.astype(np.uint32))
        if len(self._texts) > _MOST_TEXTS or found.size_bytes - found.column.nbytes > _MOST_BYTES:
            self._forget()
        return found

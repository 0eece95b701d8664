"""Rows of tables that are used again: ranges (``Ranges``), and single rows that stand for something (``Numbers``)."""

from collections.abc import Hashable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray


class Ranges:
    """The rows of one table. Ranges are rounded up to multiples of ``step``, so that those given back fit."""

    def __init__(self, step: int = 1) -> None:
        self.used = 0
        """Rows from here on have never been taken."""
        self.free = 0
        """Rows given back and not taken again."""
        self._step = step
        self._given: dict[int, list[int]] = {}

    def take(self, n: int) -> int:
        """The first of ``n`` rows in a row."""
        size = self._rounded(n)
        given = self._given.get(size)
        if given:
            self.free -= size
            return given.pop()
        at = self.used
        self.used += size
        return at

    def give(self, at: int, n: int) -> None:
        """Gives back what ``take(n)`` returned."""
        size = self._rounded(n)
        if size:
            self._given.setdefault(size, []).append(at)
            self.free += size

    def _rounded(self, n: int) -> int:
        return -(-n // self._step) * self._step


K = TypeVar("K", bound=Hashable)


class Numbers(Generic[K]):
    """Numbers for things, the smallest that nothing has."""

    def __init__(self) -> None:
        self._numbers: dict[K, int] = {}
        self._things: list[K | None] = []
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._numbers)

    def get(self, thing: K) -> int | None:
        """Its number, None if it has none."""
        return self._numbers.get(thing)

    def thing(self, number: int) -> K:
        """What has that number. Raises ``LookupError`` if nothing has."""
        found = self._things[number]
        if found is None:
            raise LookupError(f"nothing has the number {number}")
        return found

    def add(self, thing: K) -> int:
        """A number for a thing that has none."""
        if self._free:
            number = self._free.pop()
            self._things[number] = thing
        else:
            number = len(self._things)
            self._things.append(thing)
        self._numbers[thing] = number
        return number

    def number(self, thing: K) -> int:
        """Its number, a new one if it has none."""
        known = self._numbers.get(thing)
        return self.add(thing) if known is None else known

    def names(self, nothing: K) -> tuple[K, ...]:
        """The things by number; ``nothing`` where a number is free."""
        return tuple(nothing if thing is None else thing for thing in self._things)

    def keep(self, numbers: set[int]) -> list[int]:
        """Takes their numbers from all things but these; returns the numbers that are free now."""
        gone = [(thing, number) for thing, number in self._numbers.items() if number not in numbers]
        for thing, number in gone:
            del self._numbers[thing]
            self._things[number] = None
            self._free.append(number)
        return [number for _, number in gone]


def expand(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """All rows of the ranges that begin at ``starts`` and have ``sizes`` rows."""
    total = int(sizes.sum())
    if total == 0:
        return np.zeros(0, np.int64)
    ends = np.cumsum(sizes)
    return np.arange(total) - np.repeat(ends - sizes, sizes) + np.repeat(starts, sizes)

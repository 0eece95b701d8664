"""Sets of whole numbers as intervals. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

__all__ = ["Intervals"]


class Intervals:
    """Half-open intervals ``[start, stop)``, disjoint, not touching, ascending. What touches becomes one."""

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._total = 0
        for start, stop in intervals:
            self.add(start, stop)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __len__(self) -> int:
        return len(self._starts)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._stops[at]

    def end_of(self, number: int) -> int:
        """The end of the interval that ``number`` is in; ``number``, if it is in none."""
        at = bisect_right(self._starts, number) - 1
        return max(self._stops[at], number) if at >= 0 else number

    @property
    def total(self) -> int:
        """How many numbers are in the set."""
        return self._total

    @property
    def first(self) -> tuple[int, int]:
        """The lowest interval. Raises ``IndexError`` where there is none."""
        return self._starts[0], self._stops[0]

    def add(self, start: int, stop: int) -> int:
        """Adds ``[start, stop)``; returns how many numbers are new."""
        if start >= stop:
            return 0
        low, high = bisect_left(self._stops, start), bisect_right(self._starts, stop)
        within = sum(self._stops[k] - self._starts[k] for k in range(low, high))
        if low < high:
            start, stop = min(start, self._starts[low]), max(stop, self._stops[high - 1])
        self._starts[low:high], self._stops[low:high] = [start], [stop]
        self._total += stop - start - within
        return stop - start - within

    def remove(self, start: int, stop: int) -> int:
        """Takes ``[start, stop)`` out; returns how many numbers were in the set."""
        if start >= stop:
            return 0
        low, high = bisect_right(self._stops, start), bisect_left(self._starts, stop)
        if low >= high:
            return 0
        first, last = self._starts[low], self._stops[high - 1]
        before = sum(self._stops[k] - self._starts[k] for k in range(low, high))
        left = [(first, start)] if first < start else []
        right = [(stop, last)] if stop < last else []
        kept = [*left, *right]
        self._starts[low:high], self._stops[low:high] = [a for a, _ in kept], [b for _, b in kept]
        removed = before - sum(b - a for a, b in kept)
        self._total -= removed
        return removed

    def gaps(self, start: int, stop: int) -> "Intervals":
        """What of ``[start, stop)`` is not in the set."""
        missing = Intervals([(start, stop)])
        for a, b in self:
            missing.remove(a, b)
        return missing

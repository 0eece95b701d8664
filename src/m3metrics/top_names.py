"""The names that have most of something, of late: a table of bounded size, however many names there are.

Space-Saving (Metwally, Agrawal, El Abbadi 2005): where there is no room for another name, that with the smallest count gives way and leaves
it its count, so that a name that has more than its share of what was counted is always there. Counts fade by half in a time.
"""

import itertools
from heapq import heapify, heappush, heapreplace
from operator import attrgetter

__all__ = ["Count", "TopNames"]


class Count:
    """What is known of a name."""

    __slots__ = ("name", "recent", "series", "values")

    def __init__(self, name: bytes, recent: float) -> None:
        self.name = name
        self.recent = recent
        """Fades."""
        self.series = 0.0
        """Since it was noticed, as ``values``."""
        self.values = 0.0

    @property
    def text(self) -> str:
        """The name."""
        return self.name.decode("utf-8", "backslashreplace")


_recent = attrgetter("recent")


class TopNames:
    """At most ``kept`` names."""

    def __init__(self, kept: int = 256) -> None:
        self._kept = kept
        self._counts: dict[bytes, Count] = {}
        self._order: list[tuple[float, int, Count]] = []
        """A heap of the same, by ``recent`` as it was when it was looked at last: it only grows meanwhile. Where it is equal the older name
        comes first."""
        self._ages = itertools.count()

    def add(self, name: bytes, amount: float, values: float = 0.0) -> None:
        """So much more of a name, at least 0."""
        count = self._counts.get(name)
        if count is None:
            self._counts[name] = count = self._begin(name, amount)
        else:
            count.recent += amount
        count.series += amount
        count.values += values

    def _begin(self, name: bytes, amount: float) -> Count:
        if len(self._counts) < self._kept:
            count = Count(name, amount)
            heappush(self._order, (amount, next(self._ages), count))
        else:
            least = self._least()
            del self._counts[least.name]
            count = Count(name, least.recent + amount)
            heapreplace(self._order, (count.recent, next(self._ages), count))
        return count

    def _least(self) -> Count:
        """That with the smallest count, which is then on top of the heap."""
        while True:
            known, age, count = self._order[0]
            if count.recent == known:
                return count
            heapreplace(self._order, (count.recent, age, count))

    def fade(self, factor: float) -> None:
        """Multiplies what fades."""
        for _, _, count in self._order:
            count.recent *= factor
        self._order = [(count.recent, age, count) for _, age, count in self._order]
        heapify(self._order)

    def most(self, number: int) -> list[Count]:
        """Those with most, of late."""
        return sorted(self._counts.values(), key=_recent, reverse=True)[:number]

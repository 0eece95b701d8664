"""The names that have most of something, of late: a table of bounded size, however many names there are.

Space-Saving (Metwally, Agrawal, El Abbadi 2005): where there is no room for another name, that with the smallest count gives way and leaves
it its count, so that a name that has more than its share of what was counted is always there. Counts fade by half in a time.
"""

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

    def add(self, name: bytes, amount: float, values: float = 0.0) -> None:
        """So much more of a name."""
        count = self._counts.get(name)
        if count is None:
            inherited = 0.0
            if len(self._counts) >= self._kept:
                least = min(self._counts.values(), key=_recent)
                del self._counts[least.name]
                inherited = least.recent
            count = self._counts[name] = Count(name, inherited)
        count.recent += amount
        count.series += amount
        count.values += values

    def fade(self, factor: float) -> None:
        """Multiplies what fades."""
        for count in self._counts.values():
            count.recent *= factor

    def most(self, number: int) -> list[Count]:
        """Those with most, of late."""
        return sorted(self._counts.values(), key=_recent, reverse=True)[:number]

"""Which of many filters can match a metric, without trying each (a metric is matched once, but there are many of them).

Every filter is filed under its most telling item: an exact value of a tag, else the beginning of one, else the tag's presence. The
metric's tags lead to the files; what cannot be filed is always a candidate.
"""

from collections.abc import Callable, Mapping, Sequence

from m3metrics.filters import NAME_TAG, TagsFilter
from m3metrics.filters.pattern import ValuePattern

__all__ = ["FilterIndex", "telling_item"]


def telling_item(
    tags_filter: TagsFilter, among: Callable[[bytes], bool] = lambda _tag: True
) -> tuple[bytes, ValuePattern] | None:
    """The item of a filter that most metrics fail, a tag and the pattern of its value; None: no tag in ``among`` is asked for."""
    items = [item for item in tags_filter.tags if among(item[0])]
    # A missing name counts as the empty text: only a pattern that begins with something asks for one.
    if tags_filter.name is not None and tags_filter.name.prefix and among(NAME_TAG):
        items.append((NAME_TAG, tags_filter.name))
    return max(items, key=lambda item: (item[1].equals is not None, len(item[1].prefix)), default=None)


class FilterIndex:
    """Over filters by their position."""

    def __init__(self, filters: Sequence[TagsFilter]) -> None:
        self._always: list[int] = []
        self._by_tag: dict[bytes, _TagFile] = {}
        self._filters = filters
        for position, tags_filter in enumerate(filters):
            self._add(position, tags_filter)

    def _add(self, position: int, tags_filter: TagsFilter) -> None:
        item = telling_item(tags_filter)
        if item is None:
            self._always.append(position)
            return
        tag, pattern = item
        self._by_tag.setdefault(tag, _TagFile()).add(position, pattern)

    def matching(self, first: Mapping[bytes, bytes]) -> list[int]:
        """Positions of the filters that match, ascending; ``first``: as for ``TagsFilter.matches``."""
        found = list(self._always)
        by_tag = self._by_tag
        for tag, value in first.items():
            file = by_tag.get(tag)
            if file is not None:
                file.collect(value, found)
        if not found:
            return found
        filters = self._filters
        return sorted(position for position in found if filters[position].matches(first))


class _TagFile:
    """The filters that are filed under one tag."""

    def __init__(self) -> None:
        self._present: list[int] = []
        self._equal: dict[bytes, list[int]] = {}
        self._prefixes: dict[int, dict[bytes, list[int]]] = {}
        """By length, then by prefix."""

    def add(self, position: int, pattern: ValuePattern) -> None:
        if pattern.equals is not None:
            self._equal.setdefault(pattern.equals, []).append(position)
        elif pattern.prefix:
            of_length = self._prefixes.setdefault(len(pattern.prefix), {})
            of_length.setdefault(pattern.prefix, []).append(position)
        else:
            self._present.append(position)

    def collect(self, value: bytes, found: list[int]) -> None:
        found += self._present
        found += self._equal.get(value, ())
        for length, of_length in self._prefixes.items():
            found += of_length.get(value[:length], ())

"""Filters of tags: ``tag:pattern`` items that all have to match (docs/m3/metrics.md, tag filters).

M3 walks the sorted tags of a metric and the sorted filters side by side. What comes out is decided by the first tag of each name, so here
the metric comes as a dictionary of these: ``dict(reversed(tags))``. A tag that the filter names must exist, for negated patterns too; only
the metric's name, which may be missing, is then the empty text.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from m3metrics.filters.pattern import FilterError, ValuePattern, compile_pattern
from m3metrics.ids import NAME_TAG
from m3metrics.metric import PROM_TYPE_TAG, PROM_TYPES, TYPE_TAG, MetricType

__all__ = ["NAME_TAG", "TagsFilter", "compile_filter", "parse_filter"]

_POSSIBLE = {
    TYPE_TAG: tuple(kind.name.lower().encode() for kind in MetricType),
    PROM_TYPE_TAG: tuple(map(str.encode, PROM_TYPES)),
}
"""Tags by which metrics are matched and that they do not bring along: their values."""

_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
"""What Go trims."""


def parse_filter(text: str) -> dict[str, str]:
    """The patterns by tag. Raises ``FilterError`` with M3's text; patterns are not looked at."""
    result: dict[str, str] = {}
    for item in text.strip(_SPACE).split(" "):
        if not item:
            continue
        parts = item.split(":")
        if len(parts) != 2:
            raise FilterError(f"invalid filter {item}: expecting tag pattern pairs")
        tag, pattern = parts
        if not tag:
            raise FilterError(f"invalid filter {item}: empty tag name")
        if not pattern:
            raise FilterError(f"invalid filter {item}: empty filter pattern")
        if tag in result:
            raise FilterError(f"invalid filter {text}: duplicate tag {tag} found")
        result[tag] = pattern
    return result


@dataclass(frozen=True, slots=True)
class TagsFilter:
    """A compiled filter."""

    text: str
    name: ValuePattern | None
    """Of the metric's name; None: any."""
    tags: tuple[tuple[bytes, ValuePattern], ...]
    """Of the other tags, sorted by name."""

    def matches(self, first: Mapping[bytes, bytes]) -> bool:
        """Whether all items match; ``first``: the value of the first tag of each name."""
        if self.name is not None and not self.name.matches(first.get(NAME_TAG, b"")):
            return False
        for tag, pattern in self.tags:
            value = first.get(tag)
            if value is None or not pattern.matches(value):
                return False
        return True

    def matches_any(self, first: Mapping[bytes, bytes]) -> bool:
        """Whether any item matches, or there is none: M3's disjunction, which rules do not use."""
        if self.name is None and not self.tags:
            return True
        if self.name is not None and self.name.matches(first.get(NAME_TAG, b"")):
            return True
        return any(tag in first and pattern.matches(first[tag]) for tag, pattern in self.tags)

    def impossible(self) -> list[str]:
        """For people: the items that no metric of a coordinator matches."""
        wanted = parse_filter(self.text)
        named = [(NAME_TAG, self.name)] if self.name is not None else []
        reasons = []
        for tag, pattern in [*named, *self.tags]:
            item = f"{_shown(tag)}:{wanted[_shown(tag)]}"
            if pattern.never:
                reasons.append(f"{item} matches no value")
            elif tag in _POSSIBLE and not any(map(pattern.matches, _POSSIBLE[tag])):
                values = ", ".join(_shown(value) for value in _POSSIBLE[tag])
                reasons.append(f"{item} matches none of the values that the tag may have: {values}")
        return reasons

    def mismatches(self, first: Mapping[bytes, bytes]) -> list[str]:
        """For people: what keeps the filter from matching, one text for each item."""
        reasons = []
        wanted = parse_filter(self.text)
        if self.name is not None and not self.name.matches(first.get(NAME_TAG, b"")):
            name = _shown(NAME_TAG)
            reasons.append(f"{name} is {_shown(first.get(NAME_TAG, b''))!r}, wanted {wanted[name]}")
        for tag, pattern in self.tags:
            if tag not in first:
                reasons.append(f"there is no tag {_shown(tag)}")
            elif not pattern.matches(first[tag]):
                reasons.append(f"{_shown(tag)} is {_shown(first[tag])!r}, wanted {wanted[_shown(tag)]}")
        return reasons


def _shown(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def compile_filter(text: str) -> TagsFilter:
    """The filter of that text, which is empty for "everything". Raises ``FilterError`` with M3's text."""
    try:
        patterns = parse_filter(text)
    except FilterError as error:
        raise FilterError(f"tags filter {text} is malformed: {error}") from None
    compiled: dict[bytes, ValuePattern] = {}
    for tag, pattern in sorted(patterns.items()):
        try:
            compiled[_raw(tag)] = compile_pattern(_raw(pattern))
        except FilterError as error:
            raise FilterError(
                f"tags filter {text} contains invalid filter pattern {pattern} for tag {tag}: {error}"
            ) from None
    name = compiled.pop(NAME_TAG, None)
    return TagsFilter(text, name, tuple(sorted(compiled.items(), key=lambda item: item[0])))


def _raw(text: str) -> bytes:
    # Rules in KV may hold bytes that are no UTF-8; they arrive as lone surrogates.
    return text.encode("utf-8", "surrogateescape")

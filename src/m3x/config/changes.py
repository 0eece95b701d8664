"""What is different between two configurations, by the keys of the file, and one with some of the differences taken."""

from collections.abc import Collection, Iterator
from typing import TypeVar

import msgspec

from m3x.config.kinds import Section

__all__ = ["changes", "covers", "taking"]

S = TypeVar("S", bound=Section)


def changes(before: Section, after: Section, path: str = "") -> Iterator[str]:
    """Paths of keys whose values differ, in order of the sections; lists, and sections that only one of them has, as a whole."""
    for field in msgspec.structs.fields(type(before)):
        old, new = getattr(before, field.name), getattr(after, field.name)
        where = f"{path}.{field.encode_name}" if path else field.encode_name
        if isinstance(old, Section) and type(old) is type(new):
            yield from changes(old, new, where)
        elif old != new:
            yield where


def covers(keys: Collection[str], path: str) -> bool:
    """Whether ``path`` is one of ``keys``, or below one of them."""
    return any(path == key or path.startswith(f"{key}.") for key in keys)


def taking(before: S, after: S, paths: Collection[str], path: str = "") -> S:
    """``before`` with the values that ``after`` has at ``paths``. Raises ``ValueError`` if they do not go together with the others."""
    taken: dict[str, object] = {}
    for field in msgspec.structs.fields(type(before)):
        old, new = getattr(before, field.name), getattr(after, field.name)
        where = f"{path}.{field.encode_name}" if path else field.encode_name
        if covers(paths, where):
            taken[field.name] = new
        elif isinstance(old, Section) and type(old) is type(new):
            taken[field.name] = taking(old, new, paths, where)
    return msgspec.structs.replace(before, **taken)

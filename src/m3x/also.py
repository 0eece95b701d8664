"""Figures under further names: what dashboards of M3 ask for and is counted here already under another name, or in another way.

A table of ``Also`` rows is applied to the sums of a registry when its page is made, so that nothing is counted twice where samples pass.
"""

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TypeVar

__all__ = ["Also", "Key", "apply", "begin", "under"]

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Also:
    """``name`` is the sum of the figures ``of``, all names as on the page, below ``prefix``."""

    name: str
    of: tuple[str, ...]
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Only figures whose labels have one of these values."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Labels that it gets."""
    drop: tuple[str, ...] = ()
    """Labels of the figures that are summed over."""
    starts: bool = True
    """Whether it is shown as 0 while none of its figures is there."""


def apply(rows: Iterable[Also], prefix: str, figures: MutableMapping[Key, float]) -> None:
    """Adds what the rows say to ``figures``."""
    by_name: dict[str, list[tuple[Labels, float]]] = {}
    for (name, labels), value in figures.items():
        by_name.setdefault(name, []).append((labels, value))
    for row in rows:
        name, found = f"{prefix}{row.name}", False
        for source in row.of:
            for labels, value in by_name.get(f"{prefix}{source}", ()):
                have = dict(labels)
                if any(have.get(label) not in wanted for label, wanted in row.where.items()):
                    continue
                kept = {label: text for label, text in labels if label not in row.drop}
                key = (name, tuple(sorted({**kept, **row.tags}.items())))
                figures[key] = figures.get(key, 0.0) + value
                found = True
        if not found and row.starts and name not in by_name:
            figures.setdefault((name, tuple(sorted(row.tags.items()))), 0.0)


def under(before: str, after: str, figures: MutableMapping[Key, T]) -> None:
    """Shows every figure whose name begins with ``before`` under a name that begins with ``after`` as well."""
    for (name, labels), value in list(figures.items()):
        if name.startswith(before):
            figures[f"{after}{name.removeprefix(before)}", labels] = value


def begin(names: Iterable[str], prefix: str, figures: MutableMapping[Key, float]) -> None:
    """Shows counters that nothing has moved yet as 0: a rate of what appears with 1 misses the first time."""
    present = {name for name, _ in figures}
    for name in names:
        if f"{prefix}{name}" not in present:
            figures[f"{prefix}{name}", ()] = 0.0

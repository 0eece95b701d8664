"""Which namespaces answer a query, and which of two holds the better points of one series (docs/m3/coordinator.md, namespaces of a query).

Pure: namespaces and times in, a plan out.
"""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coordinator.config import Namespace
from coordinator.query.errors import QueryError
from coordinator.query.source import Restriction
from m3x.golang import YEAR_ONE_NS

__all__ = ["FanOut", "Part", "fan_out"]


@dataclass(frozen=True, slots=True)
class Part:
    """A namespace to be asked, perhaps for less than the whole range."""

    namespace: Namespace
    first_ns: int | None = None
    """Where what it is asked for begins; None: where the query does."""
    last_ns: int | None = None
    """Where that ends, exclusively."""

    def narrowed(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        """What it is asked for of ``[start_ns, end_ns)``."""
        first = start_ns if self.first_ns is None else max(start_ns, self.first_ns)
        return first, end_ns if self.last_ns is None else min(end_ns, self.last_ns)


@dataclass(frozen=True, slots=True)
class FanOut:
    """Whom to ask."""

    covers: bool
    """Whether every namespace reaches back to the start of the range: then the finest has the best points of a series."""
    parts: tuple[Part, ...]
    """Each namespace once, at least one."""

    def order(self) -> list[int]:
        """The parts as indexes, those with the better points of a series first; one that only adds the most recent time last."""

        def key(index: int) -> tuple[bool, int, int]:
            part = self.parts[index]
            longest = 0 if self.covers else -part.namespace.retention_ns
            return part.first_ns is not None, longest, part.namespace.resolution_ns

        return sorted(range(len(self.parts)), key=key)


def fan_out(
    namespaces: Sequence[Namespace],
    start_ns: int,
    end_ns: int,
    now_ns: int,
    restriction: Restriction,
    *,
    paths: bool = False,
) -> FanOut:
    """The plan for a query of ``[start_ns, end_ns)``; ``paths``: it asks for Graphite's paths. Raises ``QueryError``."""

    def covers(part: Part) -> bool:
        return now_ns - part.namespace.retention_ns <= start_ns

    if restriction.policy is not None or restriction.aggregated is False:
        only = Part(_restricted(namespaces, restriction))
        return FanOut(covers(only), (only,))
    aggregated = [_available(one, end_ns, now_ns) for one in namespaces if one.aggregated]
    raw = [Part(one) for one in namespaces if not one.aggregated and restriction.aggregated is None and not paths][:1]
    if any(covers(part) for part in raw):
        return FanOut(True, tuple(raw))
    # Nobody says that every path is in each of the aggregated namespaces.
    complete = [part for part in aggregated if part.namespace.downsample_all and not paths]
    partial = [part for part in aggregated if part not in complete]
    reaching = any(covers(part) for part in complete)
    if reaching:
        parts = _finest(filter(covers, complete), filter(covers, partial), raw)
    elif complete:
        parts = _longest(complete, partial, raw)
    else:
        parts = [*partial, *raw]
    found: dict[str, Part] = {}
    for part in parts:
        # One namespace of M3DB may keep several kinds of values.
        found.setdefault(part.namespace.name, part)
    if not found:
        raise QueryError("no namespaces configured", kind="internal", status=500)
    reaching = reaching or (not complete and all(map(covers, parts)))
    asked = tuple(part for part in found.values() if operator.lt(*part.narrowed(start_ns, end_ns)))
    return FanOut(reaching, asked or tuple(found.values()))


def _restricted(namespaces: Sequence[Namespace], restriction: Restriction) -> Namespace:
    policy = restriction.policy
    for one in namespaces:
        if policy is None:
            if not one.aggregated:
                return one
        elif (one.resolution_ns, one.retention_ns) == (policy.window_ns, policy.retention_ns):
            return one
    raise QueryError(
        "could not find unaggregated namespace"
        if policy is None
        else f"could not find namespace for storage policy: {policy}"
    )


def _available(namespace: Namespace, end_ns: int, now_ns: int) -> Part:
    """Without what is not there yet, if its data come late."""
    if not namespace.data_latency_ns:
        return Part(namespace)
    until = now_ns - namespace.data_latency_ns
    until -= (until + YEAR_ONE_NS) % namespace.resolution_ns
    return Part(namespace, last_ns=until if end_ns > until else None)


def _finest(complete: Iterable[Part], partial: Iterable[Part], raw: list[Part]) -> list[Part]:
    """All of them reach back far enough: the finest that has every series, and what is finer still."""
    best = min(complete, key=_resolution)
    return [best, *(part for part in partial if _resolution(part) < _resolution(best)), *_recent(best, raw)]


def _longest(complete: list[Part], partial: list[Part], raw: list[Part]) -> list[Part]:
    """None that has every series reaches back far enough: the longest of them, and what is longer, or as long and finer."""
    best = max([*raw, *complete], key=_retention)
    more = [
        part
        for part in partial
        if _retention(part) > _retention(best)
        or (_retention(part) == _retention(best) and _resolution(part) < _resolution(best))
    ]
    return [best, *_recent(best, raw), *more]


def _recent(best: Part, raw: list[Part]) -> list[Part]:
    """The unaggregated namespace for the time that ``best`` does not have yet."""
    return [Part(part.namespace, first_ns=best.last_ns) for part in raw if best.last_ns is not None]


def _resolution(part: Part) -> int:
    return part.namespace.resolution_ns


def _retention(part: Part) -> int:
    return part.namespace.retention_ns

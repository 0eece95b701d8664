"""What a changed file of rules would make of the series that a running coordinator knows: added, removed, and by which rule.

``SeenSeries`` is what the coordinator tells (``coordinator.write.remembered``); ``DryRun`` takes these one by one. What is sent is
compared as lines of text, an id and one of its pipelines each, as ``explain`` writes them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from coordinator.downsample.appender import Downsampler, of_the_metric
from coordinator.downsample.explain import id_text, pipeline, pipeline_line
from m3metrics.ids import Tags, coordinator_tags, matching_tags
from m3metrics.metadata import StagedMetadatas
from m3metrics.metric import MetricType
from m3metrics.rules import RollupSnapshot
from m3metrics.rules.rollup import TargetError, apply_target

__all__ = ["MOST_LINES", "DryRun", "SeenSeries", "sent_lines"]

MOST_LINES = 20
"""Of what is added, and of what is removed, in the text."""


class SeenSeries(NamedTuple):
    """A series that came in."""

    tags: Tags
    metric_type: MetricType
    prom_type: str


def sent_lines(downsampler: Downsampler, series: SeenSeries) -> list[str]:
    """What is sent for a series by the rules and namespaces of ``downsampler``. Raises ``IdError``."""
    return _sent_lines(downsampler, _matched(series))


def _matched(series: SeenSeries) -> Tags:
    return matching_tags(series.tags, series.metric_type.name.lower(), series.prom_type)


def _sent_lines(downsampler: Downsampler, matched: Tags) -> list[str]:
    if downsampler.obstacle is not None:
        return []
    decision = downsampler.decide(matched)
    wanted = [*of_the_metric(coordinator_tags(matched), decision.pipelines), *decision.rollups]
    return [line for ident, metadatas in wanted for line in _lines(ident, metadatas)]


def _lines(ident: bytes, metadatas: StagedMetadatas) -> Iterator[str]:
    for stage in metadatas:
        for one in stage.pipelines:
            yield f"{id_text(ident)}: {pipeline_line(pipeline(one))}"


class DryRun:
    """Counts over series; ``downsampler`` has the changed rules."""

    def __init__(self, downsampler: Downsampler) -> None:
        self._downsampler = downsampler
        self.series = 0
        self._before: Counter[str] = Counter()
        self._after: Counter[str] = Counter()
        self._matched: Counter[tuple[str, str]] = Counter()
        self._made: dict[tuple[str, str], set[bytes]] = {}

    def take(self, series: SeenSeries, before: Iterable[str]) -> None:
        """One more series; ``before``: the lines that are sent for it now. Raises ``IdError``."""
        self.series += 1
        self._before.update(set(before))
        matched = _matched(series)
        self._after.update(set(_sent_lines(self._downsampler, matched)))
        first = dict(reversed(matched))
        active = self._downsampler.rules.of(self._downsampler.namespace_of(matched))
        mapping, rollup = active.in_effect(self._downsampler.now_ns) if active is not None else ((), ())
        for one in mapping:
            if not one.tombstoned and one.filter.matches(first):
                self._matched["mapping", one.name] += 1
        for snapshot in rollup:
            if not snapshot.tombstoned and snapshot.filter.matches(first):
                self._matched["rollup", snapshot.name] += 1
                self._made.setdefault(("rollup", snapshot.name), set()).update(_ids(snapshot, matched))

    @property
    def added(self) -> dict[str, int]:
        """Lines that only the changed rules send, and of how many series."""
        return {line: count for line, count in self._after.items() if line not in self._before}

    @property
    def removed(self) -> dict[str, int]:
        """Lines that only the present rules send, and of how many series."""
        return {line: count for line, count in self._before.items() if line not in self._after}

    def text(self) -> str:
        """For people."""
        out = [f"{self.series} series", ""]
        active = self._downsampler.rules
        for kind, name in active.names(self._downsampler.now_ns):
            matched = self._matched[kind, name]
            line = f"{kind} rule {name!r}: {_number(matched, 'series')} match"
            if kind == "rollup":
                line += f", and make {len(self._made.get((kind, name), ()))}"
            out.append(line if matched else f"{kind} rule {name!r}: no series matches")
        kept = len(self._after) - len(self.added)
        out += ["", f"{kept} of what is sent stays as it is."]
        for sign, title, lines in (("+", "added", self.added), ("-", "removed", self.removed)):
            out.append(f"{len(lines)} would be {title}{':' if lines else '.'}")
            ordered = sorted(lines.items(), key=lambda item: (-item[1], item[0]))
            out += [f"  {sign} {line} (of {_number(count, 'series')})" for line, count in ordered[:MOST_LINES]]
            if len(ordered) > MOST_LINES:
                out.append(f"  … and {len(ordered) - MOST_LINES} more")
        return "\n".join(out) + "\n"


def _ids(snapshot: RollupSnapshot, matched: Tags) -> Iterator[bytes]:
    for target in snapshot.targets:
        try:
            made = apply_target(target, matched, snapshot.tags).rollup_id
        except TargetError:
            continue
        if made is not None:
            yield made


def _number(count: int, what: str) -> str:
    return f"{count} {what}"

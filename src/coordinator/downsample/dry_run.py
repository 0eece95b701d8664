"""What changed rules would make of the series that a running coordinator knows: added, removed, and by which rule.

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

__all__ = ["MOST_LINES", "Changes", "DryRun", "SeenSeries", "sent_lines"]

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


class Changes:
    """Lines of what is sent or stored now and after a change, and of how many series or paths: ``one``, ``many`` as these are called."""

    def __init__(self, one: str, many: str) -> None:
        self._names = one, many
        self._before: Counter[str] = Counter()
        self._after: Counter[str] = Counter()

    def take(self, before: Iterable[str], after: Iterable[str]) -> None:
        """The lines of one more."""
        self._before.update(set(before))
        self._after.update(set(after))

    @property
    def added(self) -> dict[str, int]:
        """Lines that there are only after the change, and of how many."""
        return {line: count for line, count in self._after.items() if line not in self._before}

    @property
    def removed(self) -> dict[str, int]:
        """Lines that there are only now, and of how many."""
        return {line: count for line, count in self._before.items() if line not in self._after}

    def lines(self) -> list[str]:
        """For people."""
        out = [f"{len(self._after) - len(self.added)} of what is sent stays as it is."]
        for sign, title, lines in (("+", "added", self.added), ("-", "removed", self.removed)):
            out.append(f"{len(lines)} would be {title}{':' if lines else '.'}")
            ordered = sorted(lines.items(), key=lambda item: (-item[1], item[0]))
            out += [f"  {sign} {line} (of {count} {self._names[count != 1]})" for line, count in ordered[:MOST_LINES]]
            if len(ordered) > MOST_LINES:
                out.append(f"  … and {len(ordered) - MOST_LINES} more")
        return out


class DryRun:
    """Counts over series; ``downsampler`` has the changed rules."""

    def __init__(self, downsampler: Downsampler) -> None:
        self._downsampler = downsampler
        self.series = 0
        self.changes = Changes("series", "series")
        self._matched: Counter[tuple[str, str]] = Counter()
        self._made: dict[tuple[str, str], set[bytes]] = {}

    def take(self, series: SeenSeries, before: Iterable[str]) -> None:
        """One more series; ``before``: the lines that are sent for it now. Raises ``IdError``."""
        self.series += 1
        matched = _matched(series)
        self.changes.take(before, _sent_lines(self._downsampler, matched))
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

    def rules(self) -> list[tuple[str, str, int, int]]:
        """Kind and name of each rule, how many series it matches, and how many it makes (of rollup rules)."""
        names = self._downsampler.rules.names(self._downsampler.now_ns)
        return [(*key, self._matched[key], len(self._made.get(key, ()))) for key in names]

    def text(self) -> str:
        """For people."""
        out = [f"{self.series} series", ""]
        for kind, name, matched, made in self.rules():
            line = f"{kind} rule {name!r}: {matched} series match"
            if kind == "rollup":
                line += f", and make {made}"
            out.append(line if matched else f"{kind} rule {name!r}: no series matches")
        return "\n".join([*out, "", *self.changes.lines()]) + "\n"


def _ids(snapshot: RollupSnapshot, matched: Tags) -> Iterator[bytes]:
    for target in snapshot.targets:
        try:
            made = apply_target(target, matched, snapshot.tags).rollup_id
        except TargetError:
            continue
        if made is not None:
            yield made

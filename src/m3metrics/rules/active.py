"""The rules in effect, and what they make of a metric (docs/m3/metrics.md, matching).

Between two cutovers the same snapshots are in effect; such a span is an *epoch*, with an index over its filters, made when first asked
for. Matching over a range of time evaluates the epoch at its start and at every cutover inside, and joins the results to stages.
"""

import bisect
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from m3metrics.ids import Tags
from m3metrics.metadata import PipelineMetadata, StagedMetadata, StagedMetadatas
from m3metrics.rules.index import FilterIndex
from m3metrics.rules.model import MappingSnapshot, MatchedPipeline, RollupSnapshot, RuleSet, S, Snapshot, snapshot_at
from m3metrics.rules.rollup import TargetError, apply_target

__all__ = ["NEVER_NS", "ActiveRuleSet", "MatchResult", "MatchedStage", "RollupMatch", "staged_metadatas", "stages_at"]

NEVER_NS = (1 << 63) - 1
"""Expiry of a result that no cutover changes."""

_DEFAULT = MatchedPipeline(metadata=PipelineMetadata())


class MatchedStage(msgspec.Struct, frozen=True, kw_only=True):
    """Pipelines that hold from ``cutover_ns`` on."""

    cutover_ns: int = 0
    tombstoned: bool = False
    pipelines: tuple[MatchedPipeline, ...] = ()

    @property
    def is_default(self) -> bool:
        """Nothing has matched, and nothing had before."""
        return (
            self.cutover_ns == 0
            and not self.tombstoned
            and len(self.pipelines) == 1
            and self.pipelines[0].metadata.is_default
        )


Stages = tuple[MatchedStage, ...]


class RollupMatch(msgspec.Struct, frozen=True):
    """A new metric."""

    id: bytes
    stages: Stages


class MatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules make of a metric."""

    existing: Stages = (MatchedStage(pipelines=(_DEFAULT,)),)
    """Of the metric itself."""
    rollups: tuple[RollupMatch, ...] = ()
    """Sorted by id; an id may occur twice."""
    keep_original: bool = False
    expire_at_ns: int = NEVER_NS


def stages_at(stages: Stages, time_ns: int) -> Stages:
    """From the last stage on whose cutover is not later than ``time_ns``; all, if there is none."""
    for at in range(len(stages) - 1, -1, -1):
        if stages[at].cutover_ns <= time_ns:
            return stages[at:]
    return stages


def staged_metadatas(stages: Iterable[MatchedStage]) -> StagedMetadatas:
    """As they go on the wire."""
    return tuple(
        StagedMetadata(
            cutover_ns=stage.cutover_ns,
            tombstoned=stage.tombstoned,
            pipelines=tuple(pipeline.metadata for pipeline in stage.pipelines),
        )
        for stage in stages
    )


class _Epoch:
    """The snapshots in effect during one span."""

    def __init__(self, mapping: Sequence[MappingSnapshot], rollup: Sequence[RollupSnapshot]) -> None:
        self.mapping = mapping
        self.rollup = rollup
        self._pipelines = [snapshot.pipeline() for snapshot in mapping]
        snapshots: list[Snapshot] = [*mapping, *rollup]
        self._index = FilterIndex([snapshot.filter for snapshot in snapshots])

    def matching(self, first: Mapping[bytes, bytes]) -> tuple[list[MappingSnapshot], list[RollupSnapshot]]:
        """The snapshots whose filters match, in the order of their rules."""
        positions = self._index.matching(first)
        own = bisect.bisect_left(positions, len(self.mapping))
        return (
            [self.mapping[position] for position in positions[:own]],
            [self.rollup[position - len(self.mapping)] for position in positions[own:]],
        )

    def evaluate(self, tags: Tags, first: Mapping[bytes, bytes]) -> "MatchResult":
        """What the snapshots make of a metric."""
        positions = self._index.matching(first)
        own = bisect.bisect_left(positions, len(self.mapping))
        mapped = positions[:own]
        cutover_ns = max((self.mapping[position].cutover_ns for position in mapped), default=0)
        pipelines = [self._pipelines[position] for position in mapped if not self.mapping[position].tombstoned]
        rollup = [self.rollup[position - len(self.mapping)] for position in positions[own:]]
        if not rollup:
            stage = MatchedStage(cutover_ns=cutover_ns, pipelines=_unique(pipelines or [_DEFAULT]))
            return MatchResult(existing=(stage,))
        rollup_cutover_ns, keep_original, more, new = _rolled_up(rollup, tags)
        stage = MatchedStage(
            cutover_ns=max(cutover_ns, rollup_cutover_ns), pipelines=_unique([*(pipelines or [_DEFAULT]), *more])
        )
        rollups = sorted(
            (
                RollupMatch(ident, (MatchedStage(cutover_ns=rollup_cutover_ns, pipelines=(pipeline,)),))
                for ident, pipeline in new
            ),
            key=lambda match: match.id,
        )
        return MatchResult(existing=(stage,), rollups=tuple(rollups), keep_original=keep_original)


class ActiveRuleSet:
    """A rule set from a time on: snapshots that are over by then are left out."""

    def __init__(self, rule_set: RuleSet, from_ns: int = 0) -> None:
        self.rule_set = rule_set
        self._mapping = [_from(rule.snapshots, from_ns) for rule in rule_set.mapping_rules]
        self._rollup = [_from(rule.snapshots, from_ns) for rule in rule_set.rollup_rules]
        every: list[Sequence[Snapshot]] = [*self._mapping, *self._rollup]
        self.cutovers_ns = sorted({snapshot.cutover_ns for snapshots in every for snapshot in snapshots})
        self._epochs: dict[int, _Epoch] = {}

    def next_cutover_ns(self, time_ns: int) -> int:
        """The first cutover after ``time_ns``; ``NEVER_NS`` if there is none."""
        at = bisect.bisect_right(self.cutovers_ns, time_ns)
        return self.cutovers_ns[at] if at < len(self.cutovers_ns) else NEVER_NS

    def matching(self, tags: Tags, time_ns: int) -> tuple[list[MappingSnapshot], list[RollupSnapshot]]:
        """The snapshots in effect whose filters match, tombstoned ones included."""
        return self._epoch(time_ns).matching(dict(reversed(tags)))

    def in_effect(self, time_ns: int) -> tuple[Sequence[MappingSnapshot], Sequence[RollupSnapshot]]:
        """All snapshots in effect, in the order of their rules."""
        epoch = self._epoch(time_ns)
        return epoch.mapping, epoch.rollup

    def match(self, tags: Tags, from_ns: int, to_ns: int) -> MatchResult:
        """Over ``[from_ns, to_ns)``; ``tags`` are those of ``m3metrics.ids.matching_tags``."""
        first = dict(reversed(tags))
        result = self._epoch(from_ns).evaluate(tags, first)
        for cutover in self.cutovers_ns[bisect.bisect_right(self.cutovers_ns, from_ns) :]:
            if cutover >= to_ns:
                return msgspec.structs.replace(result, expire_at_ns=cutover)
            later = self._epoch(cutover).evaluate(tags, first)
            result = MatchResult(
                existing=_joined(result.existing, later.existing, cutover),
                rollups=_joined_rollups(result.rollups, later.rollups, cutover),
                keep_original=later.keep_original,
            )
        return result

    def _epoch(self, time_ns: int) -> _Epoch:
        number = bisect.bisect_right(self.cutovers_ns, time_ns)
        epoch = self._epochs.get(number)
        if epoch is None:
            epoch = self._epochs[number] = _Epoch(_all_at(self._mapping, time_ns), _all_at(self._rollup, time_ns))
        return epoch


def _from(snapshots: Sequence[S], time_ns: int) -> Sequence[S]:
    """From the snapshot in effect at ``time_ns`` on; all, if there is none yet."""
    for at in range(len(snapshots) - 1, -1, -1):
        if snapshots[at].cutover_ns <= time_ns:
            return snapshots[at:]
    return snapshots


def _all_at(rules: Sequence[Sequence[S]], time_ns: int) -> list[S]:
    return [found for snapshots in rules if (found := snapshot_at(snapshots, time_ns)) is not None]


def _rolled_up(
    matching: Sequence[RollupSnapshot], tags: Tags
) -> tuple[int, bool, list[MatchedPipeline], list[tuple[bytes, MatchedPipeline]]]:
    """Latest cutover, whether the original is kept, pipelines of the metric itself, new metrics with theirs."""
    cutover_ns, keep_original, any_target = 0, False, False
    own: list[MatchedPipeline] = []
    new: list[tuple[bytes, MatchedPipeline]] = []
    for snapshot in matching:
        cutover_ns = max(cutover_ns, snapshot.cutover_ns)
        keep_original = keep_original or snapshot.keep_original
        if snapshot.tombstoned:
            continue
        for target in snapshot.targets:
            any_target = True
            try:
                applied = apply_target(target, tags, snapshot.tags)
            except TargetError:
                continue
            if applied.rollup_id is None:
                own.append(MatchedPipeline(metadata=applied.metadata))
            else:
                new.append((applied.rollup_id, MatchedPipeline(metadata=applied.metadata, tags=snapshot.tags)))
    if not any_target:
        return 0, False, own, new
    return cutover_ns, keep_original, own, new


def _unique(pipelines: Iterable[MatchedPipeline]) -> tuple[MatchedPipeline, ...]:
    kept: list[MatchedPipeline] = []
    for pipeline in pipelines:
        if not any(pipeline.same(other) for other in kept):
            kept.append(pipeline)
    return tuple(kept)


def _joined(before: Stages, after: Stages, cutover_ns: int) -> Stages:
    (stage,) = after
    if before and before[-1].cutover_ns > stage.cutover_ns:
        stage = msgspec.structs.replace(stage, cutover_ns=cutover_ns)
    return (*before, stage)


def _joined_rollups(
    before: Sequence[RollupMatch], after: Sequence[RollupMatch], cutover_ns: int
) -> tuple[RollupMatch, ...]:
    """Both sorted by id. What is not made any more gets a tombstone."""
    result: list[RollupMatch] = []
    gone = (MatchedStage(cutover_ns=cutover_ns, tombstoned=True),)
    i = k = 0
    while i < len(before) or k < len(after):
        if k == len(after) or (i < len(before) and before[i].id < after[k].id):
            result.append(RollupMatch(before[i].id, before[i].stages + gone))
            i += 1
        elif i == len(before) or after[k].id < before[i].id:
            result.append(after[k])
            k += 1
        else:
            result.append(RollupMatch(before[i].id, before[i].stages + after[k].stages))
            i += 1
            k += 1
    return tuple(sorted(result, key=lambda match: match.id))

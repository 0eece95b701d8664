"""Rule sets as they are used: parsed, checked, frozen (docs/m3/metrics.md, rules).

A rule is a list of snapshots, oldest first; the one in effect at a time is the last whose cutover is not later. Constructors here check
what M3 checks when it loads a rule set.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from m3metrics.aggregation import AggregationType
from m3metrics.errors import MetricsError
from m3metrics.filters import TagsFilter
from m3metrics.ids import Tag
from m3metrics.metadata import PipelineMetadata
from m3metrics.metric import GRAPHITE_PREFIX_TAG
from m3metrics.pipeline import TransformationOp
from m3metrics.policy import DropPolicy, StoragePolicy, same_policies

__all__ = [
    "AggregateOp",
    "MappingRule",
    "MappingSnapshot",
    "MatchedPipeline",
    "Namespace",
    "RollupRule",
    "RollupRuleOp",
    "RollupSnapshot",
    "RollupTarget",
    "RuleOp",
    "RuleSet",
    "RulesError",
    "Snapshot",
    "check_mapping",
    "check_rollup",
    "snapshot_at",
]

_METRIC_NAME = b"{{ .MetricName }}"


class RulesError(MetricsError):
    """A rule set that M3 would not load; the text is M3's where it has one."""


class AggregateOp(msgspec.Struct, frozen=True):
    """Aggregates the metric itself; only as the first operation."""

    type: AggregationType


class RollupRuleOp(msgspec.Struct, frozen=True):
    """Aggregates into a new metric that has some of the tags."""

    new_name: bytes
    tags: tuple[bytes, ...]
    """Sorted: those to group by, or those to leave out."""
    aggregation_id: int = 0
    exclude: bool = False

    @classmethod
    def create(
        cls, new_name: bytes, tags: Iterable[bytes], aggregation_id: int = 0, *, exclude: bool = False
    ) -> "RollupRuleOp":
        """Checks the template of the name. Raises ``RulesError``."""
        uses = new_name.count(_METRIC_NAME)
        shown = new_name.decode(errors="replace")
        if uses > 1:
            raise RulesError(
                f"rollup contained template variable metric name more than once: input={shown}, count_var_metric_name={uses}"
            )
        rest = new_name.replace(_METRIC_NAME, b"")
        if b"{{" in rest or b"}}" in rest:
            raise RulesError(
                f"rollup contained template tags but variables not resolved: input={shown}, allowed=[{_METRIC_NAME.decode()}]"
            )
        return cls(new_name, tuple(sorted(tags)), aggregation_id, exclude)

    def name_for(self, metric_name: bytes) -> bytes:
        """The new metric's name."""
        return self.new_name.replace(_METRIC_NAME, metric_name)


RuleOp = AggregateOp | TransformationOp | RollupRuleOp


class RollupTarget(msgspec.Struct, frozen=True):
    """One pipeline of a rollup rule."""

    ops: tuple[RuleOp, ...]
    storage_policies: tuple[StoragePolicy, ...]
    resend_enabled: bool = False


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What both kinds of rules have."""

    name: str
    cutover_ns: int
    filter: TagsFilter
    tombstoned: bool = False
    tags: tuple[Tag, ...] = ()
    """Added to the ids of the rule's metrics; names with ``__m3`` are instructions (docs/m3/coordinator.md, rule tags)."""


def check_mapping(storage_policies: Sequence[StoragePolicy], drop_policy: int, *, tombstoned: bool) -> None:
    """A mapping rule has policies or drops; one that was deleted may have neither. Raises ``RulesError``."""
    if drop_policy not in DropPolicy.__members__.values():
        raise RulesError(f"invalid drop policy in mapping rule snapshot: {drop_policy}")
    if not tombstoned and not storage_policies and drop_policy == DropPolicy.NONE:
        raise RulesError("no storage policies and no drop policy in mapping rule snapshot")
    if storage_policies and drop_policy != DropPolicy.NONE:
        raise RulesError("storage policies and a drop policy specified in mapping rule snapshot")


class MappingSnapshot(Snapshot, frozen=True, kw_only=True):
    """How the metrics that match are aggregated and kept."""

    aggregation_id: int = 0
    storage_policies: tuple[StoragePolicy, ...] = ()
    drop_policy: int = DropPolicy.NONE

    def __post_init__(self) -> None:
        check_mapping(self.storage_policies, self.drop_policy, tombstoned=self.tombstoned)

    def pipeline(self) -> "MatchedPipeline":
        """What a metric gets that matches."""
        prefixes = [value for name, value in self.tags if name == GRAPHITE_PREFIX_TAG]
        metadata = PipelineMetadata(
            aggregation_id=self.aggregation_id, storage_policies=self.storage_policies, drop_policy=self.drop_policy
        )
        prefix = tuple(prefixes[-1].split(b".")) if prefixes else ()
        return MatchedPipeline(metadata=metadata, tags=self.tags, graphite_prefix=prefix)


def check_rollup(targets: Sequence[RollupTarget], *, tombstoned: bool) -> None:
    """A rollup rule makes something; one that was deleted need not. Raises ``RulesError``."""
    if not targets and not tombstoned:
        raise RulesError("no rollup targets in rollup rule snapshot")


class RollupSnapshot(Snapshot, frozen=True, kw_only=True):
    """What is made of the metrics that match."""

    targets: tuple[RollupTarget, ...] = ()
    keep_original: bool = False

    def __post_init__(self) -> None:
        check_rollup(self.targets, tombstoned=self.tombstoned)


class MappingRule(msgspec.Struct, frozen=True):
    """A mapping rule and its history."""

    uuid: str
    snapshots: tuple[MappingSnapshot, ...]


class RollupRule(msgspec.Struct, frozen=True):
    """A rollup rule and its history."""

    uuid: str
    snapshots: tuple[RollupSnapshot, ...]


class RuleSet(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one namespace. ``version`` is that of the KV value, 0 for rules of a file."""

    namespace: str
    mapping_rules: tuple[MappingRule, ...] = ()
    rollup_rules: tuple[RollupRule, ...] = ()
    uuid: str = ""
    version: int = 0
    tombstoned: bool = False
    cutover_ns: int = 0


class Namespace(msgspec.Struct, frozen=True):
    """A namespace of rules."""

    name: str
    tombstoned: bool
    """By its last snapshot; without any it counts as such."""
    for_version: int
    """Version of the rule set that the last snapshot is for."""


class MatchedPipeline(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline of a metric, and what is not on the wire: tags and graphite prefix of its rule."""

    metadata: PipelineMetadata
    tags: tuple[Tag, ...] = ()
    graphite_prefix: tuple[bytes, ...] = ()

    def same(self, other: "MatchedPipeline") -> bool:
        """M3's equality, by which duplicates are dropped: routing policy, tags and prefix do not count.

        docs/m3/metrics.md, default metadata.
        """
        mine, theirs = self.metadata, other.metadata
        return (
            mine.aggregation_id == theirs.aggregation_id
            and same_policies(mine.storage_policies, theirs.storage_policies)
            and mine.pipeline == theirs.pipeline
            and mine.drop_policy == theirs.drop_policy
            and mine.resend_enabled == theirs.resend_enabled
        )


S = TypeVar("S", bound=Snapshot)


def snapshot_at(snapshots: Sequence[S], time_ns: int) -> S | None:
    """The snapshot in effect: the last one whose cutover is not later than ``time_ns``, by position."""
    return next((snapshot for snapshot in reversed(snapshots) if snapshot.cutover_ns <= time_ns), None)

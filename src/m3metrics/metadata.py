"""What is to be done with a metric: staged metadatas, timed metadata, forward metadata (docs/m3/metrics.md, metadata).

Everything is frozen and hashable, so that a metadata may key a dictionary.
"""

from enum import IntEnum

import msgspec

from m3metrics.pipeline import AppliedPipeline, RollupOp
from m3metrics.policy import DropPolicy, StoragePolicy

__all__ = [
    "DEFAULT_STAGED_METADATAS",
    "DROP_PIPELINE",
    "DropResult",
    "ForwardMetadata",
    "PipelineMetadata",
    "StagedMetadata",
    "StagedMetadatas",
    "TimedMetadata",
    "apply_drop_policies",
    "is_default",
    "is_drop_policy_applied",
    "is_drop_policy_set",
]


class PipelineMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """One way of aggregating a metric; all defaults: as the aggregator is configured."""

    aggregation_id: int = 0
    """Aggregation types as bits; 0: the defaults."""
    storage_policies: tuple[StoragePolicy, ...] = ()
    """Empty: the defaults."""
    pipeline: AppliedPipeline = ()
    drop_policy: int = DropPolicy.NONE
    """As it came from the wire, any number."""
    resend_enabled: bool = False
    traffic_types: int = 0
    """Routing policy: a bit mask."""

    @property
    def is_default(self) -> bool:
        """Nothing is asked for; the routing policy does not count."""
        return self._is_plain and self.drop_policy == DropPolicy.NONE and not self.resend_enabled

    @property
    def is_drop_policy_applied(self) -> bool:
        """Nothing but a drop policy is asked for."""
        return self._is_plain and self.drop_policy != DropPolicy.NONE

    @property
    def is_mapping_rule(self) -> bool:
        """No operation rolls up to another id."""
        return not any(isinstance(op, RollupOp) and op.id for op in self.pipeline)

    @property
    def _is_plain(self) -> bool:
        return self.aggregation_id == 0 and not self.storage_policies and not self.pipeline


class StagedMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Pipelines that hold from ``cutover_ns`` on, until the next stage's."""

    cutover_ns: int = 0
    tombstoned: bool = False
    pipelines: tuple[PipelineMetadata, ...] = ()


StagedMetadatas = tuple[StagedMetadata, ...]
"""Ascending by cutover."""

DEFAULT_STAGED_METADATAS: StagedMetadatas = (StagedMetadata(pipelines=(PipelineMetadata(),)),)
"""One stage with one default pipeline; the empty list is not the default."""
DROP_PIPELINE = PipelineMetadata(drop_policy=DropPolicy.MUST)


class ForwardMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What the receiver of a forwarded metric does with it."""

    aggregation_id: int = 0
    storage_policy: StoragePolicy
    pipeline: AppliedPipeline = ()
    source_id: int = 0
    num_forwarded_times: int = 0
    resend_enabled: bool = False
    traffic_types: int = 0


class TimedMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What the receiver of a timed metric with one policy does with it."""

    aggregation_id: int = 0
    storage_policy: StoragePolicy
    traffic_types: int = 0


def is_default(metadatas: StagedMetadatas) -> bool:
    """M3's ``StagedMetadatas.IsDefault``: the routing policy counts here, resending does not (docs/m3/metrics.md, default metadata)."""
    if len(metadatas) != 1:
        return False
    stage = metadatas[0]
    if stage.cutover_ns != 0 or stage.tombstoned or len(stage.pipelines) != 1:
        return False
    pipeline = stage.pipelines[0]
    return pipeline._is_plain and pipeline.drop_policy == DropPolicy.NONE and pipeline.traffic_types == 0


def is_drop_policy_applied(metadatas: StagedMetadatas) -> bool:
    """Whether the only pipeline of the only stage does nothing but drop; the cutover does not count."""
    if len(metadatas) != 1:
        return False
    stage = metadatas[0]
    return not stage.tombstoned and len(stage.pipelines) == 1 and stage.pipelines[0].is_drop_policy_applied


def is_drop_policy_set(metadatas: StagedMetadatas) -> bool:
    """Whether any pipeline of the last stage has a drop policy."""
    return bool(metadatas) and any(p.drop_policy != DropPolicy.NONE for p in metadatas[-1].pipelines)


class DropResult(IntEnum):
    """What ``apply_drop_policies`` did."""

    NONE = 0
    APPLIED = 1
    REMOVED_INEFFECTIVE = 2


def apply_drop_policies(
    pipelines: tuple[PipelineMetadata, ...],
) -> tuple[tuple[PipelineMetadata, ...], DropResult]:
    """Resolves the drop policies among the pipelines of a metric (docs/m3/metrics.md, drop policies).

    A drop-must, or nothing but drop-if-only-match, gives the drop pipeline alone; drop-if-only-match beside others is taken out.
    """
    if any(p.drop_policy == DropPolicy.MUST for p in pipelines):
        return (DROP_PIPELINE,), DropResult.APPLIED
    if not any(p.drop_policy == DropPolicy.IF_ONLY_MATCH for p in pipelines):
        return pipelines, DropResult.NONE
    kept = tuple(p for p in pipelines if p.drop_policy == DropPolicy.NONE)
    if not any(p.drop_policy != DropPolicy.IF_ONLY_MATCH for p in pipelines):
        return (DROP_PIPELINE,), DropResult.APPLIED
    return kept, DropResult.REMOVED_INEFFECTIVE

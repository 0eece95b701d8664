"""The operations of a rollup rule applied to one metric (docs/m3/metrics.md, rules).

Everything is decided from the metric's own tags, the ids of later rollups included; the aggregators only follow what is written into the
pipeline.
"""

from collections.abc import Sequence

import msgspec

from m3metrics.aggregation import compress
from m3metrics.errors import IdError
from m3metrics.ids import NAME_TAG, Tag, Tags, rollup_id
from m3metrics.metadata import PipelineMetadata
from m3metrics.pipeline import AppliedPipeline, RollupOp, TransformationOp
from m3metrics.rules.model import AggregateOp, RollupRuleOp, RollupTarget, RuleOp

__all__ = ["AppliedTarget", "TargetError", "apply_target", "rolled_up_id"]


class TargetError(ValueError):
    """A target that does not apply to the metric; M3 skips it without a word."""


class AppliedTarget(msgspec.Struct, frozen=True):
    """What a target makes of a metric."""

    rollup_id: bytes | None
    """The new metric; None: the pipeline is the metric's own."""
    metadata: PipelineMetadata


def apply_target(target: RollupTarget, tags: Tags, rule_tags: Sequence[Tag]) -> AppliedTarget:
    """``tags``: those by which rules are matched, sorted. Raises ``TargetError``."""
    if not target.ops:
        raise TargetError("the target has no operations")
    first, rest = target.ops[0], target.ops[1:]
    new_id: bytes | None = None
    if isinstance(first, AggregateOp):
        aggregation_id = compress([first.type])
    elif isinstance(first, TransformationOp):
        aggregation_id, rest = 0, target.ops
    else:
        aggregation_id = first.aggregation_id
        new_id = rolled_up_id(first, tags, rule_tags)
    metadata = PipelineMetadata(
        aggregation_id=aggregation_id,
        storage_policies=target.storage_policies,
        pipeline=_applied(rest, tags, rule_tags),
        resend_enabled=target.resend_enabled,
    )
    return AppliedTarget(new_id, metadata)


def _applied(ops: Sequence[RuleOp], tags: Tags, rule_tags: Sequence[Tag]) -> AppliedPipeline:
    applied: list[TransformationOp | RollupOp] = []
    for op in ops:
        if isinstance(op, AggregateOp):
            raise TargetError("aggregate is possible as the first operation only")
        if isinstance(op, RollupRuleOp):
            applied.append(RollupOp(rolled_up_id(op, tags, rule_tags), op.aggregation_id))
        else:
            applied.append(op)
    return tuple(applied)


def rolled_up_id(op: RollupRuleOp, tags: Tags, rule_tags: Sequence[Tag]) -> bytes:
    """The id of the new metric: the tags that are kept, then the rule's, under the new name. Raises ``TargetError``."""
    kept = _without(op, tags) if op.exclude else _grouped(op, tags)
    name = next((value for tag, value in reversed(tags) if tag == NAME_TAG), b"")
    try:
        return rollup_id(op.name_for(name), [*kept, *rule_tags])
    except IdError as error:
        raise TargetError(str(error)) from error


def _without(op: RollupRuleOp, tags: Tags) -> Tags:
    return [tag for tag in tags if tag[0] != NAME_TAG and tag[0] not in op.tags]


def _grouped(op: RollupRuleOp, tags: Tags) -> Tags:
    """As in M3 a wanted tag that sorts behind the metric's last tag is not missed."""
    kept: Tags = []
    wanted = iter(op.tags)
    want = next(wanted, None)
    for tag in tags:
        if want is None:
            break
        if tag[0] == want:
            kept.append(tag)
            want = next(wanted, None)
        elif tag[0] > want:
            raise TargetError(f"the metric has no tag {want.decode(errors='replace')}")
    return kept

"""The rules of the configuration file → a rule set (docs/m3/coordinator.md, where rules come from)."""

from collections.abc import Sequence

from coordinator.config.rules import (
    TRANSFORMATIONS,
    MappingRuleConfig,
    RollupRuleConfig,
    RulePolicyConfig,
    RulesConfig,
    RuleTagConfig,
    StepConfig,
)
from m3metrics.aggregation import compress, parse_type
from m3metrics.filters import compile_filter
from m3metrics.ids import Tag
from m3metrics.pipeline import TransformationOp
from m3metrics.policy import UNITS, DropPolicy, StoragePolicy, max_unit
from m3metrics.rules import (
    AggregateOp,
    MappingRule,
    MappingSnapshot,
    RollupRule,
    RollupRuleOp,
    RollupSnapshot,
    RollupTarget,
    RuleSet,
)
from m3metrics.rules.model import RuleOp

DEFAULT_NAMESPACE = "default"
"""Of metrics without the namespace tag, and of the rules of a file."""


def rule_set_of(config: RulesConfig, cutover_ns: int) -> RuleSet:
    """All rules in effect from ``cutover_ns`` on; a rule without a name is called by its place in the file."""
    return RuleSet(
        namespace=DEFAULT_NAMESPACE,
        cutover_ns=cutover_ns,
        mapping_rules=tuple(
            MappingRule(str(index), (_mapping(rule, rule.name or f"mappingRules[{index}]", cutover_ns),))
            for index, rule in enumerate(config.mapping_rules)
        ),
        rollup_rules=tuple(
            RollupRule(str(index), (_rollup(rule, rule.name or f"rollupRules[{index}]", cutover_ns),))
            for index, rule in enumerate(config.rollup_rules)
        ),
    )


def _mapping(rule: MappingRuleConfig, name: str, cutover_ns: int) -> MappingSnapshot:
    # As in M3 aggregations mean nothing without storage policies.
    aggregation_id = compress(map(parse_type, rule.aggregations)) if rule.storage_policies else 0
    return MappingSnapshot(
        name=name,
        cutover_ns=cutover_ns,
        filter=compile_filter(rule.filter),
        aggregation_id=aggregation_id,
        storage_policies=_policies(rule.storage_policies),
        drop_policy=DropPolicy.IF_ONLY_MATCH if rule.drop else DropPolicy.NONE,
        tags=_tags(rule.tags),
    )


def _rollup(rule: RollupRuleConfig, name: str, cutover_ns: int) -> RollupSnapshot:
    target = RollupTarget(tuple(map(_op, rule.transforms)), _policies(rule.storage_policies))
    return RollupSnapshot(
        name=name,
        cutover_ns=cutover_ns,
        filter=compile_filter(rule.filter),
        targets=(target,),
        tags=_tags(rule.tags),
    )


def _op(step: StepConfig) -> RuleOp:
    if step.aggregate is not None:
        return AggregateOp(parse_type(step.aggregate.type))
    if step.transform is not None:
        return TransformationOp(TRANSFORMATIONS[step.transform.type])
    assert step.rollup is not None
    rollup = step.rollup
    return RollupRuleOp.create(
        rollup.metric_name.encode(),
        (tag.encode() for tag in rollup.exclude_by or rollup.group_by),
        compress(map(parse_type, rollup.aggregations)),
        exclude=bool(rollup.exclude_by),
    )


def _policies(policies: Sequence[RulePolicyConfig]) -> tuple[StoragePolicy, ...]:
    return tuple(
        StoragePolicy(int(p.resolution), UNITS[max_unit(int(p.resolution))[1]], int(p.retention)) for p in policies
    )


def _tags(tags: Sequence[RuleTagConfig]) -> tuple[Tag, ...]:
    return tuple((tag.name.encode(), tag.value.encode()) for tag in tags)

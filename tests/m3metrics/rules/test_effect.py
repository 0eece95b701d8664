"""What rules ask for in vain."""

from m3metrics.aggregation import AggregationType
from m3metrics.filters import compile_filter
from m3metrics.pipeline import TransformationOp, TransformationType
from m3metrics.policy import DropPolicy, StoragePolicy
from m3metrics.rules import (
    AggregateOp,
    MappingRule,
    MappingSnapshot,
    RollupRule,
    RollupRuleOp,
    RollupSnapshot,
    RollupTarget,
    RuleSet,
    asked_policies,
    ineffective,
)
from m3metrics.rules.model import RuleOp

FILTER = compile_filter("a:b")
TEN, MINUTE = StoragePolicy.parse("10s:2d"), StoragePolicy.parse("1m:40d")
SUM, ROLLUP = AggregateOp(AggregationType.SUM), RollupRuleOp.create(b"n", [b"a"])
RATE = TransformationOp(TransformationType.PER_SECOND)


def mapping(name: str, *policies: StoragePolicy, tombstoned: bool = False) -> MappingSnapshot:
    drop = DropPolicy.NONE if policies else DropPolicy.MUST
    return MappingSnapshot(
        name=name, cutover_ns=0, filter=FILTER, storage_policies=policies, drop_policy=drop, tombstoned=tombstoned
    )


def rollup(*ops: RuleOp, policies: tuple[StoragePolicy, ...] = (), tombstoned: bool = False) -> RollupSnapshot:
    target = RollupTarget(ops, policies)
    return RollupSnapshot(name="r", cutover_ns=0, filter=FILTER, targets=(target,), tombstoned=tombstoned)


def rules(*snapshots: MappingSnapshot | RollupSnapshot) -> RuleSet:
    return RuleSet(
        namespace="default",
        mapping_rules=tuple(MappingRule("1", (one,)) for one in snapshots if isinstance(one, MappingSnapshot)),
        rollup_rules=tuple(RollupRule("1", (one,)) for one in snapshots if isinstance(one, RollupSnapshot)),
    )


def test_aggregate_behind_another_operation_switches_a_rule_off() -> None:
    (found,) = ineffective(rules(rollup(SUM), rollup(ROLLUP, SUM, SUM)))
    assert found.path == "rollupRules[1].transforms[1]"
    assert found.text.startswith("rollup rule 'r' has no effect")


def test_every_policy_is_named_with_its_rule_and_place() -> None:
    rule_set = rules(mapping("m", TEN, MINUTE), mapping("dropped"), rollup(RATE, ROLLUP, policies=(MINUTE,)))
    assert [(one.rule, one.path, one.policy) for one in asked_policies(rule_set)] == [
        ("mapping rule 'm'", "mappingRules[0].storagePolicies[0]", TEN),
        ("mapping rule 'm'", "mappingRules[0].storagePolicies[1]", MINUTE),
        ("rollup rule 'r'", "rollupRules[0].storagePolicies[0]", MINUTE),
    ]


def test_policies_that_are_refused_are_ineffective() -> None:
    rule_set = rules(mapping("m", TEN, MINUTE), rollup(ROLLUP, policies=(TEN,)))
    (found,) = ineffective(rule_set, lambda policy: "no place" if policy == MINUTE else "")
    assert found.path == "mappingRules[0].storagePolicies[1]"
    assert found.text == "mapping rule 'm' asks for 1m:40d: no place"


def test_deleted_rules_ask_for_nothing() -> None:
    rule_set = rules(mapping("m", TEN, tombstoned=True), rollup(ROLLUP, SUM, policies=(TEN,), tombstoned=True))
    assert list(asked_policies(rule_set)) == []
    assert ineffective(rule_set, lambda _: "no place") == []

"""What rules ask for in vain."""

import msgspec
import pytest

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
        mapping_rules=tuple(
            MappingRule(f"m{index}", (one,)) for index, one in enumerate(snapshots) if isinstance(one, MappingSnapshot)
        ),
        rollup_rules=tuple(
            RollupRule(f"r{index}", (one,)) for index, one in enumerate(snapshots) if isinstance(one, RollupSnapshot)
        ),
    )


def test_aggregate_behind_another_operation_switches_a_rule_off() -> None:
    second = msgspec.structs.replace(rollup(ROLLUP, SUM, SUM), name="second")
    (found,) = ineffective(rules(rollup(SUM), second))
    assert found.path == "rollupRules[1].transforms[1]"
    assert found.text.startswith("rollup rule 'second' has no effect")


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


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("a:!*", "a:!* matches no value"),
        ("__name__:{,} a:b", "__name__:{,} matches no value"),
        ("a:x{,}*", "a:x{,}* matches no value"),
        ("a:*{,,}", "a:*{,,} matches no value"),
        (
            "__m3_type__:Counter",
            "__m3_type__:Counter matches none of the values that the tag may have: unknown, counter",
        ),
        ("__m3_prom_type__:c", "__m3_prom_type__:c matches none of the values that the tag may have: unknown, counter"),
    ],
)
def test_filters_that_can_never_match_are_named(text: str, item: str) -> None:
    never = msgspec.structs.replace(mapping("m", TEN), filter=compile_filter(text))
    (found,) = ineffective(rules(never))
    assert found.path == "mappingRules[0].filter"
    assert found.text.startswith(f"mapping rule 'm' can never match: {item}")


@pytest.mark.parametrize("text", ["", "a:*", "a:!{,}", "a:{,b}", "__m3_type__:c*", "__m3_prom_type__:!gauge", "a:!b"])
def test_filters_that_may_match_are_not(text: str) -> None:
    assert ineffective(rules(msgspec.structs.replace(mapping("m", TEN), filter=compile_filter(text)))) == []


def test_rules_that_repeat_another_are_named() -> None:
    same = mapping("b", TEN)
    (found,) = ineffective(rules(mapping("a", TEN), same))
    assert (found.path, "has the same filter and asks for the same" in found.text) == ("mappingRules[1]", True)
    (found,) = ineffective(rules(mapping("a", TEN), mapping("a", MINUTE)))
    assert "has the name of mappingRules[0]" in found.text
    assert ineffective(rules(mapping("a", TEN), mapping("b", MINUTE), mapping("a", TEN, tombstoned=True))) == []


def test_ids_that_rules_of_the_kv_have_in_common_are_named() -> None:
    rule_set = rules(mapping("a", TEN), rollup(ROLLUP))
    twice = msgspec.structs.replace(rule_set, rollup_rules=(RollupRule("m0", rule_set.rollup_rules[0].snapshots),))
    assert ineffective(twice) == []  # Rules of a file have no ids.
    (found,) = ineffective(msgspec.structs.replace(twice, version=3))
    assert (found.path, found.text[:50]) == ("rollupRules[0]", "rollup rule 'r' has the id m0 of mapping rule 'a';")

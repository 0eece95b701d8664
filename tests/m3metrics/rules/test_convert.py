"""rulepb → rule sets: which fields count, and what is refused (docs/m3/metrics.md, snapshots)."""

from typing import Any

import pytest

from m3cluster.proto import decode, encode
from m3cluster.proto.rules import NAMESPACES, RULE_SET
from m3metrics.aggregation import AggregationType, compress
from m3metrics.rules import Namespace, RulesError, RuleSet, namespaces_from, rule_set_from
from m3metrics.rules.model import RollupRuleOp, RollupTarget, snapshot_at

SECOND = 10**9


def policy(window_s: int = 10, hours: int = 48) -> dict[str, Any]:
    return {
        "resolution": {"window_size": window_s * SECOND, "precision": SECOND},
        "retention": {"period": hours * 3600 * SECOND},
    }


def load(kind: str, *snapshots: dict[str, Any]) -> RuleSet:
    message = {"namespace": "default", kind: [{"uuid": "1", "snapshots": list(snapshots)}]}
    return rule_set_from(decode(RULE_SET, encode(RULE_SET, message)), 3)


def mapping(**fields: Any) -> RuleSet:
    return load("mapping_rules", {"name": "m", "filter": "a:b", **fields})


def rollup(**fields: Any) -> RuleSet:
    return load("rollup_rules", {"name": "r", "filter": "a:b", **fields})


def target(*ops: dict[str, Any]) -> dict[str, Any]:
    return {"pipeline": {"ops": list(ops)}, "storage_policies": [policy()]}


def test_older_policies_win_and_are_sorted() -> None:
    older = [
        {"storage_policy": policy(60), "aggregation_types": [7]},
        {"storage_policy": policy(10), "aggregation_types": [7]},
        {"storage_policy": policy(10), "aggregation_types": [7]},
    ]
    (snapshot,) = (
        mapping(policies=older, storage_policies=[policy(1)], aggregation_types=[3]).mapping_rules[0].snapshots
    )
    assert snapshot.aggregation_id == compress([AggregationType.SUM])
    assert [str(p) for p in snapshot.storage_policies] == ["10s:2d", "1m@1s:2d"]


def test_aggregations_without_policies_do_not_count() -> None:
    (snapshot,) = mapping(aggregation_types=[3], drop_policy=1).mapping_rules[0].snapshots
    assert snapshot.aggregation_id == 0


def test_an_older_target_groups() -> None:
    older = [{"name": "n", "tags": ["b", "a"], "policies": [{"storage_policy": policy(), "aggregation_types": [3]}]}]
    (snapshot,) = rollup(targets=older, targets_v2=[target({"type": 9})]).rollup_rules[0].snapshots
    (found,) = snapshot.targets
    assert found == RollupTarget(
        (RollupRuleOp(b"n", (b"a", b"b"), compress([AggregationType.MAX])),), snapshot.targets[0].storage_policies
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "no storage policies and no drop policy in mapping rule snapshot"),
        ({"storage_policies": [policy()], "drop_policy": 2}, "storage policies and a drop policy"),
        ({"drop_policy": 3}, "invalid drop policy in mapping rule snapshot"),
        ({"drop_policy": 3, "filter": "a", "tombstoned": True}, "invalid drop policy in mapping rule snapshot"),
        ({"storage_policies": [policy()], "drop_policy": 1, "tombstoned": True}, "storage policies and a drop policy"),
        ({"drop_policy": 1, "filter": "a"}, "malformed"),
        ({"storage_policies": [policy()], "aggregation_types": [99]}, "invalid aggregation type from proto: 99"),
        ({"storage_policies": [policy()], "aggregation_types": [0]}, "invalid aggregation type from proto: UNKNOWN"),
        # The older form is read policy by policy.
        ({"policies": [{"aggregation_types": [99]}]}, "nil storage policy proto"),
        (
            {"policies": [{"storage_policy": policy(), "aggregation_types": [99]}, {}]},
            "invalid aggregation type from proto: 99",
        ),
        ({"storage_policies": [{}]}, "empty resolution"),
        (
            {"policies": [{"storage_policy": policy()}, {"storage_policy": policy(), "aggregation_types": [3]}]},
            "more than one aggregation ID in legacy policies list proto: ID1=, ID2=Max",
        ),
    ],
)
def test_mapping_rules_that_cannot_be_loaded(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(RulesError, match=f"mapping rule 'm': .*{reason}"):
        mapping(**fields)


@pytest.mark.parametrize(
    ("ops", "reason"),
    [
        ([{"type": 0}], "unknown op type in proto: UNKNOWN"),
        ([{"type": 7}], "unknown op type in proto: 7"),
        ([{"type": 1}], "nil aggregation op"),
        ([{"type": 2}], "nil transformation op"),
        ([{"type": 3}], "nil rollup op"),
        ([{"type": 1, "aggregation": {"type": 0}}], "invalid aggregation type from proto: UNKNOWN"),
        ([{"type": 2, "transformation": {"type": 6}}], "unknown transformation type"),
        ([{"type": 3, "rollup": {"new_name": "{{ .X }}"}}], "variables not resolved"),
    ],
)
def test_rollup_rules_that_cannot_be_loaded(ops: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(RulesError, match=f"rollup rule 'r': .*{reason}"):
        rollup(targets_v2=[target(*ops)])


def test_targets_are_required_unless_the_rule_was_deleted() -> None:
    with pytest.raises(RulesError, match="no rollup targets in rollup rule snapshot"):
        rollup()
    assert rollup(tombstoned=True).rollup_rules[0].snapshots[0].targets == ()
    with pytest.raises(RulesError, match="nil pipeline proto message"):
        rollup(targets_v2=[{}])


def test_the_snapshot_in_effect_is_chosen_by_position() -> None:
    drop = {"name": "m", "filter": "a:b", "drop_policy": 1}
    (rule,) = load("mapping_rules", *({**drop, "cutover_nanos": at} for at in (10, 30, 20))).mapping_rules
    found = [snapshot_at(rule.snapshots, at) for at in (5, 10, 20, 40)]
    assert [snapshot and snapshot.cutover_ns for snapshot in found] == [None, 10, 20, 20]


def test_namespaces() -> None:
    message = {
        "namespaces": [
            {"name": "a", "snapshots": [{"for_ruleset_version": 1}, {"for_ruleset_version": 4, "tombstoned": True}]},
            {"name": "b"},
        ]
    }
    assert namespaces_from(decode(NAMESPACES, encode(NAMESPACES, message))) == [
        Namespace("a", True, 4),
        Namespace("b", True, 0),
    ]

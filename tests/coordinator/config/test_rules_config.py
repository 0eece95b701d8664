"""``downsample.rules``: what is taken, and that every mistake is named by line and key (docs/m3/coordinator.md, rules in the file)."""

from pathlib import Path

import pytest

from coordinator.config import load_coordinator
from coordinator.downsample import rule_set_of
from m3metrics.aggregation import AggregationType, compress
from m3metrics.metadata import DropPolicy
from m3metrics.pipeline import TransformationOp, TransformationType
from m3metrics.rules import AggregateOp, RollupRuleOp, RuleSet
from m3x.config import ConfigError

POLICY = "storagePolicies: [{resolution: 10s, retention: 48h}]"


def load(directory: Path, rules: str) -> RuleSet:
    path = directory / "rules.yml"
    client = "{type: m3msg, m3msg: {producer: {writer: {topicName: aggregator_ingest}}}}"
    path.write_text(f"downsample:\n  remoteAggregator: {{client: {client}}}\n  rules:\n{rules}")
    section = load_coordinator([path]).value.downsample
    assert section is not None
    assert section.rules is not None
    return rule_set_of(section.rules, 7)


def test_rules_as_documented(tmp_path: Path) -> None:
    rule_set = load(
        tmp_path,
        f"""
    mappingRules:
      - {{filter: "app:nginx*", aggregations: [max, P99], {POLICY}, tags: [{{name: dc, value: y}}]}}
      - {{name: noise, filter: "app:noise", drop: true, aggregations: [Sum]}}
    rollupRules:
      - filter: "__name__:http_requests"
        transforms:
          - transform: {{type: PerSecond}}
          - rollup: {{metricName: "{{{{ .MetricName }}}}:sum", excludeBy: [pod, host], aggregations: [Sum]}}
        {POLICY}
      - {{name: g, transforms: [{{aggregate: {{type: last}}}}, {{rollup: {{metricName: new, groupBy: [b, a]}}}}]}}
""",
    )
    kept, noise = (rule.snapshots[0] for rule in rule_set.mapping_rules)
    assert (kept.name, kept.cutover_ns, kept.tags) == ("mappingRules[0]", 7, ((b"dc", b"true"),))
    assert kept.aggregation_id == compress([AggregationType.MAX, AggregationType.P99])
    assert [str(policy) for policy in kept.storage_policies] == ["10s:2d"]
    assert (noise.name, noise.drop_policy, noise.aggregation_id) == ("noise", DropPolicy.IF_ONLY_MATCH, 0)
    rate, last = (rule.snapshots[0].targets[0] for rule in rule_set.rollup_rules)
    sum_of = compress([AggregationType.SUM])
    assert rate.ops == (
        TransformationOp(TransformationType.PER_SECOND),
        RollupRuleOp(b"{{ .MetricName }}:sum", (b"host", b"pod"), sum_of, True),
    )
    assert last.ops == (AggregateOp(AggregationType.LAST), RollupRuleOp(b"new", (b"a", b"b")))
    assert last.storage_policies == ()


@pytest.mark.parametrize(
    ("rule", "line", "expected"),
    [
        (f"mappingRules: [{{filter: 'a', {POLICY}}}]", 4, ["mappingRules[0].filter: ", "like app:nginx* env:prod"]),
        (f"mappingRules: [{{filter: 'a:*b*c', {POLICY}}}]", 4, ["mappingRules[0].filter: ", "pattern *b*c for tag a"]),
        ("mappingRules: [{filter: 'a:b'}]", 4, ["mappingRules[0]: storagePolicies is required"]),
        (
            f"mappingRules: [{{drop: true, {POLICY}}}]",
            4,
            ["mappingRules[0]: drop and storagePolicies exclude each other"],
        ),
        ("mappingRules: [{storagePolicies: [{retention: 6h}]}]", 4, ["storagePolicies[0].resolution: ", "missing"]),
        ("mappingRules: [{storagePolicies: [{resolution: 0s, retention: 6h}]}]", 4, ["longer than zero"]),
        (f"mappingRules: [{{aggregations: [Sum, Avg], {POLICY}}}]", 4, ["aggregations[1]: ", "Avg", "SumSq"]),
        (
            f"mappingRules:\n    - {{name: one, {POLICY}}}\n    - {{name: one, {POLICY}}}",
            6,
            ["mappingRules[1].name: 'one'"],
        ),
        ("rollupRules:\n    - filter: 'a:b'", 5, ["rollupRules[0]: transforms is required"]),
        ("rollupRules: [{transforms: [{}]}]", 4, ["transforms[0]: expected exactly one of"]),
        (
            "rollupRules: [{transforms: [{aggregate: {type: Sum}, transform: {type: Add}}]}]",
            4,
            ["transforms[0]: expected exactly one of"],
        ),
        ("rollupRules: [{transforms: [{transform: {type: add}}]}]", 4, ["transform.type: ", "Absolute, PerSecond"]),
        ("rollupRules: [{transforms: [{rollup: {groupBy: [a]}}]}]", 4, ["rollup.metricName: ", "missing"]),
        ("rollupRules: [{transforms: [{rollup: {metricName: ''}}]}]", 4, ["rollup.metricName: the new metric needs"]),
        (
            "rollupRules: [{transforms: [{rollup: {metricName: '{{.Name}}'}}]}]",
            4,
            ["metricName: ", "{{ .MetricName }}"],
        ),
        (
            "rollupRules: [{transforms: [{rollup: {metricName: n, groupBy: [a], excludeBy: [b]}}]}]",
            4,
            ["rollup: groupBy and excludeBy exclude each other"],
        ),
        ("mapingRules: []", 4, ["did you mean 'mappingRules'"]),
    ],
)
def test_mistakes(tmp_path: Path, rule: str, line: int, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"    {rule}\n")
    (problem,) = caught.value.problems
    assert problem.startswith(f"{tmp_path}/rules.yml:{line}: downsample.rules")
    for text in expected:
        assert text in problem

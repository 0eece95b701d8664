"""The explanation of what becomes of a metric: as a document, as text, over HTTP."""

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from coordinator.config.cluster import Namespace
from coordinator.config.rules import (
    AggregateConfig,
    AggregationName,
    FilterText,
    MappingRuleConfig,
    MetricName,
    RollupConfig,
    RollupRuleConfig,
    RulePolicyConfig,
    RulesConfig,
    RuleTagConfig,
    StepConfig,
    TransformationName,
    TransformConfig,
)
from coordinator.downsample import Downsampler, RulesInEffect, rule_set_of
from coordinator.downsample.explain import MetricTextError, explain, parse_metric, render
from coordinator.downsample.routes import rules_routes
from m3x.config import Duration

SECOND = 10**9
POLICIES = [RulePolicyConfig(resolution=Duration(10 * SECOND), retention=Duration(48 * 3600 * SECOND))]
SUM = [AggregationName("Sum")]


def rollup(name: str, tags_filter: str, *steps: StepConfig) -> RollupRuleConfig:
    return RollupRuleConfig(
        name=name, filter=FilterText(tags_filter), transforms=list(steps), storage_policies=POLICIES
    )


RULES = RulesConfig(
    mapping_rules=[
        MappingRuleConfig(name="noise", filter=FilterText("app:noise*"), drop=True),
        MappingRuleConfig(
            name="web", filter=FilterText("app:web __name__:!x"), aggregations=SUM, storage_policies=POLICIES
        ),
    ],
    rollup_rules=[
        rollup(
            "rate",
            "__name__:requests_total",
            StepConfig(transform=TransformConfig(type=TransformationName("PerSecond"))),
            StepConfig(
                rollup=RollupConfig(metric_name=MetricName("requests_by_code"), group_by=["code"], aggregations=SUM)
            ),
        ),
        rollup(
            "never",
            "__name__:requests_total",
            StepConfig(rollup=RollupConfig(metric_name=MetricName("sum"), aggregations=SUM)),
            StepConfig(aggregate=AggregateConfig(type=AggregationName("Sum"))),
        ),
        rollup("all", "__name__:requests_total", StepConfig(rollup=RollupConfig(metric_name=MetricName("all")))),
    ],
)


@pytest.fixture
def downsampler() -> Downsampler:
    rules = RulesInEffect()
    rules.put("default", rule_set_of(RULES, 1))
    return Downsampler([Namespace("agg", 10 * SECOND, 48 * 3600 * SECOND)], rules, now_ns=2)


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("up", [(b"__name__", b"up")]),
        (' up{host="a b", code=200} ', [(b"__name__", b"up"), (b"host", b"a b"), (b"code", b"200")]),
        ('{a="x\\"y,z",b=}', [(b"a", b'x"y,z'), (b"b", b"")]),
        ("name{}", [(b"__name__", b"name")]),
        ("name{a=b,}", [(b"__name__", b"name"), (b"a", b"b")]),
    ],
)
def test_metrics_as_text(text: str, tags: list[tuple[bytes, bytes]]) -> None:
    assert parse_metric(text) == tags


@pytest.mark.parametrize("text", ["", "{}", "a b", "a{b}", 'a{b="c}', "a{b=c", "a{=c}"])
def test_what_is_no_metric(text: str) -> None:
    with pytest.raises(MetricTextError):
        parse_metric(text)


def test_a_rollup(downsampler: Downsampler) -> None:
    document = explain(downsampler, parse_metric("requests_total{host=a,code=200}"))
    rules: dict[str, dict[str, Any]] = {rule["name"]: rule for rule in document["rules"]}
    assert [name for name, rule in rules.items() if rule["matches"]] == ["rate", "never", "all"]
    assert rules["noise"]["because"] == ["there is no tag app"]
    assert rules["web"]["because"] == ["there is no tag app"]
    (target,) = rules["rate"]["targets"]
    assert target["then"] == ["PerSecond", 'rollup to requests_by_code{__rollup__="true",code="200"}']
    assert rules["never"]["targets"] == [{"skipped": "aggregate is possible as the first operation only"}]
    # PerSecond goes with the metric itself: M3's default pipeline in front, the automatic mapping behind it.
    original, rolled = document["sent"]
    assert not original["rolledUp"]
    assert len(original["pipelines"]) == 3
    assert rolled["rolledUp"]
    assert rolled["metric"] == 'all{__rollup__="true"}'
    text = render(document)
    assert "3 of 5 rules match (namespace default)" in text
    assert "mapping rule 'noise': there is no tag app" in text
    assert "skipped: aggregate is possible" in text


def test_a_drop_rule(downsampler: Downsampler) -> None:
    document = explain(downsampler, parse_metric("x{app=noise1}"))
    assert document["drop"].startswith("dropped")
    assert document["sent"] == []
    assert "__name__ is 'x', wanted !x" in render(document)
    assert "Nothing is sent to the aggregators: a drop rule matches, and no rollup rule does." in render(document)


def test_what_m3_does_without_a_word(downsampler: Downsampler) -> None:
    mapping = [
        MappingRuleConfig(
            name=name, filter=FilterText("app:*"), storage_policies=POLICIES, tags=[RuleTagConfig(name="k", value=name)]
        )
        for name in ("one", "two")
    ]
    group = StepConfig(rollup=RollupConfig(metric_name=MetricName("new"), group_by=["zone"]))
    rules = RulesConfig(mapping_rules=mapping, rollup_rules=[rollup("by zone", "app:*", group)])
    downsampler.rules.put("default", rule_set_of(rules, 1))
    downsampler.advance(2)
    document = explain(downsampler, parse_metric("up{app=a}"))
    one, two, by_zone = document["rules"]
    assert "ignored" not in one
    assert "rule 'one' asks for the same" in two["ignored"]
    assert by_zone["targets"][0]["without"] == ["zone"]
    text = render(document)
    assert "ignored: rule 'one' asks for the same" in text
    assert "grouped without zone, which the metric does not have" in text


def test_the_explanation_is_what_happens(downsampler: Downsampler) -> None:
    tags = parse_metric("requests_total{host=a,code=200,app=web}")
    specs = downsampler.append(tags).specs
    assert len(explain(downsampler, tags)["sent"]) == len(specs)


async def test_over_http(downsampler: Downsampler) -> None:
    app = Starlette(routes=list(rules_routes(downsampler)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/api/v1/rules/match", params={"metric": "up{app=web}", "type": "counter"})
        assert answer.json()["matchedBy"]["__m3_type__"] == "counter"
        assert [rule["name"] for rule in answer.json()["rules"] if rule["matches"]] == ["web"]
        text = await client.get("/api/v1/rules/match", params={"metric": "up", "format": "text"})
        assert text.headers["content-type"].startswith("text/plain")
        for wrong in ({}, {"metric": "{"}, {"metric": "up", "type": "x"}, {"metric": "up", "promType": "x"}):
            refused = await client.get("/api/v1/rules/match", params=wrong)
            assert (refused.status_code, refused.json()["status"]) == (400, "error")


@pytest.mark.parametrize(
    ("namespaces", "no_aggregators", "expected"),
    [
        ([Namespace("agg", 10 * SECOND, 48 * 3600 * SECOND)], "no aggregators are configured", "no aggregators are"),
        ([Namespace("raw", 0, 48 * 3600 * SECOND)], None, "there is no aggregated namespace"),
        (
            [Namespace("agg", 10 * SECOND, 48 * 3600 * SECOND, downsample_all=False)],
            None,
            "no rule asks for it, and no namespace takes metrics without a rule",
        ),
    ],
)
def test_nothing_is_said_to_be_sent_where_nothing_can_be(
    namespaces: list[Namespace], no_aggregators: str | None, expected: str
) -> None:
    document = explain(Downsampler(namespaces, no_aggregators=no_aggregators), parse_metric("up"))
    assert document["sent"] == []
    assert document["unsent"].startswith(expected)
    assert f"Nothing is sent to the aggregators: {expected}" in render(document)

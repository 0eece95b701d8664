"""From tags to calls of the aggregator client, against ``golden/coordinator/appender.jsonl.gz``.

One deviation (docs/compatibility.md): M3 keeps the pipeline that says "drop" in one list for the whole process. Once a metric has been
dropped, its appender works *in* that list, so the first pipeline of the next metric overwrites it, and from then on a metric to be
dropped is sent with that pipeline instead. Which one depends on all metrics before it (a third of the captured rule sets is not in the
file); here a metric that is to be dropped is dropped.
"""

from typing import Any

import pytest
from tests.golden.vectors import Vector, lines, raw

from coordinator.config.cluster import Namespace
from coordinator.downsample import Downsampler, RulesInEffect
from m3cluster.proto import decode
from m3cluster.proto.rules import RULE_SET
from m3metrics.aggregation import compress, parse_type
from m3metrics.ids import Tags, coordinator_tags, encode_tags, matching_tags
from m3metrics.metadata import DropResult, PipelineMetadata, StagedMetadata, StagedMetadatas
from m3metrics.metric import parse_metric_type
from m3metrics.policy import UNITS, StoragePolicy
from m3metrics.rules import rule_set_from

VECTORS = list(lines("coordinator/appender.jsonl.gz"))
CAPTURED_NS = 1_790_000_000 * 10**9
"""Any time after all cutovers of the rule sets will do."""


def namespaces_of(listed: list[dict[str, Any]]) -> list[Namespace]:
    return [
        Namespace(
            str(index), n["resolution_seconds"] * 10**9, n["retention_seconds"] * 10**9, n["downsample_all"]
        )
        for index, n in enumerate(listed)
        if n["type"] == "aggregated"
    ]  # fmt: skip


def tags_of(listed: list[list[Any]]) -> Tags:
    return [(raw(name), raw(value)) for name, value in listed]


def override_of(rules: list[dict[str, Any]] | None) -> StagedMetadatas | None:
    if rules is None:
        return None
    pipelines = []
    for rule in rules:
        policies = [StoragePolicy.parse(text) for text in rule["policies"]]
        pipelines.append(
            PipelineMetadata(
                aggregation_id=compress(map(parse_type, rule["aggregations"])),
                storage_policies=tuple(StoragePolicy(p.window_ns, UNITS["s"], p.retention_ns) for p in policies),
            )
        )
    return (StagedMetadata(pipelines=tuple(pipelines)),)


def is_overwritten_drop(call: Vector) -> bool:
    """One pipeline where "drop" should be."""
    (stage,) = call["staged_metadatas"]["stages"]
    return len(stage["pipelines"]) == 1 and stage["pipelines"][0]["drop_policy"] == "NONE"


UNTIMED = {"counter": "untimed_counter", "timer": "untimed_batch_timer", "gauge": "untimed_gauge"}


@pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in VECTORS])
def test_appender(vector: Vector) -> None:
    rules = RulesInEffect()
    rules.put("default", rule_set_from(decode(RULE_SET, bytes.fromhex(vector["ruleset_hex"]))))
    downsampler = Downsampler(
        namespaces_of(vector["namespaces"]), rules, untimed_rollups=vector["untimed_rollups"], now_ns=CAPTURED_NS
    )
    for case in vector["cases"]:
        metric_type = parse_metric_type(case["m3_type"])
        tags = tags_of(case["tags_added"])
        override = override_of(case.get("override_mapping_rules"))
        appended = downsampler.append(
            tags, metric_type, case["prom_type"], metadatas=None if override is None else [override]
        )
        assert appended.drop_policy_applied == case["is_drop_policy_applied"]
        assert appended.drop_timestamp == case["should_drop_timestamp"]
        assert all(spec.metric_type == metric_type for spec in appended.specs)
        calls = case["calls"]
        matched = matching_tags(tags, case["m3_type"], case["prom_type"])
        if override is None and downsampler.decide(matched).drop_result is DropResult.APPLIED:
            own = encode_tags(coordinator_tags(matched)).hex()
            calls = [call for call in calls if not (call["id"] == own and is_overwritten_drop(call))]
        assert [
            (spec.id.hex(), spec.metadatas.hex(), UNTIMED[case["m3_type"]] if spec.untimed else "timed")
            for spec in appended.specs
        ] == [(call["id"], call["staged_metadatas"]["hex"], call["method"]) for call in calls]

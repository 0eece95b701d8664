"""Matching of rules against ``golden/coordinator/rules_match.jsonl.gz``."""

import json
from typing import Any

import pytest
from tests.golden.vectors import Vector, lines, raw

from m3cluster.proto import decode, parse_json
from m3cluster.proto.rules import RULE_SET
from m3metrics.codec import encode_staged_metadatas
from m3metrics.ids import Tags, encode_tags
from m3metrics.rules import ActiveRuleSet, MatchedStage, RulesError, rule_set_from, staged_metadatas, stages_at

RULES_MATCH = "coordinator/rules_match.jsonl.gz"
VECTORS = list(lines(RULES_MATCH))


def named(wanted: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in VECTORS if wanted in vector]


def check_stages(stages: tuple[MatchedStage, ...], expected: Vector) -> None:
    assert encode_staged_metadatas(staged_metadatas(stages)).hex() == expected["hex"]
    unseen = expected.get("in_memory_tags_per_stage_and_pipeline")
    if unseen is not None:
        found = [
            [
                {
                    "graphite_prefix": list(pipeline.graphite_prefix),
                    "tags": [list(tag) for tag in pipeline.tags],
                }
                for pipeline in stage.pipelines
            ]
            for stage in stages
        ]
        assert found == [
            [
                {
                    "graphite_prefix": [raw(part) for part in pipeline["graphite_prefix"] or []],
                    "tags": [[raw(name), raw(value)] for name, value in pipeline["tags"]],
                }
                for pipeline in stage
            ]
            for stage in unseen
        ]


def tags_of(listed: list[list[Any]]) -> Tags:
    return [(raw(name), raw(value)) for name, value in listed]


@pytest.mark.parametrize("vector", named("active_set_at"))
def test_matching(vector: Vector) -> None:
    message = decode(RULE_SET, bytes.fromhex(vector["ruleset_hex"]))
    assert message == parse_json(RULE_SET, json.dumps(vector["ruleset"]))
    active = ActiveRuleSet(rule_set_from(message), vector["active_set_at"])
    for case in vector["cases"]:
        tags = tags_of(case["tags"])
        assert encode_tags(tags).hex() == case["id"]
        result = active.match(tags, case["from"], case["to"])
        check_stages(result.existing, case["for_existing_id"])
        at_from = stages_at(result.existing, case["from"])
        assert (len(at_from) == 1 and at_from[0].is_default) == case["for_existing_id_at_from_is_default"]
        if "for_existing_id_at_to_minus_1" in case:
            check_stages(stages_at(result.existing, case["to"] - 1), case["for_existing_id_at_to_minus_1"])
        assert [match.id.hex() for match in result.rollups] == [new["id"] for new in case["new_rollup_ids"]]
        for match, new in zip(result.rollups, case["new_rollup_ids"], strict=True):
            check_stages(match.stages, new["staged_metadatas"])
        assert result.keep_original == case["keep_original"]
        assert result.expire_at_ns == int(case["expire_at_nanos"])


@pytest.mark.parametrize("vector", named("load_error"))
def test_a_rule_set_that_cannot_be_loaded(vector: Vector) -> None:
    with pytest.raises(RulesError, match=vector["load_error"]):
        rule_set_from(decode(RULE_SET, bytes.fromhex(vector["ruleset_hex"])))

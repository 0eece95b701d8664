"""Messages for the aggregators, byte for byte as the real coordinator sent them (golden/coordinator/write_to_m3msg.jsonl)."""

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import cramjam
import httpx
import numpy as np
import pytest
import yaml
from starlette.applications import Starlette

from coordinator.config.carbon import (
    AggregationConfig,
    CarbonIngesterConfig,
    CarbonPolicyConfig,
    CarbonRewriteConfig,
    CarbonRuleConfig,
)
from coordinator.config.cluster import Namespace
from coordinator.config.coordinator import TagOptionsConfig
from coordinator.downsample import Downsampler
from coordinator.write import CarbonIngester, RemoteWriter, SeriesCache, remote_write_routes
from coordinator.write.carbon_rules import CarbonRulesError, compile_rules
from coordinator.write.direct import DirectSeries
from coordinator.write.prompb import WRITE_REQUEST
from m3metrics.codec.wire import marshal
from m3metrics.policy import StoragePolicy, parse_duration
from m3msg.batch import MessageBatch
from m3x.config import Duration
from m3x.instrument import Registry

GOLDEN = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parents[4] / "shared" / "golden")) / "coordinator"
VECTORS = GOLDEN / "write_to_m3msg.jsonl"

COVERED = {
    # config → kinds of input judged here
    "no_rules": {"prom_remote_write"},
    "no_rules_multi": {"prom_remote_write"},
    "no_aggregated_namespace": {"prom_remote_write"},
    "m3db_dynamic": {"prom_remote_write", "carbon"},
    "carbon_default": {"carbon"},
    "carbon_cleanup": {"carbon"},
    "carbon_types": {"carbon"},
    "carbon_rules": {"carbon"},
    "carbon_no_policies": {"carbon"},
    "carbon_bad_rule_policy": {"carbon"},
    "carbon_repeated_policy": {"carbon"},
    "carbon_direct_two_resolutions": {"carbon"},
}
NOT_YET_COVERED = {
    "need mapping or rollup rules": "auto_mapping_off mapping_* rollup* tag_options matcher_namespace_tag default_namespace_tag "
    "mixed_many_rules bad_* kv_rules_*; of m3db_dynamic the inputs whose app tag a rule matches",
    "need the influx and json writers": "influx_write and json_write inputs of all configs",
}
RULES_DECIDE = ("drop", "nons")
"""``app`` values that a rule of m3db_dynamic matches."""
OTHER_TEXT = {
    # The status is M3's, the text is not: Go's JSON reader, M3DB's refusal of old samples, the prom-remote backend.
    "invalid character 'o' in literal null",
    "failed to meet consistency level",
    "count=3, last=tag name empty",
    "write did not match any of known endpoints",
}

pytestmark = pytest.mark.skipif(not VECTORS.exists(), reason=f"golden vectors are missing: {VECTORS}")


class Recorder:
    """Plays the ingest topic, with the 64 shards of the capture."""

    def __init__(self) -> None:
        self.messages: Counter[tuple[int, str]] = Counter()

    def ready(self, nbytes: int) -> int | None:
        return 64

    async def admit(self, nbytes: int) -> int:
        return 64

    def produce(self, batch: MessageBatch) -> bool:
        for i, shard in enumerate(batch.shards):
            data = batch.payload[batch.offsets[i] : batch.offsets[i + 1]].tobytes()
            self.messages[(int(shard), data.hex())] += 1
        return True


class Storage:
    """Plays storage: takes what there is a namespace for."""

    def __init__(self, namespaces: list[Namespace]) -> None:
        self._known = {(n.resolution_ns, n.retention_ns) for n in namespaces if n.aggregated}
        self.written: list[tuple[str, DirectSeries]] = []

    def accepts(self, policy: StoragePolicy | None) -> bool:
        return policy is None or (policy.window_ns, policy.retention_ns) in self._known

    async def write(self, policy: StoragePolicy | None, series: list[DirectSeries]) -> list[tuple[int, str]]:
        self.written += [(str(policy), one) for one in series]
        return []


def _cases() -> list[Any]:
    cases = []
    if not VECTORS.exists():
        return cases
    for number, line in enumerate(VECTORS.read_text().splitlines(), 1):
        case = json.loads(line)
        kind = case.get("input", {}).get("kind")
        if kind in COVERED.get(case["config"], ()):
            series = case["input"].get("series") or []
            if case["config"] == "m3db_dynamic" and any(
                ["app", value] in one["labels"] for one in series for value in RULES_DECIDE
            ):
                continue
            cases.append(pytest.param(case, id=f"{case['config']}-{number}"))
    return cases


def _config(name: str) -> dict[str, Any]:
    text = (GOLDEN / "configs" / f"{name}.yml").read_text()
    # One file format of the capture lost a line break: repeat of two lines before "downsample:".
    text = re.sub(r"^downsample: \{all: false\}\}\n(?:      - .*\n)+(?=downsample:)", "", text, flags=re.M)
    document: dict[str, Any] = yaml.load(text, Loader=yaml.BaseLoader)
    return document


def _namespaces(config: dict[str, Any]) -> list[Namespace]:
    if "prometheusRemoteBackend" in config:
        sections = [
            e.get("storagePolicy") | {"name": e["name"]}
            for e in config["prometheusRemoteBackend"]["endpoints"]
            if "storagePolicy" in e
        ]
    elif "clusters" in config:
        sections = [
            n | {"name": n["namespace"]}
            for c in config["clusters"]
            for n in c["namespaces"]
            if n["type"] == "aggregated"
        ]
    else:
        sections = [{"name": "agg", "resolution": "10s", "retention": "6h"}]
    return [
        Namespace(
            s["name"], parse_duration(s["resolution"]), parse_duration(s["retention"]),
            s.get("downsample", {}).get("all", "true") == "true",
        )
        for s in sections
    ]  # fmt: skip


def _carbon(config: dict[str, Any]) -> CarbonIngesterConfig:
    section = config["carbon"]["ingester"]
    rules = (
        [
            CarbonRuleConfig(
                pattern=rule.get("pattern", ""),
                contains=rule.get("contains", ""),
                continue_=rule.get("continue") == "true",
                aggregation=AggregationConfig(
                    enabled=rule.get("aggregation", {}).get("enabled", "true") == "true",
                    type=rule.get("aggregation", {}).get("type", "mean"),
                ),
                policies=[
                    CarbonPolicyConfig(
                        resolution=Duration(parse_duration(p["resolution"])),
                        retention=Duration(parse_duration(p["retention"])),
                    )
                    for p in rule.get("policies", [])
                ],
            )
            for rule in section["rules"]
        ]
        if "rules" in section
        else None
    )
    cleanup = section.get("rewrite", {}).get("cleanup") == "true"
    return CarbonIngesterConfig(rewrite=CarbonRewriteConfig(cleanup=cleanup), rules=rules)


def _body(source: dict[str, Any]) -> bytes:
    if source["body_hex"] is not None:
        return bytes.fromhex(source["body_hex"])
    if not source.get("series"):
        return b""
    labels = [
        {"name": n.encode(), "value": b"v" * 65536 if "*" in v else v.encode()}
        for n, v in source["series"][0]["labels"]
    ]
    request = {"timeseries": [{"labels": labels, "samples": [{"value": 1.5, "timestamp": 1_700_000_000_000}]}]}
    return bytes(cramjam.snappy.compress_raw(marshal(WRITE_REQUEST, request)))


@pytest.mark.parametrize("case", _cases())
async def test_messages_and_answers_are_those_of_m3(case: dict[str, Any]) -> None:
    config = _config(case["config"])
    namespaces = _namespaces(config)
    recorder, storage = Recorder(), Storage(namespaces)
    downsampler, cache = Downsampler(namespaces), SeriesCache(2048, 8 << 20)
    scope = Registry().scope("test")
    source = case["input"]
    if source["kind"] == "carbon":
        carbon = _carbon(config)
        try:
            rules = compile_rules(carbon, namespaces)
        except CarbonRulesError:
            # M3 starts without any rule and sends nothing.
            rules = []
        ingester = CarbonIngester(
            rules, downsampler, cache, recorder, scope, cleanup=carbon.rewrite.cleanup, direct=storage
        )
        data = np.frombuffer(bytearray(bytes.fromhex(source["sent_hex"]) + b"\n"), np.uint8)
        await ingester.ingest(data)
    else:
        writer = RemoteWriter(
            downsampler, cache, recorder, scope,
            tag_options=TagOptionsConfig(), store_metrics_type=config.get("storeMetricsType") == "true", direct=storage,
        )  # fmt: skip
        app = Starlette(routes=list(remote_write_routes(writer)))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            answer = await client.post(
                "/api/v1/prom/remote/write", content=_body(source), headers=source["headers"] or {}
            )
        want = case["status"]
        if any(text in want["body"] for text in OTHER_TEXT):
            if "consistency" not in want["body"]:
                assert answer.status_code == want["code"], answer.text
        else:
            assert (answer.status_code, answer.text) == (want["code"], want["body"])
    assert recorder.messages == Counter((m["shard"], m["hex"]) for m in case["messages"])

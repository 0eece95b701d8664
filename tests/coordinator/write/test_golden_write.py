"""Messages for the aggregators, byte for byte as the real coordinator sent them (golden/coordinator/write_to_m3msg.jsonl)."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import cramjam
import httpx
import numpy as np
import pytest
import yaml
from msgspec.structs import replace
from starlette.applications import Starlette
from tests.golden.vectors import REQUIRED, ROOT

from coordinator.config.carbon import (
    AggregationConfig,
    CarbonIngesterConfig,
    CarbonPolicyConfig,
    CarbonRewriteConfig,
    CarbonRuleConfig,
)
from coordinator.config.cluster import Namespace
from coordinator.config.coordinator import CoordinatorConfig, load_coordinator
from coordinator.downsample import Downsampler, RulesInEffect, rule_set_of
from coordinator.prompb import WRITE_REQUEST
from coordinator.sinks import SeriesTable, Values
from coordinator.write import CarbonIngester, RemoteWriter, SeriesCache, remote_write_routes, sender_routes
from coordinator.write.carbon_rules import CarbonRulesError, compile_rules
from coordinator.write.direct import RefusedSample
from m3cluster.proto import decode
from m3cluster.proto.rules import RULE_SET
from m3metrics.codec import (
    ForwardedMetricWithMetadata,
    TimedMetricWithMetadata,
    TimedMetricWithStoragePolicy,
    decode_metric,
    encode_metric,
)
from m3metrics.ids import decode_tags
from m3metrics.policy import StoragePolicy, parse_duration
from m3metrics.rules import rule_set_from
from m3msg.batch import MessageBatch
from m3x.config import ConfigError, Duration
from m3x.golang import go_duration
from m3x.instrument import Registry
from m3x.protobuf import marshal

GOLDEN = ROOT / "coordinator"
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
RULES = (
    "auto_mapping_off mapping_basic mapping_drop mapping_filters mapping_tags rollup rollup_cached_matcher rollup_untimed tag_options "
    "rollup_empty_policies_and_bad_second_target matcher_namespace_tag default_namespace_tag mixed_many_rules "
    "kv_rules_0 kv_rules_3 kv_rules_4 kv_rules_7 kv_rules_9 kv_rules_15 kv_rules_19 kv_rules_24"
)
COVERED |= {config: {"prom_remote_write"} for config in RULES.split()}
OTHER_SENDERS = {"influx_write": "/api/v1/influxdb/write", "json_write": "/api/v1/json/write"}
"""Kinds of input that are judged with every configuration."""
LOOSE = re.compile(rb"[\t\v\f]|^ | \r?$|\r(?!$)| [+-]?(?:[0-9]+[.eE]|\.[0-9])[^ ]*\r?$", re.MULTILINE)
"""Lines with tabs, with blanks in front or behind, with fractions of seconds (docs/compatibility.md, Graphite)."""
START_NS = 1_695_000_000_000_000_000
"""Cutover of the rules of a file: any time before now."""
OTHER_TEXT = {
    # The status is M3's, the text is not: Go's JSON reader, M3DB's refusal of old samples, the prom-remote backend.
    "invalid character 'o' in literal null",
    "failed to meet consistency level",
    "count=3, last=tag name empty",
    "write did not match any of known endpoints",
}

pytestmark = pytest.mark.skipif(not VECTORS.exists() and not REQUIRED, reason=f"golden vectors are missing: {VECTORS}")


class Recorder:
    """Plays the ingest topic, with the 64 shards of the capture."""

    largest_message = 1 << 20
    largest_batch = 100 << 20

    def __init__(self) -> None:
        self.messages: Counter[tuple[int, str]] = Counter()

    def ready(self, nbytes: int) -> int | None:
        return 64

    async def admit(self, nbytes: int) -> int:
        return 64

    def produce(self, batch: MessageBatch) -> bool:
        for i, shard in enumerate(batch.shards):
            data = batch.payload[batch.offsets[i] : batch.offsets[i + 1]].tobytes()
            self.messages[(int(shard), _start_zeroed(data))] += 1
        return True


class Storage:
    """Plays storage: takes what there is a namespace for."""

    def __init__(self, namespaces: list[Namespace]) -> None:
        self._known = {(n.resolution_ns, n.retention_ns) for n in namespaces if n.aggregated}
        self.table = SeriesTable()
        self.written: list[Values] = []

    def refusal(self, policy: StoragePolicy | None) -> str | None:
        if policy is None or (policy.window_ns, policy.retention_ns) in self._known:
            return None
        retention, resolution = go_duration(policy.retention_ns), go_duration(policy.window_ns)
        return f"no configured cluster namespace for: retention={retention}, resolution={resolution}"

    async def write(self, batch: Values, *, patient: bool = False) -> list[RefusedSample]:
        self.written.append(batch)
        return []


def _cases() -> list[Any]:
    cases = []
    if not VECTORS.exists() and not REQUIRED:
        return cases
    for number, line in enumerate(VECTORS.read_text().splitlines(), 1):
        case = json.loads(line)
        kind = case.get("input", {}).get("kind")
        if kind in OTHER_SENDERS or kind in COVERED.get(case["config"], ()):
            cases.append(pytest.param(case, id=f"{case['config']}-{number}"))
    return cases


def _text(name: str) -> str:
    text = (GOLDEN / "configs" / f"{name}.yml").read_text()
    # One file format of the capture lost a line break: repeat of two lines before "downsample:".
    return re.sub(r"^downsample: \{all: false\}\}\n(?:      - .*\n)+(?=downsample:)", "", text, flags=re.M)


def _config(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.load(_text(name), Loader=yaml.BaseLoader)
    return document


def _load(name: str, directory: Path) -> CoordinatorConfig:
    """The file as the coordinator reads it. Raises ``ConfigError``."""
    path = directory / f"{name}.yml"
    path.write_text(_text(name))
    return load_coordinator([path]).value


def _load_but_for_carbon_rules(name: str, directory: Path) -> CoordinatorConfig:
    """The file, without the carbon rules that cannot work, which M3 starts without."""
    try:
        return _load(name, directory)
    except ConfigError as error:
        assert all(": carbon.ingester.rules[" in problem for problem in error.problems)
        without = directory / "without.yml"
        without.write_text("carbon: {ingester: {rules: []}}")
        return load_coordinator([directory / f"{name}.yml", without]).value


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


def _downsampler(name: str, config: CoordinatorConfig, namespaces: list[Namespace]) -> Downsampler:
    section = config.downsample
    assert section is not None
    rules = RulesInEffect()
    if section.rules is not None:
        rules.put("default", rule_set_of(section.rules, START_NS))
    stored = GOLDEN / "configs" / f"{name}.ruleset.json"
    if stored.exists():
        assert section.rules is None
        rules.put(
            "default", rule_set_from(decode(RULE_SET, bytes.fromhex(json.loads(stored.read_text())["ruleset_hex"])))
        )
    return Downsampler(
        namespaces, rules, namespace_tag=section.matcher.namespace_tag, untimed_rollups=section.untimed_rollups
    )


def _start_zeroed(data: bytes) -> str:
    """The message with 0 in place of this coordinator's start."""
    metric = decode_metric(data)
    assert not isinstance(metric, ForwardedMetricWithMetadata | TimedMetricWithMetadata | TimedMetricWithStoragePolicy)
    if all(stage.cutover_ns != START_NS for stage in metric.metadatas):
        return data.hex()
    stages = tuple(
        replace(stage, cutover_ns=0) if stage.cutover_ns == START_NS else stage for stage in metric.metadatas
    )
    return encode_metric(replace(metric, metadatas=stages)).hex()


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


BAD = sorted(path.stem for path in GOLDEN.glob("configs/bad_*.yml"))


@pytest.mark.parametrize("name", BAD)
def test_configurations_that_cannot_work_are_refused(name: str, tmp_path: Path) -> None:
    """M3 refuses most of them; the others it loads with an error in the log, and then no rule is in effect (docs/compatibility.md).

    Carbon beside a backend other than M3DB is refused by M3 and works here (docs/compatibility.md).
    """
    try:
        loaded = _load(name, tmp_path)
        problems = loaded.unsupported()
        if loaded.backend == "prom-remote" and loaded.carbon.ingester is not None:
            assert not problems
            return
    except ConfigError as error:
        problems = error.problems
        assert all(re.match(rf"{re.escape(str(tmp_path))}/{name}\.yml:\d+: \w", problem) for problem in problems)
    assert problems


def _plain(line: bytes) -> bytes:
    """The words of a carbon line, and the whole seconds of its time."""
    words = line.split()
    if words and re.fullmatch(rb"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][+-]?[0-9]{1,2})?", words[-1]):
        words[-1] = b"%d" % float(words[-1])
    return b" ".join(words)


def _influx_differs(source: dict[str, Any]) -> int | None:
    """The status, where it is not M3's on purpose (docs/compatibility.md, Writes in InfluxDB's line protocol, and in JSON)."""
    for line in source["body"].splitlines():
        head, _, fields = line.partition(" ")
        if "=" not in fields:
            return 400
        tags = [re.sub(r"\W", "_", tag.partition("=")[0], flags=re.ASCII) for tag in head.split(",")[1:]]
        if len(set(tags)) < len(tags):
            return 400
        if not tags:
            return 204
    return None


def _stored(storage: Storage) -> list[tuple[list[list[str]], float, int]]:
    """What went straight to storage: labels, value, time in ms."""
    return sorted(
        ([[name.decode(), text.decode()] for name, text in decode_tags(values.table.id(int(series)))], value, time // 1_000_000)
        for values in storage.written
        for series, value, time in zip(values.series, values.values.tolist(), values.time_ns.tolist(), strict=True)
    )  # fmt: skip


async def _judge_other_sender(case: dict[str, Any], app: Starlette, recorder: Recorder, storage: Storage) -> None:
    source, want = case["input"], case["status"]
    path = f"{OTHER_SENDERS[source['kind']]}?{source.get('query') or ''}"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.post(path, content=source["body"], headers=source.get("headers") or {})
    messages = Counter((m["shard"], m["decoded"].get("hex_cutover_zeroed", m["hex"])) for m in case["messages"])
    if source["kind"] == "json_write":
        # It is aggregated here; the texts of a broken document are another decoder's.
        assert answer.status_code == want["code"]
        assert bool(recorder.messages) == (want["code"] == 200)
    elif (status := _influx_differs(source)) is not None:
        assert (answer.status_code, bool(recorder.messages)) == (status, status == 204)
        return
    else:
        # Storage that is played refuses nothing.
        if "failed to meet consistency level" not in want["body"]:
            assert (answer.status_code, answer.text) == (want["code"], want["body"])
        unaggregated = (source.get("headers") or {}).get("M3-Metrics-Type") == "unaggregated"
        # M3 does not look at that header here.
        assert recorder.messages == (Counter() if unaggregated else messages)
    written = [one for request in case.get("direct_writes") or [] for one in request["series"]]
    if "direct_writes" in case:
        direct = [(sorted(one["labels"]), value, time) for one in written for value, time in one["samples"]]
        assert _stored(storage) == sorted(direct)


@pytest.mark.parametrize("case", _cases())
async def test_messages_and_answers_are_those_of_m3(case: dict[str, Any], tmp_path: Path) -> None:
    config, loaded = _config(case["config"]), _load_but_for_carbon_rules(case["config"], tmp_path)
    namespaces = _namespaces(config)
    recorder, storage = Recorder(), Storage(namespaces)
    downsampler, cache = _downsampler(case["config"], loaded, namespaces), SeriesCache(2048, 8 << 20)
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

        async def ingested(lines: bytes) -> Counter[tuple[int, str]]:
            recorder.messages.clear()
            await ingester.ingest(np.frombuffer(bytearray(lines + b"\n"), np.uint8))
            return recorder.messages.copy()

        sent = bytes.fromhex(source["sent_hex"])
        if LOOSE.search(sent):
            # Lines that only carbon itself reads are the plain lines of their words.
            assert await ingested(sent) == await ingested(b"\n".join(map(_plain, sent.split(b"\n"))))
            return
        await ingested(sent)
    else:
        writer = RemoteWriter(
            downsampler, cache, recorder, scope,
            tag_options=loaded.tag_options, store_metrics_type=loaded.store_metrics_type, direct=storage,
        )  # fmt: skip
        app = Starlette(routes=[*remote_write_routes(writer), *sender_routes(writer, scope)])
        if source["kind"] in OTHER_SENDERS:
            await _judge_other_sender(case, app, recorder, storage)
            return
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
    assert recorder.messages == Counter(
        (m["shard"], m["decoded"].get("hex_cutover_zeroed", m["hex"])) for m in case["messages"]
    )

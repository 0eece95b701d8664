"""A dry run of changed rules: from the series that remote writes have brought to what the command says."""

import asyncio
import io
import json
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cramjam
import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from coordinator import cli
from coordinator.config import load_coordinator
from coordinator.downsample import Downsampler, RulesInEffect, rule_set_of
from coordinator.downsample.routes import rule_sets_route
from coordinator.prompb import WRITE_REQUEST
from coordinator.write import (
    CarbonIngester,
    Remembered,
    RemoteWriter,
    SeriesCache,
    remembered_route,
    remote_write_routes,
)
from coordinator.write.carbon_rules import CarbonRule, rules_in
from coordinator.write.remembered import PAGE, PATH, Page
from m3cluster.proto import encode, parse_json
from m3cluster.proto.rules import RULE_SET
from m3msg.batch import MessageBatch
from m3x.instrument import Registry
from m3x.protobuf import marshal

HEAD = """
listenAddress: 127.0.0.1:7201
clusters: [{namespaces: [{namespace: agg, type: aggregated, resolution: 10s, retention: 6h, downsample: {all: false}}]}]
downsample:
  remoteAggregator: {client: {type: m3msg, m3msg: {producer: {writer: {topicName: t}}}}}
  rules:
    rollupRules:
"""
ROLLUP = """    - name: {name}
      filter: "__name__:{metric}"
      transforms: [{{rollup: {{metricName: {made}, groupBy: [{tag}], aggregations: [Sum]}}}}]
      storagePolicies: [{{resolution: 10s, retention: 6h}}]
"""
CARBON = """carbon:
  ingester:
    listenAddress: 127.0.0.1:7204
    rules:
      - {pattern: "^web[.]", aggregation: {type: sum}, policies: [{resolution: 10s, retention: 6h}]}
      - {contains: "db.", aggregation: {enabled: false}, policies: [{resolution: 10s, retention: 6h}]}
"""
WITHOUT_RULES = HEAD.replace("  rules:\n    rollupRules:\n", "")
"""A file that leaves rules to the KV."""


def rule_set(**fields: Any) -> dict[str, Any]:
    """One mapping rule, as M3 writes a rule set in JSON."""
    snapshot = {
        "name": "kept", "filter": "__name__:requests", "aggregationTypes": ["MAX"],
        "storagePolicies": [
            {"resolution": {"windowSize": "10000000000", "precision": "1000000000"}, "retention": {"period": "21600000000000"}}
        ],
    }  # fmt: skip
    return {"namespace": "default", "mappingRules": [{"uuid": "u", "snapshots": [snapshot | fields]}]}


IN_KV = rule_set()
NOW = HEAD + ROLLUP.format(name="by code", metric="requests", made="by_code", tag="code")


class Sink:
    """Takes every message."""

    largest_message = 1 << 20
    largest_batch = 100 << 20

    def ready(self, nbytes: int) -> int | None:
        return 64

    async def admit(self, nbytes: int) -> int:
        return 64

    def produce(self, batch: MessageBatch) -> bool:
        return True


def write_request(*series: dict[str, str]) -> bytes:
    """Snappy, as Prometheus sends it."""
    rows: list[dict[str, Any]] = [
        {
            "labels": [{"name": name.encode(), "value": value.encode()} for name, value in sorted(labels.items())],
            "samples": [{"value": 1.0, "timestamp": 1_700_000_000_000}],
        }
        for labels in series
    ]
    return bytes(cramjam.snappy.compress_raw(marshal(WRITE_REQUEST, {"timeseries": rows})))


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A coordinator's write path with the rules of ``NOW``, as far as it is asked here."""
    file = tmp_path / "now.yml"
    file.write_text(NOW)
    config = load_coordinator([file]).value
    assert config.downsample is not None
    assert config.downsample.rules is not None
    rules = RulesInEffect()
    rules.put("default", rule_set_of(config.downsample.rules, 1))
    downsampler, cache = Downsampler.of(config, rules, 2), SeriesCache(2048, 8 << 20)
    writer = RemoteWriter(downsampler, cache, Sink(), Registry().scope("test"))
    carbon = CarbonIngester(carbon_rules(tmp_path, CARBON), downsampler, cache, Sink(), Registry().scope("carbon"))
    lines = b"".join(b"%s 1 1700000000\n" % path for path in (b"web.a.hits", b"web.b.hits", b"db.a.size", b"else.a"))
    await carbon.ingest(np.frombuffer(bytearray(lines), np.uint8))
    stored = {"default": (3, encode(RULE_SET, parse_json(RULE_SET, json.dumps(IN_KV))))}
    remembered = Remembered(writer, cache, downsampler, lambda: carbon)

    async def page(after: int) -> Page:
        return remembered.page(after)

    routes = [
        *remote_write_routes(writer),
        remembered_route(page),
        rule_sets_route(lambda: stored),
    ]
    app = Starlette(routes=routes)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:7201") as found:
        yield found


def carbon_rules(directory: Path, text: str) -> list[CarbonRule]:
    """Those of a file."""
    file = directory / "carbon.yml"
    file.write_text(HEAD + ROLLUP.format(name="r", metric="m", made="n", tag="t") + text)
    return rules_in(load_coordinator([file]).value)


@pytest.fixture
async def dry_run(
    client: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """What the command prints for a file, and its exit code."""
    loop = asyncio.get_running_loop()

    def fetch(_opener: object, request: urllib.request.Request, timeout: float) -> io.BytesIO:
        return io.BytesIO(asyncio.run_coroutine_threadsafe(client.get(request.full_url), loop).result(timeout).content)

    async def run(text: str, *rule_sets: str) -> tuple[int, list[str], str]:
        file = tmp_path / "changed.yml"
        file.write_text(text)
        arguments = ["-f", str(file), "--explain-rules"]
        for number, rule_set in enumerate(rule_sets):
            (tmp_path / f"{number}.json").write_text(rule_set)
            arguments += ["--rule-set", str(tmp_path / f"{number}.json")]
        status = await asyncio.to_thread(cli.main, arguments)
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    monkeypatch.setattr("urllib.request.OpenerDirector.open", fetch)
    return run


async def write(client: httpx.AsyncClient, *series: dict[str, str]) -> None:
    body = write_request(*series)
    for _ in range(2):
        assert (await client.post("/api/v1/prom/remote/write", content=body)).status_code == 200


async def test_a_dry_run_tells_what_changes(client: httpx.AsyncClient, dry_run: Any) -> None:
    requests = [
        {"__name__": "requests", "code": str(200 + n % 2), "host": f"h{n % 3}", "n": str(n)} for n in range(PAGE + 50)
    ]
    await write(client, *requests, {"__name__": "other", "host": "h0"})
    changed = (
        HEAD
        + ROLLUP.format(name="by code", metric="requests", made="by_code", tag="code")
        + ROLLUP.format(name="by host", metric="requests", made="by_host", tag="host")
        + ROLLUP.format(name="in vain", metric="request", made="never", tag="host")
    )
    status, lines, err = await dry_run(changed)
    assert (status, err) == (0, "")
    assert lines[:7] == [
        f"{PAGE + 51} series",
        "",
        f"rollup rule 'by code': {PAGE + 50} series match, and make 2",
        f"rollup rule 'by host': {PAGE + 50} series match, and make 3",
        "rollup rule 'in vain': no series matches",
        "",
        "2 of what is sent stays as it is.",
    ]
    assert lines[7] == "3 would be added:"
    assert sorted(line.partition("}: ")[0] for line in lines[8:11]) == [
        f'  + by_host{{__rollup__="true",host="h{n}"' for n in range(3)
    ]
    assert lines[8].endswith("Sum at 10s:6h (of 84 series)")
    assert lines[11] == "0 would be removed."


async def test_the_same_rules_change_nothing(client: httpx.AsyncClient, dry_run: Any) -> None:
    await write(client, {"__name__": "requests", "code": "200"}, {"__name__": "requests", "code": "500"})
    status, lines, _ = await dry_run(NOW + CARBON)
    same = ["of what is sent stays as it is.", "0 would be added.", "0 would be removed."]
    assert (status, lines[4:7], lines[-3:]) == (0, [f"2 {same[0]}", *same[1:]], [f"3 {same[0]}", *same[1:]])


async def test_what_goes_is_named(client: httpx.AsyncClient, dry_run: Any) -> None:
    await write(client, {"__name__": "requests", "code": "200"})
    _, lines, _ = await dry_run(HEAD + ROLLUP.format(name="n", metric="requests", made="other", tag="code") + CARBON)
    assert [line.partition("{")[0] for line in lines if line[:4] in ("  + ", "  - ")] == ["  + other", "  - by_code"]


async def test_labels_that_a_header_replaces_are_those_that_rules_see(client: httpx.AsyncClient, dry_run: Any) -> None:
    headers = {"M3-Map-Tags-JSON": '{"tagMappers":[{"write":{"tag":"code","value":"mapped"}}]}'}
    body = write_request({"__name__": "requests", "code": "200"})
    assert (await client.post("/api/v1/prom/remote/write", content=body, headers=headers)).status_code == 200
    (series,) = (await client.get(PATH)).json()["series"]
    assert ["code", "mapped"] in series["tags"]
    assert series["sent"][0].startswith('by_code{__rollup__="true",code="mapped"}: Sum')


async def test_without_rules_in_the_file_those_of_kv_count(client: httpx.AsyncClient, dry_run: Any) -> None:
    await write(client, {"__name__": "requests", "code": "200"})
    status, lines, err = await dry_run(WITHOUT_RULES)
    assert (status, err) == (0, "")
    assert lines[2] == "mapping rule 'kept': 1 series match"
    assert '  + requests{code="200"}: Max at 10s:6h (of 1 series)' in lines


async def test_a_changed_rule_set_takes_the_place_of_that_in_kv(client: httpx.AsyncClient, dry_run: Any) -> None:
    await write(client, {"__name__": "requests", "code": "200"})
    # Its cutover is to come: it is judged as it will be then.
    changed = rule_set(name="other", aggregationTypes=["MIN"], cutoverNanos=str(1 << 62))
    _, lines, _ = await dry_run(WITHOUT_RULES, json.dumps(changed))
    assert lines[2] == "mapping rule 'other': 1 series match"
    assert '  + requests{code="200"}: Min at 10s:6h (of 1 series)' in lines
    assert not [line for line in lines if "Max" in line]


async def test_rule_sets_are_told_as_kv_has_them(client: httpx.AsyncClient) -> None:
    document = (await client.get("/api/v1/rules/sets")).json()
    assert (document["source"], [one["version"] for one in document["ruleSets"]]) == ("kv", [3])
    told = document["ruleSets"][0]["ruleSet"]
    assert parse_json(RULE_SET, json.dumps(told)) == parse_json(RULE_SET, json.dumps(IN_KV))


async def test_a_dry_run_of_carbon_rules(dry_run: Any) -> None:
    changed = CARBON.replace("web[.]", "web[.]a").replace("type: sum", "type: max")
    status, lines, _ = await dry_run(NOW + changed)
    assert status == 0
    first = lines.index("4 paths of carbon")
    assert lines[first + 2 :] == [
        "carbon rule 0 (pattern '^web[.]a'): 1 path matches",
        "carbon rule 1 (contains 'db.'): 1 path matches",
        "no carbon rule matches: 2 of the paths, which are not kept",
        "",
        "1 of what is sent stays as it is.",
        "1 would be added:",
        "  + web.a.hits: Max at 10s:6h (of 1 path)",
        "2 would be removed:",
        "  - web.a.hits: Sum at 10s:6h (of 1 path)",
        "  - web.b.hits: Sum at 10s:6h (of 1 path)",
    ]


async def test_a_file_without_carbon_keeps_no_path(dry_run: Any) -> None:
    _, lines, _ = await dry_run(NOW)
    first = lines.index("4 paths of carbon")
    assert lines[first + 2 : first + 6] == [
        "no carbon rule matches: 4 of the paths, which are not kept",
        "",
        "0 of what is sent stays as it is.",
        "0 would be added.",
    ]


async def test_what_cannot_be_is_said(
    client: httpx.AsyncClient,
    dry_run: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (await client.get(PATH, params={"after": "x"})).status_code == 400
    status, _, err = await dry_run(NOW, json.dumps(IN_KV))
    assert (status, "downsample.rules, which win over rule sets in KV" in err) == (2, True)
    for text, problem in (
        ("{", "unexpected EOF"),
        ('{"namespace":"x","mappingRules":[{"snapshots":[{"name":"m"}]}]}', "no storage policies and no drop policy"),
        ("{}", "it needs a namespace"),
    ):
        status, _, err = await dry_run(WITHOUT_RULES, text)
        assert (status, "0.json: " in err, problem in err) == (2, True, True)
    assert cli.main(["-f", str(tmp_path / "now.yml"), "--rule-set", "x"]) == 2

    def away(_opener: object, _request: object, timeout: float) -> io.BytesIO:
        raise ConnectionRefusedError("nobody listens")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", away)
    capsys.readouterr()
    status, _, err = await dry_run(NOW)
    assert status == 1
    assert err == f"m3coordinator: http://127.0.0.1:7201{PATH} cannot be read: nobody listens\n"

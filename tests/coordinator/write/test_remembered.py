"""A dry run of changed rules: from the series that remote writes have brought to what the command says."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cramjam
import httpx
import pytest
from starlette.applications import Starlette

from coordinator import cli
from coordinator.config import load_coordinator
from coordinator.downsample import Downsampler, RulesInEffect, rule_set_of
from coordinator.prompb import WRITE_REQUEST
from coordinator.write import RemoteWriter, SeriesCache, remembered_routes, remote_write_routes
from coordinator.write.remembered import PAGE, PATH
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
    app = Starlette(routes=[*remote_write_routes(writer), *remembered_routes(writer, cache, downsampler)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:7201") as found:
        yield found


@pytest.fixture
async def dry_run(
    client: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """What the command prints for a file, and its exit code."""
    loop = asyncio.get_running_loop()

    def fetch(url: str, timeout: float) -> io.BytesIO:
        return io.BytesIO(asyncio.run_coroutine_threadsafe(client.get(url), loop).result(timeout).content)

    async def run(text: str) -> tuple[int, list[str], str]:
        file = tmp_path / "changed.yml"
        file.write_text(text)
        status = await asyncio.to_thread(cli.main, ["-f", str(file), "--explain-rules"])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    monkeypatch.setattr("urllib.request.urlopen", fetch)
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
    status, lines, _ = await dry_run(NOW)
    assert (status, lines[-3:]) == (
        0,
        ["2 of what is sent stays as it is.", "0 would be added.", "0 would be removed."],
    )


async def test_what_goes_is_named(client: httpx.AsyncClient, dry_run: Any) -> None:
    await write(client, {"__name__": "requests", "code": "200"})
    _, lines, _ = await dry_run(HEAD + ROLLUP.format(name="n", metric="requests", made="other", tag="code"))
    assert [line.partition("{")[0] for line in lines if line[:4] in ("  + ", "  - ")] == ["  + other", "  - by_code"]


async def test_labels_that_a_header_replaces_are_those_that_rules_see(client: httpx.AsyncClient, dry_run: Any) -> None:
    headers = {"M3-Map-Tags-JSON": '{"tagMappers":[{"write":{"tag":"code","value":"mapped"}}]}'}
    body = write_request({"__name__": "requests", "code": "200"})
    assert (await client.post("/api/v1/prom/remote/write", content=body, headers=headers)).status_code == 200
    (series,) = (await client.get(PATH)).json()["series"]
    assert ["code", "mapped"] in series["tags"]
    assert series["sent"][0].startswith('by_code{__rollup__="true",code="mapped"}: Sum')


async def test_what_cannot_be_is_said(client: httpx.AsyncClient, dry_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await client.get(PATH, params={"after": "x"})).status_code == 400
    status, _, err = await dry_run("listenAddress: 127.0.0.1:7201")
    assert (status, "no downsample.rules" in err) == (2, True)

    def away(url: str, timeout: float) -> io.BytesIO:
        raise ConnectionRefusedError("nobody listens")

    monkeypatch.setattr("urllib.request.urlopen", away)
    status, _, err = await dry_run(NOW)
    assert status == 1
    assert err == f"m3coordinator: http://127.0.0.1:7201{PATH} cannot be read: nobody listens\n"

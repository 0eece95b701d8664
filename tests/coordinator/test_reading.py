"""Which store answers queries."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from starlette.applications import Starlette

from coordinator.config import CoordinatorConfig, load_coordinator
from coordinator.query import ReadOptions
from coordinator.query.m3db import M3DBSource
from coordinator.reading import read_defaults, reading_routes
from coordinator.storage import open_storage
from m3x.instrument import Registry

REMOTE = """
backend: prom-remote
prometheusRemoteBackend:
  endpoints:
    - {name: main, address: "http://joe:secret@prometheus:9090/api/v1/write?token=hidden"}
    - {name: long, address: "https://mimir/push", storagePolicy: {resolution: 5m, retention: 8760h}}
"""
FILE = "sinks: [{type: file, path: /var/log/values.json}]\n"


def config(tmp_path: Path, text: str) -> CoordinatorConfig:
    path = tmp_path / "m3coordinator.yml"
    path.write_text(text)
    return load_coordinator([path]).value


async def refusal(tmp_path: Path, text: str) -> str:
    """What a query is answered with."""
    transport = httpx.ASGITransport(app=Starlette(routes=reading_routes(config(tmp_path, text), None)))
    async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as client:
        answer = await client.get("/api/v1/query", params={"query": "sum(up)"})
    assert (answer.status_code, answer.json()["errorType"]) == (500, "execution")
    return str(answer.json()["error"])


async def test_where_the_data_is(tmp_path: Path) -> None:
    text = await refusal(tmp_path, REMOTE + FILE)
    assert (
        "main (http://prometheus:9090/api/v1/write?…), long (https://mimir/push), file (/var/log/values.json)" in text
    )
    assert not any(secret in text for secret in ("joe", "secret", "hidden"))
    assert "administrates only" in await refusal(tmp_path, "backend: noop-etcd\n")


async def test_an_embedded_store_answers_wherever_it_is(tmp_path: Path) -> None:
    loaded = config(tmp_path, REMOTE + "sinks: [{type: embedded}]\n")
    async with open_storage(loaded, tmp_path, Registry().scope("x")) as storage:
        transport = httpx.ASGITransport(app=Starlette(routes=reading_routes(loaded, storage)))
        async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as client:
            assert (await client.get("/api/v1/labels")).json() == {"status": "success", "data": []}
            assert (await client.get("/api/v1/windows")).json() == {"windows": [], "next": 0}


async def test_a_source_of_its_own_comes_before_the_embedded_store(tmp_path: Path) -> None:
    loaded = config(tmp_path, "backend: embedded\n")
    async with open_storage(loaded, tmp_path, Registry().scope("x")) as storage:
        other = replace(storage, source=M3DBSource(cast(Any, None), tuple))
        transport = httpx.ASGITransport(app=Starlette(routes=reading_routes(loaded, other)))
        async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as client:
            answer = await client.get("/api/v1/labels")
            assert (answer.status_code, answer.json()["error"]) == (500, "no namespaces configured")
            assert (await client.get("/api/v1/windows")).json() == {"windows": [], "next": 0}


def test_defaults(tmp_path: Path) -> None:
    loaded = config(tmp_path, "")
    assert read_defaults(loaded, loaded.limits) == ReadOptions(series_limit=100_000)
    text = (
        "limits: {perQuery: {maxFetchedSeries: 5, maxFetchedDocs: 6, maxFetchedRange: 1h, requireExhaustive: false}}\n"
        "query: {timeout: 1m, defaultEngine: m3query}\n"
    )
    loaded = config(tmp_path, text)
    assert read_defaults(loaded, loaded.limits) == ReadOptions(
        series_limit=5, docs_limit=6, range_limit_ns=3600 * 10**9, require_exhaustive=False, timeout_s=60.0
    )


def test_limits_of_graphite(tmp_path: Path) -> None:
    loaded = config(tmp_path, "carbon: {limitsFind: {perQuery: {maxFetchedDocs: 7, requireExhaustive: false}}}\n")
    assert loaded.carbon.limits_render is None
    assert loaded.carbon.limits_find is not None
    found = read_defaults(loaded, loaded.carbon.limits_find)
    assert found == ReadOptions(series_limit=100_000, docs_limit=7, require_exhaustive=False)


@pytest.mark.parametrize("text", ["query: {timeout: 0}\n", "query: {timeout: 11m}\n", "limits: {perQuery: {x: 1}}\n"])
def test_what_cannot_be(tmp_path: Path, text: str) -> None:
    with pytest.raises(Exception, match=text.partition(":")[0]):
        config(tmp_path, text)

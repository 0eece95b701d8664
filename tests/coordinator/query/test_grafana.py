"""What Grafana asks is answered as by a Prometheus, over either store and under each of M3's prefixes."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from tests.coordinator.query.conftest import fill_store
from tests.coordinator.query.grafana import SERIES, Call, calls
from tests.coordinator.query.m3db.conftest import PlayedReader, client_of, namespaces, reader, source  # noqa: F401

from coordinator.config import Namespace
from coordinator.query import EmbeddedSource, query_routes
from coordinator.query.m3db import M3DBSource
from coordinator.store import open_store
from m3metrics.policy import StoragePolicy

NOW_S = 1_795_374_690
CALLS = calls(NOW_S)


@pytest.fixture(params=["embedded", "m3db"])
async def client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """HTTP over either store with ``SERIES``."""
    stored = [(tags, [(NOW_S + second, value) for second, value in points]) for tags, points in SERIES]
    if request.param == "m3db":
        spaces: list[Namespace] = request.getfixturevalue("namespaces")
        spaces[:] = [Namespace("agg15s", 15 * 10**9, 6 * 3600 * 10**9)]
        played: PlayedReader = request.getfixturevalue("reader")
        played.stored["agg15s"] = stored
        over: M3DBSource = request.getfixturevalue("source")
        async with client_of(over) as opened:
            yield opened
        return
    policies = [StoragePolicy.parse("15s:6h")]
    async with open_store(tmp_path / "m.duckdb", policies, clock=lambda: NOW_S * 10**9) as store:
        await fill_store(store, stored)
        transport = httpx.ASGITransport(app=Starlette(routes=query_routes(EmbeddedSource(store))))
        async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as opened:
            yield opened


async def sent(client: httpx.AsyncClient, call: Call, prefix: str = "") -> httpx.Response:
    texts = [(name, str(value)) for name, value in call.params]
    if call.method == "GET":
        return await client.get(prefix + call.path, params=httpx.QueryParams(texts))
    form = {"content-type": "application/x-www-form-urlencoded"}
    return await client.post(prefix + call.path, content=str(httpx.QueryParams(texts)), headers=form)


@pytest.mark.parametrize("prefix", ["", "/prometheus", "/m3query"])
async def test_every_call(client: httpx.AsyncClient, prefix: str) -> None:
    for call in CALLS:
        answer = await sent(client, call, prefix)
        context = f"{call}\n{answer.text}"
        assert answer.status_code == call.status, context
        if call.status == 204:
            assert not answer.content, context
            continue
        assert answer.headers["content-type"] == "application/json", context
        body = answer.json()
        if call.error_type:
            assert (set(body), body["status"]) == ({"status", "errorType", "error"}, "error"), context
            assert body["errorType"] == call.error_type, context
        elif call.path.endswith("buildinfo"):
            assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", body["data"]["version"])
        else:
            expected = {"status": "success", "data": call.data}
            assert body == (expected | {"warnings": call.warnings} if call.warnings else expected), context


async def test_what_prometheus_has_as_get_only(client: httpx.AsyncClient) -> None:
    for path in ("label/job/values", "metadata", "rules", "alerts", "status/buildinfo"):
        assert (await client.post(f"/api/v1/{path}")).status_code == 405


@pytest.mark.parametrize("query", ["sum(up)", "rate(up[1m])", "up + 1", "-up"])
async def test_more_than_that_is_said_to_be_unsupported(client: httpx.AsyncClient, query: str) -> None:
    for path, params in (("query", {"time": NOW_S}), ("query_range", {"start": NOW_S - 30, "end": NOW_S, "step": 15})):
        answer = await client.post(f"/api/v1/{path}", data={"query": query, **params})
        assert (answer.status_code, answer.json()["errorType"]) == (422, "execution")
        assert "is not supported" in answer.json()["error"]

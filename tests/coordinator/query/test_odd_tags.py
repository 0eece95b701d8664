"""Tags without value and names that are there twice, where options let them in: one set of labels for whatever asks, whichever store."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cramjam
import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from tests.coordinator.query.m3db.conftest import (  # noqa: F401
    PlayedReader,
    client_of,
    namespaces,
    odd_source,
    pairs,
    reader,
)
from tests.coordinator.query.test_remote_read import RESPONSE, request
from tests.coordinator.store.conftest import satisfies, write_batch

from coordinator.config import Namespace
from coordinator.query import EmbeddedSource, parse_selector, query_routes
from coordinator.query.m3db import M3DBSource
from coordinator.store import StoreOptions, open_store
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy
from m3x.protobuf import unmarshal

NOW_S = 1_795_374_690
STORED = [
    ([("__name__", "m"), ("a", "1"), ("a", "2")], [(NOW_S - 10, 1.0)]),
    ([("__name__", "m"), ("a", ""), ("b", "x")], [(NOW_S - 10, 2.0)]),
    ([("__name__", "m"), ("a", "2")], [(NOW_S - 20, 3.0)]),
    ([("__name__", "m"), ("a", ""), ("a", "2"), ("c", "")], [(NOW_S - 10, 4.0)]),
    ([("__name__", "m"), ("__name__", "n"), ("d", "1")], [(NOW_S - 10, 5.0)]),
    ([("a", ""), ("b", "")], [(NOW_S - 10, 6.0)]),
]
"""The last one has no labels, and is none."""
SHOWN: list[tuple[dict[str, str], list[float]]] = [
    ({"__name__": "m", "a": "1"}, [1.0]),
    ({"__name__": "m", "a": "2"}, [3.0, 4.0]),
    ({"__name__": "m", "b": "x"}, [2.0]),
    ({"__name__": "m", "d": "1"}, [5.0]),
]
"""Labels and values of each series, sorted."""
SPAN = {"start": NOW_S - 60, "end": NOW_S}


@pytest.fixture(params=["embedded", "m3db"])
async def client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """HTTP over either store with what is ``STORED``."""
    if request.param == "m3db":
        played: PlayedReader = request.getfixturevalue("reader")
        spaces: list[Namespace] = request.getfixturevalue("namespaces")
        spaces[:] = [Namespace("agg10s", 10 * 10**9, 6 * 3600 * 10**9)]
        played.stored["agg10s"] = STORED
        source: M3DBSource = request.getfixturevalue("odd_source")
        async with client_of(source) as opened:
            yield opened
        return
    options = StoreOptions(allow_duplicate_tag_names=True, allow_empty_tag_values=True)
    policies = [StoragePolicy.parse("10s:6h")]
    async with open_store(tmp_path / "m.duckdb", policies, options, clock=lambda: NOW_S * 10**9) as store:
        rows = [(encode_tags(pairs(tags)), t * 1000, value) for tags, points in STORED for t, value in points]
        written = await store.write(write_batch(rows))
        assert np.count_nonzero(written.refusals) == 1
        transport = httpx.ASGITransport(app=Starlette(routes=query_routes(EmbeddedSource(store))))
        async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as opened:
            yield opened


async def data_of(client: httpx.AsyncClient, path: str, **params: Any) -> Any:
    answer = await client.get(f"/api/v1/{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def shown(selector: str) -> list[tuple[dict[str, str], list[float]]]:
    """What of ``SHOWN`` matches."""

    def matching(labels: dict[str, str]) -> bool:
        tags = {name.encode(): value.encode() for name, value in labels.items()}
        return all(satisfies(tags, matcher) for matcher in parse_selector(selector).matchers)

    return [(labels, values) for labels, values in SHOWN if matching(labels)]


SELECTORS = [
    'm', '{a="1"}', '{a="2"}', 'm{a=""}', 'm{a!=""}', 'm{a!="2"}', 'm{a!="1"}', 'm{a=~"1|2"}', 'm{a=~"|2"}', 'm{a!~"2"}',
    'm{a!~"|2"}', 'm{a!~".*"}', 'm{c=""}', '{c!=""}', '{__name__="n"}', '{b=~".+"}', 'm{b!~".+"}', 'm{d=""}',
]  # fmt: skip


@pytest.mark.parametrize("selector", SELECTORS)
async def test_what_is_shown_is_what_matches(client: httpx.AsyncClient, selector: str) -> None:
    found = (await data_of(client, "query", query=f"{selector}[1m]", time=NOW_S))["result"]
    assert [(one["metric"], [float(value) for _, value in one["values"]]) for one in found] == shown(selector)
    labels = [labels for labels, _ in shown(selector)]
    found = (await data_of(client, "query_range", query=selector, step=10, **SPAN))["result"]
    assert [one["metric"] for one in found] == labels
    listing = {"match[]": selector, **SPAN}
    assert await data_of(client, "series", **listing) == labels
    assert await data_of(client, "labels", **listing) == sorted({name for one in labels for name in one})
    for name in ("__name__", "a", "b", "c"):
        values = sorted({one[name] for one in labels if name in one})
        assert await data_of(client, f"label/{name}/values", **listing) == values, name


@pytest.mark.parametrize("selector", SELECTORS)
async def test_remote_read_has_the_same(client: httpx.AsyncClient, selector: str) -> None:
    matchers = [(int(one.op), one.name, one.value) for one in parse_selector(selector).matchers]
    body = request((SPAN["start"] * 1000, SPAN["end"] * 1000, matchers))
    answer = await client.post("/api/v1/prom/remote/read", content=body)
    (result,) = unmarshal(RESPONSE, bytes(cramjam.snappy.decompress_raw(answer.content)))["results"]
    found = [
        (
            [(label["name"].decode(), label["value"].decode()) for label in one["labels"]],
            [sample["value"] for sample in one["samples"]],
        )
        for one in result.get("timeseries", ())
    ]
    assert found == [(sorted(labels.items()), values) for labels, values in shown(selector)]


async def test_without_matchers(client: httpx.AsyncClient) -> None:
    assert await data_of(client, "labels", **SPAN) == ["__name__", "a", "b", "d"]
    assert await data_of(client, "label/a/values", **SPAN) == ["1", "2"]
    assert await data_of(client, "label/c/values", **SPAN) == []
    several = {"match[]": ['{a="1"}', '{b="x"}', '{a=~"1|3"}'], **SPAN}
    assert await data_of(client, "series", **several) == [SHOWN[0][0], SHOWN[2][0]]
    assert await data_of(client, "labels", **several) == ["__name__", "a", "b"]

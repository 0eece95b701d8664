"""What M3DB is asked for a query, and what becomes of its answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from tests.coordinator.query.conftest import fill_store
from tests.coordinator.query.m3db.conftest import PlayedReader
from tests.coordinator.query.test_remote_read import decoded, request

from coordinator.config import Namespace
from coordinator.matchers import Matcher, MatchOp
from coordinator.query import EmbeddedSource, QueryError, ReadOptions, query_routes
from coordinator.query.m3db import M3DBSource
from coordinator.query.source import Restriction
from coordinator.store import StoreOptions, open_store
from m3db.reader import ReadError
from m3metrics.policy import StoragePolicy

S = 10**9
OPTIONS = ReadOptions()
UP = Matcher(MatchOp.EQUAL, b"__name__", b"up")
FIND = "/api/v1/graphite/metrics/find"


async def test_a_range_with_its_look_back(source: M3DBSource, reader: PlayedReader, now_s: int) -> None:
    options = ReadOptions(series_limit=7, docs_limit=8, require_exhaustive=False, timeout_s=3.0)
    reader.stored["raw"] = [({"__name__": "up"}, [(now_s - 400, 1.0), (now_s - 300.5, 2.0), (now_s - 0.0005, 3.0)])]
    found = await source.select([UP], (now_s - 60) * 1000, now_s * 1000, options, lookback_ms=300_000)
    assert reader.asked == [
        {
            "namespace": "raw", "query": "term(__name__,up)", "start": (now_s - 360) * S, "end": now_s * S + S // 1000,
            "data": True, "series_limit": 7, "docs_limit": 8, "require_exhaustive": False, "timeout_s": 3.0,
        }
    ]  # fmt: skip
    assert found.time_ms.tolist() == [now_s * 1000 - 300_500, now_s * 1000 - 1]
    assert (found.tags(0), found.values.tolist()) == ([(b"__name__", b"up")], [2.0, 3.0])
    assert (found.windows_ms.tolist(), found.notes.places) == ([0], ("raw",))


async def test_the_resolution_is_looked_back_for(source: M3DBSource, reader: PlayedReader, now_s: int) -> None:
    options = ReadOptions(restriction=Restriction(True, StoragePolicy.parse("10m:40d")))
    reader.stored["agg10m"] = [({"__name__": "up"}, [(now_s - 600, 1.0), (now_s - 599, 2.0)])]
    found = await source.select([UP], now_s * 1000, now_s * 1000, options, lookback_ms=300_000)
    assert [(one["namespace"], one["start"]) for one in reader.asked] == [("agg10m", (now_s - 600) * S)]
    assert (found.windows_ms.tolist(), found.values.tolist()) == ([600_000], [1.0, 2.0])


async def test_several_namespaces(
    source: M3DBSource, reader: PlayedReader, namespaces: list[Namespace], now_s: int
) -> None:
    namespaces[1:] = [
        Namespace("every", 600 * S, 960 * 3600 * S), Namespace("some", 10 * S, 960 * 3600 * S, downsample_all=False)
    ]  # fmt: skip
    old = now_s - 100 * 3600
    reader.stored["every"] = [({"x": "1"}, [(old, 1.0)]), ({"x": "2"}, [(old, 2.0)])]
    # The other order of tags makes another id.
    reader.stored["some"] = [({"x": "1"}, [(old, 10.0)])]
    found = await source.select([], old * 1000, now_s * 1000, OPTIONS)
    assert reader.texts() == [("every", "all()"), ("some", "all()")]
    rows = [(found.tags(i)[0][1], int(found.windows_ms[i]), found.values[i]) for i in range(len(found))]
    assert sorted(rows) == [(b"1", 10_000, 10.0), (b"2", 600_000, 2.0)]


@pytest.mark.parametrize(
    ("matchers", "text"),
    [
        ([], "all()"),
        ([Matcher(MatchOp.REGEX, b"a", b".*")] * 2, "all()"),
        ([UP, Matcher(MatchOp.REGEX, b"a", b".*")], "term(__name__,up)"),
        ([UP, Matcher(MatchOp.NOT_REGEX, b"b", b"x.")], "conjunction(term(__name__,up),negation(regexp(b,x.)))"),
    ],
)
async def test_matchers(source: M3DBSource, reader: PlayedReader, matchers: list[Matcher], text: str) -> None:
    await source.select(matchers, 0, 1, OPTIONS)
    assert {query for _, query in reader.texts()} == {text}


async def test_names_values_and_series(source: M3DBSource, reader: PlayedReader, now_s: int) -> None:
    span = ((now_s - 60) * 1000, now_s * 1000)
    reader.stored["raw"] = [({"a": "2", "b": "x"}, []), ({"a": "1", "b": "x"}, []), ({"c": "3"}, [])]
    alternatives = [[Matcher(MatchOp.EQUAL, b"a", b"1")], [Matcher(MatchOp.EQUAL, b"c", b"3")]]
    assert (await source.label_names([], *span, OPTIONS)).texts == [b"a", b"b", b"c"]
    assert (await source.label_names(alternatives, *span, OPTIONS)).texts == [b"a", b"b", b"c"]
    assert (await source.label_values(b"a", [], *span, OPTIONS)).texts == [b"1", b"2"]
    assert (await source.label_values(b"a", alternatives, *span, OPTIONS)).texts == [b"1"]
    listed = await source.series([*alternatives, alternatives[0]], *span, OPTIONS)
    assert [listed.tags(i) for i in range(len(listed))] == [[(b"a", b"1"), (b"b", b"x")], [(b"c", b"3")]]
    assert [query for _, query in reader.texts()] == [
        "all()",
        "disjunction(term(a,1), term(c,3))",
        "field(a)",
        "disjunction(conjunction(field(a), term(a,1)), conjunction(field(a), term(c,3)))",
        "term(a,1)",
        "term(c,3)",
        "term(a,1)",
    ]
    assert [(one.get("names"), one.get("names_only"), one.get("data")) for one in reader.asked[::2]] == [
        ([], True, None), ([b"a"], False, None), (None, None, False), (None, None, False),
    ]  # fmt: skip


async def test_series_whose_tags_cannot_be_read_are_named(source: M3DBSource, reader: PlayedReader, now_s: int) -> None:
    reader.stored["raw"] = [({}, [(now_s, 1.0)]), ({"x": "1"}, [(now_s, 2.0)])]
    found = await source.select([], now_s * 1000, now_s * 1000, OPTIONS)
    assert (len(found), found.values.tolist(), found.notes.warnings) == (1, [2.0], ("1 series are left out: no tags",))


async def test_limits(client: httpx.AsyncClient, reader: PlayedReader, now_s: int) -> None:
    reader.stored["raw"] = [({"__name__": "up", "i": str(i)}, [(now_s, float(i))]) for i in range(5)]
    query = {"query": "up", "time": now_s}
    answer = await client.get("/api/v1/query", params=query)
    assert (answer.status_code, answer.headers["M3-Namespaces"]) == (200, "raw")
    assert "M3-Results-Limited" not in answer.headers
    assert "warnings" not in answer.json()
    headers = {"M3-Limit-Max-Series": "3"}
    answer = await client.get("/api/v1/query", params=query, headers=headers)
    assert (answer.status_code, answer.json()["errorType"]) == (400, "execution")
    headers["M3-Limit-Require-Exhaustive"] = "false"
    span = {"start": now_s - 60, "end": now_s}
    for path, params in [
        ("query", query),
        ("query_range", {"query": "up", **span, "step": 10}),
        ("labels", span),
        ("label/i/values", span),
        ("series", {"match[]": "up", **span}),
        ("prom/remote/read", {"query": "up", **span, "format": "json"}),
    ]:
        answer = await client.get(f"/api/v1/{path}", params=params, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["M3-Results-Limited"] == "max_fetch_series_limit_applied", path
        if path.startswith("prom"):
            continue
        assert answer.json()["warnings"] == ["m3db exceeded query limit: results not exhaustive"]
        if path.startswith("query"):
            assert len(answer.json()["data"]["result"]) == 3


async def test_the_length_of_a_range(source: M3DBSource, reader: PlayedReader) -> None:
    with pytest.raises(QueryError, match="range_limit=10s, range_matched=1m0s"):
        await source.select([], 0, 60_000, ReadOptions(range_limit_ns=10 * S))
    await source.select([], 0, 60_000, ReadOptions(range_limit_ns=10 * S, require_exhaustive=False))
    assert {(one["start"], one["end"]) for one in reader.asked} == {(50 * S, 60 * S + S // 1000)}
    await source.select([], 0, 10_000, ReadOptions(range_limit_ns=10 * S))
    assert reader.asked[-1]["start"] == 0


async def test_ranges_of_listings(client: httpx.AsyncClient, reader: PlayedReader, now_s: int) -> None:
    """As asked for; one that does not say where it ends does so now."""
    for path, params in (("labels", {}), ("label/a/values", {}), ("series", {"match[]": "up"})):
        reader.asked.clear()
        await client.get(f"/api/v1/{path}", params=params)
        await client.get(f"/api/v1/{path}", params={**params, "start": now_s - 60, "end": now_s + 60})
        ranges = list(dict.fromkeys((one["start"], one["end"]) for one in reader.asked))
        assert ranges == [(0, now_s * S + S // 1000), ((now_s - 60) * S, (now_s + 60) * S + S // 1000)], path


async def test_a_timeout_only_shortens(client: httpx.AsyncClient, reader: PlayedReader, now_s: int) -> None:
    for text, header, expected in (("2s", "", 2.0), ("0.5", "", 0.5), ("1h", "", 30.0), ("2m", "1m", 60.0)):
        reader.asked.clear()
        await client.get(
            "/api/v1/query", params={"query": "up", "time": now_s, "timeout": text}, headers={"M3-Timeout": header}
        )
        assert {one["timeout_s"] for one in reader.asked} == {expected}


async def test_times_beyond_all_clocks(source: M3DBSource, reader: PlayedReader) -> None:
    await source.select([], -(1 << 62), 1 << 62, OPTIONS)
    assert {(one["start"], one["end"]) for one in reader.asked} == {(0, (1 << 63) - 1)}


@pytest.mark.parametrize("path", ["query?query=up", "labels", "series?match[]=up", "graphite/render?target=a"])
async def test_a_namespace_that_fails(client: httpx.AsyncClient, reader: PlayedReader, path: str) -> None:
    reader.failure = ReadError("not enough replicas")
    answer = await client.get(f"/api/v1/{path}")
    assert (answer.status_code, answer.json()["error"]) == (500, "not enough replicas")


async def test_find_asks_for_values_only(
    client: httpx.AsyncClient,
    reader: PlayedReader,
    namespaces: list[Namespace],
    path_tags: Callable[[str], dict[str, str]],
    now_s: int,
) -> None:
    namespaces[2:] = []
    reader.stored["agg10s"] = [(path_tags(path), []) for path in ("a.b.c", "a.b", "a.d", "x.b.c")]
    found = (await client.get(FIND, params={"query": "a.*", "from": now_s - 60})).json()
    assert [(node["id"], node["leaf"]) for node in found] == [("a.b", 0), ("a.d", 1)]
    assert {one["namespace"] for one in reader.asked} == {"agg10s"}
    assert sorted(query for _, query in reader.texts()) == [
        "conjunction(field(__g1__), field(__g2__), term(__g0__,a))",
        "conjunction(field(__g1__), term(__g0__,a),negation(field(__g2__)))",
    ]
    found = (await client.get(FIND, params={"query": "*.b"})).json()
    assert [(node["id"], node["text"], node["leaf"]) for node in found] == [("*.b", "b", 0)]


async def test_answers_are_those_of_the_embedded_store(
    client: httpx.AsyncClient,
    reader: PlayedReader,
    namespaces: list[Namespace],
    path_tags: Callable[[str], dict[str, str]],
    tmp_path: Path,
    now_s: int,
) -> None:
    namespaces[:] = [Namespace("agg10s", 10 * S, 6 * 3600 * S)]
    series: list[tuple[dict[str, str], list[tuple[float, float]]]] = [
        ({"__name__": "up", "job": job}, [(now_s - 10 * k, k + 0.25) for k in reversed(range(20))]) for job in "ba"
    ]
    series += [(path_tags(path), [(now_s - 10, 1.0), (now_s, 2.0)]) for path in ("a.b.c", "a.f", "a.d.e")]
    reader.stored["agg10s"] = series
    ends = {"start": now_s - 100, "end": now_s}
    paths: list[tuple[str, dict[str, Any]]] = [
        ("/api/v1/query", {"query": 'up{job=~"a|b"}', "time": now_s}),
        ("/api/v1/query", {"query": "up[1m]", "time": now_s}),
        ("/api/v1/query_range", {"query": "up", **ends, "step": 7}),
        ("/api/v1/labels", ends),
        ("/api/v1/label/job/values", ends),
        ("/api/v1/series", {"match[]": ["up", '{__g0__="a"}'], **ends}),
        ("/api/v1/graphite/render", {"target": "a.*.*", "from": now_s - 60, "until": now_s}),
        (FIND, {"query": "a.*"}),
        ("/api/v1/prom/remote/read", {"query": "up", **ends, "format": "json"}),
    ]
    options = StoreOptions()
    async with open_store(
        tmp_path / "m.duckdb", [StoragePolicy.parse("10s:6h")], options, clock=lambda: now_s * S
    ) as store:
        await fill_store(store, series)
        transport = httpx.ASGITransport(app=Starlette(routes=query_routes(EmbeddedSource(store))))
        async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as embedded:
            for path, params in paths:
                theirs, ours = [await one.get(path, params=params) for one in (embedded, client)]
                assert theirs.status_code == ours.status_code == 200
                assert ours.content == theirs.content, path
                assert len(ours.content) > 36
            body = request(((now_s - 50) * 1000, now_s * 1000, [(2, b"job", b".+")]))
            theirs, ours = [await one.post("/api/v1/prom/remote/read", content=body) for one in (embedded, client)]
            assert ours.content == theirs.content
            assert [len(points) for _, points in decoded(ours.content)[0]] == [6, 6]

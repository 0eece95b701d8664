"""Prometheus' query API: against requests recorded at a real M3, and on its own."""

import json
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import cramjam
import httpx
import pytest
from starlette.applications import Starlette

from coordinator.query import EmbeddedSource, parse_selector, query_routes
from coordinator.query.errors import QueryError
from coordinator.query.rendering import number_text, time_text
from coordinator.store import Store

Fill = Callable[..., Awaitable[None]]

NOT_SELECTORS = {"sum(gc1795374690_req)", "count(gc1795374690_req)", "absent(gc1795374690_nothing)"}
"""Recorded queries that are more than a selector: answered with a hint."""
OTHER_PATHS = {"/health", "/api/v1/parse", "/api/v1/unknown"}
"""Not routes of this package."""
STATUS = {"bad regex": 400}
"""M3 answers 500 there, Prometheus 400."""


def with_end(body: Any, start_s: float, end_s: float) -> Any:
    """What M3 answers, with the point at the very end of the range, which M3 leaves out and Prometheus includes.

    All recorded counters grow by a fixed amount every 10 s, so the last value repeated becomes the next one.
    """
    for result in body["data"]["result"] if body["data"]["resultType"] in ("vector", "matrix") else ():
        values = result.get("values") or [result["value"]]
        if values[-1][0] == end_s and len(values) > 1:
            values[-1][1] = number_text(2 * float(values[-2][1]) - float(values[-3][1]))
        result.pop("step_size_ms", None)
    return body


async def test_recorded_requests(client: httpx.AsyncClient, recorded: Store, golden: list[dict[str, Any]]) -> None:
    judged = 0
    for vector in golden:
        if vector["path"] in OTHER_PATHS or vector["method"] == "POST":
            continue
        params = vector["params"]
        answer = await client.get(vector["path"], params=params, headers=vector["headers"])
        context = f"{vector['path']} {params}"
        if params.get("query") in NOT_SELECTORS:
            assert (answer.status_code, answer.json()["errorType"]) == (422, "execution"), context
            continue
        assert answer.status_code == vector["code"], context
        assert answer.headers["content-type"] == "application/json"
        body, theirs = answer.json(), json.loads(vector["body"])
        judged += 1
        if vector["code"] != 200:
            assert set(body) == {"status", "errorType", "error"}, context
            assert body["status"] == theirs["status"] == "error"
            assert body["errorType"] == "bad_data"
        elif "find" in vector["path"]:
            assert body == theirs, context
        elif vector["path"].endswith("remote/read"):
            ours = body["queries"][0]
            for series in ours["series"]:
                last = series["datapoints"].pop()
                assert last["ts"] == ours["end"]
            assert body == theirs, context
        elif "result" in body["data"]:
            if vector["path"].endswith("query"):
                theirs = json.loads(vector["body"].replace('"40"', '"50"').replace('"4"', '"5"'))
            assert body == with_end(theirs, float(params.get("start", 0)), float(params.get("end", 0))), context
        else:
            # Recorded with the unaggregated namespace's series only.
            ours = [one for one in body["data"] if "_agg" not in str(one)]
            assert sorted(map(str, ours)) == sorted(map(str, theirs["data"])), context
    assert judged >= 15


async def test_instant_vector_looks_back_five_minutes(client: httpx.AsyncClient, fill: Fill, base_s: int) -> None:
    await fill([({"__name__": "a"}, [(base_s - 700, 1.0), (base_s - 400, 2.0)])])
    for time, expected in [
        (base_s - 400, "2"),
        (base_s - 101, "2"),
        (base_s - 100, None),
        (base_s - 401, "1"),
        (base_s - 701, None),
    ]:
        answer = await client.get("/api/v1/query", params={"query": "a", "time": time})
        found = [one["value"] for one in answer.json()["data"]["result"]]
        assert found == ([] if expected is None else [[time, expected]])


async def test_lookback_duration_is_configurable(store: Store, fill: Fill, base_s: int) -> None:
    await fill([({"__name__": "a"}, [(base_s - 60, 1.0)])])
    for lookback_ms, found in [(60_000, 0), (61_000, 1)]:
        transport = httpx.ASGITransport(app=Starlette(routes=query_routes(EmbeddedSource(store), lookback_ms)))
        async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as client:
            for path, params in [
                ("query", {"time": base_s}),
                ("query_range", {"start": base_s, "end": base_s, "step": 10}),
            ]:
                answer = await client.get(f"/api/v1/{path}", params={"query": "a", **params})
                assert len(answer.json()["data"]["result"]) == found, (path, lookback_ms)


async def test_a_coarse_series_is_looked_back_for_its_resolution(
    client: httpx.AsyncClient, fill: Fill, base_s: int
) -> None:
    await fill([({"__name__": "a"}, [(base_s - 60, 7.0)])], policy=1)
    headers = {"M3-Storage-Policy": "1m:40d"}
    answer = await client.get("/api/v1/query", params={"query": "a", "time": base_s}, headers=headers)
    assert answer.json()["data"]["result"][0]["value"] == [base_s, "7"]


async def test_staleness_marker_ends_a_series(client: httpx.AsyncClient, fill: Fill, base_s: int) -> None:
    stale = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
    await fill([({"__name__": "a"}, [(base_s - 40, 1.0), (base_s - 20, stale), (base_s, 3.0)])])
    params = {"query": "a", "start": base_s - 40, "end": base_s, "step": "10s"}
    (result,) = (await client.get("/api/v1/query_range", params=params)).json()["data"]["result"]
    assert result["values"] == [[base_s - 40, "1"], [base_s - 30, "1"], [base_s, "3"]]
    (raw,) = (await client.get("/api/v1/query", params={"query": "a[1m]", "time": base_s})).json()["data"]["result"]
    assert raw["values"] == [[base_s - 40, "1"], [base_s, "3"]]


async def test_offset_and_at(client: httpx.AsyncClient, fill: Fill, base_s: int) -> None:
    await fill([({"__name__": "a"}, [(base_s - 60 + 10 * k, float(k)) for k in range(7)])])

    async def values(query: str) -> list[str]:
        params = {"query": query, "start": base_s - 20, "end": base_s, "step": 10}
        (result,) = (await client.get("/api/v1/query_range", params=params)).json()["data"]["result"]
        return [value for _, value in result["values"]]

    assert await values("a offset 30s") == ["1", "2", "3"]
    assert await values(f"a @ {base_s - 50}") == ["1", "1", "1"]
    assert await values("a @ end()") == ["6", "6", "6"]
    assert await values("a @ start() offset 10s") == ["3", "3", "3"]


async def test_forms_and_prefixes(client: httpx.AsyncClient, fill: Fill, base_s: int) -> None:
    await fill([({"__name__": "a"}, [(base_s, 1.0)])])
    for prefix in ("", "/prometheus", "/m3query"):
        answer = await client.post(f"{prefix}/api/v1/query", data={"query": "a", "time": base_s})
        assert len(answer.json()["data"]["result"]) == 1
    answer = await client.post("/api/v1/series", data={"match[]": ["a", "b"]})
    assert answer.json()["data"] == [{"__name__": "a"}]
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = await client.post("/api/v1/query", content=b"x" * (17 << 20), headers=form)
    assert answer.status_code == 413


async def test_labels_and_values(client: httpx.AsyncClient, fill: Fill, base_s: int) -> None:
    point = [(base_s, 1.0)]
    await fill([({"__name__": "a", "x": "2"}, point), ({"__name__": "b", "x": "1", "y": "é"}, point)])
    assert (await client.get("/api/v1/labels")).json() == {"status": "success", "data": ["__name__", "x", "y"]}
    assert (await client.get("/api/v1/labels", params={"match[]": "a"})).json()["data"] == ["__name__", "x"]
    assert (await client.get("/api/v1/label/x/values")).json()["data"] == ["1", "2"]
    assert (await client.get("/api/v1/label/y/values", params={"match[]": ["a", "b"]})).json()["data"] == ["é"]
    assert (await client.get("/api/v1/label/none/values")).json()["data"] == []
    assert (await client.get("/api/v1/label/U__x/values")).json()["data"] == ["1", "2"]


async def test_listings_are_those_of_the_range(client: httpx.AsyncClient, fill: Fill, base_s: int) -> None:
    await fill(
        [({"__name__": "a", "x": "1"}, [(base_s - 100, 1.0)]), ({"__name__": "b", "y": "2"}, [(base_s - 50, 1.0)])]
    )
    await fill([({"__name__": "c", "x": "3"}, [(base_s + 600, 1.0)])])
    await fill([({"__name__": "a", "x": "1"}, [(base_s - 3 * 86400, 1.0)])], policy=1)

    async def listed(headers: dict[str, str], **span: int) -> list[list[str]]:
        names, values, series = [
            (await client.get(f"/api/v1/{path}", params={**params, **span}, headers=headers)).json()["data"]
            for path, params in (("labels", {}), ("label/x/values", {}), ("series", {"match[]": ["a", "b", "c"]}))
        ]
        return [names, values, [one["__name__"] for one in series]]

    everything = [["__name__", "x", "y"], ["1", "3"], ["a", "b", "c"]]
    # Without a range what is still to come belongs to it.
    assert await listed({}) == everything
    assert await listed({}, start=base_s - 100) == everything
    assert await listed({}, end=base_s) == [["__name__", "x", "y"], ["1"], ["a", "b"]]
    assert await listed({}, start=base_s - 99, end=base_s) == [["__name__", "y"], [], ["b"]]
    assert await listed({}, start=base_s - 50, end=base_s - 50) == [["__name__", "y"], [], ["b"]]
    assert await listed({}, start=base_s - 4 * 86400, end=base_s - 86400) == [["__name__", "x"], ["1"], ["a"]]
    assert await listed({}, start=base_s, end=base_s - 100) == [[], [], []]
    assert await listed({"M3-Storage-Policy": "1m:40d"}) == [["__name__", "x"], ["1"], ["a"]]
    assert await listed({"M3-Storage-Policy": "1m:40d"}, start=base_s - 200) == [[], [], []]


async def test_entries_of_the_index_that_a_listing_may_match(
    client: httpx.AsyncClient, fill: Fill, base_s: int
) -> None:
    await fill([({"__name__": "a", "i": str(i)}, [(base_s, 1.0)]) for i in range(5)])
    for path, params, cut in (
        ("labels", {}, 2),
        ("label/i/values", {"match[]": "a"}, 3),
        ("series", {"match[]": "a", "start": base_s}, 3),
    ):
        headers = {"M3-Limit-Max-Docs": "5"}
        assert (await client.get(f"/api/v1/{path}", params=params, headers=headers)).status_code == 200
        headers = {"M3-Limit-Max-Docs": "3"}
        answer = await client.get(f"/api/v1/{path}", params=params, headers=headers)
        assert (answer.status_code, answer.json()["errorType"]) == (400, "execution"), path
        assert "docs_limit=3, docs_matched=5" in answer.json()["error"]
        headers["M3-Limit-Require-Exhaustive"] = "false"
        answer = await client.get(f"/api/v1/{path}", params=params, headers=headers)
        assert (answer.status_code, len(answer.json()["data"])) == (200, cut), path
        assert answer.json()["warnings"] == ["m3db exceeded query limit: results not exhaustive"]
        assert answer.headers["M3-Results-Limited"] == "max_fetch_series_limit_applied"


async def test_an_answer_that_is_cut_says_so(client: httpx.AsyncClient, fill: Fill, base_s: int) -> None:
    await fill([({"__name__": "a", "i": f"{i:03}"}, [(base_s - 10, 1.0), (base_s, 2.0)]) for i in range(200)])
    span = {"start": base_s - 10, "end": base_s}
    for path, params, whole in [
        ("labels", {}, 2), ("label/i/values", {}, 200), ("series", {"match[]": "a"}, 200), ("query", {"query": "a", "time": base_s}, 200),
        ("query", {"query": "a[1m]", "time": base_s}, 200), ("query_range", {"query": "a", **span, "step": 10}, 200),
    ]:  # fmt: skip
        for limit in (0, 1, whole - 1, whole, whole + 1):
            body = (await client.get(f"/api/v1/{path}", params={**params, "limit": limit})).json()
            found = body["data"] if isinstance(body["data"], list) else body["data"]["result"]
            assert len(found) == (min(limit, whole) or whole), (path, limit)
            assert body.get("warnings") == (["results truncated due to limit"] if 0 < limit < whole else None)
    assert found[0]["metric"]["i"] == "000"


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("query", {}),
        ("query", {"query": "a", "time": "yesterday"}),
        ("query", {"query": "a", "time": "1e300"}),
        ("query", {"query": "a", "time": "2026-01-01T00:00:00"}),
        ("query_range", {"query": "a", "start": 0, "end": 100}),
        ("query_range", {"query": "a", "start": 0, "end": 100, "step": "-1"}),
        ("query_range", {"query": "a", "start": 0, "end": 100, "step": "nan"}),
        ("query_range", {"query": "a", "start": 0, "end": 100, "step": "1x"}),
        ("query_range", {"query": "a", "start": 100, "end": 0, "step": 1}),
        ("query_range", {"query": "a", "start": 0, "step": 1}),
        ("query_range", {"query": "a", "start": 0, "end": 11_001, "step": 1}),
        ("query_range", {"query": "a", "start": 0, "end": 100, "step": "-inf"}),
        ("query_range", {"query": "a", "start": 0, "end": 100, "step": "9" * 5000 + "s"}),
        ("query_range", {"query": '"a"', "start": 0, "end": 10, "step": 1}),
        ("query", {"query": "a", "limit": "-1"}),
        ("query", {"query": "a", "timeout": "soon"}),
        ("query_range", {"query": "a[1m]", "start": 0, "end": 10, "step": 1}),
        ("series", {}),
        ("series", {"match[]": "a[1m]"}),
        ("labels", {"match[]": "{"}),
        ("labels", {"limit": "many"}),
        ("windows", {"since": "-1"}),
    ],
)
async def test_bad_requests_say_what_is_wrong(client: httpx.AsyncClient, path: str, params: dict[str, Any]) -> None:
    answer = await client.get(f"/api/v1/{path}", params=params)
    assert answer.status_code == 400
    body = answer.json()
    assert (body["status"], body["errorType"]) == ("error", "bad_data")
    assert len(body["error"]) > 10


@pytest.mark.parametrize(
    "headers", [{"M3-Metrics-Type": "x"}, {"M3-Storage-Policy": "x"}, {"M3-Storage-Policy": "10s:7h"}]
)
async def test_bad_headers(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await client.get("/api/v1/query", params={"query": "a"}, headers=headers)
    assert (answer.status_code, answer.json()["errorType"]) == (400, "bad_data")


async def test_a_large_answer_is_whole_json(client: httpx.AsyncClient, fill: Fill, base_s: int) -> None:
    await fill([({"__name__": "a", "i": f"{i:04}"}, [(base_s, float(i))]) for i in range(1000)])
    result = (await client.get("/api/v1/query", params={"query": "a", "time": base_s})).json()["data"]["result"]
    assert [one["value"][1] for one in result] == [str(i) for i in range(1000)]
    params = {"query": "a", "start": base_s - 10, "end": base_s, "step": 10}
    assert len((await client.get("/api/v1/query_range", params=params)).json()["data"]["result"]) == 1000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (-0.0, "-0"), (1.5, "1.5"), (1e21, "1" + "0" * 21), (1e-7, "0.0000001"), (-2.5e-10, "-0.00000000025"),
        (123456789.12345679, "123456789.12345679"), (float("nan"), "NaN"), (float("inf"), "+Inf"), (float("-inf"), "-Inf"),
        (2.0**53, "9007199254740992"),
    ],
)  # fmt: skip
def test_numbers_as_prometheus_writes_them(value: float, text: str) -> None:
    assert number_text(value) == text


def test_times() -> None:
    assert [time_text(ms) for ms in (0, 1500, 1000, -1500, 1_795_374_690_010)] == [
        "0",
        "1.5",
        "1",
        "-1.5",
        "1795374690.01",
    ]


async def test_remote_read_refuses_what_it_cannot_read(client: httpx.AsyncClient) -> None:
    for body in (b"", b"\xff\xff\xff\xff\xff\xff", bytes(cramjam.snappy.compress_raw(b"\x0a\xff\x01"))):
        answer = await client.post("/api/v1/prom/remote/read", content=body)
        assert (answer.status_code, answer.json()["errorType"]) == (400, "bad_data")
    with pytest.raises(QueryError, match="remote/read"):
        parse_selector("sum(a)")

"""Graphite's render and find."""

from collections.abc import Awaitable, Callable

import httpx
import pytest

from coordinator.query import QueryError
from coordinator.query.graphite import parse_time_ms

Fill = Callable[..., Awaitable[None]]
Tags = Callable[[str], dict[str, str]]
RENDER = "/api/v1/graphite/render"
FIND = "/api/v1/graphite/metrics/find"
PATHS = ["a.b.c", "a.b.d", "a.bb.c", "a.b", "x.y.c", "a.b.c.d.e.f.g.h.i.j.k.l", "a.b+.c"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("a.b.c", ["a.b.c"]),
        ("a.*.c", ["a.b+.c", "a.b.c", "a.bb.c"]),
        ("a.b?.c", ["a.b+.c", "a.bb.c"]),
        ("*.*.{c,d}", ["a.b+.c", "a.b.c", "a.b.d", "a.bb.c", "x.y.c"]),
        ("a.b.[a-c]", ["a.b.c"]),
        ("a.b.[!c]", ["a.b.d"]),
        ("a.b", ["a.b"]),
        ("a.b+.c", ["a.b+.c"]),
        ("a.*", ["a.b"]),
        ("a.b.c.d.e.f.g.h.i.j.k.l", ["a.b.c.d.e.f.g.h.i.j.k.l"]),
        ("a.{b,b{b,c}}.c", ["a.b.c", "a.bb.c"]),
        ("none.*", []),
    ],
)
async def test_globs(
    client: httpx.AsyncClient, fill: Fill, graphite_tags: Tags, base_s: int, target: str, expected: list[str]
) -> None:
    await fill([(graphite_tags(path), [(base_s, 1.0)]) for path in PATHS])
    await fill([({"__name__": "prometheus"}, [(base_s, 1.0)])])
    answer = await client.get(RENDER, params={"target": target, "from": base_s - 60, "until": base_s})
    assert answer.status_code == 200
    assert sorted(one["target"] for one in answer.json()) == expected


async def test_points_on_the_grid_of_the_resolution(
    client: httpx.AsyncClient, fill: Fill, graphite_tags: Tags, base_s: int
) -> None:
    await fill([(graphite_tags("a.b"), [(base_s - 30, 1.0), (base_s - 10, 3.0), (base_s, float("nan"))])])
    params = {"target": "a.b", "from": base_s - 40, "until": base_s, "format": "json"}
    (one,) = (await client.post(RENDER, data=params)).json()
    assert one["datapoints"] == [
        [None, base_s - 40], [1.0, base_s - 30], [None, base_s - 20], [3.0, base_s - 10], [None, base_s],
    ]  # fmt: skip
    (one,) = (await client.get(RENDER, params={**params, "maxDataPoints": 2})).json()
    assert one["datapoints"] == [[1.0, base_s - 40], [3.0, base_s - 10]]


async def test_find_leaves_and_branches(
    client: httpx.AsyncClient, fill: Fill, graphite_tags: Tags, base_s: int
) -> None:
    await fill([(graphite_tags(path), [(base_s, 1.0)]) for path in PATHS])
    nodes = (await client.get(FIND, params={"query": "a.*"})).json()
    assert [(node["id"], node["leaf"], node["expandable"]) for node in nodes] == [
        ("a.b", 0, 1), ("a.b", 1, 0), ("a.b+", 0, 1), ("a.bb", 0, 1),
    ]  # fmt: skip
    assert [node["text"] for node in (await client.get(FIND, params={"query": "*"})).json()] == ["a", "x"]
    assert (await client.get(FIND, params={"query": "zz.*"})).json() == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", 0), ("", 0), ("-1h", -3600), ("-90s", -90), ("-5min", -300), ("now-2days", -172_800), ("-1w", -604_800),
        ("-2hours", -7200), ("-1mon", -2_592_000), ("-1y", -31_536_000),
    ],
)  # fmt: skip
def test_relative_times(text: str, expected: int) -> None:
    assert parse_time_ms("from", text, 10**12) == 10**12 + expected * 1000


def test_absolute_times() -> None:
    assert parse_time_ms("from", "1700000000", 0) == 1_700_000_000_000
    assert parse_time_ms("from", "20240102", 0) == 1_704_153_600_000
    assert parse_time_ms("from", "12:30_20240102", 0) == 1_704_153_600_000 + 45_000_000
    for text in ("-1parsec", "tomorrow", "1e999", "-", "nan"):
        with pytest.raises(QueryError, match="from"):
            parse_time_ms("from", text, 0)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"target": "sumSeries(a.*)"},
        {"target": "a.[z-a]"},
        {"target": "a", "format": "png"},
        {"target": "a", "from": "x"},
        {"target": "a", "from": "100", "until": "50"},
        {"target": "a", "maxDataPoints": "x"},
        {"target": ".".join(["*"] * 300)},
    ],
)
async def test_bad_requests(client: httpx.AsyncClient, params: dict[str, str]) -> None:
    answer = await client.get(RENDER, params=params)
    assert (answer.status_code, answer.json()["errorType"]) == (400, "bad_data")
    assert (await client.get(FIND)).status_code == 400

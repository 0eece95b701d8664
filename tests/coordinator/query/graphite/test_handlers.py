"""Render and find over HTTP, from both kinds of stores."""

import re

import httpx
import pytest
from tests.coordinator.query.conftest import BASE_S
from tests.coordinator.query.graphite.conftest import Put, path_tags

Stored = tuple[httpx.AsyncClient, Put]
RENDER = "/api/v1/graphite/render"
FIND = "/api/v1/graphite/metrics/find"
PATHS = ["a.b.c", "a.b.d", "a.bb.c", "a.b", "x.y.c", "a.b.c.d.e.f.g.h.i.j.k.l", "a.b+.c", "a.é.c", "a.b|x.c"]


async def put_paths(put: Put) -> None:
    prometheus = ({"__name__": "prometheus"}, [(BASE_S, 1.0)])
    await put([*((path_tags(path), [(BASE_S, 1.0)]) for path in PATHS), prometheus])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("a.b.c", ["a.b.c"]),
        ("a.*.c", ["a.b+.c", "a.b.c", "a.bb.c", "a.b|x.c", "a.é.c"]),
        ("a.b?.c", ["a.b+.c", "a.bb.c"]),
        ("a.é*.c", ["a.é.c"]),
        ("*.*.{c,d}", ["a.b+.c", "a.b.c", "a.b.d", "a.bb.c", "a.b|x.c", "a.é.c", "x.y.c"]),
        ("a.b.[a-c]", ["a.b.c"]),
        ("a.b.[!c]", ["a.b.d"]),
        ("a.b", ["a.b"]),
        ("a.b+.c", ["a.b+.c"]),
        ("a.b+?.c", []),
        ("a.b|?.c", ["a.b|x.c"]),
        ("a.é.c", ["a.é.c"]),
        ("a.*", ["a.b"]),
        ("*", []),
        ("a.b.c.d.e.f.g.h.i.j.k.l", ["a.b.c.d.e.f.g.h.i.j.k.l"]),
        ("a.{b,b{b,c}}.c", ["a.b.c", "a.bb.c"]),
        ("none.*", []),
        ("", []),
        ("a..b", []),
        ("a.b.**", ["a.b.c", "a.b.c.d.e.f.g.h.i.j.k.l", "a.b.d"]),
        ("a.**.c", ["a.b+.c", "a.b.c", "a.bb.c", "a.b|x.c", "a.é.c"]),
        ("**.l", ["a.b.c.d.e.f.g.h.i.j.k.l"]),
        ("a.**.b", ["a.b"]),
        ("x**", ["x.y.c"]),
        ("**", sorted(PATHS)),
    ],
)
async def test_globs(stored: Stored, target: str, expected: list[str]) -> None:
    client, put = stored
    await put_paths(put)
    answer = await client.get(RENDER, params={"target": target, "from": BASE_S - 60, "until": BASE_S})
    assert answer.status_code == 200
    assert [one["target"] for one in answer.json()] == expected


async def test_series_come_by_target_and_path(stored: Stored) -> None:
    client, put = stored
    await put([(path_tags(".".join([*"abcdefghij", last])), [(BASE_S, 1.0)]) for last in "zk"])
    params = {"target": ["a.b.c.d.e.f.g.h.i.j.z", "a.b.c.d.e.f.g.h.i.j.*"], "from": BASE_S - 60, "until": BASE_S}
    answer = await client.get(f"{RENDER}/", params=params)
    assert [one["target"][-1] for one in answer.json()] == ["z", "k", "z"]


async def test_points_on_the_grid_of_the_resolution(stored: Stored) -> None:
    client, put = stored
    await put([(path_tags("a.b"), [(BASE_S - 30, 1.0), (BASE_S - 10, 3.0), (BASE_S, float("nan"))])])
    params = {"target": "a.b", "from": BASE_S - 40, "until": BASE_S, "format": "json"}
    (one,) = (await client.post(RENDER, data=params)).json()
    assert one == {
        "target": "a.b",
        "datapoints": [
            [None, BASE_S - 40], [1.0, BASE_S - 30], [None, BASE_S - 20], [3.0, BASE_S - 10], [None, BASE_S],
        ],
        "step_size_ms": 10_000,
    }  # fmt: skip
    (one,) = (await client.get(RENDER, params={**params, "maxDataPoints": 2})).json()
    assert one["datapoints"] == [[1.0, BASE_S - 40], [3.0, BASE_S - 10]]
    assert one["step_size_ms"] == 30_000


async def test_a_range_begins_where_points_are_kept(stored: Stored) -> None:
    client, put = stored
    await put([(path_tags("a.b"), [(BASE_S - 10, 1.0)])])
    for begin in ("0", "-300y", "19700101"):
        (one,) = (await client.get(RENDER, params={"target": "a.b", "from": begin, "until": BASE_S})).json()
        times = [time for _, time in one["datapoints"]]
        assert (times[0], times[-1], len(times)) == (BASE_S - 6 * 3600, BASE_S, 2161)


@pytest.mark.parametrize("slash", ["", "/"])
async def test_find_leaves_and_branches(stored: Stored, slash: str) -> None:
    client, put = stored
    await put_paths(put)
    nodes = (await client.get(FIND + slash, params={"query": "a.b*"})).json()
    found = [(node["id"], node["leaf"], node["expandable"]) for node in nodes]
    branches = [("a.b", 0, 1), ("a.b+", 0, 1), ("a.bb", 0, 1), ("a.b|x", 0, 1)]
    # With M3DB a branch hides a leaf of its name, as in M3.
    assert found in (branches, [branches[0], ("a.b", 1, 0), *branches[1:]])
    assert [node["text"] for node in (await client.get(FIND + slash, params={"query": "*"})).json()] == ["a", "x"]
    assert (await client.post(FIND + slash, data={"query": "zz.*"})).json() == []


async def test_find_within_a_range(stored: Stored) -> None:
    client, put = stored
    await put([(path_tags("a.old"), [(BASE_S - 7200, 1.0)]), (path_tags("a.new"), [(BASE_S - 60, 1.0)])])

    async def found(**params: int | str) -> list[str]:
        return [node["text"] for node in (await client.get(FIND, params={"query": "a.*", **params})).json()]

    assert await found() == ["new", "old"]
    assert await found(until=BASE_S) == ["new", "old"]
    assert await found(**{"from": BASE_S - 3600, "until": BASE_S}) == ["new"]
    assert await found(until=BASE_S - 3600) == ["old"]
    assert await found(**{"from": BASE_S - 3600, "until": BASE_S - 1800}) == []


async def test_find_at_any_depth(stored: Stored) -> None:
    client, put = stored
    await put_paths(put)
    nodes = (await client.get(FIND, params={"query": "**.c", "from": BASE_S - 60, "until": BASE_S})).json()
    leaves = [node["id"] for node in nodes if node["leaf"]]
    assert leaves == ["a.b+.c", "a.b.c", "a.bb.c", "a.b|x.c", "a.é.c", "x.y.c"]
    nodes = (await client.get(FIND, params={"query": "a.b.c.**", "from": BASE_S - 60})).json()
    assert [node["id"] for node in nodes][-1] == "a.b.c.d.e.f.g.h.i.j.k.l"
    assert len(nodes) == 9


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "no 'target' specified"),
        ({"target": "sum(alias(a.*, 'x'))"}, "sumSeries, alias"),
        ({"target": "a.[z-a]"}, "path 'a.\\[z-a\\]': error parsing regexp"),
        ({"target": "a b"}, "extra data b"),
        ({"target": "sum(" * 500}, "more than 100 functions"),
        ({"target": "a", "from": "x"}, "invalid 'from': x: unknown time reference x; expected a time such as"),
        ({"target": "a", "from": "100", "until": "50"}, "'from' must come before 'until'"),
        ({"target": "a", "maxDataPoints": "x"}, "invalid 'maxDataPoints': x"),
        ({"target": "a", "limit": "x"}, "could not parse value: input=x"),
        ({"target": ".".join(["*"] * 300)}, "more than 256 parts"),
    ],
)
async def test_bad_requests(stored: Stored, params: dict[str, str], said: str) -> None:
    client, put = stored
    await put_paths(put)
    answer = await client.get(RENDER, params=params)
    assert answer.status_code == 400
    assert re.search(said, answer.json()["error"])


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "no query found"),
        ({"query": "a.b}"}, "invalid 'query': a.b}: } closes nothing"),
        ({"query": "a."}, "invalid 'query': a.: a part of the path is empty"),
        ({"query": "a", "until": "monday+x"}, "invalid 'until': monday x: unknown time reference mondayx"),
        ({"query": "a", "timeout": "1h"}, "1h0m0s greater than max 10m0s"),
    ],
)
async def test_bad_finds(stored: Stored, params: dict[str, str], said: str) -> None:
    client, _ = stored
    answer = await client.get(f"{FIND}?{'&'.join(f'{name}={value}' for name, value in params.items())}")
    assert (answer.status_code, answer.json()["errorType"]) == (400, "bad_data")
    assert said in answer.json()["error"]

"""A coordinator without a store that can be read, and what holds for one API only."""

from collections.abc import Awaitable, Callable

import httpx
from starlette.applications import Starlette
from starlette.routing import Route

from coordinator.query import EmbeddedSource, ReadOptions, query_routes, unreadable_routes
from coordinator.store import Store


def paths(routes: list[Route]) -> list[tuple[str, set[str]]]:
    return [(route.path, route.methods or set()) for route in routes]


async def test_every_query_is_told_where_the_data_is(store: Store) -> None:
    routes = unreadable_routes("it is over there")
    assert paths(routes) == paths(query_routes(EmbeddedSource(store)))
    transport = httpx.ASGITransport(app=Starlette(routes=routes))
    async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as client:
        for path, methods in paths(routes):
            for method in sorted(methods):
                answer = await client.request(method, path.replace("{name}", "x"))
                assert answer.status_code == 500
                if method != "HEAD":
                    assert answer.json() == {"status": "error", "errorType": "execution", "error": "it is over there"}


async def test_windows_are_those_of_an_embedded_store(store: Store) -> None:
    transport = httpx.ASGITransport(app=Starlette(routes=query_routes(EmbeddedSource(store))))
    async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as client:
        answer = await client.get("/api/v1/windows")
    assert answer.status_code == 404
    assert "embedded store only" in answer.json()["error"]


async def test_limits_of_graphite_are_its_own(
    store: Store, fill: Callable[..., Awaitable[None]], graphite_tags: Callable[[str], dict[str, str]], base_s: int
) -> None:
    paths = [*(f"a.b{i}" for i in range(5)), "0.z.z", "1.z.z", "x.y.d"]
    await fill([(graphite_tags(path), [(base_s, 1.0)]) for path in paths])
    limited = ReadOptions(docs_limit=3, require_exhaustive=False)
    routes = query_routes(EmbeddedSource(store), find_defaults=limited, render_defaults=limited)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=Starlette(routes=routes)), base_url="http://coordinator"
    ) as client:
        found = await client.get("/api/v1/graphite/metrics/find", params={"query": "a.*"})
        assert (len(found.json()), found.headers["M3-Results-Limited"]) == (3, "max_fetch_series_limit_applied")
        # Of a glob with ** those that match count.
        for query, ids in (
            ("a**", ["a", "a.b0", "a.b1", "a.b2"]),
            ("x.**.d", ["x.y.d"]),
            ("**.z", ["0.z", "0.z.z", "1.z", "1.z.z"]),
        ):
            found = await client.get("/api/v1/graphite/metrics/find", params={"query": query})
            assert [one["id"] for one in found.json()] == ids
            assert ("M3-Results-Limited" in found.headers) == (query == "a**")
        whole = {"M3-Limit-Require-Exhaustive": "true"}
        refused = await client.get("/api/v1/graphite/metrics/find", params={"query": "a**"}, headers=whole)
        assert (refused.status_code, "docs_matched=5" in refused.text) == (400, True)
        for target in ("a.*", "a**"):
            params = {"target": target, "from": base_s - 60, "until": base_s}
            assert len((await client.get("/api/v1/graphite/render", params=params)).json()) == 5
        assert len((await client.get("/api/v1/label/__g0__/values")).json()["data"]) == 4

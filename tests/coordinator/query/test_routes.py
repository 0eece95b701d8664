"""A coordinator without a store that can be read."""

import httpx
from starlette.applications import Starlette
from starlette.routing import Route

from coordinator.query import EmbeddedSource, query_routes, unreadable_routes
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

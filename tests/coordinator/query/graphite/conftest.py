"""Both kinds of stores behind Graphite's calls, filled alike."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import cast

import httpx
import pytest
from starlette.applications import Starlette
from tests.coordinator.query.conftest import BASE_S, Points, fill_store
from tests.coordinator.query.m3db.conftest import PlayedReader

from coordinator.config import Namespace
from coordinator.query import EmbeddedSource, query_routes
from coordinator.query.m3db import M3DBSource
from coordinator.store import StoreOptions, open_store
from m3db.reader import Reader
from m3metrics.policy import StoragePolicy

Series = list[tuple[dict[str, str], Points]]
Put = Callable[[Series], Awaitable[None]]
POLICY = StoragePolicy.parse("10s:6h")


def path_tags(path: str) -> dict[str, str]:
    """Tags of a Graphite path."""
    return {f"__g{i}__": part for i, part in enumerate(path.split("."))}


@pytest.fixture(params=["embedded", "m3db"])
async def stored(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Put]]:
    """HTTP over a store of the policy 10s:6h, and how series are put into it; its clock stands at ``BASE_S``."""

    def clock() -> int:
        return BASE_S * 10**9

    reader = PlayedReader()
    async with open_store(tmp_path / "m.duckdb", [POLICY], StoreOptions(), clock=clock) as store:
        if request.param == "embedded":
            routes = query_routes(EmbeddedSource(store))

            async def put(series: Series) -> None:
                await fill_store(store, series)
        else:
            namespaces = [Namespace("agg", POLICY.window_ns, POLICY.retention_ns)]
            routes = query_routes(M3DBSource(cast(Reader, reader), lambda: namespaces, clock=clock))

            async def put(series: Series) -> None:
                reader.stored["agg"] = [(tags, list(points)) for tags, points in series]

        transport = httpx.ASGITransport(app=Starlette(routes=routes))
        async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as client:
            yield client, put

"""The admin API over a store in memory, without a server."""

import httpx
import pytest
from starlette.applications import Starlette

from coordinator.api import admin_routes, not_found
from m3cluster.kv import MemoryServer

NOW = 1_767_323_045_500_000_000
ENVIRONMENT = {"Cluster-Environment-Name": "namespace/m3db-cluster-name"}


def client_of(store, **options):
    app = Starlette(routes=admin_routes(store, clock=lambda: NOW, **options), exception_handlers={404: not_found})
    app.router.redirect_slashes = False
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://coordinator", headers=ENVIRONMENT)


@pytest.fixture
async def store():
    opened = MemoryServer().client()
    yield opened
    await opened.close()


@pytest.fixture
async def client(store):
    async with client_of(store) as made:
        yield made

"""Backends that the conformance suite runs against. A new backend is one more entry in ``BACKENDS``."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from m3cluster.kv import Embedded, Memory, MemoryServer, Store, open_store

BACKENDS = ("memory", "embedded")
Connect = Callable[[], Awaitable[Store]]


@pytest.fixture(params=BACKENDS)
async def connect(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Connect]:
    """Gives a function that opens one more client of one and the same, at first empty, database."""
    clients: list[Store] = []
    config = Memory(MemoryServer()) if request.param == "memory" else Embedded(tmp_path / "kv" / "kv.sqlite")

    async def another() -> Store:
        clients.append(await open_store(config))
        return clients[-1]

    yield another
    for client in clients:
        await client.close()


@pytest.fixture
async def store(connect: Connect) -> Store:
    return await connect()

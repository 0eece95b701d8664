"""Backends that the conformance suite runs against. A new backend is one more entry in ``BACKENDS``."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from lab.kv_servers import EtcdServer, ZooKeeperServer
from tests.real_servers import require_server

from m3cluster.kv import Embedded, Etcd, Memory, MemoryServer, Store, StoreConfig, ZooKeeper, open_store

BACKENDS = ("memory", "embedded", "etcd", "zookeeper")
Connect = Callable[[], Awaitable[Store]]


@pytest.fixture
def new_etcd(tmp_path: Path) -> Iterator[Callable[..., EtcdServer]]:
    """Makes etcd servers that are not started yet; options are etcd's own."""
    servers: list[EtcdServer] = []

    def make(*options: str, scheme: str = "http") -> EtcdServer:
        require_server(EtcdServer)
        servers.append(EtcdServer(tmp_path / f"etcd{len(servers)}", *options, scheme=scheme))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
def own_etcd(new_etcd: Callable[..., EtcdServer]) -> EtcdServer:
    """A running etcd that the test may stop, kill and compact."""
    return new_etcd().start()


@pytest.fixture(scope="session")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    require_server(EtcdServer)
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    try:
        yield server.start()
    finally:
        server.kill()


async def emptied(server: EtcdServer) -> Etcd:
    """The configuration of a server without keys."""
    config = Etcd((server.address,))
    store = await open_store(config)
    for key, _ in await store.keys(""):
        await store.delete(key)
    await store.close()
    return config


@pytest.fixture
def own_zookeeper(tmp_path: Path) -> Iterator[ZooKeeperServer]:
    """A running ZooKeeper that the test may stop and kill."""
    require_server(ZooKeeperServer)
    server = ZooKeeperServer(tmp_path / "zookeeper")
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture(scope="session")
def shared_zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperServer]:
    require_server(ZooKeeperServer)
    server = ZooKeeperServer(tmp_path_factory.mktemp("zookeeper"))
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture(params=BACKENDS)
async def connect(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Connect]:
    """Gives a function that opens one more client of one and the same, at first empty, database."""
    clients: list[Store] = []
    config: StoreConfig
    if request.param == "etcd":
        config = await emptied(request.getfixturevalue("shared_etcd"))
    elif request.param == "zookeeper":
        server = request.getfixturevalue("shared_zookeeper")
        config = ZooKeeper((server.address,), chroot=f"/{tmp_path.name}")
    elif request.param == "memory":
        config = Memory(MemoryServer())
    else:
        config = Embedded(tmp_path / "kv" / "kv.sqlite")

    async def another() -> Store:
        clients.append(await open_store(config))
        return clients[-1]

    yield another
    for client in clients:
        await client.close()


@pytest.fixture
async def store(connect: Connect) -> Store:
    return await connect()

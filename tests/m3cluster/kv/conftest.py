"""Backends that the conformance suite runs against. A new backend is one more entry in ``BACKENDS``."""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from tests.processes import stop
from tests.zookeeper_server import ZooKeeperServer

from m3cluster.kv import Embedded, Etcd, Memory, MemoryServer, Store, StoreConfig, ZooKeeper, open_store

BACKENDS = ("memory", "embedded", "etcd", "zookeeper")
Connect = Callable[[], Awaitable[Store]]
START_S = 30


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class EtcdServer:
    """A real etcd of one member on loopback; its ports and data survive ``kill`` and ``start``."""

    def __init__(self, directory: Path, *options: str, scheme: str = "http") -> None:
        self.directory = directory
        self.address = f"127.0.0.1:{free_port()}"
        self._peer = f"http://127.0.0.1:{free_port()}"
        self._metrics = f"http://127.0.0.1:{free_port()}"
        self._url = f"{scheme}://{self.address}"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def binary() -> str:
        """Path of etcd; skips the test if it is missing, unless REQUIRE_SERVERS says that it must be there."""
        path = shutil.which("etcd")
        if path is None:
            if os.environ.get("REQUIRE_SERVERS"):
                pytest.fail("etcd is not installed, and REQUIRE_SERVERS is set")
            pytest.skip("etcd is not installed (Debian package etcd-server)")
        return path

    def launch(self) -> None:
        """Starts the process without waiting for it to serve."""
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [self.binary(), "--name=t", f"--data-dir={self.directory / 'data'}", "--log-level=error"]
        command += [f"--listen-client-urls={self._url}", f"--advertise-client-urls={self._url}"]
        command += [f"--listen-peer-urls={self._peer}", f"--initial-advertise-peer-urls={self._peer}"]
        command += [f"--initial-cluster=t={self._peer}", f"--listen-metrics-urls={self._metrics}"]
        command += ["--heartbeat-interval=50", "--election-timeout=250", *self._options]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def start(self) -> "EtcdServer":
        """Starts the process and waits until it serves."""
        self.launch()
        give_up = time.monotonic() + START_S
        while not self._healthy():
            if time.monotonic() > give_up or self._process is None or self._process.poll() is not None:
                pytest.fail(f"etcd does not serve: {(self.directory / 'log').read_text()[-2000:]}")
            time.sleep(0.02)
        return self

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._metrics}/health", timeout=1) as answer:
                return b"true" in answer.read()
        except OSError:
            return False

    def stop(self) -> None:
        """SIGSTOP; nothing is answered from here on."""
        assert self._process is not None
        stop(self._process.pid)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9, unless it is dead already."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


@pytest.fixture
def new_etcd(tmp_path: Path) -> Iterator[Callable[..., EtcdServer]]:
    """Makes etcd servers that are not started yet; options are etcd's own."""
    servers: list[EtcdServer] = []

    def make(*options: str, scheme: str = "http") -> EtcdServer:
        EtcdServer.binary()
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
    EtcdServer.binary()
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
    ZooKeeperServer.require()
    server = ZooKeeperServer(tmp_path / "zookeeper")
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture(scope="session")
def shared_zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperServer]:
    ZooKeeperServer.require()
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

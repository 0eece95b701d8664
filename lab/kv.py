"""The KVs that services can run on: a file, or a server of ``lab.kv_servers``; what a configuration says of each, and how we read it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from lab.kv_servers import EtcdServer, KVServer, ZooKeeperServer
from m3cluster.kv import Embedded, Etcd, Store, StoreConfig, ZooKeeper, open_store

__all__ = ["ENVIRONMENT", "KINDS", "KV", "ZONE", "kv_of"]

T = TypeVar("T")
ENVIRONMENT, ZONE = "namespace/m3db-cluster-name", "embedded"


class KV:
    """One of ``KINDS``. ``server`` is None where there is none to start."""

    server: KVServer | None = None

    def store(self) -> StoreConfig:
        """The options of a client of ours."""
        raise NotImplementedError

    def section(self, service: str, address: str = "") -> dict[str, Any]:
        """``kvClient`` (aggregator) or ``clusterManagement`` (coordinator), to be laid over a file of configs/local.

        ``service``: whose cache file it is. ``address``: through which the server is reached; empty: directly.
        """
        raise NotImplementedError

    def m3ctl(self) -> str:
        """The options with which ``m3ctl`` reads it."""
        raise NotImplementedError

    def do(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """Runs something on a client of its own."""

        async def run() -> T:
            store = await open_store(self.store())
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(run())


class EmbeddedKV(KV):
    """The SQLite file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "kv.sqlite"

    def store(self) -> StoreConfig:
        return Embedded(self._path)

    def section(self, service: str, address: str = "") -> dict[str, Any]:
        return {"embedded": {"path": str(self._path)}}

    def m3ctl(self) -> str:
        return f"--embedded {self._path}"


class EtcdKV(KV):
    """A single etcd."""

    def __init__(self, folder: Path, *, ends_with_us: bool = False) -> None:
        self._folder = folder
        self.server: EtcdServer = EtcdServer(folder / "etcd", quick=False, ends_with_us=ends_with_us)

    def store(self) -> StoreConfig:
        return Etcd((self.server.address,))

    def section(self, service: str, address: str = "") -> dict[str, Any]:
        cluster = {"zone": ZONE, "endpoints": [address or self.server.address]}
        etcd = {
            "env": ENVIRONMENT, "zone": ZONE, "service": service,
            "cacheDir": str(self._folder / f"cache-{service}"), "etcdClusters": [cluster],
        }  # fmt: skip
        return {"etcd": etcd, "embedded": None}

    def m3ctl(self) -> str:
        return f"--etcd {self.server.address}"


class ZooKeeperKV(KV):
    """A single ZooKeeper."""

    def __init__(self, folder: Path, *, ends_with_us: bool = False) -> None:
        self.server: ZooKeeperServer = ZooKeeperServer(folder / "zookeeper", quick=False, ends_with_us=ends_with_us)

    def store(self) -> StoreConfig:
        return ZooKeeper((self.server.address,))

    def section(self, service: str, address: str = "") -> dict[str, Any]:
        servers = [address or self.server.address]
        return {
            "zookeeper": {"env": ENVIRONMENT, "zone": ZONE, "servers": servers},
            "embedded": None,
        }

    def m3ctl(self) -> str:
        return f"--zookeeper {self.server.address}"


KINDS = ("embedded", "etcd", "zookeeper")


def kv_of(kind: str, folder: Path, *, ends_with_us: bool = False) -> KV:
    """One of ``KINDS`` with its files in ``folder``; its server is not started yet."""
    if kind == "embedded":
        return EmbeddedKV(folder)
    return {"etcd": EtcdKV, "zookeeper": ZooKeeperKV}[kind](folder, ends_with_us=ends_with_us)

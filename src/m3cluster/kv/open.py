"""Opens the store that a configuration names."""

from dataclasses import dataclass
from pathlib import Path

from m3cluster.kv.etcd.config import Etcd
from m3cluster.kv.sqlite.embedded import open_embedded
from m3cluster.kv.sqlite.memory import MemoryServer
from m3cluster.kv.store import Store
from m3cluster.kv.zookeeper.config import ZooKeeper
from m3cluster.kv.zookeeper.secure import opened

__all__ = ["Embedded", "Memory", "StoreConfig", "check_store", "open_store"]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The SQLite file ``path``, shared by the processes of one machine."""

    path: str | Path


@dataclass(frozen=True, slots=True)
class Memory:
    """A server inside this process."""

    server: MemoryServer


StoreConfig = Embedded | Memory | Etcd | ZooKeeper


def check_store(config: StoreConfig) -> None:
    """Raises ``KVError`` for what ``open_store`` would refuse whether the store is up or not: files of TLS that cannot be used."""
    if isinstance(config, Etcd) and config.tls is not None:
        from m3cluster.kv.etcd.channel import credentials  # noqa: PLC0415 - gRPC, see open_store

        credentials(config.tls)
    if isinstance(config, ZooKeeper) and config.tls is not None:
        opened(config.tls)


async def open_store(config: StoreConfig) -> Store:
    """A client of the configured store; raises ``KVError`` if it cannot be used. Close it when done.

    An etcd or ZooKeeper that is down is no error here: it may come back while the client is in use.
    """
    if isinstance(config, Memory):
        return config.server.client()
    if isinstance(config, Etcd):
        # gRPC is large, slow to import and not needed by the others.
        from m3cluster.kv.etcd.store import open_etcd  # noqa: PLC0415

        return await open_etcd(config)
    if isinstance(config, ZooKeeper):
        # kazoo brings threads and is not needed by the others.
        from m3cluster.kv.zookeeper.store import open_zookeeper  # noqa: PLC0415

        return await open_zookeeper(config)
    return await open_embedded(config.path)

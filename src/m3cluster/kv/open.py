"""Opens the store that a configuration names."""

from dataclasses import dataclass
from pathlib import Path

from m3cluster.kv.embedded import open_embedded
from m3cluster.kv.memory import MemoryServer
from m3cluster.kv.store import Store

__all__ = ["Embedded", "Memory", "StoreConfig", "open_store"]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The SQLite file ``path``, shared by the processes of one machine."""

    path: str | Path


@dataclass(frozen=True, slots=True)
class Memory:
    """A server inside this process."""

    server: MemoryServer


StoreConfig = Embedded | Memory


async def open_store(config: StoreConfig) -> Store:
    """A client of the configured store; raises ``KVError`` if it cannot be used. Close it when done."""
    if isinstance(config, Memory):
        return config.server.client()
    return await open_embedded(config.path)

"""Reads of the cluster's own keys, directly from the KV: what M3's HTTP APIs do not offer (docs/m3/cluster.md, keys)."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar

from m3cluster.environments import environments as listed
from m3cluster.flush_times import ShardSetFlushTimes, decode_flush_times
from m3cluster.keys import election_prefix, flush_times_key
from m3cluster.kv import Embedded, Etcd, KeyNotFoundError, KVError, Store, ZooKeeper, open_store
from m3cluster.proto import DecodeError
from m3ctl.client import CtlError
from m3ctl.cluster import AGGREGATOR, Settings

__all__ = ["candidates", "check", "environments", "flush_times", "look", "where"]

Result = TypeVar("Result")


def where(settings: Settings) -> str:
    """The KV in words."""
    config = settings.kv
    if isinstance(config, Embedded):
        return f"embedded KV {config.path}"
    if isinstance(config, Etcd):
        return f"etcd {', '.join(config.endpoints)}"
    if isinstance(config, ZooKeeper):
        return f"zookeeper {config.name}"
    return "KV"


def check(settings: Settings) -> None:
    """Raises ``CtlError`` if the KV does not answer."""

    async def read(store: Store) -> None:
        await store.keys(f"{election_prefix(settings.environment, AGGREGATOR, 'shardset')}/")

    look(settings, read)


def environments(settings: Settings) -> dict[str, list[str]]:
    """Environment → what is in it. Raises ``CtlError``."""
    return look(settings, listed)


def candidates(settings: Settings, shard_sets: Iterable[int]) -> dict[int, list[str]]:
    """Shard set → values of the election's keys, the leader's first. Raises ``CtlError``."""

    async def read(store: Store) -> dict[int, list[str]]:
        found = {}
        for number in shard_sets:
            name = settings.election_key.replace("%d", str(number))
            keys = await store.keys(election_prefix(settings.environment, AGGREGATOR, name) + "/")
            found[number] = [value.data.decode(errors="replace") for _, value in keys]
        return found

    return look(settings, read)


def flush_times(settings: Settings, shard_sets: Iterable[int]) -> dict[int, tuple[ShardSetFlushTimes, int]]:
    """Shard set → flush times and the version of their key; 0: not written yet. Raises ``CtlError``."""

    async def read(store: Store) -> dict[int, tuple[ShardSetFlushTimes, int]]:
        found = {}
        for number in shard_sets:
            key = flush_times_key(settings.environment, number, settings.flush_times_key)
            try:
                value = await store.get(key)
                found[number] = (decode_flush_times(value.data), value.version)
            except KeyNotFoundError:
                found[number] = (ShardSetFlushTimes(), 0)
            except DecodeError as error:
                raise CtlError(f"{where(settings)}: the value of {key} is no flush times: {error}") from error
        return found

    return look(settings, read)


def look(settings: Settings, read: Callable[[Store], Awaitable[Result]]) -> Result:
    """What ``read`` makes of the store, which is open meanwhile. Raises ``CtlError``."""
    config = settings.kv
    assert config is not None
    if isinstance(config, Embedded) and not Path(config.path).is_file():
        # Opening it would make an empty one.
        raise CtlError(f"{where(settings)}: there is no such file; name the one in kvClient.embedded.path")

    async def opened() -> Result:
        store = await open_store(config)
        try:
            return await read(store)
        finally:
            await store.close()

    try:
        return asyncio.run(opened())
    except KVError as error:
        raise CtlError(f"{where(settings)}: {error}") from error

"""The store on SQLite tables: an asyncio shell around ``Tables``, used by the memory and the embedded backend."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from m3cluster.kv.contact import Contact
from m3cluster.kv.lease import SECOND_NS, KeptLease
from m3cluster.kv.rules import Tables
from m3cluster.kv.store import KVError, Lease, Value
from m3cluster.kv.tasks import Tasks
from m3cluster.kv.watching import Feed, LatestWatch, until_deleted
from m3x.clock import boot_ns
from m3x.log import logger

__all__ = ["SQLiteLease", "SQLiteStore"]

log = logger(__name__)
T = TypeVar("T")

_POLL_S = 0.1


class SQLiteStore:
    """One client of one database (``Store``). Create it inside a running loop; use it on that loop only.

    ``executor`` is the thread that owns ``tables`` (None: the caller's own, for a database in memory). ``peers`` are the clients of the
    same database in this process; they learn of a write at once, other processes within the polling period.
    """

    def __init__(self, tables: Tables, executor: Executor | None, peers: "set[SQLiteStore]", name: str) -> None:
        self._tables = tables
        self._executor = executor
        self._peers = peers
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._leases: set[SQLiteLease] = set()
        self._tasks = Tasks(name)
        self._closed = False
        self._feed = Feed(self._poll, _POLL_S, Contact(f"the embedded KV {name}"))
        self._tasks.start(self._feed.run(), "watches")
        peers.add(self)

    async def _run(self, operation: Callable[..., T], *arguments: Any) -> T:
        if self._closed:
            raise KVError(f"{self._name} has been closed")
        try:
            if self._executor is None:
                return operation(*arguments)
            return await self._loop.run_in_executor(self._executor, operation, *arguments)
        except sqlite3.Error as error:
            raise KVError(f"{self._name}: {error}{_advice(error)}") from error

    async def _write(self, operation: Callable[..., T], *arguments: Any) -> T:
        result = await self._run(operation, *arguments)
        for peer in list(self._peers):
            peer.wake()
        return result

    def wake(self) -> None:
        """Something may have changed; called from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._feed.wake)

    async def _poll(
        self, known: dict[str, int], token: tuple[int, int]
    ) -> tuple[dict[str, Value | None], tuple[int, int]]:
        news = await self._run(self._tables.changes, known, token)
        self._feed.contact.answered()
        return news

    async def get(self, key: str) -> Value:
        """Raises ``KeyNotFoundError``."""
        return await self._run(self._tables.get, key)

    async def get_version(self, key: str, version: int) -> Value:
        """``KeepsHistory``."""
        return await self._run(self._tables.get_version, key, version)

    async def set(self, key: str, data: bytes) -> int:
        """Unconditional write; returns the new version."""
        return await self._write(self._tables.set, key, bytes(data))

    async def set_if_not_exists(self, key: str, data: bytes) -> int:
        """Raises ``VersionMismatchError`` if the key exists; returns 1."""
        return await self.check_and_set(key, 0, data)

    async def check_and_set(self, key: str, version: int, data: bytes) -> int:
        """Writes at an expected version (0: must not exist), else ``VersionMismatchError``."""
        return await self._write(self._tables.check_and_set, key, version, bytes(data))

    async def put_if(self, key: str, data: bytes, other_key: str, create_revision: int) -> int:
        """Writes while ``other_key`` has that create revision, else ``ConditionFailedError``."""
        return await self._write(self._tables.put_if, key, bytes(data), other_key, create_revision)

    async def delete(self, key: str) -> Value:
        """Returns the last value; raises ``KeyNotFoundError``."""
        return await self._write(self._tables.delete, key)

    async def delete_if(self, key: str, create_revision: int) -> bool:
        """Deletes at an expected create revision; returns whether it did."""
        return await self._write(self._tables.delete_if, key, create_revision)

    async def keys(self, prefix: str) -> list[tuple[str, Value]]:
        """All keys that start with ``prefix``, in order of create revision."""
        return await self._run(self._tables.keys, prefix)

    def watch(self, key: str) -> LatestWatch:
        """A new watch of one key."""
        return self._feed.watch(key)

    async def wait_deleted(self, key: str, create_revision: int) -> None:
        """Returns as soon as ``key`` does not exist with that create revision."""
        await until_deleted(self._feed.watch(key, report_missing=True), key, create_revision, self._name)

    async def grant(self, ttl_s: int) -> "SQLiteLease":
        """A new lease, kept alive every TTL/3 until revoked or lost."""
        if ttl_s <= 0:
            raise ValueError(f"a lease needs a TTL of at least 1 s, not {ttl_s}")
        sent_ns = boot_ns()
        lease_id = await self._run(self._tables.grant, ttl_s * SECOND_NS)
        lease = SQLiteLease(self, lease_id, ttl_s * SECOND_NS, sent_ns)
        self._leases.add(lease)
        self._tasks.start(self._keep(lease), f"lease {lease_id:x}")
        return lease

    async def _keep(self, lease: "SQLiteLease") -> None:
        try:
            await lease.keep_alive()
        finally:
            self._leases.discard(lease)

    async def put_with_lease(self, key: str, data: bytes, lease: Lease) -> Value:
        """Creates ``key`` bound to ``lease`` if it does not exist; returns the value that is there afterwards."""
        return await self._write(self._tables.put_with_lease, key, bytes(data), lease.id)

    async def refresh_lease(self, lease: "SQLiteLease") -> bool:
        """One keepalive; False if the lease is over."""
        return await self._run(self._tables.keep_alive, lease.id)

    async def revoke_lease(self, lease: "SQLiteLease") -> None:
        """Ends a lease; its keys vanish."""
        await self._write(self._tables.revoke, lease.id)

    def trouble(self) -> str | None:
        """Why watches get no news; None: they get them."""
        return self._feed.contact.trouble()

    async def close(self) -> None:
        """Ends watches and leases of this client (leases are revoked) and frees the connection."""
        if self._closed:
            return
        for lease in list(self._leases):
            try:
                await lease.revoke()
            except KVError as error:
                log.warning("a lease could not be revoked; it ends by its TTL", lease=f"{lease.id:x}", error=str(error))
        await self._stop()

    async def abandon(self) -> None:
        """Frees everything as ``close`` does, but leaves the leases to their TTL, as a process that dies would."""
        for lease in list(self._leases):
            lease.end()
        await self._stop()

    async def _stop(self) -> None:
        self._feed.end()
        await self._tasks.end()
        self._peers.discard(self)
        if self._executor is not None and not self._closed:
            await self._run(self._tables.close)
            self._executor.shutdown(wait=False)
        self._closed = True


def _advice(error: sqlite3.Error) -> str:
    text = str(error)
    if "locked" in text or "busy" in text:
        return "; another process holds it in the middle of a write: is one stopped?"
    if "full" in text or "I/O" in text:
        return "; look at the disk"
    if "malformed" in text or "not a database" in text:
        return "; the file is not a usable database: restore it or name another file"
    return ""


class SQLiteLease(KeptLease):
    """A lease, kept alive by its store."""

    def __init__(self, store: SQLiteStore, lease_id: int, ttl_ns: int, sent_ns: int) -> None:
        super().__init__(lease_id, ttl_ns, sent_ns)
        self._store = store

    async def _revoke(self) -> None:
        await self._store.revoke_lease(self)

    async def _renew(self, sent_ns: int, timeout_ns: int) -> int:
        async with asyncio.timeout(timeout_ns / SECOND_NS):
            return sent_ns + self._ttl_ns if await self._store.refresh_lease(self) else 0

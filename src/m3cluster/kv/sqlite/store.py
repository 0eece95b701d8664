"""The store on SQLite tables: an asyncio shell around ``Tables``, used by the memory and the embedded backend."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from m3cluster.kv.contact import Contact
from m3cluster.kv.lease import SECOND_NS, KeptLease
from m3cluster.kv.leased import LeasedStore
from m3cluster.kv.rules import UNKNOWN, Tables
from m3cluster.kv.sqlite.bell import Bell
from m3cluster.kv.store import KVError, Lease, Value
from m3cluster.kv.watching import Feed
from m3x.clock import boot_ns

__all__ = ["SQLiteLease", "SQLiteStore"]

T = TypeVar("T")

_POLL_S = 0.1
_LOOK_S = 1.0
"""The same where others wake us."""
_READ_NS = SECOND_NS * 9 // 10
"""A file that nobody seems to have written is read all the same when the last time is so long ago: looks may come a little early."""

Stamp = tuple[int, ...]


class SQLiteStore(LeasedStore["SQLiteLease"]):
    """One client of one database (``Store``). Create it inside a running loop; use it on that loop only.

    ``executor`` is the thread that owns ``tables`` (None: the caller's own, for a database in memory). ``peers`` are the clients of the
    same database in this process; they learn of a write at once. ``stamp`` is something that another process cannot write without
    changing, cheaper to look at than the database; None: not known at this moment. ``bell`` wakes other processes, which learn of a write
    within the polling period without one.
    """

    def __init__(
        self,
        tables: Tables,
        executor: Executor | None,
        peers: "set[SQLiteStore]",
        name: str,
        stamp: Callable[[], Stamp | None] = lambda: None,
        bell: Bell | None = None,
    ) -> None:
        self._feed = Feed(self._poll, _POLL_S, Contact(f"the embedded KV {name}"), on_beats=True)
        super().__init__(name, self._feed, self._feed.contact)
        self._tables = tables
        self._executor = executor
        self._peers = peers
        self._stamp = stamp
        self._seen: Stamp | None = None
        self._read_ns = 0
        """No later than this the database is read again, whatever ``stamp`` says."""
        self._bell = bell
        self._written = False
        """Somebody has written since it was read."""
        self._loop = asyncio.get_running_loop()
        self._tasks.start(self._feed.run(), "watches")
        peers.add(self)
        if bell is not None:
            bell.listen(self._heard)

    async def _run(self, operation: Callable[..., T], *arguments: Any) -> T:
        self._check_open()
        try:
            if self._executor is None:
                return operation(*arguments)
            return await self._loop.run_in_executor(self._executor, operation, *arguments)
        except sqlite3.Error as error:
            raise KVError(f"{self._name}: {error}{_advice(error)}") from error

    async def _write(self, operation: Callable[..., T], *arguments: Any) -> T:
        def write() -> tuple[T, bool]:
            result = operation(*arguments)
            return result, self._bell is not None and self._bell.ring()

        written, rung = await self._run(write)
        for peer in list(self._peers):
            if not (rung and peer.woken):
                peer.wake()
        return written

    @property
    def woken(self) -> bool:
        """Whether whoever writes wakes it."""
        return self._bell is not None and self._bell.hears

    def wake(self) -> None:
        """Something may have changed; called from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._heard)

    def _heard(self) -> None:
        self._written = True
        self._feed.wake()

    async def _poll(
        self, known: dict[str, int], token: tuple[int, int]
    ) -> tuple[dict[str, Value | None], tuple[int, int]]:
        stamp = self._stamp()
        unwritten = stamp is not None and stamp == self._seen and UNKNOWN not in known.values() and not self._written
        if unwritten and boot_ns() < self._read_ns:
            self._pace()
            return {}, token
        self._written = False
        try:
            news = await self._run(self._tables.changes, known, token)
        except KVError:
            # What we were woken for is not read yet.
            self._written, self._feed.period_s = True, _POLL_S
            raise
        self._seen, self._read_ns = stamp, min(boot_ns() + _READ_NS, self._tables.next_end_ns)
        self._feed.contact.answered()
        self._pace()
        return news

    def _pace(self) -> None:
        """Looks often where nobody wakes us, as when the next lease ends; whoever keeps one alive does not ring either."""
        ends_soon = self._tables.next_end_ns - boot_ns() < _LOOK_S * SECOND_NS
        self._feed.period_s = _LOOK_S if self.woken and not ends_soon else _POLL_S

    async def get(self, key: str) -> Value:
        return await self._run(self._tables.get, key)

    async def get_version(self, key: str, version: int) -> Value:
        """``KeepsHistory``."""
        return await self._run(self._tables.get_version, key, version)

    async def set(self, key: str, data: bytes) -> int:
        return await self._write(self._tables.set, key, bytes(data))

    async def check_and_set(self, key: str, version: int, data: bytes) -> int:
        return await self._write(self._tables.check_and_set, key, version, bytes(data))

    async def put_if(self, key: str, data: bytes, other_key: str, create_revision: int) -> int:
        return await self._write(self._tables.put_if, key, bytes(data), other_key, create_revision)

    async def delete(self, key: str) -> Value:
        return await self._write(self._tables.delete, key)

    async def delete_if(self, key: str, create_revision: int) -> bool:
        return await self._write(self._tables.delete_if, key, create_revision)

    async def keys(self, prefix: str) -> list[tuple[str, Value]]:
        return await self._run(self._tables.keys, prefix)

    async def _grant(self, ttl_s: int) -> "SQLiteLease":
        sent_ns = boot_ns()
        lease_id = await self._run(self._tables.grant, ttl_s * SECOND_NS)
        return SQLiteLease(self, lease_id, ttl_s * SECOND_NS, sent_ns)

    async def put_with_lease(self, key: str, data: bytes, lease: Lease) -> Value:
        return await self._write(self._tables.put_with_lease, key, bytes(data), lease.id)

    async def refresh_lease(self, lease: "SQLiteLease") -> bool:
        """One keepalive; False if the lease is over."""
        return await self._run(self._tables.keep_alive, lease.id)

    async def revoke_lease(self, lease: "SQLiteLease") -> None:
        """Ends a lease; its keys vanish."""
        await self._write(self._tables.revoke, lease.id)

    async def _disconnect(self) -> None:
        self._peers.discard(self)
        if self._bell is not None:
            self._bell.close()
        if self._executor is not None:
            await self._loop.run_in_executor(self._executor, self._tables.close)
            self._executor.shutdown(wait=False)


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

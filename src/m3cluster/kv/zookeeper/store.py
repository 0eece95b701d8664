"""The store on a ZooKeeper ensemble: one session for reads, writes and watches, and one for each lease.

What the interface calls       is here
=============================  ==================================================================================================
key                            the node at ``Paths.value(key)``, whose data is the value as it is
version                        the node's data version + 1: ZooKeeper counts from 0 and begins anew for a new node
create and mod revision        czxid and mzxid, numbers of transactions: one order over all nodes
key of a lease                 an ephemeral node of the lease's session
=============================  ==================================================================================================

A transaction of ZooKeeper can check a node's version but not its czxid, and a node that was deleted and made again begins with the same
version. So every creation writes the *clock* node as well: a transaction that finds the clock's version as it was has found every node as
it was, or gone. Only nodes made by other programs escape that, in the milliseconds between a read and its write.

Candidates of an election are ephemeral nodes without ZooKeeper's sequence numbers: their czxid orders them already, and their names are
M3's. Reads go behind a ``sync``: they see every write that was answered before, whichever server it went through.

Nothing is connected before it is needed, so a client can be opened while ZooKeeper is down. A client that stays without connection for
longer than its session can live is replaced: a ZooKeeper restored from a backup refuses those that have seen what came later.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from kazoo.exceptions import BadVersionError, NodeExistsError, NoNodeError
from kazoo.protocol.states import ZnodeStat

from m3cluster.kv.contact import Contact
from m3cluster.kv.leased import LeasedStore
from m3cluster.kv.refusals import condition_failed, lease_ended, not_found, version_mismatch
from m3cluster.kv.store import KVError, Lease, Value
from m3cluster.kv.zookeeper.client import Client
from m3cluster.kv.zookeeper.config import ZooKeeper
from m3cluster.kv.zookeeper.lease import ZooKeeperLease
from m3cluster.kv.zookeeper.paths import Paths
from m3cluster.kv.zookeeper.session import Session
from m3cluster.kv.zookeeper.watch import Report, Watcher
from m3x.clock import boot_ns
from m3x.log import logger

__all__ = ["ZooKeeperStore", "open_zookeeper"]

log = logger(__name__)
T = TypeVar("T")

_ATTEMPTS = 50
"""How often an operation is tried against others that write at the same time."""
_REPLACE_S = 0.1
_HIGHEST_VERSION = 1 << 31
"""ZooKeeper's own count, from 0, has 31 bits."""
_REFUSALS = (NoNodeError, NodeExistsError, BadVersionError)
_ANY = -1
"""As a node's version: whatever it is."""


async def open_zookeeper(config: ZooKeeper) -> "ZooKeeperStore":
    """A client of the ensemble; a ZooKeeper that is down is no error here."""
    return ZooKeeperStore(config)


def _value(data: bytes | None, stat: ZnodeStat) -> Value:
    return Value(data or b"", stat.version + 1, stat.czxid, stat.mzxid)


class ZooKeeperStore(LeasedStore[ZooKeeperLease]):
    """One client of one ensemble (``Store``). Create it inside a running loop; use it on that loop only."""

    def __init__(self, config: ZooKeeper) -> None:
        name = f"zookeeper {config.name}"
        self._watcher = Watcher(self._look, config.watch_silence_s, Contact(name))
        super().__init__(name, self._watcher.feed, self._watcher.feed.contact)
        self._config = config
        self._paths = Paths(config.chroot)
        self._session = self._new_session()
        self._tasks.start(self._watcher.feed.run(), "watches")
        self._tasks.start(self._replace_dead_sessions(), "session")

    def _new_session(self) -> Session:
        return Session(self._config, self._config.session_timeout_s, on_connected=self._watcher.connected)

    async def _replace_dead_sessions(self) -> None:
        limit_s = 1.5 * self._config.session_timeout_s + self._config.connect_timeout_s
        while True:
            await self._session.disconnected()
            try:
                async with asyncio.timeout(limit_s):
                    await self._session.connected()
            except (TimeoutError, KVError):
                old, self._session = self._session, self._new_session()
                await old.close(keep_session=True)
                # A server that drives us mad is not to keep the processor busy.
                await asyncio.sleep(_REPLACE_S)

    # Nodes.

    async def _read(self, session: Session, path: str, report: Report | None = None) -> Value:
        """Raises ``NoNodeError``."""

        def start(client: Client) -> Any:
            client.sync_async(path)
            return client.get_async(path, report)

        limit_s = None if report is None else self._config.watch_silence_s
        data, stat = await session.call(
            start, path, refusals=(NoNodeError,), timeout_s=limit_s, repeatable=report is None
        )
        return _value(data, stat)

    async def _look(self, key: str, report: Report) -> Value | None:
        """The value of a watched key; ``report`` is called once when it is no longer that."""
        path = self._paths.value(key)
        while True:
            try:
                return await self._read(self._session, path, report)
            except NoNodeError:
                limit_s = self._config.watch_silence_s
                if (
                    await self._session.call(lambda client: client.exists_async(path, report), path, timeout_s=limit_s)
                    is None
                ):
                    return None

    async def _find(self, path: str) -> Value | None:
        try:
            return await self._read(self._session, path)
        except NoNodeError:
            return None

    async def _pinned(self, path: str) -> tuple[int, Value | None]:
        """The clock's version and, read after it, a node."""
        while True:
            try:
                clock = await self._read(self._session, self._paths.clock)
            except NoNodeError:
                await self._make_folders(self._session, path)
                continue
            return clock.version - 1, await self._find(path)

    async def _make_folders(self, session: Session, path: str) -> None:
        """Makes what every creation needs: the folders of ``path`` and the clock."""
        for folder in (*self._paths.parents(path), self._paths.clock):
            try:
                make = functools.partial(Client.create_async, path=folder)
                await session.call(make, folder, refusals=(NodeExistsError, NoNodeError))
            except NodeExistsError:
                continue
            except NoNodeError:
                # Somebody deletes empty folders at this very moment; the caller tries again.
                return

    def _creation(self, path: str, data: bytes, *, ephemeral: bool = False) -> Callable[[Any], None]:
        def add(transaction: Any) -> None:
            transaction.set_data(self._paths.clock, b"")
            transaction.create(path, data, ephemeral=ephemeral)

        return add

    async def _create(self, session: Session, path: str, data: bytes, *, ephemeral: bool = False) -> None:
        """Raises ``NodeExistsError``."""
        for _ in range(_ATTEMPTS):
            try:
                await session.transact(
                    self._creation(path, data, ephemeral=ephemeral), path, refusals=(NodeExistsError, NoNodeError)
                )
                return
            except NoNodeError:
                await self._make_folders(session, path)
        raise self._contended(path)

    def _contended(self, path: str) -> KVError:
        return KVError(f"{self._name}: {path}: others changed it in each of {_ATTEMPTS} attempts; nothing was written")

    async def _freed(self, path: str, data: bytes, stat: ZnodeStat) -> int:
        """The version of what was just written. A plain write frees a key from its lease: an ephemeral node becomes a lasting one."""
        if not stat.ephemeralOwner:
            return int(stat.version) + 1

        def add(transaction: Any) -> None:
            transaction.delete(path, stat.version)
            self._creation(path, data)(transaction)

        try:
            await self._session.transact(add, path, refusals=_REFUSALS)
        except (BadVersionError, NodeExistsError):
            # Written again since then, and freed by whoever did that.
            return int(stat.version) + 1
        except NoNodeError:
            try:
                await self._create(self._session, path, data)
            except NodeExistsError:
                return int(stat.version) + 1
        return 1

    def _checked(self, key: str, data: bytes) -> bytes:
        data = bytes(data)
        if len(data) > self._config.max_value_bytes:
            raise KVError(
                f"{key}: the value has {len(data)} bytes, and ZooKeeper takes at most {self._config.max_value_bytes} here; "
                "raise jute.maxbuffer at every server and our limit with it, or make the value smaller"
            )
        return data

    # The interface.

    async def get(self, key: str) -> Value:
        value = await self._find(self._paths.value(key))
        if value is None:
            raise not_found(key)
        return value

    async def set(self, key: str, data: bytes) -> int:
        """Unconditional write; returns the new version. A key that a lease held begins a new life."""
        path, data = self._paths.value(key), self._checked(key, data)
        for _ in range(_ATTEMPTS):
            try:
                stat = await self._session.call(
                    lambda client: client.set_async(path, data), path, refusals=(NoNodeError,)
                )
                return await self._freed(path, data, stat)
            except NoNodeError:
                try:
                    await self._create(self._session, path, data)
                    return 1
                except NodeExistsError:
                    continue
        raise self._contended(path)

    async def check_and_set(self, key: str, version: int, data: bytes) -> int:
        path, data = self._paths.value(key), self._checked(key, data)
        try:
            if version == 0:
                await self._create(self._session, path, data)
                return 1
            if 0 < version <= _HIGHEST_VERSION:
                stat = await self._session.call(
                    lambda client: client.set_async(path, data, version - 1), path, refusals=_REFUSALS
                )
                return await self._freed(path, data, stat)
        except _REFUSALS:
            pass
        found = await self._find(path)
        raise version_mismatch(key, version, found)

    async def put_if(self, key: str, data: bytes, other_key: str, create_revision: int) -> int:
        path, other_path, data = self._paths.value(key), self._paths.value(other_key), self._checked(key, data)
        exists = True
        for _ in range(_ATTEMPTS):
            clock, other = await self._pinned(other_path)
            if other is None or other.create_revision != create_revision:
                raise condition_failed(key, other_key, create_revision, other)

            def add(transaction: Any, clock: int = clock, exists: bool = exists) -> None:
                transaction.check(self._paths.clock, clock)
                transaction.check(other_path, _ANY)
                if exists:
                    transaction.set_data(path, data)
                else:
                    self._creation(path, data)(transaction)

            try:
                results = await self._session.transact(add, path, refusals=_REFUSALS)
                return await self._freed(path, data, results[-1]) if exists else 1
            except BadVersionError:
                continue
            except NodeExistsError:
                exists = True
            except NoNodeError:
                exists = await self._find(path) is not None
                if not exists:
                    await self._make_folders(self._session, path)
        raise self._contended(path)

    async def _delete(self, path: str, create_revision: int | None) -> Value | None:
        """Deletes a node, if it has that create revision; returns what it was, None if there is no such node."""
        for _ in range(_ATTEMPTS):
            clock, value = await self._pinned(path)
            if value is None or create_revision not in (None, value.create_revision):
                return None

            def add(transaction: Any, clock: int = clock, version: int = value.version - 1) -> None:
                transaction.check(self._paths.clock, clock)
                transaction.delete(path, version)

            try:
                await self._session.transact(add, path, refusals=_REFUSALS)
                return value
            except _REFUSALS:
                continue
        raise self._contended(path)

    async def delete(self, key: str) -> Value:
        value = await self._delete(self._paths.value(key), None)
        if value is None:
            raise not_found(key)
        return value

    async def delete_if(self, key: str, create_revision: int) -> bool:
        return await self._delete(self._paths.value(key), create_revision) is not None

    async def keys(self, prefix: str) -> list[tuple[str, Value]]:
        """All keys that start with ``prefix``, in order of create revision.

        The folders are read one after the other: a key that is made or deleted meanwhile may be there or not.
        """
        self._check_open()
        *segments, stem = prefix.split("/")
        found = await self._list(segments, stem)
        values = await asyncio.gather(*(self._find(self._paths.value(key)) for key in found))
        pairs = [(key, value) for key, value in zip(found, values, strict=True) if value is not None]
        return sorted(pairs, key=lambda pair: (pair[1].create_revision, pair[0]))

    async def _list(self, segments: list[str], stem: str) -> list[str]:
        """Keys in the folder of ``segments`` whose next segment begins with ``stem``, those in folders below it included."""
        folder = self._paths.folder(segments)

        def start(client: Client) -> Any:
            client.sync_async(folder)
            return client.get_children_async(folder)

        try:
            names = await self._session.call(start, folder, refusals=(NoNodeError,), repeatable=True)
        except NoNodeError:
            return []
        keys: list[str] = []
        for name in names:
            read = self._paths.read(name, first=not segments)
            if read is None or not read[0].startswith(stem):
                continue
            segment, holds_value = read
            if holds_value:
                keys.append("/".join((*segments, segment)))
            else:
                keys += await self._list([*segments, segment], "")
        return keys

    # Leases.

    async def _grant(self, ttl_s: int) -> ZooKeeperLease:
        """A session of its own, whose timeout the servers may raise or lower to what they allow."""
        self._check_open()
        lost = asyncio.Event()
        session = Session(self._config, ttl_s, on_lost=lost.set)
        try:
            # The check fails without a connection in time, and leaves a folder for the proofs of life to look at.
            await self._make_folders(session, self._paths.clock)
            self._check_open()
            lease = ZooKeeperLease(self._config, session, self._paths.top, lost)
            if boot_ns() >= lease.deadline_ns():
                raise KVError(f"{self._name}: a lease of {ttl_s} s was over before it was granted")
        except BaseException:
            await session.close()
            raise
        if lease.ttl_ns != ttl_s * 10**9:
            log.info_limited(
                "ZooKeeper granted another session timeout than asked for; minSessionTimeout and maxSessionTimeout set the limits",
                asked_s=ttl_s,
                granted_s=lease.ttl_ns / 10**9,
            )
        return lease

    async def put_with_lease(self, key: str, data: bytes, lease: Lease) -> Value:
        path, data = self._paths.value(key), self._checked(key, data)
        held = next((own for own in self._leases if own is lease), None)
        for _ in range(_ATTEMPTS):
            if held is None or not held.deadline_ns():
                raise lease_ended(key, lease.id)
            with contextlib.suppress(NodeExistsError):
                await self._create(held.session, path, data, ephemeral=True)
            try:
                # Through the lease's own session: not before what was just written.
                value = await self._read(held.session, path)
            except NoNodeError:
                continue
            if held.deadline_ns():
                return value
        raise self._contended(path)

    # The end.

    async def abandon(self) -> None:
        """Frees everything as ``close`` does, but leaves the leases to their TTL, as a process that dies would."""
        # Before their tasks learn that they are over and end their sessions.
        await asyncio.gather(*(lease.abandon() for lease in list(self._leases)))
        await super().abandon()

    async def _disconnect(self) -> None:
        await self._session.close()

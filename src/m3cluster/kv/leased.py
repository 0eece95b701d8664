"""What all stores share: who watches, which leases are held, and the end of both."""

import asyncio
from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from m3cluster.kv.contact import Contact
from m3cluster.kv.lease import KeptLease
from m3cluster.kv.store import KVError, Listing, Store, Value
from m3cluster.kv.tasks import Tasks
from m3cluster.kv.watching import LatestWatch, until_deleted
from m3x.log import logger

__all__ = ["LeasedStore", "Watches"]

log = logger(__name__)
L = TypeVar("L", bound=KeptLease)


class Watches(Protocol):
    """What feeds the watches of one store."""

    def watch(self, key: str, *, report_missing: bool = False) -> LatestWatch:
        """A new watch; with ``report_missing`` it begins with None if the key does not exist."""

    def end(self) -> None:
        """Ends all of them."""


class _ReadAnew:
    """A listing that asks the store each time (``Listing``)."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    async def keys(self) -> list[tuple[str, Value]]:
        """All keys. Raises ``KVError``."""
        return await self._store.keys(self._prefix)

    def close(self) -> None:
        """There is nothing to end."""


class LeasedStore(Store, ABC, Generic[L]):
    """A store as far as it is the same for all; ``name`` is for people: ``etcd dbnode01:2379``.

    Here and in the stores, methods without words of their own have those of ``Store``.
    """

    _REVOKE_S: float | None = None
    """How long closing waits for the revocation of leases, in seconds; None: each of them has a limit of its own."""

    def __init__(self, name: str, watches: Watches, contact: Contact) -> None:
        self._name = name
        self._watches = watches
        self._contact = contact
        self._leases: set[L] = set()
        self._tasks = Tasks(name)
        self._closed = False

    def _check_open(self) -> None:
        if self._closed:
            raise KVError(f"the client of {self._name} has been closed")

    async def set_if_not_exists(self, key: str, data: bytes) -> int:
        return await self.check_and_set(key, 0, data)

    def listing(self, prefix: str) -> Listing:
        return _ReadAnew(self, prefix)

    def watch(self, key: str) -> LatestWatch:
        return self._watches.watch(key)

    async def wait_deleted(self, key: str, create_revision: int) -> None:
        self._check_open()
        watch = self._watches.watch(key, report_missing=True)
        await until_deleted(watch, key, create_revision, f"the client of {self._name}")

    async def grant(self, ttl_s: int) -> L:
        if ttl_s <= 0:
            raise ValueError(f"a lease needs a TTL of at least 1 s, not {ttl_s}")
        lease = await self._grant(ttl_s)
        self._leases.add(lease)
        self._tasks.start(self._keep(lease), f"lease {lease.id:x}")
        return lease

    @abstractmethod
    async def _grant(self, ttl_s: int) -> L:
        """Asks the store for a lease. Raises ``KVError``."""

    async def _keep(self, lease: L) -> None:
        try:
            await lease.keep_alive()
        finally:
            self._leases.discard(lease)

    def trouble(self) -> str | None:
        return self._contact.trouble()

    async def close(self) -> None:
        if self._closed:
            return
        try:
            async with asyncio.timeout(self._REVOKE_S):
                await asyncio.gather(*(self._revoke(lease) for lease in list(self._leases)))
        except TimeoutError:
            log.warning("leases could not be revoked in time; they end by their TTL", store=self._name)
        await self.abandon()

    async def _revoke(self, lease: L) -> None:
        try:
            await lease.revoke()
        except KVError as error:
            log.warning("a lease could not be revoked; it ends by its TTL", lease=f"{lease.id:x}", error=str(error))

    async def abandon(self) -> None:
        """Frees everything as ``close`` does, but leaves the leases to their TTL, as a process that dies would."""
        if self._closed:
            return
        self._closed = True
        for lease in list(self._leases):
            lease.end()
        self._watches.end()
        await self._tasks.end()
        await self._disconnect()

    @abstractmethod
    async def _disconnect(self) -> None:
        """Frees the connection; nothing else runs any more."""

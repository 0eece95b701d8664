"""What the instances of one shard set hold: they tell each other through the KV (docs/architecture.md §4).

Each keeps one key, ``…/shardset/{number}/complete-since/{instance id}``, bound to a lease as its election key is; the value is its
``Holding`` (``flushing.holding``). So it is known who should lead where nobody holds everything (``flush_times.lacks_more``); the clocks of
the hosts should agree, as for everything else here. M3's instances have no such key and do not look at it.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from aggregator.supervisor.flushing.holding import Holding, decode_holding, encode_holding
from m3cluster.kv import KVError, Lease, Store, get_uncached
from m3x.beats import beat
from m3x.clock import boot_ns
from m3x.log import logger

__all__ = ["Holdings"]

log = logger(__name__)

_EVERY_S = 1.0
_REVOKE_S = 5.0
_SLOW_NS = 2_000_000_000
"""A round that took longer met a KV that did not answer for a while."""
_SETTLE_NS = 5_000_000_000
"""So long after the KV was away, or we were, others may not have said again that they are there."""


class Holdings:
    """The key of one instance and those of the others; ``changed`` is called when another one said something new.

    ``holding``: what we hold; None: we take no part, our key goes.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        name: str,
        ttl_s: int,
        holding: Callable[[], Holding | None],
        changed: Callable[[], None],
    ) -> None:
        self.since: dict[str, Holding] = {}
        """What each other instance holds, as last read."""
        self.known = asyncio.Event()
        """Set once the others were read."""
        self._store = store
        self._prefix = prefix
        self._listing = store.listing(prefix + "/")
        self._name = name
        self._key = f"{prefix}/{name}"
        self._ttl_s = ttl_s
        self._holding = holding
        self._changed = changed
        self._lease: Lease | None = None
        self._told: bytes | None = None
        self._revision = 0
        self._away_ns = boot_ns()
        """When the KV last did not answer, or may not have."""
        self.returned_ns = 0
        """When we last came to the KV with a new lease (boot clock): there was none, or it had ended."""
        self._wake = asyncio.Event()

    def look(self) -> None:
        """What we hold has changed: tells it at once."""
        self._wake.set()

    def settled(self) -> bool:
        """Whether the KV has answered for so long that whoever is there has said so."""
        return boot_ns() - self._away_ns >= _SETTLE_NS

    async def run(self) -> None:
        """Tells and reads until cancelled; then our key is gone."""
        self._away_ns = boot_ns()
        try:
            while True:
                self._wake.clear()
                await self._round()
                await beat(self._wake, _EVERY_S)
        finally:
            await asyncio.shield(self._leave())

    async def _round(self) -> None:
        begun_ns = boot_ns()
        told = await self._tried(self._tell())
        read = await self._tried(self._read())
        if not (told and read) or boot_ns() - begun_ns > _SLOW_NS:
            self._away_ns = boot_ns()
        if self._lease is not None:
            # What was told before still holds then, but others may have lost their leases.
            self._away_ns = max(self._away_ns, self._lease.failed_ns())
        if read:
            self.known.set()

    async def _tried(self, call: Coroutine[Any, Any, None]) -> bool:
        try:
            await call
        except KVError as error:
            log.warning_limited(
                "cannot say or read who holds which windows", per_second=0.1, prefix=self._prefix, error=str(error)
            )
            return False
        return True

    async def _tell(self) -> None:
        holding = self._holding()
        if holding is None:
            if self._lease is not None:
                await self._forget()
            return
        data = encode_holding(holding)
        if self._lease is None or boot_ns() >= self._lease.deadline_ns():
            if self._lease is not None:
                self._away_ns = boot_ns()
            self._told = None
            self._lease = await self._store.grant(self._ttl_s)
            self.returned_ns = boot_ns()
        if data == self._told:
            return
        await self._forget()
        own = await self._store.put_with_lease(self._key, data, self._lease)
        if own.data == data:
            self._told, self._revision = data, own.create_revision

    async def _forget(self) -> None:
        """Takes our key away: that of an earlier process or lease too, and one that was written though the answer was lost."""
        self._told, self._revision = None, 0
        own = await get_uncached(self._store, self._key)
        if own is not None:
            await self._store.delete_if(self._key, own.create_revision)

    async def _read(self) -> None:
        found: dict[str, Holding] = {}
        own = False
        for key, value in await self._listing.keys():
            name = key[len(self._prefix) + 1 :]
            if name == self._name:
                own = value.create_revision == self._revision
                continue
            try:
                found[name] = decode_holding(value.data)
            except ValueError:
                log.warning_limited(
                    "it cannot be told what this says of windows; left out", key=key, value=repr(value.data[:40])
                )
        if not own:
            self._told = None
        if found != self.since:
            self.since = found
            self._changed()

    async def _leave(self) -> None:
        self._listing.close()
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            async with asyncio.timeout(_REVOKE_S):
                await lease.revoke()
        except (TimeoutError, KVError) as error:
            log.warning("our key could not be taken away; it ends with its lease", key=self._key, error=str(error))

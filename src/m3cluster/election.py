"""Leader election in M3's key layout (docs/m3/cluster.md, elections), written against the ``Store`` interface.

A candidate's key is ``{prefix}/{lease id in hex}``, its value the candidate's name, its life that of the lease. The key with the lowest
create revision leads; every other candidate waits for the deletion of the key created just before its own.

Whoever acts as leader checks ``deadline_ns()`` at the very moment of acting: a process that was stopped or cut off learns of the loss
of its lease only later, but the deadline has passed on its own clock before any other candidate can lead.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from m3cluster.kv import KVError, Lease, Store
from m3x.clock import boot_ns
from m3x.log import logger
from m3x.retry import Backoff

__all__ = ["CampaignEndedError", "Election", "ElectionError"]

log = logger(__name__)

_RETRY = Backoff(initial_s=0.1, factor=2.0, max_s=2.0)


class ElectionError(Exception):
    """An election call that cannot be served; the message says why."""


class CampaignEndedError(ElectionError):
    """The campaign was ended by ``resign`` or ``close`` before it was won."""


class Election:
    """One candidate of one election. ``prefix`` comes from ``keys.election_prefix``; the lease is taken by the first campaign and kept."""

    def __init__(self, store: Store, prefix: str, ttl_s: int) -> None:
        self._store = store
        self._prefix = prefix
        self._listing = store.listing(prefix + "/")
        self._ttl_s = ttl_s if ttl_s > 0 else 60
        self._lease: Lease | None = None
        self._key = ""
        self._revision = 0
        self._elected = False
        self._guard: asyncio.Task[None] | None = None
        self._campaigning = False
        self._ended = asyncio.Event()
        """Ends the current campaign or term; each campaign has its own, so that no end of an earlier one is taken for its end."""
        self._closed = False
        self._left: dict[str, int] = {}
        """Keys of ours that are not wanted any more and may still be there, with their revisions."""

    @property
    def key(self) -> str:
        """Our key; with ``revision`` the condition of writes that only the leader may do. Empty without a campaign."""
        return self._key

    @property
    def revision(self) -> int:
        """Create revision of our key; 0 while there is none."""
        return self._revision

    @property
    def is_leader(self) -> bool:
        """Elected, not resigned, and the lease's deadline has not passed."""
        return boot_ns() < self.deadline_ns()

    def deadline_ns(self) -> int:
        """Until when we may act as leader, on ``CLOCK_BOOTTIME`` (subtract your own margin); 0 if we do not lead."""
        if not self._elected or self._lease is None:
            return 0
        return self._lease.deadline_ns()

    async def campaign(self, value: str) -> None:
        """Returns when elected. Lost leases and a store that does not answer are tried again for as long as the caller waits.

        Raises ``ElectionError`` if a campaign is in progress or won already, ``CampaignEndedError`` after ``resign`` or ``close``.
        Cancelling it withdraws the candidacy.
        """
        if self._closed:
            raise ElectionError("the election has been closed")
        if self._campaigning or self.is_leader:
            raise ElectionError("campaign in progress")
        self._step_down()
        self._ended = asyncio.Event()
        self._campaigning = True
        attempt = 0
        try:
            if self._guard is not None:
                await asyncio.wait([self._guard])
            while True:
                try:
                    if await self._attempt(value.encode()):
                        return
                    attempt = 0
                except KVError as error:
                    attempt += 1
                    log.warning_limited("campaign interrupted, trying again", prefix=self._prefix, error=str(error))
                    await self._unless_ended(self._ended, asyncio.sleep(_RETRY.delay(attempt)))
        except BaseException:
            self._step_down()
            await asyncio.shield(self._withdraw())
            raise
        finally:
            self._campaigning = False

    async def _attempt(self, value: bytes) -> bool:
        """One candidacy under one lease; False if the lease was lost on the way."""
        lease = await self._living_lease()
        await self.clear()
        self._key = f"{self._prefix}/{lease.id:x}"
        own = await self._store.put_with_lease(self._key, value, lease)
        if own.data != value:
            await self._store.delete_if(self._key, own.create_revision)
            own = await self._store.put_with_lease(self._key, value, lease)
        self._revision = own.create_revision
        while True:
            candidates = await self._store.keys(self._prefix + "/")
            if all(key != self._key or found.create_revision != self._revision for key, found in candidates):
                return False
            before = [(key, found) for key, found in candidates if found.create_revision < self._revision]
            if not before:
                break
            key, found = before[-1]
            if not await self._first(self._store.wait_deleted(key, found.create_revision), lease):
                return False
        if self._ended.is_set():
            raise CampaignEndedError(f"the campaign for {self._prefix} was ended")
        if boot_ns() >= lease.deadline_ns():
            return False
        self._elected = True
        self._guard = asyncio.create_task(
            self._guard_leadership(lease, self._ended), name=f"leadership of {self._prefix}"
        )
        return True

    async def _living_lease(self) -> Lease:
        if self._lease is None or boot_ns() >= self._lease.deadline_ns():
            # A store that was down gives leases their full time again when it comes back: until then everybody would wait for our old key.
            self._leave_key()
            self._lease = await self._store.grant(self._ttl_s)
        return self._lease

    def _leave_key(self) -> None:
        """Our candidacy is over: its key is to be deleted."""
        revision, self._revision = self._revision, 0
        if revision:
            self._left[self._key] = revision

    async def clear(self) -> None:
        """Deletes the keys that we have given up and that may still be there: they would hold up everybody behind them for as long as our
        lease lives. Raises ``KVError``; then it is to be tried again."""
        for key, revision in list(self._left.items()):
            await self._store.delete_if(key, revision)
            self._left.pop(key, None)

    async def _first(self, work: Coroutine[Any, Any, None], lease: Lease) -> bool:
        """Runs ``work`` to its end; False if the lease is lost before that."""
        return await self._unless_ended(self._ended, work, lease.lost())

    async def _unless_ended(self, end: asyncio.Event, *works: Coroutine[Any, Any, object]) -> bool:
        """Waits for the first of ``works`` (True: it was the first of them); raises ``CampaignEndedError`` once the campaign is ended."""
        tasks = [asyncio.ensure_future(work) for work in works]
        ended = asyncio.ensure_future(end.wait())
        try:
            await asyncio.wait([*tasks, ended], return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise CampaignEndedError(f"the campaign for {self._prefix} was ended")
            for task in tasks:
                if task.done():
                    task.result()
                    return task is tasks[0]
            return False
        finally:
            for task in (*tasks, ended):
                task.cancel()
            await asyncio.gather(*tasks, ended, return_exceptions=True)

    async def _withdraw(self) -> None:
        """Takes our key away if it is still ours."""
        self._leave_key()
        try:
            await self.clear()
            if self._closed:
                await self._revoke()
        except KVError as error:
            log.warning(
                "our election key could not be deleted; it ends with its lease", key=self._key, error=str(error)
            )

    async def _guard_leadership(self, lease: Lease, ended: asyncio.Event) -> None:
        """Ends the leadership when the lease is over or our key is gone."""
        key, revision = self._key, self._revision
        while True:
            try:
                await self._unless_ended(ended, self._store.wait_deleted(key, revision), lease.lost())
            except CampaignEndedError:
                pass
            except KVError as error:
                if boot_ns() < lease.deadline_ns():
                    # As long as the lease lives we lead, whether or not the store answers.
                    log.warning_limited("cannot watch our election key", key=self._key, error=str(error))
                    await asyncio.sleep(_RETRY.delay(1))
                    continue
            if self._ended is ended:
                self._elected = False
            return

    def _step_down(self) -> None:
        """From here on ``is_leader`` is False, and whoever waits for a campaign or in ``lost`` is told."""
        self._elected = False
        self._ended.set()

    async def lost(self) -> None:
        """Returns when we do not lead (any more): lease over, key deleted by someone, resigned or closed. At once if we do not lead."""
        guard = self._guard
        if self._elected and guard is not None:
            await asyncio.wait([guard])

    async def resign(self) -> None:
        """Ends a campaign or the leadership; the lease stays for the next campaign. Without either it does nothing.

        From the first moment on ``is_leader`` is False. Raises ``KVError`` if the key could not be deleted: the next campaign tries it
        again, at the latest it ends with the lease.
        """
        self._step_down()
        self._leave_key()
        await self.clear()

    async def leader(self) -> str | None:
        """The value of the candidate that leads now; None without candidates. Raises ``KVError``."""
        candidates = await self._store.keys(self._prefix + "/")
        return candidates[0][1].data.decode(errors="replace") if candidates else None

    async def candidates(self) -> list[str]:
        """The values of all candidates, the leader first. Raises ``KVError``."""
        return [found.data.decode(errors="replace") for _, found in await self._store.keys(self._prefix + "/")]

    async def known_candidates(self) -> list[str]:
        """The same, for who asks again and again (``Listing``). Raises ``KVError``."""
        return [found.data.decode(errors="replace") for _, found in await self._listing.keys()]

    async def close(self) -> None:
        """Resigns and revokes the lease; no campaign is possible afterwards."""
        self._closed = True
        self._listing.close()
        self._step_down()
        self._revision = 0
        try:
            await self._revoke()
        except KVError as error:
            log.warning("the lease could not be revoked; it ends by its TTL", prefix=self._prefix, error=str(error))
        if self._guard is not None:
            await asyncio.wait([self._guard])

    async def _revoke(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.revoke()

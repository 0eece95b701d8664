"""Leases of etcd, kept alive every third of their time to live.

Every keepalive is a short stream of its own: one that hangs is given up after a third of the TTL and the next one asks the next
endpoint, whatever the other calls of the client are waiting for.
"""

import asyncio

from m3cluster.kv.etcd_channel import RPCError
from m3cluster.kv.etcd_connection import LEASE_REVOKE, Connection
from m3cluster.kv.store import KVError
from m3x.clock import boot_ns
from m3x.log import logger
from m3x.retry import Backoff

__all__ = ["SECOND_NS", "EtcdLease"]

log = logger(__name__)

SECOND_NS = 1_000_000_000
_RETRY = Backoff(initial_s=0.1, factor=2.0, max_s=0.5)


class EtcdLease:
    """A lease (``Lease``); its store runs ``keep_alive``."""

    def __init__(self, connection: Connection, lease_id: int, ttl_s: int, sent_ns: int) -> None:
        self._connection = connection
        self._id = lease_id
        self._ttl_ns = ttl_s * SECOND_NS
        self._deadline_ns = sent_ns + self._ttl_ns
        self._lost = asyncio.Event()
        self._revoked = False

    @property
    def id(self) -> int:
        """The lease id."""
        return self._id

    @property
    def ttl_ns(self) -> int:
        """Time to live that was granted; etcd raises what is shorter than its own election needs."""
        return self._ttl_ns

    def deadline_ns(self) -> int:
        """On ``CLOCK_BOOTTIME``: time of sending the last answered keepalive + TTL; 0 once the lease has ended."""
        return 0 if self._lost.is_set() else self._deadline_ns

    async def lost(self) -> None:
        """Returns when the lease has ended, for whatever reason."""
        await self._lost.wait()

    async def revoke(self) -> None:
        """Ends it now; its keys vanish. A lease that etcd does not know any more is as good as revoked."""
        self.end()
        await self._revoke()

    async def _revoke(self) -> None:
        if self._revoked:
            return
        try:
            await self._connection.call(LEASE_REVOKE, {"id": self._id}, repeatable=True)
        except RPCError as error:
            if error.code != "NOT_FOUND":
                raise
        self._revoked = True

    def end(self) -> None:
        """From here on the lease is not kept alive and counts as lost."""
        self._lost.set()

    async def keep_alive(self) -> None:
        """Keeps the lease until it is lost. etcd's deadline is never earlier than ours: it counts from a later moment."""
        failures = 0
        try:
            while not self._lost.is_set():
                pause_ns = int(_RETRY.delay(failures) * SECOND_NS) if failures else self._ttl_ns // 3
                await self._sleep(min(pause_ns, self._deadline_ns - boot_ns()))
                if self._lost.is_set():
                    return
                sent_ns = boot_ns()
                if sent_ns >= self._deadline_ns:
                    log.warning("lease lost: its time ran out without an answer", lease=f"{self._id:x}")
                    break
                try:
                    timeout_ns = min(self._ttl_ns // 3, self._deadline_ns - sent_ns)
                    ttl_s = await self._connection.keep_alive(self._id, max(timeout_ns / SECOND_NS, 0.001))
                except KVError as error:
                    failures += 1
                    log.warning_limited("a keepalive failed, trying again", lease=f"{self._id:x}", error=str(error))
                    continue
                failures = 0
                if ttl_s <= 0:
                    log.warning("lease lost: etcd has ended it", lease=f"{self._id:x}")
                    self._revoked = True
                    return
                self._deadline_ns = sent_ns + min(self._ttl_ns, ttl_s * SECOND_NS)
        finally:
            self._lost.set()
        await self._revoke_late()

    async def _revoke_late(self) -> None:
        """etcd may still hold a lease that is over for us, longer after a restart: its keys are not to keep others waiting."""
        give_up_ns = boot_ns() + 2 * self._ttl_ns
        attempt = 0
        while boot_ns() < give_up_ns:
            attempt += 1
            try:
                await self._revoke()
                return
            except KVError:
                await asyncio.sleep(_RETRY.delay(attempt))
        log.warning("a lost lease could not be revoked; it ends by its TTL", lease=f"{self._id:x}")

    async def _sleep(self, duration_ns: int) -> None:
        """Sleeps, or wakes when the lease is ended."""
        try:
            async with asyncio.timeout(max(duration_ns, 0) / SECOND_NS):
                await self._lost.wait()
        except TimeoutError:
            return

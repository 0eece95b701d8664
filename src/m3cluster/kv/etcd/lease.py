"""Leases of etcd (``KeptLease``); their keepalives share a stream (``keepalives``)."""

import asyncio

from m3cluster.kv.etcd.channel import RPCError
from m3cluster.kv.etcd.connection import LEASE_REVOKE, Connection
from m3cluster.kv.lease import SECOND_NS, KeptLease
from m3cluster.kv.store import KVError
from m3x.clock import boot_ns
from m3x.log import logger
from m3x.retry import Backoff

__all__ = ["EtcdLease"]

log = logger(__name__)

_RETRY = Backoff(initial_s=0.1, factor=2.0, max_s=0.5)


class EtcdLease(KeptLease):
    """One lease; etcd raises a time to live that is shorter than its own election needs."""

    def __init__(self, connection: Connection, lease_id: int, ttl_s: int, sent_ns: int) -> None:
        super().__init__(lease_id, ttl_s * SECOND_NS, sent_ns)
        self._connection = connection
        self._revoked = False

    async def _revoke(self) -> None:
        """A lease that etcd does not know any more is as good as revoked."""
        if self._revoked:
            return
        try:
            await self._connection.call(LEASE_REVOKE, {"id": self._id}, repeatable=True)
        except RPCError as error:
            if error.code != "NOT_FOUND":
                raise
        self._revoked = True

    async def _renew(self, sent_ns: int, timeout_ns: int) -> int:
        ttl_s = await self._connection.keep_alive(self._id, max(timeout_ns / SECOND_NS, 0.001))
        if ttl_s <= 0:
            self._revoked = True
            return 0
        return sent_ns + min(self._ttl_ns, ttl_s * SECOND_NS)

    async def _ran_out(self) -> None:
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

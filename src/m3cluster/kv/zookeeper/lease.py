"""Leases of ZooKeeper: a session each, whose timeout is the lease's time to live and whose ephemeral nodes are its keys.

Proof of life
    kazoo's pings do not count: the server that a client is connected to answers them by itself, even for a while after it has lost the
    ensemble, when the ensemble may be ending the session already. So the lease asks for something that only a quorum can answer, a
    transaction that checks that a node exists and changes nothing.

Deadline
    The server reports its clients' signs of life to the ensemble's leader every half tick, and the leader counts the timeout from that
    moment on. A session timeout is at least two ticks; so when a proof is answered that was sent a quarter of the timeout after another
    one, the leader knows of that earlier one at least. The deadline is the time of *sending* the proof before the last answered one +
    the timeout, on CLOCK_BOOTTIME; never later than what the leader reckons with.
"""

import asyncio
from typing import Any

from m3cluster.kv.lease import SECOND_NS, KeptLease
from m3cluster.kv.store import KVError
from m3cluster.kv.zookeeper.config import ZooKeeper
from m3cluster.kv.zookeeper.session import Session
from m3x.log import logger

__all__ = ["ZooKeeperLease"]

log = logger(__name__)

_PROOFS = 4
"""Proofs of life within one timeout."""


class ZooKeeperLease(KeptLease):
    """A lease (``Lease``); its store runs ``keep_alive``. Its id is the session's, as an unsigned number.

    ``session`` is connected and the lease's own; it sets ``lost`` when it is over. ``top`` is a node that exists.
    """

    def __init__(self, config: ZooKeeper, session: Session, top: str, lost: asyncio.Event) -> None:
        super().__init__(session.id, session.timeout_ns, session.asked_ns, lost=lost, per_ttl=_PROOFS)
        self._config = config
        self._session = session
        self._credentials = session.credentials
        self._abandoned = False
        self._top = top
        self._proof_ns = session.asked_ns
        """When the last answered proof was sent; asking for the session is the first one, and a quorum agrees to that as well."""

    @property
    def session(self) -> Session:
        """The session that the lease's keys belong to."""
        return self._session

    async def _renew(self, sent_ns: int, timeout_ns: int) -> int:
        def check(transaction: Any) -> None:
            transaction.check(self._top, -1)

        await self._session.transact(check, self._top, timeout_s=timeout_ns / SECOND_NS)
        deadline_ns, self._proof_ns = self._proof_ns + self._ttl_ns, sent_ns
        return deadline_ns

    async def _revoke(self) -> None:
        if not await self._session.close():
            raise KVError(
                f"lease {self._id:x}: ZooKeeper could not be told that its session has ended; its keys stay "
                f"for another {self._ttl_ns / SECOND_NS:.3g} s at most"
            )

    async def abandon(self) -> None:
        """Leaves it to its timeout, as a process that dies would."""
        self._abandoned = True
        self.end()
        await self._session.close(keep_session=True)

    async def keep_alive(self) -> None:
        """Keeps the lease until it is lost, then ends its session."""
        try:
            await super().keep_alive()
        finally:
            ended = await self._session.close()
        if not ended and not self._abandoned:
            await self._end_late()

    async def _end_late(self) -> None:
        """The ensemble counts on for longer than we do, after a restart for a whole timeout: our keys are not to keep others waiting."""
        taken_over = Session(self._config, self._ttl_ns / SECOND_NS, credentials=self._credentials)
        try:
            async with asyncio.timeout(2 * self._ttl_ns / SECOND_NS):
                await taken_over.connected()
        except (TimeoutError, KVError):
            log.warning("a lost lease could not be revoked; it ends by its timeout", lease=f"{self._id:x}")
        finally:
            await taken_over.close()

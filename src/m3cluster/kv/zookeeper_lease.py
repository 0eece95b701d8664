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

from m3cluster.kv.store import KVError
from m3cluster.kv.zookeeper_config import ZooKeeper
from m3cluster.kv.zookeeper_session import Session
from m3x.clock import boot_ns
from m3x.log import logger

__all__ = ["ZooKeeperLease"]

log = logger(__name__)

SECOND_NS = 1_000_000_000
_PROOFS = 4
"""Proofs of life within one timeout."""
_RETRY_NS = SECOND_NS // 10


class ZooKeeperLease:
    """A lease (``Lease``); its store runs ``keep_alive``.

    ``session`` is connected and the lease's own; it sets ``lost`` when it is over. ``top`` is a node that exists.
    """

    def __init__(self, config: ZooKeeper, session: Session, top: str, lost: asyncio.Event) -> None:
        self._config = config
        self._session = session
        self._credentials = session.credentials
        self._abandoned = False
        self._top = top
        self._id = session.id
        self._ttl_ns = session.timeout_ns
        self._proof_ns = session.asked_ns
        """When the last answered proof was sent; asking for the session is the first one, and a quorum agrees to that as well."""
        self._deadline_ns = self._proof_ns + self._ttl_ns
        self._lost = lost

    @property
    def id(self) -> int:
        """The session id as an unsigned number."""
        return self._id

    @property
    def session(self) -> Session:
        """The session that the lease's keys belong to."""
        return self._session

    @property
    def ttl_ns(self) -> int:
        """The session timeout that was granted: between 2 and 20 ticks of the servers, unless they are configured otherwise."""
        return self._ttl_ns

    def deadline_ns(self) -> int:
        """On ``CLOCK_BOOTTIME``: until when no server ends the session; 0 once the lease has ended."""
        return 0 if self._lost.is_set() else self._deadline_ns

    async def lost(self) -> None:
        """Returns when the lease has ended, for whatever reason."""
        await self._lost.wait()

    async def revoke(self) -> None:
        """Ends it now; its keys vanish. Raises ``KVError`` if ZooKeeper could not be told: then they vanish after the timeout."""
        self.end()
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

    def end(self) -> None:
        """From here on the lease is not kept alive and counts as lost."""
        self._lost.set()

    async def keep_alive(self) -> None:
        """Keeps the lease until it is lost, then ends its session."""
        try:
            await self._prove_again_and_again()
        finally:
            self._lost.set()
            ended = await self._session.close()
        if not ended and not self._abandoned:
            await self._end_late()

    async def _prove_again_and_again(self) -> None:
        pause_ns = self._ttl_ns // _PROOFS
        while not self._lost.is_set():
            await self._sleep(min(pause_ns, self._deadline_ns - boot_ns()))
            if self._lost.is_set():
                return
            sent_ns = boot_ns()
            if sent_ns >= self._deadline_ns:
                log.warning("lease lost: its time ran out without an answer", lease=f"{self._id:x}")
                return
            try:
                await self._prove(min(self._ttl_ns // _PROOFS, self._deadline_ns - sent_ns))
                pause_ns = self._ttl_ns // _PROOFS
            except KVError as error:
                log.warning_limited("a proof of life failed, trying again", lease=f"{self._id:x}", error=str(error))
                pause_ns = _RETRY_NS

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

    async def _prove(self, limit_ns: int) -> None:
        sent_ns = 0

        def check(transaction: Any) -> None:
            nonlocal sent_ns
            sent_ns = boot_ns()
            transaction.check(self._top, -1)

        await self._session.transact(check, self._top, timeout_s=limit_ns / SECOND_NS)
        self._deadline_ns = max(self._deadline_ns, self._proof_ns + self._ttl_ns)
        self._proof_ns = sent_ns

    async def _sleep(self, duration_ns: int) -> None:
        """Sleeps, or wakes when the lease is ended."""
        try:
            async with asyncio.timeout(max(duration_ns, 0) / SECOND_NS):
                await self._lost.wait()
        except TimeoutError:
            return

"""What the leases of all backends have in common: the deadline, the loss, and the loop that keeps a lease alive.

A keepalive is due every third of the time to live, or on a beat before that (``m3x.beats``), and is given up after as long again; one that
failed is tried again soon. The deadline is never later than the store's own, because it counts from the moment of *sending*; a lease whose
deadline has passed is over, whatever the store may still think of it.
"""

import asyncio
from abc import ABC, abstractmethod

from m3cluster.kv.store import KVError
from m3x.beats import early_beat_s
from m3x.clock import boot_ns
from m3x.log import logger
from m3x.retry import Backoff

__all__ = ["SECOND_NS", "KeptLease"]

log = logger(__name__)

SECOND_NS = 1_000_000_000
_RETRY = Backoff(initial_s=0.1, factor=2.0, max_s=0.5)


class KeptLease(ABC):
    """A lease (``Lease``); its store runs ``keep_alive`` in a task of its own.

    ``sent_ns`` is when the lease was asked for, on ``CLOCK_BOOTTIME``. ``lost`` is set when it is over; give one if somebody else may
    learn of that first. ``per_ttl`` keepalives are sent within one time to live.
    """

    def __init__(
        self, lease_id: int, ttl_ns: int, sent_ns: int, *, lost: asyncio.Event | None = None, per_ttl: int = 3
    ) -> None:
        self._id = lease_id
        self._ttl_ns = ttl_ns
        self._period_ns = ttl_ns // per_ttl
        self._deadline_ns = sent_ns + ttl_ns
        self._lost = lost or asyncio.Event()
        self._failed_ns = 0

    @property
    def id(self) -> int:
        """The lease id."""
        return self._id

    @property
    def ttl_ns(self) -> int:
        """Time to live that was granted; it may differ from the one that was asked for."""
        return self._ttl_ns

    def deadline_ns(self) -> int:
        """On ``CLOCK_BOOTTIME``: until when nobody ends the lease but ourselves; 0 once it has ended."""
        return 0 if self._lost.is_set() else self._deadline_ns

    def failed_ns(self) -> int:
        """On ``CLOCK_BOOTTIME``: when a keepalive last had no answer in time; 0: all have had one."""
        return self._failed_ns

    async def lost(self) -> None:
        """Returns when the lease has ended, for whatever reason."""
        await self._lost.wait()

    async def revoke(self) -> None:
        """Ends it now; its keys vanish. Raises ``KVError`` if the store could not be told: then they vanish with its time to live."""
        self.end()
        await self._revoke()

    def end(self) -> None:
        """From here on the lease is not kept alive and counts as lost."""
        self._lost.set()

    @abstractmethod
    async def _renew(self, sent_ns: int, timeout_ns: int) -> int:
        """One keepalive, sent at ``sent_ns``: the new deadline, or 0 if the store has ended the lease.

        Raises ``KVError`` or ``TimeoutError``; either must come within ``timeout_ns``.
        """

    @abstractmethod
    async def _revoke(self) -> None:
        """Tells the store. Raises ``KVError``."""

    async def _ran_out(self) -> None:  # noqa: B027 - most have nothing to do then
        """The deadline passed without an answer; the store may still hold the lease."""

    async def keep_alive(self) -> None:
        """Keeps the lease until it is lost."""
        try:
            ran_out = await self._keep()
        finally:
            self._lost.set()
        if ran_out:
            await self._ran_out()

    async def _keep(self) -> bool:
        """Returns True if the deadline has passed, False if the lease was ended by us or by the store."""
        failures = 0
        while not self._lost.is_set():
            pause_ns = int(_RETRY.delay(failures) * SECOND_NS) if failures else self._pause_ns()
            await self._sleep(min(pause_ns, self._deadline_ns - boot_ns()))
            if self._lost.is_set():
                return False
            sent_ns = boot_ns()
            if sent_ns >= self._deadline_ns:
                log.warning("lease lost: its time ran out without an answer", lease=f"{self._id:x}")
                return True
            timeout_ns = min(self._period_ns, self._deadline_ns - sent_ns)
            try:
                deadline_ns = await self._renew(sent_ns, timeout_ns)
            except (KVError, TimeoutError) as error:
                failures += 1
                self._failed_ns = boot_ns()
                reason = str(error) or "no answer in time"
                log.warning_limited("a keepalive failed, trying again", lease=f"{self._id:x}", error=reason)
                continue
            failures = 0
            if deadline_ns <= 0:
                log.warning("lease lost: the store has ended it", lease=f"{self._id:x}")
                return False
            self._deadline_ns = max(self._deadline_ns, deadline_ns)
        return False

    def _pause_ns(self) -> int:
        """Until the next keepalive."""
        now_s = asyncio.get_running_loop().time()
        return int((early_beat_s(now_s, self._period_ns / SECOND_NS) - now_s) * SECOND_NS)

    async def _sleep(self, duration_ns: int) -> None:
        """Sleeps, or wakes when the lease is ended."""
        try:
            async with asyncio.timeout(max(duration_ns, 0) / SECOND_NS):
                await self._lost.wait()
        except TimeoutError:
            return

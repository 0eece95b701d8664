"""Runs the campaigns of one instance for one shard set, and tells the election machine what happens."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aggregator.supervisor.election.machine import (
    Action,
    CampaignEnded,
    CampaignState,
    Checked,
    Elected,
    ElectionMachine,
    ElectionState,
    Event,
    LeaderSeen,
    LeaseLost,
    Resign,
    ResignAsked,
    StartCampaign,
    Tick,
)
from m3cluster.election import CampaignEndedError, Election, ElectionError
from m3cluster.kv import KVError
from m3x.beats import beat
from m3x.clock import boot_ns, monotonic_ns
from m3x.instrument import Scope
from m3x.log import logger

__all__ = ["MARGIN_NS", "Elector", "ElectorOptions"]

log = logger(__name__)

MARGIN_NS = 1_000_000_000
"""A leader stops writing this long before its lease can end (docs/architecture.md §4)."""


_SUCCESSOR_S = 0.5
_PAUSE_S = 0.05
"""Between two looks at the KV, however often somebody asks for one (a pending follower does so all the time)."""


@dataclass(frozen=True, slots=True)
class ElectorOptions:
    """What one election needs to know."""

    value: str
    """What our key says: the instance id."""
    shard_set: int
    peers: Callable[[], set[str]]
    """Leader values of our shard set."""
    wanted: Callable[[], bool | None]
    """Whether to campaign."""
    check_interval_s: float
    resign_timeout_s: float


class Elector:
    """One candidate; ``changed`` is called after every change of state."""

    def __init__(self, election: Election, options: ElectorOptions, scope: Scope, changed: Callable[[], None]) -> None:
        self.machine = ElectionMachine()
        self.leader = ""
        """Who leads, as last read from the KV; empty: unknown or nobody."""
        self.others: frozenset[str] = frozenset()
        """The other candidates, as last read from the KV."""
        self._election = election
        self._options = options
        self._scope = scope
        self._changed = changed
        self._tasks: asyncio.TaskGroup | None = None
        self._term = 0
        """Counts campaigns, so that the end of an earlier one is not taken for that of the current one."""
        self._wake = asyncio.Event()
        self._ending = False

    @property
    def value(self) -> str:
        """What our key says."""
        return self._options.value

    @property
    def election(self) -> Election:
        """Key and revision of our candidacy."""
        return self._election

    def may_write(self) -> bool:
        """Whether what only a leader may do may be done right now; asked before every write."""
        return self.machine.is_leader and boot_ns() < self._election.deadline_ns() - MARGIN_NS

    async def run(self) -> None:
        """Campaigns until cancelled; then gives up the key and the lease."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                try:
                    await self._take_part()
                finally:
                    # From here on the group takes no more tasks.
                    self._ending = True
        finally:
            await asyncio.shield(self.close())

    async def _take_part(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            begun_s = loop.time()
            if await self._look():
                await self._clear()
                self._handle(Checked(self._options.wanted()))
            self._handle(Tick())
            if (
                await beat(self._wake, self._options.check_interval_s)
                and (left_s := begun_s + _PAUSE_S - loop.time()) > 0
            ):
                await asyncio.sleep(left_s)

    async def close(self) -> None:
        """Resigns and revokes the lease: another candidate leads at once."""
        self._set_state(ElectionState.FOLLOWER)
        resign = self._scope.sub("resign")
        resign.gauge("on-close", 1)
        try:
            async with asyncio.timeout(5.0):
                await self._election.close()
            resign.count("on-close-success")
        except (TimeoutError, KVError) as error:
            resign.count("on-close-errors")
            log.warning("the election was not left in order; the lease ends by its TTL", error=str(error))

    async def resign(self, timeout_s: float) -> None:
        """Gives the lead away; returns when another instance leads. Raises ``TimeoutError``."""
        resign = self._scope.sub("resign")
        if self.machine.state is ElectionState.FOLLOWER:
            resign.count("follower-resign")
        self._handle(ResignAsked())
        deadline = monotonic_ns() + int(timeout_s * 1e9)
        while self.machine.state is not ElectionState.FOLLOWER:
            if monotonic_ns() >= deadline:
                resign.count("timeout")
                raise TimeoutError(f"no other instance of shard set {self._options.shard_set} took the lead in time")
            self._wake.set()
            await asyncio.sleep(0.05)

    def look(self) -> None:
        """Something changed that decides whether to campaign: looks at once."""
        self._wake.set()

    async def has_successor(self) -> bool:
        """Whether another candidate waits for the lead; False also if the KV does not tell."""
        try:
            async with asyncio.timeout(_SUCCESSOR_S):
                candidates = await self._election.candidates()
        except (TimeoutError, KVError) as error:
            log.warning("cannot read who could lead next", error=str(error))
            return False
        return any(name != self._options.value and name in self._options.peers() for name in candidates)

    def lease_lost(self) -> None:
        """Somebody found that we may not write any more: the term is over, whatever the election says."""
        if self.machine.is_leader and self._tasks is not None:
            self._term += 1
            self._handle(LeaseLost())
            self._act(Resign())

    # --- the machine

    def _handle(self, event: Event) -> None:
        before = self.machine.state
        actions = self.machine.handle(event, monotonic_ns())
        if self.machine.state is not before:
            self._report(before)
        for action in actions:
            self._act(action)

    def _set_state(self, state: ElectionState) -> None:
        before, self.machine.state = self.machine.state, state
        if before is not state:
            self._report(before)

    def _report(self, before: ElectionState) -> None:
        state = self.machine.state
        log.info("election state", state=state.text, before=before.text, shard_set=self._options.shard_set)
        if state is ElectionState.LEADER:
            self.leader = self._options.value
        self._scope.gauge("election-state", int(state))
        self._changed()

    def _act(self, action: Action) -> None:
        assert self._tasks is not None
        if self._ending:
            # Key and lease are given up anyway.
            return
        match action:
            case StartCampaign():
                self._term += 1
                self._tasks.create_task(self._run_campaign(self._term), name="campaign")
            case Resign():
                self._tasks.create_task(self._do_resign(), name="resign")
            case _:
                self._wake.set()

    async def _run_campaign(self, term: int) -> None:
        elected = False
        try:
            await self._election.campaign(self._options.value)
            elected = True
            if term == self._term:
                self._handle(Elected())
            await self._election.lost()
        except CampaignEndedError:
            self._ended(term, CampaignEnded())
        except (ElectionError, KVError) as error:
            self._scope.sub("campaign").count("errors" if elected else "create-errors")
            log.warning_limited("campaign failed", error=str(error))
            self._ended(term, LeaseLost())
        else:
            if self.machine.is_leader and term == self._term:
                log.error("the lead was lost: the lease ended or the key is gone", key=self._election.key)
                self._ended(term, LeaseLost())
            else:
                self._ended(term, CampaignEnded())

    def _ended(self, term: int, event: Event) -> None:
        if term == self._term:
            self._handle(event)
        else:
            self._scope.sub("verify").count("pending-change-stale")

    async def _do_resign(self) -> None:
        try:
            async with asyncio.timeout(self._options.resign_timeout_s):
                await self._election.resign()
        except (TimeoutError, KVError) as error:
            self._scope.sub("resign").count("errors")
            log.warning("our election key could not be deleted; it ends with its lease", error=str(error))

    async def _clear(self) -> None:
        """What could not be deleted when we resigned."""
        try:
            async with asyncio.timeout(self._options.resign_timeout_s):
                await self._election.clear()
        except (TimeoutError, KVError) as error:
            self._scope.sub("resign").count("errors")
            log.warning_limited("our old election key cannot be deleted", per_second=0.1, error=str(error))

    async def _look(self) -> bool:
        """Who leads, who else is a candidate? Also the answer to ``VerifyLeader``. False: the KV does not tell."""
        try:
            candidates = await self._election.known_candidates()
        except KVError as error:
            self._scope.sub("verify").count("leader-errors")
            log.warning_limited("cannot read who leads", per_second=0.1, error=str(error))
            return False
        value = candidates[0] if candidates else None
        self.leader = value or ""
        self.others = frozenset(candidates) - {self._options.value}
        valid = value is not None and value != self._options.value and value in self._options.peers()
        verify = self._scope.sub("verify")
        if self.machine.state is ElectionState.PENDING_FOLLOWER and value == self._options.value:
            verify.count("leader-not-changed")
        if self.machine.campaign is CampaignState.DISABLED:
            verify.count("campaign-disabled")
        self._handle(LeaderSeen(value, valid))
        machine = self.machine
        self._scope.gauge("election-state", int(machine.state))
        self._scope.gauge("campaign-state", int(machine.campaign))
        self._scope.gauge("campaigning", float(machine.campaign == 2))
        return True

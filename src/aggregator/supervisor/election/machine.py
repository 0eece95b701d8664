"""Follower, pending follower, leader; campaign on or off (docs/m3/aggregation.md, election; docs/architecture.md §4, "Fencing").

Pure: ``handle(event, now_ns)`` returns the actions to take. The shell (``elector``) runs campaigns against the KV and reports what happens.

What is different from M3, whose leader goes on for as long as nobody is known to have replaced it: only an instance whose term is confirmed
and whose lease has not run out is leader. After a resignation it is *pending follower* (it neither emits nor discards) until another leader
of its shard set is seen; when its lease is lost it is follower at once.
"""

import enum
from dataclasses import dataclass

from aggregator.supervisor.flushing.flush_times import has_flushed
from aggregator.supervisor.placement import View, has_replacement
from m3cluster.flush_times import ShardSetFlushTimes

__all__ = [
    "Action",
    "CampaignEnded",
    "CampaignState",
    "Checked",
    "Elected",
    "ElectionMachine",
    "ElectionState",
    "Event",
    "LeaderSeen",
    "LeaseLost",
    "Resign",
    "ResignAsked",
    "StartCampaign",
    "VerifyLeader",
    "campaign_wanted",
]

RECAMPAIGN_NS = 1_000_000_000
"""After any end of a campaign the next one waits this long, as in M3."""


class ElectionState(enum.IntEnum):
    """M3's numbers, shown as the gauge ``election-state``."""

    FOLLOWER = 1
    PENDING_FOLLOWER = 2
    LEADER = 3

    @property
    def text(self) -> str:
        """M3's name in JSON."""
        return {1: "follower", 2: "pendingFollower", 3: "leader"}[self]


class CampaignState(enum.IntEnum):
    """M3's numbers, shown as the gauge ``campaign-state``."""

    DISABLED = 0
    PENDING_DISABLED = 1
    ENABLED = 2


@dataclass(frozen=True, slots=True)
class Checked:
    """The placement was looked at: whether we should campaign; None: it cannot be told, nothing changes."""

    wanted: bool | None


@dataclass(frozen=True, slots=True)
class Elected:
    """A term as leader is confirmed."""


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The term is over without our doing: the lease ended, its deadline passed, or somebody deleted the key."""


@dataclass(frozen=True, slots=True)
class CampaignEnded:
    """A campaign or a term ended because we asked for it; our key is gone."""


@dataclass(frozen=True, slots=True)
class ResignAsked:
    """The operator wants another instance to lead."""


@dataclass(frozen=True, slots=True)
class LeaderSeen:
    """The leader that the KV names, and whether it is another instance of our shard set."""

    value: str | None
    valid: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes."""


Event = Checked | Elected | LeaseLost | CampaignEnded | ResignAsked | LeaderSeen | Tick


@dataclass(frozen=True, slots=True)
class StartCampaign:
    """Create our key and wait for the lead."""


@dataclass(frozen=True, slots=True)
class Resign:
    """Delete our key."""


@dataclass(frozen=True, slots=True)
class VerifyLeader:
    """Read who leads; report ``LeaderSeen``."""


Action = StartCampaign | Resign | VerifyLeader


class ElectionMachine:
    """State of one candidate."""

    def __init__(self) -> None:
        self.state = ElectionState.FOLLOWER
        self.campaign = CampaignState.DISABLED
        self._running = False
        """A campaign or a term is in progress, or its end was asked for and has not been reported."""
        self._next_ns = 0

    @property
    def is_leader(self) -> bool:
        """Whether a term is confirmed; writers check the lease's deadline besides."""
        return self.state is ElectionState.LEADER

    def handle(self, event: Event, now_ns: int) -> list[Action]:
        """Takes an event; ``now_ns`` is monotonic."""
        match event:
            case Checked(wanted=True):
                if self.campaign is not CampaignState.PENDING_DISABLED or not self._running:
                    self.campaign = CampaignState.ENABLED
                return self._next(now_ns)
            case Checked(wanted=False):
                if self.campaign is not CampaignState.ENABLED:
                    return []
                if not self._running:
                    self.campaign = CampaignState.DISABLED
                    return []
                self.campaign = CampaignState.PENDING_DISABLED
                return self._step_down()
            case Elected():
                if self._running and self.campaign is CampaignState.ENABLED:
                    self.state = ElectionState.LEADER
                    return []
                return [Resign()]
            case LeaseLost():
                self.state = ElectionState.FOLLOWER
                return self._over(now_ns)
            case CampaignEnded():
                actions = self._over(now_ns)
                return actions + ([VerifyLeader()] if self.state is ElectionState.PENDING_FOLLOWER else [])
            case ResignAsked():
                return self._step_down() if self.state is ElectionState.LEADER else []
            case LeaderSeen():
                if self.state is ElectionState.PENDING_FOLLOWER and event.valid:
                    self.state = ElectionState.FOLLOWER
                return []
            case Tick():
                verify: list[Action] = [VerifyLeader()] if self.state is ElectionState.PENDING_FOLLOWER else []
                return self._next(now_ns) + verify
        return []

    def _step_down(self) -> list[Action]:
        if self.state is ElectionState.LEADER:
            self.state = ElectionState.PENDING_FOLLOWER
        return [Resign()]

    def _over(self, now_ns: int) -> list[Action]:
        self._running = False
        self._next_ns = now_ns + RECAMPAIGN_NS
        if self.campaign is CampaignState.PENDING_DISABLED:
            self.campaign = CampaignState.DISABLED
            # Nobody of ours campaigns: there is no leader to wait for.
            self.state = ElectionState.FOLLOWER
        return []

    def _next(self, now_ns: int) -> list[Action]:
        if self._running or self.campaign is not CampaignState.ENABLED or now_ns < self._next_ns:
            return []
        self._running = True
        return [StartCampaign()]


def campaign_wanted(view: View, now_ns: int, cutoff_offset_ns: int, times: ShardSetFlushTimes | None) -> bool | None:
    """Whether an instance should campaign (docs/m3/aggregation.md, campaigning).

    None: shards are cut over and off in a way that M3 calls unexpected.
    """
    if view.instance is None:
        return False
    shards = view.owned.values()
    if not shards:
        return True
    if any(s.cutover_ns <= now_ns < s.cutoff_ns - cutoff_offset_ns for s in shards):
        return True
    if all(now_ns < s.cutover_ns for s in shards):
        return False
    if any(now_ns < s.cutoff_ns - cutoff_offset_ns for s in shards):
        return None
    if all(has_flushed(times, s.id, s.cutoff_ns) for s in shards):
        return False
    return not has_replacement(view)

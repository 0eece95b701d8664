"""What is shown of an instance, and who is asked for it."""

from typing import Protocol

import msgspec

from m3metrics.growth import GrowthReport
from m3metrics.traffic import TrafficReport
from m3x.pages import Chart, Holder, Lane

__all__ = ["BUSY", "ListRow", "Load", "Readiness", "ShardRow", "StatusSource"]


BUSY = 0.9
"""Share of a core from which on a process is called busy."""


class Readiness(msgspec.Struct, frozen=True):
    """Whether this instance serves, and if not, why."""

    ready: bool
    reasons: list[str]
    notes: list[str]


class ShardRow(msgspec.Struct, frozen=True, rename="camel"):
    """One shard of this instance. Times are Unix nanoseconds, 0: never."""

    shard: int
    worker: int
    worker_up: bool
    state: str
    """As the placement has it: INITIALIZING, AVAILABLE, LEAVING."""
    cutover_ns: int
    entries: int
    open_windows: int
    last_flush_ns: int
    """Newest target flushed on any list."""
    flushed_through_ns: int
    """Oldest flush time of its lists that is safe in the KV."""
    lag_ns: int
    """Age of the newest flush of the shard; 0: never flushed."""


class ListRow(msgspec.Struct, frozen=True, rename="camel"):
    """One list id: how many shards have it, and how far it is flushed for good on all of them, and on the one that is furthest."""

    name: str
    resolution_ns: int
    shards: int
    flushed_through_ns: int
    newest_flushed_through_ns: int


class Load(msgspec.Struct, frozen=True, rename="camel"):
    """What a process has to do."""

    name: str
    """``front``, ``worker 0`` …"""
    worker: int
    """Its number; -1: it is the front."""
    cpu_share: float
    """Of a core, in the last second; NaN: not known."""
    waiting_bytes: float
    """Of samples that wait for it in the front."""
    unacked_bytes: float
    """Of those that it has and has not acknowledged."""


class StatusSource(Protocol):
    """What the HTTP server asks; the supervisor answers."""

    @property
    def instance_id(self) -> str:
        """Our id in the placement."""

    def election_state(self) -> str:
        """``follower``, ``pendingFollower`` or ``leader``."""

    def set_up_problems(self) -> list[str]:
        """What is wrong with the set-up, with the fix."""

    def can_lead(self) -> bool:
        """Whether leading now would leave no gaps."""

    async def resign(self) -> None:
        """Gives the lead to another instance. Raises ``TimeoutError`` if none takes it in time."""

    def readiness(self) -> Readiness:
        """Whether we serve."""

    def shards(self) -> list[ShardRow]:
        """Our shards in order of id."""

    def lists(self) -> list[ListRow]:
        """Our lists."""

    def flow(self) -> list[Lane]:
        """The way of the data through this instance."""

    def holders(self) -> list[Holder]:
        """The instances of the placement with their shards."""

    def charts(self) -> list[Chart]:
        """The last hour."""

    def growth(self) -> GrowthReport:
        """Which metric names and label names have grown of late."""

    def traffic(self) -> TrafficReport:
        """Which metric names send most, cost most and are refused most."""

    def loads(self) -> list[Load]:
        """The front and the workers."""

    def facts(self) -> list[tuple[str, str]]:
        """Lines for the page: what, and how it is."""

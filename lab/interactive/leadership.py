"""Who leads each shard set, looked at every second, and for how long nobody did."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from m3ctl.answers import Placement
from m3ctl.cluster import AGGREGATOR, Cluster
from m3ctl.leaders import ShardSetState, look

__all__ = ["Leadership"]


@dataclass
class Leadership:
    """``look`` returns one line per change; ``leaders`` is the last that was seen: shard set → instance, empty for none."""

    cluster: Cluster
    clock: Callable[[], float] = time.monotonic
    leaders: dict[int, str] = field(default_factory=dict)
    changes: int = 0
    """Leaders that took over from another one, or after nobody."""
    sets: list[ShardSetState] = field(default_factory=list)
    _placement: Placement | None = None
    _gone_s: dict[int, float] = field(default_factory=dict)

    def look(self) -> list[str]:
        """Asks all instances. Raises ``CtlError`` while there is no placement."""
        if self._placement is None:
            self._placement = self.cluster.placement(AGGREGATOR).placement
        self.sets = look(self.cluster, self._placement)
        lines = []
        for one in self.sets:
            before = self.leaders.get(one.number)
            now = " and ".join(one.leaders)
            if now != before:
                self.leaders[one.number] = now
                lines.append(self._changed(one.number, before, now))
        return [line for line in lines if line]

    @property
    def complete(self) -> bool:
        """Whether every shard set has exactly one leader."""
        return bool(self.sets) and all(len(one.leaders) == 1 for one in self.sets)

    @property
    def numbers(self) -> dict[str, int]:
        """Instance → its shard set."""
        return {m.target.id: one.number for one in self.sets for m in one.members}

    def forget_placement(self) -> None:
        """The placement is read again at the next look."""
        self._placement = None

    def _changed(self, number: int, before: str | None, now: str) -> str:
        if not now:
            if not before:
                return ""
            self._gone_s[number] = self.clock()
            return f"shard set {number}: {before} does not lead any more; nobody leads"
        gone_s = self._gone_s.pop(number, None)
        if gone_s is not None:
            self.changes += 1
            return f"shard set {number}: {now} leads, after {self.clock() - gone_s:.1f} s without a leader"
        if before:
            self.changes += 1
            return f"shard set {number}: {now} leads; before, {before} did"
        return f"shard set {number}: {now} leads"

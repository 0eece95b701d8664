"""When shards change hands, and whether a change may be completed yet (docs/m3/cluster.md, cutover and cutoff)."""

from dataclasses import dataclass

from m3cluster.placement.errors import PlacementError
from m3cluster.placement.model import Shard
from m3x.golang import YEAR_ONE_NS, go_duration, go_time

__all__ = ["CutoverTimes", "round_up"]

MINUTE_NS = 60 * 1_000_000_000


def round_up(time_ns: int, window_ns: int) -> int:
    """The next multiple of the window at or after a Unix time; multiples count from the year 1, as Go's ``Truncate`` counts them."""
    return -(-(time_ns + YEAR_ONE_NS) // window_ns) * window_ns - YEAR_ONE_NS


@dataclass(frozen=True, slots=True)
class CutoverTimes:
    """Times that a change of placement gets: all 0 for services that do not use them."""

    placement_ns: int = 0
    """The time of the change."""
    shard_cutover_ns: int = 0
    shard_cutoff_ns: int = 0
    """0: leaving shards are not cut off."""
    window_ns: int = 0
    """How long a source serves after its cutoff; 0: a shard may be marked available at any time."""

    @classmethod
    def aggregator(cls, now_ns: int, window_ns: int = MINUTE_NS) -> "CutoverTimes":
        """m3aggregator's: shards change hands at the next whole window (the largest resolution; a minute by default)."""
        edge = round_up(now_ns, window_ns)
        return cls(now_ns, edge, edge, window_ns)

    def check_cutover(self, shard: Shard) -> None:
        """Raises ``PlacementError`` if an initializing shard may not be marked available yet."""
        if self.window_ns and shard.cutover_ns > self.placement_ns:
            when = go_time(shard.cutover_ns)
            raise PlacementError(f"could not mark shard {shard.id} available before cutover time {when}")

    def check_cutoff(self, shard: Shard) -> None:
        """Raises ``PlacementError`` if a leaving shard may not be taken from its source yet."""
        if self.window_ns and shard.cutoff_ns > self.placement_ns - self.window_ns:
            raise PlacementError(
                f"could not return leaving shard {shard.id} with cutoff time {go_time(shard.cutoff_ns)}, "
                f"max aggregation window {go_duration(self.window_ns)}"
            )

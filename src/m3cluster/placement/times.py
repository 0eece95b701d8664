"""When shards change hands, and whether a change may be completed yet (reference/cluster.md §10)."""

from dataclasses import dataclass
from datetime import UTC, datetime

from m3cluster.placement.errors import PlacementError
from m3cluster.placement.model import Shard

__all__ = ["CutoverTimes", "go_duration", "go_time", "round_up"]

_YEAR_1_TO_1970_NS = 62_135_596_800 * 1_000_000_000
SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS


def round_up(time_ns: int, window_ns: int) -> int:
    """The next multiple of the window at or after a Unix time; multiples count from the year 1, as Go's ``Truncate`` counts them."""
    return -(-(time_ns + _YEAR_1_TO_1970_NS) // window_ns) * window_ns - _YEAR_1_TO_1970_NS


def go_duration(duration_ns: int) -> str:
    """A duration as Go prints it: ``1h2m3.5s``, ``1.5ms``, ``250ns``."""
    if duration_ns == 0:
        return "0s"
    sign, rest = ("-", -duration_ns) if duration_ns < 0 else ("", duration_ns)
    if rest < SECOND_NS:
        for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
            if rest < size * 1000:
                return f"{sign}{_fraction(rest, size)}{unit}"
    minutes, rest = divmod(rest, 60 * SECOND_NS)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{_fraction(rest, SECOND_NS)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else f"{sign}{seconds}"


def _fraction(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    digits = str(part).rjust(len(str(unit)) - 1, "0").rstrip("0") if part else ""
    return f"{whole}.{digits}" if digits else str(whole)


def go_time(unix_ns: int) -> str:
    """A time as Go prints it: ``2026-01-02 03:04:05.6 +0000 UTC``."""
    seconds, nanos = divmod(unix_ns, SECOND_NS)
    digits = f".{nanos:09d}".rstrip("0") if nanos else ""
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}{digits} +0000 UTC"


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

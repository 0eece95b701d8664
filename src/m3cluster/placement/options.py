"""How placements of one service are made (reference/cluster.md §10, §12)."""

from dataclasses import dataclass, field

__all__ = ["CutoverTimes", "PlacementError", "PlacementOptions", "round_up"]

_YEAR_1_TO_1970_NS = 62_135_596_800 * 1_000_000_000
MINUTE_NS = 60 * 1_000_000_000


class PlacementError(Exception):
    """No placement can be made of what was asked for; the message is M3's."""


def round_up(time_ns: int, window_ns: int) -> int:
    """The next multiple of the window at or after a Unix time; multiples count from the year 1, as Go's ``Truncate`` counts them."""
    return -(-(time_ns + _YEAR_1_TO_1970_NS) // window_ns) * window_ns - _YEAR_1_TO_1970_NS


@dataclass(frozen=True, slots=True)
class CutoverTimes:
    """Times that a change of placement gets: all 0 for services that do not use them."""

    placement_ns: int = 0
    shard_cutover_ns: int = 0
    shard_cutoff_ns: int = 0

    @classmethod
    def aggregator(cls, now_ns: int, window_ns: int = MINUTE_NS) -> "CutoverTimes":
        """m3aggregator's: shards change hands at the next whole window (the largest resolution; a minute by default)."""
        edge = round_up(now_ns, window_ns)
        return cls(now_ns, edge, edge)


@dataclass(frozen=True, slots=True)
class PlacementOptions:
    """What kind of placement a service has and which candidates may take part."""

    is_sharded: bool = True
    is_mirrored: bool = False
    is_staged: bool = False
    """Stored as ``PlacementSnapshots``, with a cutover time of 0."""
    valid_zone: str = "embedded"
    allow_all_zones: bool = False
    skip_port_mirroring: bool = False
    stable_only: bool = False
    """Shards are AVAILABLE at once: nobody will ever mark them so (m3coordinator)."""
    times: CutoverTimes = field(default_factory=CutoverTimes)

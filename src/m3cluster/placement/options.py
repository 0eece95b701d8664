"""How placements of one service are made (docs/m3/cluster.md, placement API)."""

from dataclasses import dataclass, field

from m3cluster.placement.times import CutoverTimes

__all__ = ["PlacementOptions"]


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
    add_all_candidates: bool = False
    """Adding takes all candidates, not one instance or one group of hosts."""
    allow_partial_replace: bool = True
    """What the new instances cannot take over when replacing goes to the others."""
    stable_only: bool = False
    """Shards are AVAILABLE at once: nobody will ever mark them so (m3coordinator)."""
    times: CutoverTimes = field(default_factory=CutoverTimes)

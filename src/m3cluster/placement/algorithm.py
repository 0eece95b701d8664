"""The kinds of placements and what can be done with them (docs/m3/cluster.md, algorithms).

Each kind is a class with one method per operation: ``Sharded`` (m3db), ``Mirrored`` (m3aggregator), ``NonSharded`` (m3coordinator).
"""

import random
from collections.abc import Iterable, Sequence
from typing import Protocol

from m3cluster.placement.mirrored import Mirrored
from m3cluster.placement.model import Instance, Placement
from m3cluster.placement.nonsharded import NonSharded
from m3cluster.placement.options import PlacementOptions
from m3cluster.placement.sharded import Sharded

__all__ = ["Algorithm", "Mirrored", "NonSharded", "Sharded", "choose"]


class Algorithm(Protocol):
    """Makes placements of one kind out of selected instances; every method raises ``PlacementError``."""

    def initial(self, instances: Sequence[Instance], num_shards: int, replica_factor: int) -> Placement:
        """The first placement of a service."""

    def add_replica(self, placement: Placement) -> Placement:
        """One more replica of everything."""

    def add(self, placement: Placement, instances: Sequence[Instance]) -> Placement:
        """More instances."""

    def remove(self, placement: Placement, ids: Sequence[str]) -> Placement:
        """Fewer instances; they stay in the placement until their shards are marked available elsewhere."""

    def replace(self, placement: Placement, leaving: Sequence[str], adding: Sequence[Instance]) -> Placement:
        """Some instances in the place of others."""

    def mark_shards_available(self, placement: Placement, instance_id: str, shards: Iterable[int]) -> Placement:
        """These shards of an instance have been taken over."""

    def mark_instance_available(self, placement: Placement, instance_id: str) -> Placement:
        """All shards of an instance have been taken over."""

    def mark_all_available(self, placement: Placement) -> Placement:
        """All shards have been taken over."""

    def balance(self, placement: Placement) -> Placement:
        """The same instances with evened out loads."""


def choose(options: PlacementOptions, rng: random.Random | None = None) -> Algorithm:
    """The algorithm for a kind of placement."""
    if options.is_mirrored:
        return Mirrored(options, rng)
    return Sharded(options, rng) if options.is_sharded else NonSharded(options)

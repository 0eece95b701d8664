"""Placements made from selected instances (reference/cluster.md §9): sharded, mirrored, not sharded.

Each kind is a class with one method per operation; ``initial`` is the first of them.
"""

import random
from collections.abc import Sequence
from typing import Protocol

import msgspec

from m3cluster.placement.layout import Layout
from m3cluster.placement.model import Instance, Placement, Shard, ShardState
from m3cluster.placement.options import PlacementError, PlacementOptions

__all__ = ["Algorithm", "Mirrored", "NonSharded", "Sharded", "choose"]


class Algorithm(Protocol):
    """Makes placements of one kind; every method raises ``PlacementError``."""

    def initial(self, instances: Sequence[Instance], num_shards: int, replica_factor: int) -> Placement:
        """The first placement of a service."""


def choose(options: PlacementOptions, rng: random.Random | None = None) -> Algorithm:
    """The algorithm for a kind of placement."""
    if options.is_mirrored:
        return Mirrored(options, rng)
    return Sharded(options, rng) if options.is_sharded else NonSharded(options)


class NonSharded:
    """A plain list of instances (m3coordinator)."""

    def __init__(self, options: PlacementOptions) -> None:
        self._options = options

    def initial(self, instances: Sequence[Instance], num_shards: int, replica_factor: int) -> Placement:
        """All instances, no shards."""
        if num_shards:
            raise PlacementError("could not apply shards in non-sharded placement")
        return Placement(
            instances=tuple(sorted(instances, key=lambda i: i.id)),
            replica_factor=replica_factor,
            cutover_time_ns=self._options.times.placement_ns,
        )


class Sharded:
    """Every shard on ``replica_factor`` instances of different isolation groups (m3db)."""

    def __init__(self, options: PlacementOptions, rng: random.Random | None = None) -> None:
        self._options = options
        self._rng = rng or random.Random()

    def initial(self, instances: Sequence[Instance], num_shards: int, replica_factor: int) -> Placement:
        """One replica of all shards after the other, each evened out over the instances' weights."""
        layout = Layout(instances, num_shards, 1, self._rng)
        layout.place_shards(range(num_shards), layout.members.values())
        placement = layout.placement(self._options.times)
        for replica in range(2, replica_factor + 1):
            # An instance that has got nothing yet is no longer part of the placement, as in M3.
            layout = Layout(placement.instances, num_shards, replica, self._rng)
            layout.place_shards(range(num_shards), layout.members.values())
            layout.optimize()
            placement = layout.placement(self._options.times)
        return _all_available(placement) if self._options.stable_only else placement


def _all_available(placement: Placement) -> Placement:
    def available(instance: Instance) -> Instance:
        return msgspec.structs.replace(
            instance, shards=tuple(Shard(s.id, ShardState.AVAILABLE) for s in instance.shards)
        )

    return msgspec.structs.replace(placement, instances=tuple(available(i) for i in placement.instances))


class Mirrored:
    """Shard sets of ``replica_factor`` instances with equal shards (m3aggregator).

    Each shard set counts as one instance in an isolation group of its own; these are given each shard once, and then unfolded again.
    """

    def __init__(self, options: PlacementOptions, rng: random.Random | None = None) -> None:
        self._options = options
        self._sharded = Sharded(options, rng)

    def initial(self, instances: Sequence[Instance], num_shards: int, replica_factor: int) -> Placement:
        """Shard sets as the instances name them."""
        folded = self._fold(instances, replica_factor)
        members = self._groups(instances)
        placement = self._sharded.initial(folded, num_shards, 1)
        unfolded = [
            msgspec.structs.replace(member, shards=virtual.shards)
            for virtual in placement.instances
            for member in members[virtual.shard_set_id]
        ]
        return msgspec.structs.replace(
            placement,
            instances=tuple(sorted(unfolded, key=lambda i: i.id)),
            replica_factor=replica_factor,
            is_mirrored=True,
        )

    @staticmethod
    def _groups(instances: Sequence[Instance]) -> dict[int, list[Instance]]:
        groups: dict[int, list[Instance]] = {}
        for instance in instances:
            groups.setdefault(instance.shard_set_id, []).append(instance)
        return groups

    def _fold(self, instances: Sequence[Instance], replica_factor: int) -> list[Instance]:
        """One instance per shard set, named by its number. Raises ``PlacementError`` if a shard set is not a set of equals."""
        folded = []
        for number, group in self._groups(instances).items():
            if len(group) != replica_factor:
                raise PlacementError(f"found {len(group)} count of shard set id {number}, expecting {replica_factor}")
            first, what = group[0], f"instances of shard set id {number}"
            if len({i.isolation_group for i in group}) != len(group):
                raise PlacementError(f"{what} must be in different isolation groups")
            if any(i.weight != first.weight for i in group):
                raise PlacementError(f"{what} must have equal weights")
            if any(i.shards != first.shards for i in group):
                raise PlacementError(f"{what} must have equal shards")
            name = str(number)
            folded.append(
                Instance(
                    id=name,
                    isolation_group=name,
                    weight=first.weight,
                    shards=first.shards,
                    shard_set_id=number,
                )
            )
        return folded

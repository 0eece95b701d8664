"""Mirrored placements: shard sets of as many instances with equal shards as there are replicas (m3aggregator).

M3's rules: docs/m3/cluster.md, mirrored.

Each shard set counts as one instance in an isolation group of its own (it is *folded*); the sharded algorithm gives these each shard
once, and then they are *unfolded* again. A change that has not been cut over yet can be taken back; any other one has to be complete
(all shards available) before the next one begins.
"""

import dataclasses
import random
import re
from collections.abc import Callable, Iterable, Sequence

import msgspec

from m3cluster.placement.describe import describe_shards
from m3cluster.placement.errors import PlacementError
from m3cluster.placement.layout import Layout
from m3cluster.placement.marking import mark_all, mark_instance, mark_shards
from m3cluster.placement.model import Instance, Placement, Shard, ShardState
from m3cluster.placement.options import PlacementOptions
from m3cluster.placement.sharded import Sharded, without

__all__ = ["Mirrored"]

_ShardSets = dict[int, list[Instance]]
_NUMBER = re.compile(r"[0-9]+")


class Mirrored:
    """See ``m3cluster.placement.algorithm.Algorithm``."""

    def __init__(self, options: PlacementOptions, rng: random.Random | None = None) -> None:
        self._options = options
        self._rng = rng or random.Random()
        self._sharded = Sharded(dataclasses.replace(options, allow_partial_replace=False), self._rng)

    def initial(self, instances: Sequence[Instance], num_shards: int, replica_factor: int) -> Placement:
        """Shard sets as the instances name them."""
        folded = _fold(instances, replica_factor)
        return _unfold(self._sharded.initial(folded, num_shards, 1), instances, replica_factor)

    def add_replica(self, placement: Placement) -> Placement:
        """Not possible: an instance more per shard set would have to be found."""
        del placement
        raise PlacementError("not supported")

    def add(self, placement: Placement, instances: Sequence[Instance]) -> Placement:
        """Whole shard sets take shards from the others; those that are just leaving take back what was theirs."""
        self._check(placement)
        ids = [i.id for i in instances]
        if _with_all(placement, self._is_leaving) == set(ids):
            return self._reclaim(placement, ids)
        placement = self.mark_all_available(placement)
        adding = _fresh(placement, instances)
        folded = self._folded(placement)
        for shard_set in _fold(adding, placement.replica_factor):
            folded = self._sharded.add(folded, [shard_set])
        return _unfold(folded, [*placement.instances, *adding], placement.replica_factor)

    def remove(self, placement: Placement, ids: Sequence[str]) -> Placement:
        """Whole shard sets give their shards to the others; those that have just come give back what they would have got."""
        self._check(placement)
        if _with_all(placement, self._is_arriving) == set(ids):
            return self._return(placement, ids)
        placement = self.mark_all_available(placement)
        leaving = []
        for instance_id in ids:
            instance = placement.instance(instance_id)
            if instance is None:
                raise PlacementError(f"instance {instance_id} does not exist in the placement")
            leaving.append(instance)
        folded = self._folded(placement)
        for shard_set in _fold(leaving, placement.replica_factor):
            folded = self._sharded.remove(folded, [shard_set.id])
        return _unfold(folded, placement.instances, placement.replica_factor)

    def replace(self, placement: Placement, leaving: Sequence[str], adding: Sequence[Instance]) -> Placement:
        """One instance for another, with all its shards; or back again while that is not cut over."""
        self._check(placement)
        if len(leaving) != len(adding):
            raise PlacementError(
                f"could not replace {len(leaving)} instances with {len(adding)} instances for mirrored replace"
            )
        ids = [i.id for i in adding]
        is_revert = _are_all(placement, ids, self._is_leaving) and _are_all(placement, leaving, self._is_arriving)
        if is_revert:
            return self._return(self._reclaim(placement, ids), leaving)
        for instance_id in leaving:
            placement = self._with_peers_available(placement, instance_id)
        if not _are_all(placement, leaving, self._is_served):
            raise PlacementError("replaced instances must have all their shards available")
        for old, new in zip(leaving, _fresh(placement, adding), strict=True):
            placement = self._sharded.replace(placement, [old], [new])
        return placement

    def mark_shards_available(self, placement: Placement, instance_id: str, shards: Iterable[int]) -> Placement:
        """Their sources let go of them."""
        self._check(placement)
        return mark_shards(placement, instance_id, shards, self._options.times)

    def mark_instance_available(self, placement: Placement, instance_id: str) -> Placement:
        """Their sources let go of them."""
        self._check(placement)
        return mark_instance(placement, instance_id, self._options.times)

    def mark_all_available(self, placement: Placement) -> Placement:
        """Their sources let go of them."""
        self._check(placement)
        return mark_all(placement, self._options.times)

    def balance(self, placement: Placement) -> Placement:
        """Moves shards from the shard sets that have most to those that have least."""
        self._check(placement)
        folded = self._sharded.balance(self._folded(placement))
        return _unfold(folded, placement.instances, placement.replica_factor)

    def _is_leaving(self, shard: Shard) -> bool:
        """Whether the shard is on its way out, but still here."""
        return shard.state is ShardState.LEAVING and shard.cutoff_ns > self._options.times.placement_ns

    def _is_arriving(self, shard: Shard) -> bool:
        """Whether the shard is on its way in, but not here yet."""
        return shard.state is ShardState.INITIALIZING and shard.cutover_ns > self._options.times.placement_ns

    def _is_served(self, shard: Shard) -> bool:
        """Whether the shard is in service and stays."""
        return shard.state is ShardState.AVAILABLE and shard.cutoff_ns > self._options.times.placement_ns

    def _reclaim(self, placement: Placement, ids: Sequence[str]) -> Placement:
        """Instances that were leaving take their shards back. Raises ``PlacementError`` if they cannot have all of them."""
        if not ids:
            return placement
        layout = Layout(placement, self._options, self._rng)
        members = [layout.members[instance_id] for instance_id in ids]
        while True:
            if any(member.new or member.in_state(ShardState.INITIALIZING) for member in members):
                raise PlacementError("the adding instance contains initializing shards")
            if not sum(layout.reclaim(member) for member in members):
                break
        for member in members:
            if not member.held:
                raise PlacementError(
                    f"could not find instance {member.id} in placement after reclaiming leaving shards"
                )
            if leaving := len(member.in_state(ShardState.LEAVING)):
                raise PlacementError(
                    f"there are {leaving} leaving shards could not be reclaimed for instance {member.id}"
                )
        return layout.placement()

    def _return(self, placement: Placement, ids: Sequence[str]) -> Placement:
        """Instances that were coming give their shards back to where they are. Raises ``PlacementError`` if they cannot give back all."""
        moved = True
        while moved:
            moved = False
            for instance_id in ids:
                if placement.instance(instance_id) is None:
                    continue
                rest, member = without(placement, instance_id)
                layout = Layout(rest, self._options, self._rng)
                moved = layout.give_back(member, layout.members.values()) > 0 or moved
                placement = layout.placement(member)
        for instance_id in ids:
            instance = placement.instance(instance_id)
            kept = sum(s.state is ShardState.INITIALIZING for s in instance.shards) if instance else 0
            if kept:
                raise PlacementError(
                    f"there are {kept} initializing shards could not be returned for instance {instance_id}"
                )
        return placement

    def _with_peers_available(self, placement: Placement, instance_id: str) -> Placement:
        """All shards of the shard set of an instance are marked available."""
        leaving = placement.instance(instance_id)
        if leaving is None:
            raise PlacementError(f"instance {instance_id} does not exist in placement")
        for peer in placement.instances:
            if peer.shard_set_id != leaving.shard_set_id or placement.instance(peer.id) is None:
                continue
            try:
                placement = mark_instance(placement, peer.id, self._options.times)
            except PlacementError as error:
                raise PlacementError(f"could not mark shards available of instance {peer.id}: {error}") from error
        return placement

    @staticmethod
    def _folded(placement: Placement) -> Placement:
        folded = tuple(sorted(_fold(placement.instances, placement.replica_factor), key=lambda i: i.id))
        return msgspec.structs.replace(placement, instances=folded, replica_factor=1)

    @staticmethod
    def _check(placement: Placement) -> None:
        if not (placement.is_mirrored and placement.is_sharded):
            raise PlacementError("could not apply mirrored algo on the placement")


def _with_all(placement: Placement, is_so: Callable[[Shard], bool]) -> set[str]:
    """The instances of which every shard is as asked for."""
    return {i.id for i in placement.instances if all(map(is_so, i.shards))}


def _are_all(placement: Placement, ids: Sequence[str], is_so: Callable[[Shard], bool]) -> bool:
    """Whether every shard of these instances is as asked for; false if one of them is missing, and for no instances."""
    return bool(ids) and _with_all(placement, is_so).issuperset(ids)


def _fresh(placement: Placement, instances: Sequence[Instance]) -> list[Instance]:
    """The instances without the shards that they had when they were leaving. Raises ``PlacementError`` for one that is in the placement."""
    fresh = []
    for instance in instances:
        if placement.instance(instance.id) is not None:
            raise PlacementError(f"instance {instance.id} already exist in the placement")
        fresh.append(msgspec.structs.replace(instance, shards=()) if instance.is_leaving else instance)
    return fresh


def _shard_sets(instances: Iterable[Instance]) -> _ShardSets:
    found: _ShardSets = {}
    for instance in instances:
        found.setdefault(instance.shard_set_id, []).append(instance)
    return found


def _fold(instances: Iterable[Instance], replica_factor: int) -> list[Instance]:
    """One instance per shard set, named by its number. Raises ``PlacementError`` if a shard set is not a set of equals."""
    shard_sets: _ShardSets = {}
    for instance in instances:
        number = instance.shard_set_id
        others = shard_sets.setdefault(number, [])
        first = others[0] if others else instance
        if any(other.isolation_group == instance.isolation_group for other in others):
            raise PlacementError(
                f"found duplicated isolation group {instance.isolation_group} for shardset id {number}"
            )
        if first.weight != instance.weight:
            raise PlacementError(
                f"found different weights: {first.weight} and {instance.weight}, for shardset id {number}"
            )
        if first.shards != instance.shards:
            shards = f"{describe_shards(first.shards)} and {describe_shards(instance.shards)}"
            raise PlacementError(f"found different shards: {shards}, for shardset id {number}")
        others.append(instance)
    for number, group in shard_sets.items():
        if len(group) != replica_factor:
            raise PlacementError(f"found {len(group)} count of shard set id {number}, expecting {replica_factor}")
    return [
        Instance(
            id=str(number), isolation_group=str(number), weight=g[0].weight, shards=g[0].shards, shard_set_id=number
        )
        for number, g in shard_sets.items()
    ]


def _unfold(folded: Placement, instances: Sequence[Instance], replica_factor: int) -> Placement:
    """The placement with the instances of each shard set. The n-th one takes over from the n-th one of a shard's source."""
    members = _shard_sets(instances)

    def of(shard: Shard, position: int) -> Shard:
        source = shard.source_id
        if source and not _NUMBER.fullmatch(source):
            raise PlacementError(f"could not convert source id {source} to shard set id")
        if source:
            peers = members.get(int(source), [])
            if position >= len(peers):
                raise PlacementError(f"could not find source id {source} in placement")
            source = peers[position].id
        return msgspec.structs.replace(shard, source_id=source, redirect_to=None)

    unfolded = []
    for virtual in folded.instances:
        if virtual.shard_set_id not in members:
            raise PlacementError(f"could not find shard set id {virtual.shard_set_id} in placement")
        unfolded += [
            msgspec.structs.replace(member, shards=tuple(of(s, position) for s in virtual.shards))
            for position, member in enumerate(members[virtual.shard_set_id])
        ]
    return msgspec.structs.replace(
        folded,
        instances=tuple(sorted(unfolded, key=lambda i: i.id)),
        replica_factor=replica_factor,
        is_mirrored=True,
    )

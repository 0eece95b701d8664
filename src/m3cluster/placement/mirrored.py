"""Mirrored placements: shard sets of as many instances with equal shards as there are replicas (m3aggregator).

M3's rules: docs/m3/cluster.md, mirrored.

Each shard set counts as one instance in an isolation group of its own (it is *folded*); the sharded algorithm gives these each shard
once, and then they are *unfolded* again. A change that has not been cut over yet can be taken back; any other one has to be complete
(all shards available) before the next one begins.
"""

import dataclasses
import random
from collections.abc import Callable, Iterable, Sequence

import msgspec

from m3cluster.placement.errors import PlacementError
from m3cluster.placement.layout import Layout
from m3cluster.placement.marking import mark_all, mark_instance, mark_shards
from m3cluster.placement.model import Instance, Placement, Shard, ShardState
from m3cluster.placement.options import PlacementOptions
from m3cluster.placement.sharded import Sharded

__all__ = ["Mirrored"]

_ShardSets = dict[int, list[Instance]]


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
        if _all_of(placement, self._is_leaving) == set(ids):
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
        if _all_of(placement, self._is_arriving) == set(ids):
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
        returning, back = _all_of(placement, self._is_leaving), _all_of(placement, self._is_arriving)
        ids = [i.id for i in adding]
        if returning.issuperset(ids) and back.issuperset(leaving):
            return self._return(self._reclaim(placement, ids), leaving)
        placement = self._with_peers_available(placement, leaving)
        adding = _fresh(placement, adding)
        if not _all_of(placement, lambda s: s.state is ShardState.AVAILABLE).issuperset(leaving):
            raise PlacementError("replaced instances must have all their shards available")
        for old, new in zip(leaving, adding, strict=True):
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

    def _reclaim(self, placement: Placement, ids: Sequence[str]) -> Placement:
        """Instances that were leaving take their shards back."""
        layout = Layout(placement, self._options, self._rng)
        for instance_id in ids:
            layout.reclaim(layout.members[instance_id])
        return layout.placement()

    def _return(self, placement: Placement, ids: Sequence[str]) -> Placement:
        """Instances that were coming give their shards back to where they are."""
        layout = Layout(placement, self._options, self._rng)
        for instance_id in ids:
            if instance_id in layout.members:
                layout.give_back(layout.members[instance_id], layout.members.values())
        return layout.placement()

    def _with_peers_available(self, placement: Placement, ids: Sequence[str]) -> Placement:
        """All shards of the shard sets of these instances are marked available."""
        shard_sets = set()
        for instance_id in ids:
            instance = placement.instance(instance_id)
            if instance is None:
                raise PlacementError(f"instance {instance_id} does not exist in the placement")
            shard_sets.add(instance.shard_set_id)
        for instance in placement.instances:
            if instance.shard_set_id not in shard_sets or placement.instance(instance.id) is None:
                continue
            try:
                placement = mark_instance(placement, instance.id, self._options.times)
            except PlacementError as error:
                raise PlacementError(f"could not mark shards available of instance {instance.id}: {error}") from error
        return placement

    @staticmethod
    def _folded(placement: Placement) -> Placement:
        folded = tuple(sorted(_fold(placement.instances, placement.replica_factor), key=lambda i: i.id))
        return msgspec.structs.replace(placement, instances=folded, replica_factor=1)

    @staticmethod
    def _check(placement: Placement) -> None:
        if not placement.is_mirrored:
            raise PlacementError("could not apply mirrored algo on the placement")


def _all_of(placement: Placement, is_so: Callable[[Shard], bool]) -> set[str]:
    """The instances of which every shard is as asked for."""
    return {i.id for i in placement.instances if all(is_so(s) for s in i.shards)}


def _fresh(placement: Placement, instances: Sequence[Instance]) -> list[Instance]:
    """The instances without the shards that they had when they were leaving. Raises ``PlacementError`` for one that is in the placement."""
    for instance in instances:
        if placement.instance(instance.id) is not None:
            raise PlacementError(f"instance {instance.id} already exist in the placement")
    return [msgspec.structs.replace(i, shards=()) for i in instances]


def _shard_sets(instances: Iterable[Instance]) -> _ShardSets:
    found: _ShardSets = {}
    for instance in instances:
        found.setdefault(instance.shard_set_id, []).append(instance)
    return found


def _fold(instances: Iterable[Instance], replica_factor: int) -> list[Instance]:
    """One instance per shard set, named by its number. Raises ``PlacementError`` if a shard set is not a set of equals."""
    folded = []
    for number, group in _shard_sets(instances).items():
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
            Instance(id=name, isolation_group=name, weight=first.weight, shards=first.shards, shard_set_id=number)
        )
    return folded


def _unfold(folded: Placement, instances: Sequence[Instance], replica_factor: int) -> Placement:
    """The placement with the instances of each shard set. The n-th one takes over from the n-th one of a shard's source."""
    members = _shard_sets(instances)

    def of(shard: Shard, position: int) -> Shard:
        if not shard.source_id:
            return shard
        return msgspec.structs.replace(shard, source_id=members[int(shard.source_id)][position].id)

    unfolded = [
        msgspec.structs.replace(member, shards=tuple(of(s, position) for s in virtual.shards))
        for virtual in folded.instances
        for position, member in enumerate(members[virtual.shard_set_id])
    ]
    return msgspec.structs.replace(
        folded,
        instances=tuple(sorted(unfolded, key=lambda i: i.id)),
        replica_factor=replica_factor,
        is_mirrored=True,
    )

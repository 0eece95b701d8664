"""Sharded placements: every shard on as many isolation groups as there are replicas (m3db; docs/m3/cluster.md, sharded)."""

import contextlib
import random
from collections.abc import Iterable, Sequence

import msgspec

from m3cluster.placement.errors import PlacementError
from m3cluster.placement.layout import Layout, Member, NotEnoughGroupsError
from m3cluster.placement.marking import mark_all, mark_instance, mark_shards
from m3cluster.placement.model import Instance, Placement
from m3cluster.placement.options import PlacementOptions
from m3cluster.placement.times import CutoverTimes

__all__ = ["Sharded", "without"]


class _AlreadyThereError(PlacementError):
    """An instance would be in the placement twice."""

    def __init__(self) -> None:
        super().__init__("the adding instance is already in the placement")


class Sharded:
    """See ``m3cluster.placement.algorithm.Algorithm``."""

    def __init__(self, options: PlacementOptions, rng: random.Random | None = None) -> None:
        self._options = options
        self._rng = rng or random.Random()

    def initial(self, instances: Sequence[Instance], num_shards: int, replica_factor: int) -> Placement:
        """One replica of all shards after the other, each evened out over the instances' weights."""
        empty = Placement(tuple(instances), num_shards, 1, is_sharded=True)
        layout = self._layout(empty)
        layout.place_new()
        placement = layout.placement()
        for _ in range(1, replica_factor):
            # An instance that has got nothing yet is no longer part of the placement, as in M3.
            placement = self._one_more(placement)
        return self._finished(placement)

    def add_replica(self, placement: Placement) -> Placement:
        """Places all shards once more."""
        self._check(placement)
        return self._finished(self._one_more(placement))

    def _one_more(self, placement: Placement) -> Placement:
        layout = self._layout(placement, placement.replica_factor + 1)
        layout.place_new()
        layout.optimize(served=False)
        return layout.placement()

    def add(self, placement: Placement, instances: Sequence[Instance]) -> Placement:
        """One after the other takes back what it was losing and then shards from those that have most."""
        self._check(placement)
        for instance in instances:
            present = placement.instance(instance.id)
            if present is not None and not present.is_leaving:
                raise PlacementError("the adding instance contains non leaving shards")
            grown = placement if present else _with(placement, instance)
            layout = self._layout(grown)
            member = layout.members[instance.id]
            layout.reclaim(member)
            layout.fill(member)
            placement = layout.placement()
        return self._finished(placement)

    def remove(self, placement: Placement, ids: Sequence[str]) -> Placement:
        """The shards of one after the other go to those that have least."""
        self._check(placement)
        for instance_id in ids:
            rest, leaving = without(placement, instance_id)
            layout = self._layout(rest)
            layout.place_from(leaving, layout.members.values())
            layout.optimize(served=False)
            placement = layout.placement(leaving)
        return self._finished(placement)

    def replace(self, placement: Placement, leaving: Sequence[str], adding: Sequence[Instance]) -> Placement:
        """The shards go to the new instances; what these cannot take goes to all if partial replacing is allowed, else it is an error."""
        self._check(placement)
        departing = []
        for instance_id in leaving:
            placement, member = without(placement, instance_id)
            departing.append(member)
        for instance in adding:
            placement = _with(placement, instance)
        layout = self._layout(placement)
        arriving = [layout.members[i.id] for i in adding]
        for member in departing:
            with contextlib.suppress(NotEnoughGroupsError):
                layout.place_from(member, arriving)
            if member.load and not self._options.allow_partial_replace:
                raise PlacementError(
                    f"could not fully replace all shards from {member.id}, {member.load} shards left unassigned"
                )
        if self._options.allow_partial_replace:
            for member in departing:
                layout.place_from(member, layout.members.values())
            layout.optimize(served=True)
        if any(member.held and layout.members[member.id].held for member in departing if member.id in layout.members):
            raise _AlreadyThereError
        return self._finished(layout.placement(*departing))

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
        """Moves shards, also those in service, from those that have most to those that have least."""
        layout = self._layout(placement)
        layout.optimize(served=True)
        return self._finished(layout.placement())

    def _layout(self, placement: Placement, replica_factor: int | None = None) -> Layout:
        return Layout(placement, self._options, self._rng, replica_factor)

    def _finished(self, placement: Placement) -> Placement:
        """Where nobody will ever mark shards, all of them are available at once."""
        if not self._options.stable_only:
            return placement
        return mark_all(placement, CutoverTimes(self._options.times.placement_ns))

    @staticmethod
    def _check(placement: Placement) -> None:
        if not placement.is_sharded:
            raise PlacementError("could not apply sharded algo on the placement")


def _with(placement: Placement, instance: Instance) -> Placement:
    """The placement with one instance more."""
    if placement.instance(instance.id) is not None:
        raise _AlreadyThereError
    return msgspec.structs.replace(placement, instances=(*placement.instances, instance))


def without(placement: Placement, instance_id: str) -> tuple[Placement, Member]:
    """The placement with one instance less, and that one."""
    leaving = placement.instance(instance_id)
    if leaving is None:
        raise PlacementError(f"instance {instance_id} does not exist in placement")
    rest = tuple(i for i in placement.instances if i is not leaving)
    return msgspec.structs.replace(placement, instances=rest), Member.of(leaving)

"""Placements without shards: plain lists of instances (m3coordinator; docs/m3/cluster.md, non-sharded)."""

from collections.abc import Iterable, Sequence

import msgspec

from m3cluster.placement.errors import PlacementError
from m3cluster.placement.model import Instance, Placement
from m3cluster.placement.options import PlacementOptions

__all__ = ["NonSharded"]


class NonSharded:
    """See ``m3cluster.placement.algorithm.Algorithm``. There are no shards to mark or to balance."""

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

    def add_replica(self, placement: Placement) -> Placement:
        """Counts one replica more."""
        self._check(placement)
        return msgspec.structs.replace(placement, replica_factor=placement.replica_factor + 1)

    def add(self, placement: Placement, instances: Sequence[Instance]) -> Placement:
        """Appends them."""
        self._check(placement)
        found = {i.id: i for i in placement.instances}
        for instance in instances:
            if instance.id in found:
                raise PlacementError(f"instance {instance.id} already exist in the placement")
            found[instance.id] = instance
        return msgspec.structs.replace(placement, instances=tuple(found[key] for key in sorted(found)))

    def remove(self, placement: Placement, ids: Sequence[str]) -> Placement:
        """Takes them out at once."""
        self._check(placement)
        found = {i.id: i for i in placement.instances}
        for instance_id in ids:
            if found.pop(instance_id, None) is None:
                raise PlacementError(f"instance {instance_id} not found in placement")
        return msgspec.structs.replace(placement, instances=tuple(found.values()))

    def replace(self, placement: Placement, leaving: Sequence[str], adding: Sequence[Instance]) -> Placement:
        """Adds, then removes."""
        return self.remove(self.add(placement, adding), leaving)

    def mark_shards_available(self, placement: Placement, instance_id: str, shards: Iterable[int]) -> Placement:
        """Nothing to do."""
        del instance_id, shards
        return placement

    def mark_instance_available(self, placement: Placement, instance_id: str) -> Placement:
        """Nothing to do."""
        del instance_id
        return placement

    def mark_all_available(self, placement: Placement) -> Placement:
        """Nothing to do."""
        return placement

    def balance(self, placement: Placement) -> Placement:
        """Nothing to do."""
        return placement

    @staticmethod
    def _check(placement: Placement) -> None:
        if placement.is_sharded:
            raise PlacementError("could not apply non-sharded algo on the placement")

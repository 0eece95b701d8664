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
        empty = Placement(replica_factor=replica_factor, cutover_time_ns=self._options.times.placement_ns)
        return _of(empty, instances)

    def add_replica(self, placement: Placement) -> Placement:
        """Counts one replica more."""
        self._check(placement)
        return msgspec.structs.replace(placement, replica_factor=placement.replica_factor + 1)

    def add(self, placement: Placement, instances: Sequence[Instance]) -> Placement:
        """Appends them; of several with the same id the last one counts."""
        self._check(placement)
        for instance in instances:
            if placement.instance(instance.id) is not None:
                raise PlacementError(f"instance {instance.id} already exist in placement")
        return _of(placement, [*placement.instances, *instances])

    def remove(self, placement: Placement, ids: Sequence[str]) -> Placement:
        """Takes them out at once."""
        self._check(placement)
        for instance_id in ids:
            if placement.instance(instance_id) is None:
                raise PlacementError(f"instance {instance_id} not found in placement")
        return _of(placement, [i for i in placement.instances if i.id not in ids])

    def replace(self, placement: Placement, leaving: Sequence[str], adding: Sequence[Instance]) -> Placement:
        """Adds, then removes."""
        return self.remove(self.add(placement, adding), leaving)

    def mark_shards_available(self, placement: Placement, instance_id: str, shards: Iterable[int]) -> Placement:
        """Nothing to do."""
        del instance_id, shards
        self._check(placement)
        return placement

    def mark_instance_available(self, placement: Placement, instance_id: str) -> Placement:
        """Nothing to do."""
        del instance_id
        self._check(placement)
        return placement

    def mark_all_available(self, placement: Placement) -> Placement:
        """Nothing to do."""
        self._check(placement)
        return placement

    def balance(self, placement: Placement) -> Placement:
        """Nothing to do."""
        self._check(placement)
        return placement

    @staticmethod
    def _check(placement: Placement) -> None:
        if placement.is_sharded or placement.is_mirrored:
            raise PlacementError("could not apply non-sharded algo on the placement")


def _of(placement: Placement, instances: Iterable[Instance]) -> Placement:
    """The placement with other instances."""
    by_id = {i.id: i for i in instances}
    return msgspec.structs.replace(placement, instances=tuple(by_id[key] for key in sorted(by_id)))

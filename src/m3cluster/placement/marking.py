"""Marking shards available: their sources let go of them (docs/m3/cluster.md, marking shards available)."""

from collections.abc import Iterable

import msgspec

from m3cluster.placement.errors import PlacementError
from m3cluster.placement.model import Placement, Shard, ShardState
from m3cluster.placement.times import CutoverTimes

__all__ = ["mark_all", "mark_instance", "mark_shards"]


def mark_shards(placement: Placement, instance_id: str, shards: Iterable[int], times: CutoverTimes) -> Placement:
    """These INITIALIZING shards of an instance become AVAILABLE. Raises ``PlacementError``, also for shards that are not cut over."""
    marking = _Marking(placement, times)
    for shard in shards:
        marking.mark(instance_id, shard)
    return marking.placement()


def mark_instance(placement: Placement, instance_id: str, times: CutoverTimes) -> Placement:
    """All INITIALIZING shards of an instance become AVAILABLE. Raises ``PlacementError``."""
    instance = placement.instance(instance_id)
    if instance is None:
        raise PlacementError(f"could not find instance {instance_id} in placement")
    waiting = [s.id for s in instance.shards if s.state is ShardState.INITIALIZING]
    return mark_shards(placement, instance_id, waiting, times)


def mark_all(placement: Placement, times: CutoverTimes) -> Placement:
    """All INITIALIZING shards become AVAILABLE, or none of them. Raises ``PlacementError``."""
    marking = _Marking(placement, times)
    for instance in placement.instances:
        for shard in instance.shards:
            if shard.state is ShardState.INITIALIZING:
                marking.mark(instance.id, shard.id)
    return marking.placement()


class _Marking:
    """A placement while its shards are marked."""

    def __init__(self, placement: Placement, times: CutoverTimes) -> None:
        self._placement = placement
        self._times = times
        self._shards = {i.id: {s.id: s for s in i.shards} for i in placement.instances}
        self._is_changed = False

    def mark(self, instance_id: str, number: int) -> None:
        """Marks one shard."""
        if instance_id not in self._shards:
            raise PlacementError(f"instance {instance_id} does not exist in placement")
        shards = self._shards[instance_id]
        if number not in shards:
            raise PlacementError(f"shard {number} does not exist in instance {instance_id}")
        shard = shards[number]
        if shard.state is not ShardState.INITIALIZING:
            raise PlacementError(f"could not mark shard {number} as available, it's not in Initializing state")
        self._times.check_cutover(shard)
        if shard.source_id:
            self._release(shard)
        shards[number] = Shard(number, ShardState.AVAILABLE)
        self._is_changed = True

    def _release(self, shard: Shard) -> None:
        """Takes the shard from its source."""
        source = shard.source_id
        if source not in self._shards:
            raise PlacementError(f"source instance {source} for shard {shard.id} does not exist in placement")
        leaving = self._shards[source].get(shard.id)
        if leaving is None:
            raise PlacementError(f"shard {shard.id} does not exist in source instance {source}")
        if leaving.state is not ShardState.LEAVING:
            raise PlacementError(f"shard {shard.id} is not leaving instance {source}")
        self._times.check_cutoff(leaving)
        del self._shards[source][shard.id]
        if not self._shards[source]:
            del self._shards[source]

    def placement(self) -> Placement:
        """The placement as it is now."""
        if not self._is_changed:
            return self._placement
        instances = tuple(
            msgspec.structs.replace(i, shards=tuple(self._shards[i.id].values()))
            for i in self._placement.instances
            if i.id in self._shards
        )
        return msgspec.structs.replace(self._placement, instances=instances, cutover_time_ns=self._times.placement_ns)

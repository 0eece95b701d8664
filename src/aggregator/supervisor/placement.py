"""What a placement means for view instance: its shards, whether they are cut over, who else is in its shard set.

Pure: a decoded placement in, a ``View`` out; and ``assign``, which gives the shards to the workers.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aggregator.ipc import OwnedShard
from m3cluster.placement.model import Instance, Placement, ShardState

__all__ = ["View", "assign", "has_replacement", "nearest_ids", "view"]


@dataclass(frozen=True, slots=True)
class View:
    """A placement as seen by one instance."""

    placement: Placement
    instance_id: str
    instance: Instance | None
    """None: the placement does not name us."""

    @property
    def shard_set(self) -> int:
        """Instances with the same number hold the same shards and elect one leader."""
        return self.instance.shard_set_id if self.instance is not None else 0

    @property
    def owned(self) -> dict[int, OwnedShard]:
        """Our shards by id."""
        if self.instance is None:
            return {}
        return {s.id: OwnedShard(s.id, s.cutover_ns, s.cutoff_ns) for s in self.instance.shards}

    @property
    def states(self) -> dict[int, str]:
        """State of each of our shards, as text."""
        return {} if self.instance is None else {s.id: s.state.name for s in self.instance.shards}

    @property
    def redirects(self) -> dict[int, int]:
        """Shard → shard that takes its metrics."""
        shards = () if self.instance is None else self.instance.shards
        return {s.id: s.redirect_to for s in shards if s.redirect_to is not None}

    def cutover_left_ns(self, now_ns: int) -> int:
        """Until the last of our shards is cut over; 0: all are."""
        return max(0, *(shard.cutover_ns - now_ns for shard in self.owned.values()), 0)

    def peers(self) -> set[str]:
        """Ids of all instances of our shard set, we among them."""
        if self.instance is None:
            return set()
        return {i.id for i in self.placement.instances if i.shard_set_id == self.shard_set}


def view(placement: Placement, instance_id: str) -> View:
    """The placement as ``instance_id`` sees it."""
    return View(placement, instance_id, placement.instance(instance_id))


def nearest_ids(placement: Placement, instance_id: str) -> list[str]:
    """Instance ids of the placement that look most like ours, for an error message."""
    ids = [instance.id for instance in placement.instances]
    return difflib.get_close_matches(instance_id, ids, n=3, cutoff=0.0)


def has_replacement(view: View) -> bool:
    """Whether all our shards are leaving and an instance of the same shard set takes exactly them over.

    docs/m3/aggregation.md, replacement instances.
    """
    if view.instance is None or not view.instance.shards:
        return False
    leaving = {s.id: s for s in view.instance.shards}
    if any(s.state is not ShardState.LEAVING for s in leaving.values()):
        return False
    return any(
        other.id != view.instance.id
        and other.shard_set_id == view.shard_set
        and {s.id for s in other.shards} == leaving.keys()
        and all(
            s.state is ShardState.INITIALIZING and s.cutover_ns == leaving[s.id].cutoff_ns for s in other.shards
        )
        for other in view.placement.instances
    )  # fmt: skip


def assign(shards: Sequence[int], workers: int, current: Mapping[int, int] | None = None) -> dict[int, int]:
    """Shard → worker. Contiguous ranges of nearly equal size at first; ``current`` is kept where a shard stays, and new shards go to
    the workers with the fewest."""
    ordered = sorted(shards)
    kept = {shard: worker for shard, worker in (current or {}).items() if worker < workers and shard in set(ordered)}
    if not kept:
        return {shard: i * workers // len(ordered) for i, shard in enumerate(ordered)}
    load = [0] * workers
    for worker in kept.values():
        load[worker] += 1
    for shard in ordered:
        if shard not in kept:
            kept[shard] = load.index(min(load))
            load[kept[shard]] += 1
    return dict(sorted(kept.items()))

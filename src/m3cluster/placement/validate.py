"""What M3 requires of a placement before it is stored (docs/m3/cluster.md, validation)."""

from collections import Counter

from m3cluster.placement.describe import describe
from m3cluster.placement.model import Instance, Placement, Shard, ShardState

__all__ = ["InvalidPlacementError", "validate"]


class InvalidPlacementError(Exception):
    """The placement breaks a rule; the message is M3's where M3 has one."""


def validate(placement: Placement) -> None:
    """Raises ``InvalidPlacementError`` for the first rule that is broken, in the order in which M3 looks."""
    if placement.is_mirrored and not placement.is_sharded:
        raise InvalidPlacementError("invalid placement, mirrored placement must be sharded")
    if placement.is_subclustered and not placement.is_sharded:
        raise InvalidPlacementError("invalid placement, subclustered placement must be sharded")
    sources = _Sources(placement)
    shard_sets: dict[int, Instance] = {}
    for instance in placement.instances:
        _validate_instance(placement, instance)
        for shard in instance.shards:
            if shard.id >= placement.num_shards:
                raise InvalidPlacementError("invalid placement, there are unexpected shard ids on instance")
            if shard.state is ShardState.INITIALIZING and shard.source_id:
                sources.match(instance, shard)
        if instance.shard_set_id:
            _validate_shard_set(shard_sets.setdefault(instance.shard_set_id, instance), instance)
    if placement.is_sharded:
        _validate_counts(placement)
        if placement.is_subclustered:
            _validate_subclusters(placement)


def _validate_instance(placement: Placement, instance: Instance) -> None:
    def broken(what: str) -> InvalidPlacementError:
        return InvalidPlacementError(f"instance {describe(instance)} {what}")

    if not instance.endpoint:
        raise broken("does not contain valid endpoint")
    if placement.is_sharded and not instance.shards:
        raise broken("contains no shard in a sharded placement")
    if not placement.is_sharded and instance.shards:
        raise broken("contains shards in a non-sharded placement")
    if placement.is_subclustered and not instance.subcluster_id:
        raise broken("has uninitialized subcluster id in a subclustered placement")
    if not placement.is_subclustered and instance.subcluster_id:
        raise broken(f"has subcluster id {instance.subcluster_id} in a non-subclustered placement")
    if instance.shard_set_id > placement.max_shard_set_id:
        raise broken(
            f"shard set id {instance.shard_set_id} is larger than max shard set id {placement.max_shard_set_id} in the placement"
        )


class _Sources:
    """Looks for the one LEAVING counterpart of an INITIALIZING shard with a source."""

    def __init__(self, placement: Placement) -> None:
        self._shards: dict[str, dict[int, Shard]] = {i.id: {s.id: s for s in i.shards} for i in placement.instances}
        self._matched: dict[tuple[str, int], str] = {}

    def match(self, instance: Instance, shard: Shard) -> None:
        """Raises ``InvalidPlacementError`` if there is none, or if it is another one's."""
        what = f"instance {instance.id} has initializing shard {shard.id} with source ID {shard.source_id}"
        if shard.source_id not in self._shards:
            raise InvalidPlacementError(f"{what} but no such instance in placement")
        source = self._shards[shard.source_id].get(shard.id)
        if source is None:
            raise InvalidPlacementError(f"{what} but leaving instance has no such shard")
        if source.state is not ShardState.LEAVING:
            state = source.state.name.capitalize()
            raise InvalidPlacementError(f"{what} but leaving instance has shard with state {state}")
        other = self._matched.setdefault((shard.source_id, shard.id), instance.id)
        if other != instance.id:
            raise InvalidPlacementError(f"{what} but leaving instance has shard already matched by {other}")


def _validate_shard_set(first: Instance, instance: Instance) -> None:
    """Instances of one shard set list the same shards."""
    if [s.id for s in first.shards] != [s.id for s in instance.shards]:
        what = "number of shards" if len(first.shards) != len(instance.shards) else "shards"
        raise InvalidPlacementError(
            f"instance {describe(first)} and {describe(instance)} have the same shard set id "
            f"{instance.shard_set_id} but different {what}"
        )


def _validate_counts(placement: Placement) -> None:
    states = Counter(s.state for i in placement.instances for s in i.shards)
    leaving, initializing = states[ShardState.LEAVING], states[ShardState.INITIALIZING]
    with_source = sum(
        s.state is ShardState.INITIALIZING and s.source_id != "" for i in placement.instances for s in i.shards
    )
    if leaving > initializing:
        raise InvalidPlacementError(
            f"invalid placement, {leaving} shards in Leaving state, more than {initializing} in Initializing state"
        )
    if leaving != with_source:
        raise InvalidPlacementError(
            f"invalid placement, {leaving} shards in Leaving state, not equal {with_source} in Initializing state with source id"
        )
    expected = placement.num_shards * placement.replica_factor
    live = initializing + states[ShardState.AVAILABLE]
    if live != expected:
        raise InvalidPlacementError(
            f"invalid placement, the total available shards in the placement is {live}, expecting {expected}"
        )
    owners = Counter(s.id for i in placement.instances for s in i.shards if s.state is not ShardState.LEAVING)
    for shard in range(placement.num_shards):
        if owners[shard] != placement.replica_factor:
            raise InvalidPlacementError(
                f"invalid shard count for shard {shard}: expected {placement.replica_factor}, actual {owners[shard]}"
            )


def _validate_subclusters(placement: Placement) -> None:
    """At most the given number of instances in a subcluster, one partial subcluster, each shard within the replica factor's groups."""
    staying = [i for i in placement.instances if any(s.state is not ShardState.LEAVING for s in i.shards)]
    sizes = Counter(i.subcluster_id for i in staying)
    limit = placement.instances_per_subcluster
    for subcluster, size in sorted(sizes.items()):
        if size > limit:
            raise InvalidPlacementError(
                f"invalid subcluster {subcluster}, expected at most {limit} instances, actual {size}"
            )
    partial = {subcluster for subcluster, size in sizes.items() if size < limit}
    if len(partial) > 1:
        raise InvalidPlacementError(f"invalid placement, more than one partial subcluster found: {len(partial)}")
    for shard in range(placement.num_shards):
        owners = [i for i in staying for s in i.shards if s.id == shard and s.state is not ShardState.LEAVING]
        subclusters = sorted({i.subcluster_id for i in owners})
        if len(subclusters) > 2:
            raise InvalidPlacementError(
                f"invalid shard {shard}, expected at most 2 subclusters (only during shard movement),actual {len(subclusters)}"
            )
        if len(subclusters) == 2 and partial.isdisjoint(subclusters):
            one, other = subclusters
            raise InvalidPlacementError(f"invalid shard {shard}, expected subcluster id {one}, actual {other}")
        groups = {i.isolation_group for i in owners}
        if len(groups) != placement.replica_factor:
            raise InvalidPlacementError(
                f"invalid shard {shard}, expected {placement.replica_factor} isolation groups, actual {len(groups)}"
            )

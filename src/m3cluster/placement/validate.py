"""What M3 requires of a placement before it is stored (docs/m3/cluster.md, validation)."""

from collections import Counter

from m3cluster.placement.model import Instance, Placement, Shard, ShardState

__all__ = ["InvalidPlacementError", "describe", "validate"]


class InvalidPlacementError(Exception):
    """The placement breaks a rule; the message is M3's where M3 has one."""


def describe(instance: Instance) -> str:
    """The instance as M3's messages print it."""

    def ids(state: ShardState) -> str:
        return "[" + " ".join(str(s.id) for s in instance.shards if s.state is state) + "]"

    shards = f"Initializing={ids(ShardState.INITIALIZING)}, Available={ids(ShardState.AVAILABLE)}, Leaving={ids(ShardState.LEAVING)}"
    return (
        f"Instance[ID={instance.id}, IsolationGroup={instance.isolation_group}, Zone={instance.zone}, "
        f"Weight={instance.weight}, Endpoint={instance.endpoint}, Hostname={instance.hostname}, Port={instance.port}, "
        f"ShardSetID={instance.shard_set_id}, Shards=[{shards}], Metadata={{DebugPort:{instance.debug_port}}}]"
    )


def validate(placement: Placement) -> None:
    """Raises ``InvalidPlacementError`` for the first rule that is broken."""
    if placement.is_mirrored and not placement.is_sharded:
        raise InvalidPlacementError("invalid placement, mirrored placement must be sharded")
    if placement.is_subclustered and not placement.is_sharded:
        raise InvalidPlacementError("invalid placement, subclustered placement must be sharded")
    for instance in placement.instances:
        _validate_instance(placement, instance)
    _validate_sources(placement)
    _validate_shard_sets(placement)
    if placement.is_sharded:
        _validate_counts(placement)
        if placement.is_subclustered:
            _validate_subclusters(placement)


def _validate_instance(placement: Placement, instance: Instance) -> None:
    if not instance.endpoint:
        raise InvalidPlacementError(f"instance {describe(instance)} does not contain valid endpoint")
    if placement.is_sharded and not instance.shards:
        raise InvalidPlacementError(f"instance {describe(instance)} contains no shard in a sharded placement")
    if not placement.is_sharded and instance.shards:
        raise InvalidPlacementError(f"instance {describe(instance)} contains shards in a non-sharded placement")
    if placement.is_subclustered and not instance.subcluster_id:
        raise InvalidPlacementError(
            f"instance {describe(instance)} has uninitialized subcluster id in a subclustered placement"
        )
    if not placement.is_subclustered and instance.subcluster_id:
        raise InvalidPlacementError(
            f"instance {describe(instance)} has subcluster id {instance.subcluster_id} in a non-subclustered placement"
        )
    if instance.shard_set_id > placement.max_shard_set_id:
        raise InvalidPlacementError(
            f"instance {describe(instance)} shard set id {instance.shard_set_id} is larger than max shard set id "
            f"{placement.max_shard_set_id} in the placement"
        )
    if any(s.id >= placement.num_shards for s in instance.shards):
        raise InvalidPlacementError("invalid placement, there are unexpected shard ids on instance")


def _validate_sources(placement: Placement) -> None:
    """An INITIALIZING shard with a source has one LEAVING counterpart of its own."""
    shards: dict[str, dict[int, Shard]] = {i.id: {s.id: s for s in i.shards} for i in placement.instances}
    matched: dict[tuple[str, int], str] = {}
    for instance in placement.instances:
        for shard in instance.shards:
            if shard.state is not ShardState.INITIALIZING or not shard.source_id:
                continue
            what = f"instance {instance.id} has initializing shard {shard.id} with source ID {shard.source_id}"
            if shard.source_id not in shards:
                raise InvalidPlacementError(f"{what} but no such instance in placement")
            source = shards[shard.source_id].get(shard.id)
            if source is None:
                raise InvalidPlacementError(f"{what} but leaving instance has no such shard")
            if source.state is not ShardState.LEAVING:
                raise InvalidPlacementError(
                    f"{what} but leaving instance has shard with state {source.state.name.capitalize()}"
                )
            other = matched.setdefault((shard.source_id, shard.id), instance.id)
            if other != instance.id:
                raise InvalidPlacementError(f"{what} but leaving instance has shard already matched by {other}")


def _validate_shard_sets(placement: Placement) -> None:
    """Instances of one shard set list the same shards."""
    first: dict[int, Instance] = {}
    for instance in placement.instances:
        if not instance.shard_set_id:
            continue
        other = first.setdefault(instance.shard_set_id, instance)
        if [s.id for s in other.shards] != [s.id for s in instance.shards]:
            what = "number of shards" if len(other.shards) != len(instance.shards) else "shards"
            raise InvalidPlacementError(
                f"instance {describe(other)} and {describe(instance)} have the same shard set id "
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
                f"invalid placement, shard {shard} has {owners[shard]} replicas, expecting {placement.replica_factor}"
            )


def _validate_subclusters(placement: Placement) -> None:
    """At most the given number of live instances in a subcluster, one partial subcluster, each shard within the replica factor's groups."""
    live = [i for i in placement.instances if any(s.state is not ShardState.LEAVING for s in i.shards)]
    sizes = Counter(i.subcluster_id for i in live)
    limit = placement.instances_per_subcluster
    for subcluster, size in sorted(sizes.items()):
        if size > limit:
            raise InvalidPlacementError(
                f"invalid placement, subcluster {subcluster} has {size} instances, expecting at most {limit}"
            )
    partial = sorted(subcluster for subcluster, size in sizes.items() if size < limit)
    if len(partial) > 1:
        raise InvalidPlacementError(f"invalid placement, more than one partial subcluster: {partial}")
    for shard in range(placement.num_shards):
        owners = [i for i in live for s in i.shards if s.id == shard and s.state is not ShardState.LEAVING]
        subclusters = {i.subcluster_id for i in owners}
        if len(subclusters) > 2 or (len(subclusters) == 2 and not subclusters & set(partial)):
            raise InvalidPlacementError(f"invalid placement, shard {shard} is in subclusters {sorted(subclusters)}")
        if len({i.isolation_group for i in owners}) != placement.replica_factor:
            raise InvalidPlacementError(
                f"invalid placement, shard {shard} is not in {placement.replica_factor} isolation groups"
            )

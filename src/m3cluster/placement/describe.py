"""Placements as M3's messages print them."""

from collections.abc import Iterable

from m3cluster.placement.model import Instance, Placement, Shard, ShardState

__all__ = ["describe", "describe_all", "describe_placement", "describe_shards"]


def describe_shards(shards: Iterable[Shard]) -> str:
    """Shards by state: ``[Initializing=[0 1], Available=[], Leaving=[2 -> 5]]``."""
    listed = list(shards)

    def of(state: ShardState) -> str:
        ids = (f"{s.id}" if s.redirect_to is None else f"{s.id} -> {s.redirect_to}" for s in listed if s.state is state)
        return f"{state.name.capitalize()}=[{' '.join(ids)}]"

    return f"[{', '.join(map(of, ShardState))}]"


def describe(instance: Instance) -> str:
    """An instance with all that it has."""
    return (
        f"Instance[ID={instance.id}, IsolationGroup={instance.isolation_group}, Zone={instance.zone}, "
        f"Weight={instance.weight}, Endpoint={instance.endpoint}, Hostname={instance.hostname}, Port={instance.port}, "
        f"ShardSetID={instance.shard_set_id}, Shards={describe_shards(instance.shards)}, Metadata={{DebugPort:{instance.debug_port}}}]"
    )


def describe_all(instances: Iterable[Instance]) -> str:
    """A list of instances."""
    return f"[{' '.join(map(describe, instances))}]"


def describe_placement(placement: Placement) -> str:
    """A placement with its instances."""
    return (
        f"Placement[Instances={describe_all(placement.instances)}, NumShards={placement.num_shards}, "
        f"ReplicaFactor={placement.replica_factor}, IsSharded={str(placement.is_sharded).lower()}, "
        f"IsMirrored={str(placement.is_mirrored).lower()}]"
    )

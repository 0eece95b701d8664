"""Placements: which instance owns which shard, in which state (docs/m3/cluster.md, placement model)."""

import enum

import msgspec

__all__ = ["NEVER_NS", "Instance", "Placement", "Shard", "ShardState"]

NEVER_NS = (1 << 63) - 1
"""Cutoff of a shard that is not cut off (0 on the wire)."""


class ShardState(enum.IntEnum):
    """State of a shard on an instance; numbers as on the wire."""

    INITIALIZING = 0
    AVAILABLE = 1
    LEAVING = 2


class Shard(msgspec.Struct, frozen=True):
    """One shard of one instance. It takes writes in ``[cutover_ns, cutoff_ns)``."""

    id: int
    state: ShardState
    source_id: str = ""
    cutover_ns: int = 0
    cutoff_ns: int = NEVER_NS
    redirect_to: int | None = None


class Instance(msgspec.Struct, frozen=True):
    """One instance of a service; ``shards`` in order of id."""

    id: str
    isolation_group: str = ""
    zone: str = ""
    weight: int = 0
    endpoint: str = ""
    shards: tuple[Shard, ...] = ()
    shard_set_id: int = 0
    hostname: str = ""
    port: int = 0
    debug_port: int = 0
    subcluster_id: int = 0

    @property
    def is_leaving(self) -> bool:
        """Whether it has shards and all of them are leaving."""
        return bool(self.shards) and all(s.state is ShardState.LEAVING for s in self.shards)


class Placement(msgspec.Struct, frozen=True):
    """A placement; ``instances`` in order of id, ``version`` is the key's version and not part of the bytes."""

    instances: tuple[Instance, ...] = ()
    num_shards: int = 0
    replica_factor: int = 0
    is_sharded: bool = False
    is_mirrored: bool = False
    cutover_time_ns: int = 0
    max_shard_set_id: int = 0
    version: int = 0
    is_subclustered: bool = False
    instances_per_subcluster: int = 0

    def instance(self, instance_id: str) -> Instance | None:
        """The instance of that id, or None."""
        return next((i for i in self.instances if i.id == instance_id), None)

    def owners(self, shard: int) -> list[tuple[Instance, Shard]]:
        """All instances that list the shard, in any state, in order of instance id (docs/m3/m3msg.md, placements)."""
        return [(i, s) for i in self.instances for s in i.shards if s.id == shard]

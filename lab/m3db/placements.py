"""The placement of the nodes and the registry of namespaces in a KV: written, and changed as operators change them.

Whatever changes tells the nodes, too: a played node does not watch the KV.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from lab.kv import ENVIRONMENT, ZONE
from lab.m3db.namespaces import REGISTRY_KEY, Namespace, encode_registry
from m3cluster.keys import kv_key, placement_key
from m3cluster.kv import Store
from m3cluster.placement import Instance, Placement, PlacementOptions, encode_placement
from m3cluster.placement.algorithm import Sharded

__all__ = ["SERVICE", "Member", "Nodes", "instance_of", "write_registry"]

SERVICE = "m3db"


class Member(Protocol):
    """A node as far as a placement knows it."""

    name: str

    @property
    def address(self) -> str:
        """``host:port``."""

    def own(self, shards: Iterable[int] | None) -> None:
        """These are its shards from now on."""


def instance_of(node: Member, group: str = "") -> Instance:
    """A node as an instance without shards; each is its own isolation group unless told."""
    host, _, port = node.address.rpartition(":")
    return Instance(
        id=node.name, isolation_group=group or f"group-{node.name}", zone=ZONE, weight=1, endpoint=node.address, hostname=host,
        port=int(port),
    )  # fmt: skip


async def write_registry(store: Store, namespaces: Iterable[Namespace], environment: str = ENVIRONMENT) -> None:
    """The registry has these namespaces and no others."""
    await store.set(kv_key(environment, REGISTRY_KEY), encode_registry(list(namespaces)))


class Nodes:
    """The nodes of a cluster and their placement; each change is written to ``store``, if there is one, before anybody else knows."""

    def __init__(
        self, members: Sequence[Member], store: Store | None = None, *, num_shards: int = 16, replicas: int = 3,
        environment: str = ENVIRONMENT, service: str = SERVICE,
    ) -> None:  # fmt: skip
        self.members: dict[str, Member] = {member.name: member for member in members}
        self.store = store
        """Where placements are written; None: nowhere."""
        self._key = placement_key(environment, service)
        self._algorithm = Sharded(PlacementOptions(is_sharded=True))
        initial = self._algorithm.initial([instance_of(member) for member in members], num_shards, replicas)
        self.placement: Placement = self._algorithm.mark_all_available(initial)
        """What was written last."""
        self.version = 0
        """Of the key, then."""

    async def write(self, placement: Placement | None = None) -> None:
        """Writes a placement; default: the one that there is, at the beginning or after the KV was away."""
        self.placement = self.placement if placement is None else placement
        # A shard that is new to a node is taken before anybody sends it, and one that is gone is not taken after all were told.
        for name, shards in self._shards().items():
            self.members[name].own(shards)
        if self.store is not None:
            self.version = await self.store.set(self._key, encode_placement(self.placement))

    def _shards(self) -> Mapping[str, set[int]]:
        found = {name: set[int]() for name in self.members}
        for instance in self.placement.instances:
            if instance.id in found:
                found[instance.id] = {shard.id for shard in instance.shards}
        return found

    async def replace(self, leaving: str, member: Member) -> None:
        """A node takes all shards of another one: LEAVING there, INITIALIZING here."""
        self.members[member.name] = member
        await self.write(self._algorithm.replace(self.placement, [leaving], [instance_of(member)]))

    async def add(self, member: Member) -> None:
        """A node takes some shards of the others."""
        self.members[member.name] = member
        await self.write(self._algorithm.add(self.placement, [instance_of(member)]))

    async def remove(self, name: str) -> None:
        """The others take the shards of a node."""
        await self.write(self._algorithm.remove(self.placement, [name]))

    async def move(self, name: str) -> None:
        """A node has another address than the placement says."""
        new = instance_of(self.members[name])
        instances = tuple(
            replace(one, endpoint=new.endpoint, hostname=new.hostname, port=new.port) if one.id == name else one
            for one in self.placement.instances
        )
        await self.write(replace(self.placement, instances=instances))

    async def settle(self) -> None:
        """All shards have been taken over: they are AVAILABLE, and what was LEAVING is gone."""
        await self.write(self._algorithm.mark_all_available(self.placement))

"""Which host has which shard: of a placement in the KV, or dealt out by a configuration file (docs/m3/m3db_cluster.md, topology).

A *copy* of a shard is one host that lists it, in whatever state. The copies of a shard have *slots* from 0, in the order of their hosts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from m3cluster.placement import Instance, Placement, Shard, ShardState
from m3db.errors import M3DBError
from m3metrics.shard import too_many_shards

__all__ = ["MAX_COPIES", "Host", "ShardState", "Topology", "TopologyChange", "TopologyError", "changes"]

MAX_COPIES = 32
"""Of one shard, so that a word has a bit for each."""


class TopologyError(M3DBError, ValueError):
    """A placement, or a section of a file, that is no topology; M3's text where it has one."""


@dataclass(frozen=True, slots=True)
class Host:
    """One node: its id in the placement, and ``host:port`` of its Node service."""

    id: str
    endpoint: str


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """Hosts and the copies of each shard. Build it with ``of_placement`` or ``static``; arrays are not to be written to."""

    hosts: tuple[Host, ...]
    replicas: int
    """The replication factor: copies of a shard while nothing moves."""
    owners: NDArray[np.int16]
    """Of shape (shards, widest): for each slot the index of its host; -1: no such slot."""
    states: NDArray[np.uint8]
    """The same shape: ``ShardState`` of each slot; meaningless where there is no host."""
    partners: NDArray[np.int8]
    """The same shape: of a LEAVING copy the slot that takes its place, of that one the slot that leaves; -1: none."""
    slots: NDArray[np.int8]
    """Of shape (hosts, shards): the slot of a host among the copies of a shard; -1: it has none."""
    seed: int = 0
    """Of the hash that tells the shard of a series."""
    version: int = 0
    """Of the placement's key; 0: it comes from a file."""
    copies: NDArray[np.uint8] = field(init=False)
    """Of each shard: how many."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "copies", (self.owners >= 0).sum(axis=1).astype(np.uint8))

    @property
    def num_shards(self) -> int:
        """How many shards there are; their numbers begin at 0."""
        return len(self.owners)

    def index(self, host_id: str) -> int | None:
        """The index of a host; None: it is not in the topology."""
        return next((number for number, host in enumerate(self.hosts) if host.id == host_id), None)

    @classmethod
    def of_placement(cls, placement: Placement, seed: int = 0) -> "Topology":
        """The topology of a placement. Raises ``TopologyError`` where M3 would keep the previous one."""
        _check(placement)
        hosts = tuple(Host(instance.id, instance.endpoint) for instance in placement.instances)
        lists = [instance.shards for instance in placement.instances]
        return _built(hosts, lists, placement.num_shards, placement.replica_factor, seed, placement.version)

    @classmethod
    def static(cls, hosts: Sequence[Host], num_shards: int, replicas: int = 0) -> "Topology":
        """Shards dealt out in turn to the hosts, sorted by id; 0 replicas mean 1, and the seed is 0. Raises ``TopologyError``."""
        replicas = replicas or 1
        if not hosts or num_shards < 1 or replicas < 1:
            raise TopologyError("number of hosts, shards, and RF must be positive")
        if wrong := too_many_shards(num_shards):
            raise TopologyError(wrong)
        if replicas > len(hosts):
            raise TopologyError("number of hosts must be >=RF")
        if len({host.id for host in hosts}) < len(hosts):
            raise TopologyError("two hosts have the same hostID")
        dealt: list[list[Shard]] = [[] for _ in hosts]
        for turn in range(num_shards * replicas):
            dealt[turn % len(hosts)].append(Shard(turn // replicas, ShardState.AVAILABLE))
        return _built(tuple(sorted(hosts, key=lambda host: host.id)), dealt, num_shards, replicas, 0, 0)


@dataclass(frozen=True, slots=True)
class TopologyChange:
    """What is different in a newer topology, by host id."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    moved: tuple[str, ...]
    """Hosts whose endpoint is another one now."""


def changes(old: Topology | None, new: Topology) -> TopologyChange:
    """How the hosts of two topologies differ, each kind in the order of its topology."""
    before = {host.id: host.endpoint for host in old.hosts} if old is not None else {}
    after = {host.id: host.endpoint for host in new.hosts}
    return TopologyChange(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        moved=tuple(name for name, endpoint in after.items() if before.get(name, endpoint) != endpoint),
    )


def _check(placement: Placement) -> None:
    """M3's rules in M3's order, then our own limits."""
    counts = np.zeros(placement.num_shards, np.int64)
    unexpected = False
    for instance in placement.instances:
        listed = np.array([shard.id for shard in instance.shards], np.int64)
        unexpected |= bool((listed >= placement.num_shards).any())
        counts[listed[listed < placement.num_shards]] += 1
    for count in counts:  # the first shard that is wrong decides which text is given
        if not count:
            raise TopologyError("shard is missing")
        if count < placement.replica_factor:
            raise TopologyError("replicas of shard is less than expected")
    if unexpected:
        raise TopologyError("shard is unexpected")
    if placement.replica_factor < 1:
        raise TopologyError("replicas must be equal to or greater than 1")
    _check_addresses(placement.instances, placement.replica_factor, placement.num_shards)
    if placement.num_shards < 1:
        raise TopologyError("the placement has no shards, so that no series has a place")
    if counts.max() > MAX_COPIES:
        raise TopologyError(f"a shard is on {counts.max()} instances; at most {MAX_COPIES} are supported")


def _check_addresses(instances: Sequence[Instance], replicas: int, num_shards: int) -> None:
    addresses: list[set[str]] = [set() for _ in range(num_shards)]
    for instance in instances:
        for shard in instance.shards:
            addresses[shard.id].add(instance.endpoint)
    for number, found in enumerate(addresses):
        if len(found) < replicas:
            raise TopologyError(f"shard {number} has {len(found)} replicas, less than the required {replicas} replicas")


def _built(
    hosts: tuple[Host, ...], lists: Sequence[Sequence[Shard]], num_shards: int, replicas: int, seed: int, version: int
) -> Topology:
    """``lists``: the shards of each host."""
    copies = np.zeros(num_shards, np.int64)
    slots = np.full((len(hosts), num_shards), -1, np.int8)
    for index, shards in enumerate(lists):
        for shard in shards:
            slots[index, shard.id] = copies[shard.id]
            copies[shard.id] += 1
    shape = (num_shards, max(1, int(copies.max())))
    owners, states = np.full(shape, -1, np.int16), np.zeros(shape, np.uint8)
    partners = np.full(shape, -1, np.int8)
    index_of = {host.id: index for index, host in enumerate(hosts)}
    for index, shards in enumerate(lists):
        for shard in shards:
            slot = slots[index, shard.id]
            owners[shard.id, slot], states[shard.id, slot] = index, shard.state
    for index, shards in enumerate(lists):
        for shard in shards:
            source = index_of.get(shard.source_id)
            if shard.state is not ShardState.INITIALIZING or source is None or slots[source, shard.id] < 0:
                continue
            mine, theirs = slots[index, shard.id], slots[source, shard.id]
            if states[shard.id, theirs] == ShardState.LEAVING and partners[shard.id, theirs] < 0:
                partners[shard.id, mine], partners[shard.id, theirs] = theirs, mine
    for array in (owners, states, partners, slots):
        array.setflags(write=False)
    return Topology(hosts, replicas, owners, states, partners, slots, seed, version)

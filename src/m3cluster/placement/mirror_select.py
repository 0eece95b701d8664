"""Which candidates become mirrored instances, and in which shard set: by host and port (docs/m3/cluster.md, mirrored selection)."""

from collections.abc import Iterable, Sequence

import msgspec

from m3cluster.placement.errors import PlacementError
from m3cluster.placement.model import Instance, Placement
from m3cluster.placement.options import PlacementOptions

__all__ = ["mirror_adding", "mirror_initial", "mirror_replacing"]

_NO_MIRROR = "no valid instance for mirror placement in the candidate list"


def mirror_initial(valid: Sequence[Instance], replica_factor: int, options: PlacementOptions) -> list[Instance]:
    """Groups of equal instances on different hosts, numbered from 1. Raises ``PlacementError`` if there is none."""
    groups = [
        group
        for hosts in _host_groups(_hosts(valid), replica_factor)
        for group in _instance_groups(hosts, skip_ports=options.skip_port_mirroring)
    ]
    return _numbered(groups, Placement())


def mirror_adding(valid: Sequence[Instance], placement: Placement, options: PlacementOptions) -> list[Instance]:
    """The instances of one group of hosts, or of all; those that are just leaving keep the number of their shard set."""
    host_groups = _host_groups(_hosts(valid), placement.replica_factor)
    if not options.add_all_candidates:
        host_groups = host_groups[:1]
    groups = [
        group for hosts in host_groups for group in _instance_groups(hosts, skip_ports=options.skip_port_mirroring)
    ]
    return _numbered(groups, placement)


def mirror_replacing(
    valid: Sequence[Instance], leaving: Sequence[Instance], placement: Placement, options: PlacementOptions
) -> list[Instance]:
    """One instance of the first suitable host per leaving one, in the same order, with its shard set. Raises ``PlacementError``."""
    host = _Host(leaving[0] if leaving else Instance(""))
    for instance in leaving:
        host.add(instance)
    candidates = [h for h in _hosts(valid) if h.weight == host.weight]
    if not candidates:
        raise PlacementError(f"could not find instances with weight {host.weight} in the candidate list")
    shard_sets = {i.shard_set_id for i in leaving}
    taken = {
        i.isolation_group
        for i in placement.instances
        if i.shard_set_id in shard_sets and i.hostname != host.name and not i.is_leaving
    }
    for candidate in candidates:
        if candidate.name == host.name or candidate.isolation_group in taken:
            continue
        try:
            pairs = _instance_groups([host, candidate], skip_ports=options.skip_port_mirroring)
        except PlacementError:
            continue
        return _in_place_of(leaving, host, pairs)
    raise PlacementError(_NO_MIRROR)


def _in_place_of(leaving: Sequence[Instance], host: "_Host", pairs: Sequence[Sequence[Instance]]) -> list[Instance]:
    """The second one of each pair with the shard set of the first one, in the order of those that leave."""
    if not pairs:
        raise PlacementError(_NO_MIRROR)
    if any(old.hostname != host.name for old, _ in pairs):
        # M3's text, which says so of itself.
        raise PlacementError(f"programming error: failed to find leaving instance for host {host.name} in group")
    if len(pairs) != len(leaving):
        raise PlacementError(
            f"failed to find {len(pairs)} replacement instances to replace {len(leaving)} leaving instances"
        )
    new = {old.id: msgspec.structs.replace(fresh, shard_set_id=old.shard_set_id) for old, fresh in pairs}
    return [new[i.id] for i in leaving]


def _numbered(groups: Iterable[Sequence[Instance]], placement: Placement) -> list[Instance]:
    """The instances of the groups, each with the number of its shard set: a new one unless all of a group had the same one already."""
    found = []
    following = placement.max_shard_set_id + 1
    for group in groups:
        present = [placement.instance(i.id) for i in group]
        numbers = {i.shard_set_id for i in present if i is not None}
        if len(numbers) == 1 and None not in present:
            number = numbers.pop()
        else:
            number, following = following, following + 1
        found += [msgspec.structs.replace(instance, shard_set_id=number) for instance in group]
    if not found:
        raise PlacementError(_NO_MIRROR)
    return found


class _Host:
    """The instances of one host name: same weight, same isolation group, at most one per port."""

    def __init__(self, first: Instance) -> None:
        self.name = first.hostname
        self.weight = first.weight
        self.isolation_group = first.isolation_group
        self.by_port: dict[int, Instance] = {}

    def add(self, instance: Instance) -> None:
        """Raises ``PlacementError`` if the instance does not fit to its host."""
        where = f"could not add instance {instance.id} to host {self.name}"
        if instance.weight != self.weight:
            raise PlacementError(f"{where}, weight mismatch: {instance.weight} and {self.weight}")
        if instance.isolation_group != self.isolation_group:
            raise PlacementError(
                f"{where}, isolation group mismatch: {instance.isolation_group} and {self.isolation_group}"
            )
        self.by_port[instance.port] = instance


def _hosts(instances: Sequence[Instance]) -> list[_Host]:
    hosts: dict[str, _Host] = {}
    for instance in instances:
        hosts.setdefault(instance.hostname, _Host(instance)).add(instance)
    return list(hosts.values())


class _FullestFirst:
    """A binary heap of isolation groups, those with most hosts left on top, with the sifting of Go's ``container/heap``.

    Which of equally full groups comes first decides which instance of a shard set takes over from which one of another.
    """

    def __init__(self) -> None:
        self._buckets: list[list[_Host]] = []

    def __len__(self) -> int:
        return len(self._buckets)

    def push(self, bucket: list[_Host]) -> None:
        """Adds an isolation group."""
        buckets = self._buckets
        buckets.append(bucket)
        at = len(buckets) - 1
        while at and len(buckets[at]) > len(buckets[(at - 1) // 2]):
            parent = (at - 1) // 2
            buckets[at], buckets[parent] = buckets[parent], buckets[at]
            at = parent

    def pop(self) -> list[_Host]:
        """Takes the fullest one."""
        buckets = self._buckets
        buckets[0], buckets[-1] = buckets[-1], buckets[0]
        fullest = buckets.pop()
        at = 0
        while (child := 2 * at + 1) < len(buckets):
            if child + 1 < len(buckets) and len(buckets[child + 1]) > len(buckets[child]):
                child += 1
            if len(buckets[child]) <= len(buckets[at]):
                break
            buckets[at], buckets[child] = buckets[child], buckets[at]
            at = child
        return fullest


def _host_groups(hosts: Sequence[_Host], replica_factor: int) -> list[list[_Host]]:
    """Groups of ``replica_factor`` hosts of equal weight in pairwise different isolation groups; hosts that find no partners are left out.

    Each group takes its hosts from the isolation groups that have most hosts left, so that as few as possible are left over.
    """
    if replica_factor < 1:
        raise PlacementError(f"a placement with a replica factor of {replica_factor} has no groups of hosts")
    groups: list[list[_Host]] = []
    for weight in sorted({host.weight for host in hosts}):
        buckets: dict[str, list[_Host]] = {}
        for host in hosts:
            if host.weight == weight:
                buckets.setdefault(host.isolation_group, []).append(host)
        heap = _FullestFirst()
        for bucket in buckets.values():
            heap.push(bucket)
        while len(heap) >= replica_factor:
            taken = [heap.pop() for _ in range(replica_factor)]
            groups.append([bucket.pop() for bucket in taken])
            for bucket in taken:
                if bucket:
                    heap.push(bucket)
    return groups


def _instance_groups(hosts: Sequence[_Host], *, skip_ports: bool) -> list[list[Instance]]:
    """One group of mirrored instances per port of the first host, or, regardless of ports, as many as the smallest host has instances."""
    if skip_ports:
        ordered = [[host.by_port[port] for port in sorted(host.by_port)] for host in hosts]
        return [list(group) for group in zip(*ordered, strict=False)]
    groups = []
    for port in sorted(hosts[0].by_port):
        for host in hosts:
            if port not in host.by_port:
                raise PlacementError(f"could not find port {port} on host {host.name}")
        groups.append([host.by_port[port] for host in hosts])
    return groups

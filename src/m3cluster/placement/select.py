"""Which of the candidates take part, and in which shard set (reference/cluster.md §8)."""

import heapq
from collections.abc import Iterable, Sequence

import msgspec

from m3cluster.placement.model import Instance
from m3cluster.placement.options import PlacementError, PlacementOptions

__all__ = ["select_initial"]

_NO_MIRROR = "no valid instance for mirror placement in the candidate list"


def select_initial(candidates: Iterable[Instance], replica_factor: int, options: PlacementOptions) -> list[Instance]:
    """The instances of a first placement; mirrored ones with their shard set ids, numbered from 1. Raises ``PlacementError``."""
    valid = _in_zone(candidates, options)
    if not options.is_mirrored:
        return valid
    groups = [
        group
        for hosts in _host_groups(_hosts(valid), replica_factor)
        for group in _instance_groups(hosts, skip_ports=options.skip_port_mirroring)
    ]
    if not groups:
        raise PlacementError(_NO_MIRROR)
    return [
        msgspec.structs.replace(instance, shard_set_id=number)
        for number, group in enumerate(groups, 1)
        for instance in group
    ]


def _in_zone(candidates: Iterable[Instance], options: PlacementOptions) -> list[Instance]:
    """The candidates of the valid zone; of several with the same id the last one."""
    by_id = {i.id: i for i in candidates if options.allow_all_zones or i.zone == options.valid_zone}
    if not by_id:
        raise PlacementError("no new instances found in the valid zone")
    return list(by_id.values())


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


def _host_groups(hosts: Sequence[_Host], replica_factor: int) -> list[list[_Host]]:
    """Groups of ``replica_factor`` hosts of equal weight in pairwise different isolation groups; hosts that find no partners are left out.

    Each group takes its hosts from the isolation groups that have most hosts left, so that as few as possible are left over.
    """
    groups: list[list[_Host]] = []
    for weight in sorted({host.weight for host in hosts}):
        buckets: dict[str, list[_Host]] = {}
        for host in hosts:
            if host.weight == weight:
                buckets.setdefault(host.isolation_group, []).append(host)
        heap = [(-len(bucket), name) for name, bucket in buckets.items()]
        heapq.heapify(heap)
        while len(heap) >= replica_factor:
            taken = [heapq.heappop(heap)[1] for _ in range(replica_factor)]
            groups.append([buckets[name].pop() for name in taken])
            for name in taken:
                if buckets[name]:
                    heapq.heappush(heap, (-len(buckets[name]), name))
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

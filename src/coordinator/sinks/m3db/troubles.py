"""Lines for people about M3DB as a store. Pure."""

from collections.abc import Iterable, Sequence

import numpy as np

from coordinator.sinks.m3db.targets import Targets
from coordinator.sinks.status import SinkStatus
from m3db.consistency import CopyRules, RowState, copies_of, judge
from m3db.host import HostStatus
from m3db.topology import Topology
from m3x.golang import go_duration

__all__ = ["late_lines", "namespace_lines", "shard_lines", "short_shards"]

_SECOND = 1_000_000_000
_SHOWN = 8
"""Shards that a line names."""


def namespace_lines(targets: Targets, key: str, fault: tuple[int, ValueError] | None) -> list[str]:
    """What keeps namespaces from being used. ``key``: of the registry; ``fault``: what is wrong with its newest value."""
    lines = list(targets.problems)
    if fault is not None:
        lines.append(
            f"the registry of M3DB's namespaces {key} cannot be used (version {fault[0]}: {fault[1]}); "
            "the namespaces known before stay in use"
        )
    elif not targets.known:
        lines.append(f"the KV has not said yet which namespaces M3DB has: {key}")
    elif not targets.current and not lines:
        lines.append(
            f"M3DB has no namespace yet ({key}): create one, with aggregationOptions, and mark it ready "
            "(POST /api/v1/services/m3db/namespace of M3's own coordinator)"
        )
    return [f"M3DB: {line}" for line in lines]


def short_shards(topology: Topology, hosts: Iterable[HostStatus], rules: CopyRules) -> list[int]:
    """The shards that cannot be written, as too few of the nodes that have them are connected."""
    connected = {(host.id, host.endpoint) for host in hosts if host.connections}
    there = np.array([(host.id, host.endpoint) in connected for host in topology.hosts], np.bool_)
    if there.all():
        return []
    copies = copies_of(topology, rules)
    bits = np.uint32(1) << np.arange(topology.owners.shape[1], dtype=np.uint32)
    away = (topology.owners >= 0) & ~there[topology.owners]
    failed = np.where(away, bits, np.uint32(0)).sum(axis=1, dtype=np.uint32)
    return [
        shard
        for shard in np.flatnonzero(failed).tolist()
        if judge(
            int(copies.counted[shard]),
            copies.partners[shard].tolist(),
            int(copies.needed[shard]),
            0,
            int(failed[shard]),
            0,
        )
        == RowState.RETRY
    ]


def shard_lines(topology: Topology | None, hosts: Iterable[HostStatus], rules: CopyRules) -> list[str]:
    """Of ``short_shards``; none while no topology is in use."""
    short = short_shards(topology, hosts, rules) if topology is not None else []
    if topology is None or not short:
        return []
    shown = ", ".join(map(str, short[:_SHOWN])) + (", …" if len(short) > _SHOWN else "")
    return [
        f"M3DB: {len(short)} of {topology.num_shards} shards ({shown}) are on too few connected nodes for writeConsistencyLevel "
        f"{rules.level}: their values wait"
    ]


def late_lines(status: Sequence[SinkStatus], name: str, targets: Targets) -> list[str]:
    """For whom what waits will soon be too old: from half of ``bufferPast`` on, or of the retention with cold writes."""
    age_s = max((one.age_s for one in status if one.name == name), default=0.0)
    limits = {one.name: one.limits for one in targets.current.values() if one.limits is not None}
    lines = []
    for namespace, one in sorted(limits.items()):
        what, bound_ns = ("retention", one.retention_ns) if one.cold_writes else ("bufferPast", one.buffer_past_ns)
        left_s = bound_ns / _SECOND - age_s
        if age_s and 2 * left_s <= bound_ns / _SECOND:
            fate = (
                f"in {go_duration(int(left_s) * _SECOND)} its nodes take the first of them no more"
                if left_s > 0
                else "its nodes take the oldest of them no more: these are refused, and counted"
            )
            lines.append(
                f"M3DB: values have waited for {go_duration(int(age_s) * _SECOND)}, and namespace {namespace} takes what is at most "
                f"{go_duration(bound_ns)} old ({what}): {fate}"
            )
    return lines

"""``m3ctl placement``: who owns which shards."""

from collections import Counter

import msgspec

from m3ctl.answers import Instance
from m3ctl.cluster import Cluster
from m3ctl.report import Report, Table, age, clock, ranges

__all__ = ["show_placement"]


def show_placement(cluster: Cluster, service: str) -> Report:
    """The placement of a service. Raises ``CtlError``."""
    answer = cluster.placement(service)
    placement, now_ns = answer.placement, cluster.now_ns()
    report = Report({"service": service, "environment": cluster.settings.environment, **msgspec.to_builtins(answer)})
    kind = f"{placement.num_shards} shards" if placement.is_sharded else "not sharded"
    mirrored = ", mirrored" if placement.is_mirrored else ""
    report.blocks.append(
        f"{service} in {cluster.settings.environment}: version {answer.version}, {kind}, "
        f"replication factor {placement.replica_factor}{mirrored}"
    )
    table = Table(("instance", "endpoint", "group", "weight>", "shard set>", "shards>", "states", "shard ids"))
    for group in placement.shard_sets().values():
        table.rows += [_row(one) for one in group]
    report.blocks.append(table)
    waiting = {i.id: i.cutover_ns for i in placement.instances.values() if i.cutover_ns > now_ns}
    if waiting:
        last = max(waiting.values())
        report.notes.append(
            f"not cut over yet: producers refuse to send to {', '.join(sorted(waiting))} until {clock(last)} "
            f"({age(last, now_ns)})"
        )
    elif any(shard.state == "INITIALIZING" for i in placement.instances.values() for shard in i.shards):
        report.notes.append(
            "INITIALIZING after the cutover is normal: the shards serve, and are marked AVAILABLE at the next placement change"
        )
    return report


def _row(one: Instance) -> tuple[str, ...]:
    states = Counter(shard.state for shard in one.shards)
    shown = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "-"
    return (
        one.id,
        one.endpoint,
        one.isolation_group or "-",
        str(one.weight),
        str(one.shard_set_id) if one.shard_set_id else "-",
        str(len(one.shards)),
        shown,
        ranges(shard.id for shard in one.shards),
    )

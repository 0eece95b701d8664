"""``m3ctl resign``: hands the leadership of a shard set to another instance."""

import time

from m3ctl.client import CtlError
from m3ctl.cluster import AGGREGATOR, Cluster, Target
from m3ctl.leaders import ShardSetState, look
from m3ctl.report import Report

__all__ = ["resign"]

_LOOK_FOR_S = 5.0
_LOOK_EVERY_S = 0.2


def resign(cluster: Cluster, instance_id: str, shard_set: int, timeout_s: float) -> Report:
    """Makes an instance, or the leader of a shard set, resign. Raises ``CtlError`` if it cannot or does not."""
    placement = cluster.placement(AGGREGATOR).placement
    sets = look(cluster, placement)
    one, target = _chosen(sets, instance_id, shard_set)
    report = Report({"shardSet": one.number, "resigned": None, "leader": None})
    if target.id not in one.leaders:
        leaders = ", ".join(one.leaders) or "nobody"
        report.data["leader"] = one.leaders[0] if one.leaders else None
        report.blocks.append(f"{target.id} does not lead: {leaders} leads shard set {one.number}; nothing to do")
        return report
    others = [i.id for i in placement.instances.values() if i.shard_set_id == one.number and i.id != target.id]
    if not others:
        raise CtlError(
            f"{target.id} is the only instance of shard set {one.number}: there is nobody to take the lead over; "
            "add a replica to the placement first"
        )
    began = time.monotonic()
    answer = cluster.resign(target, timeout_s)
    if answer.status != 200:
        raise CtlError(
            f"{target.id} could not resign ({answer.url} answered {answer.status}): no other instance took the lead within its "
            f"resignTimeout; are {', '.join(others)} running and able to lead? (m3ctl leaders)"
        )
    report.data["resigned"] = target.id
    leader = _new_leader(cluster, placement_set=one.number, old=target.id)
    took_s = time.monotonic() - began
    report.data["leader"] = leader or None
    if leader:
        report.blocks.append(
            f"{leader} leads shard set {one.number} now, after {took_s:.1f} s; before, {target.id} did"
        )
    else:
        report.problems.append(
            f"{target.id} has resigned, but {took_s:.0f} s later no other instance of shard set {one.number} says that it leads"
        )
    return report


def _chosen(sets: list[ShardSetState], instance_id: str, shard_set: int) -> tuple[ShardSetState, Target]:
    if instance_id:
        for one in sets:
            for member in one.members:
                if instance_id in (member.target.id, member.target.url):
                    if member.error:
                        raise CtlError(member.error)
                    return one, member.target
        known = ", ".join(m.target.id for one in sets for m in one.members) or "none"
        raise CtlError(f"no instance {instance_id!r} in the placement; there are: {known}")
    for one in sets:
        if one.number == shard_set:
            leading = [m.target for m in one.members if m.state == "leader"]
            if not leading:
                raise CtlError(f"shard set {shard_set} has no leader that could resign (m3ctl leaders)")
            return one, leading[0]
    known = ", ".join(str(one.number) for one in sets) or "none"
    raise CtlError(f"no shard set {shard_set} in the placement; there are: {known}")


def _new_leader(cluster: Cluster, *, placement_set: int, old: str) -> str:
    """The instance that leads now; empty: none says so in time. M3's ``/status`` follows up to a second later."""
    deadline = time.monotonic() + _LOOK_FOR_S
    while True:
        placement = cluster.placement(AGGREGATOR).placement
        for one in look(cluster, placement):
            if one.number == placement_set:
                leading = [leader for leader in one.leaders if leader != old]
                if leading:
                    return leading[0]
        if time.monotonic() > deadline:
            return ""
        time.sleep(_LOOK_EVERY_S)

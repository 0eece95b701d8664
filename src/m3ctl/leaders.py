"""``m3ctl leaders``: who leads each shard set, as every instance says itself, and as the election's keys say."""

from dataclasses import dataclass

from m3ctl import kv
from m3ctl.answers import Placement
from m3ctl.client import CtlError, ask_all
from m3ctl.cluster import AGGREGATOR, Cluster, Target
from m3ctl.report import Report, Table, age

__all__ = ["Member", "ShardSetState", "look", "show_leaders"]


@dataclass(frozen=True, slots=True)
class Member:
    """One instance and what it says of itself; ``error`` where it says nothing."""

    target: Target
    state: str = ""
    can_lead: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class ShardSetState:
    """The members of one shard set; ``cutover_ns`` in the future: nobody may lead yet."""

    number: int
    members: list[Member]
    cutover_ns: int
    shards: list[int]

    @property
    def leaders(self) -> list[str]:
        """Ids of those who lead."""
        return [m.target.id for m in self.members if m.state == "leader"]

    def problem(self, now_ns: int) -> str:
        """What is wrong with the leadership; empty: nothing."""
        if self.cutover_ns > now_ns:
            return ""
        silent = [m.target.id for m in self.members if m.error]
        if not self.leaders:
            among = f"; {', '.join(silent)} did not answer and may lead" if silent else ""
            return f"shard set {self.number} has no leader: nothing of its shards is flushed{among}"
        if len(self.leaders) > 1:
            return f"shard set {self.number} has {len(self.leaders)} leaders at once: {', '.join(self.leaders)}"
        return ""


def look(cluster: Cluster, placement: Placement | None) -> list[ShardSetState]:
    """Asks every instance; raises nothing for those that do not answer."""
    targets = cluster.targets(placement)
    answers = ask_all(cluster.status, targets)
    by_set: dict[int, list[Member]] = {}
    for target, answer in zip(targets, answers, strict=True):
        member = Member(target, error=str(answer)) if isinstance(answer, CtlError) else Member(target, *answer)
        by_set.setdefault(target.shard_set, []).append(member)
    found = []
    for number, members in sorted(by_set.items()):
        instances = [m.target.instance for m in members if m.target.instance is not None]
        cutover_ns = max((i.cutover_ns for i in instances), default=0)
        shards = sorted({shard.id for i in instances for shard in i.shards})
        found.append(ShardSetState(number, members, cutover_ns, shards))
    return found


def show_leaders(cluster: Cluster) -> Report:
    """One row per instance. Raises ``CtlError`` if neither the placement nor any ``--aggregator`` says whom to ask."""
    report = Report({"environment": cluster.settings.environment})
    placement: Placement | None = None
    try:
        placement = cluster.placement(AGGREGATOR).placement
    except CtlError as error:
        if not cluster.settings.aggregators:
            raise
        report.problems.append(f"the placement is not known, so shard sets are not: {error}")
    now_ns = cluster.now_ns()
    sets = look(cluster, placement)
    elected = kv.candidates(cluster.settings, [s.number for s in sets if s.number]) if cluster.settings.kv else {}
    columns = ["shard set>", "shards>", "instance", "state", "can lead", "address"]
    table = Table([*columns, "candidates in the KV"] if elected else columns)
    for one in sets:
        for member in one.members:
            row = [
                str(one.number or "-"),
                str(len(one.shards)),
                member.target.id,
                member.state or "no answer",
                "-" if member.error else "yes" if member.can_lead else "no",
                member.target.url,
            ]
            table.rows.append([*row, " > ".join(elected.get(one.number, [])) or "-"] if elected else row)
        if one.number and (problem := one.problem(now_ns)):
            report.problems.append(problem)
        if one.cutover_ns > now_ns:
            report.notes.append(
                f"shard set {one.number} elects its leader at its cutover, {age(one.cutover_ns, now_ns)}"
            )
        report.problems += [m.error for m in one.members if m.error]
    report.blocks.append(table)
    report.data["shardSets"] = [_data(one, elected) for one in sets]
    return report


def _data(one: ShardSetState, elected: dict[int, list[str]]) -> dict[str, object]:
    members = [
        {
            "id": m.target.id,
            "url": m.target.url,
            "state": m.state or None,
            "canLead": None if m.error else m.can_lead,
            "error": m.error or None,
        }
        for m in one.members
    ]
    return {
        "shardSet": one.number or None,
        "shards": one.shards,
        "leader": one.leaders[0] if len(one.leaders) == 1 else None,
        "members": members,
        "candidates": elected.get(one.number),
    }

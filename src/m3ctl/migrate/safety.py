"""What stands against exchanging a process now, beyond what the doctor finds in any cluster. Pure: facts in, findings out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from m3cluster.flush_times import ShardSetFlushTimes
from m3ctl.answers import Placement
from m3ctl.doctor.finding import Finding, note, ok, problem
from m3ctl.flush_times import ListTimes
from m3ctl.leaders import ShardSetState
from m3ctl.migrate.whose import OURS, UNKNOWN
from m3ctl.report import age, ranges, shown_duration

__all__ = ["Facts", "check"]

_SECOND_NS = 1_000_000_000
_OLD_NS = 120 * _SECOND_NS
"""By so much the newest flush time of a shard set may be behind the end of its last window: buffers, delivery, M3's persistEvery."""
_LONG_OLD_NS = 600 * _SECOND_NS
"""The same of each list."""


@dataclass(slots=True)
class Facts:
    """What is known of the cluster at one time."""

    now_ns: int
    placement: Placement
    sets: Sequence[ShardSetState]
    whose: Mapping[str, str]
    """Instance id → M3's, ours, unknown."""
    candidates: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Shard set → ids of those who take part in its election, the leader's first."""
    times: Mapping[int, ShardSetFlushTimes] = field(default_factory=dict)
    """Shard set → flush times; those that have none yet are empty."""
    lists: Sequence[ListTimes] = ()
    unusable_rules: Sequence[str] = ()
    back: bool = False
    knows_etcd: bool = True
    """Whether the KV is one that M3 knows."""
    ours_in_file: Sequence[str] = ()
    """Sections of the file that M3 refuses."""


def check(facts: Facts) -> list[Finding]:
    """Everything, one line each; what is a problem has to be mended, or waited for, first."""
    found = [*_settled(facts), *_rules(facts), *_to_m3(facts)]
    for one in facts.sets:
        if not one.number:
            continue
        found += _members(facts, one)
        if one.cutover_ns <= facts.now_ns:
            found += _election(facts, one)
            found += _flushed(facts, one)
    return found


def _settled(facts: Facts) -> Iterable[Finding]:
    """Whether the placement is on its way to another one."""
    what = "placement m3aggregator"
    instances = facts.placement.instances.values()
    cutover_ns = max((i.cutover_ns for i in instances), default=0)
    if cutover_ns > facts.now_ns:
        yield problem(
            what, f"a cutover is pending, {age(cutover_ns, facts.now_ns)}: nobody leads yet", "wait until it is over"
        )
    leaving = {i.id: [s.id for s in i.shards if s.state == "LEAVING"] for i in instances}
    for ident, shards in leaving.items():
        if shards:
            yield problem(
                what,
                f"shards {ranges(shards)} leave {ident}: their windows are split between two instances meanwhile",
                "wait until they are cut off, and mark or remove the instance as you would have done before",
            )
    if not facts.placement.is_mirrored:
        yield problem(
            what,
            "it is not mirrored: M3's aggregators have no pairs in it",
            "make a mirrored one: docs/cluster.md, step 3",
        )
    if cutover_ns <= facts.now_ns and not any(leaving.values()):
        yield ok(what, "no cutover is pending and no shard leaves")


def _rules(facts: Facts) -> Iterable[Finding]:
    for text in facts.unusable_rules:
        yield problem(
            "rules",
            text,
            "M3 goes on with the rules that it loaded before; mend them, or rules are missing after a start",
        )


def _to_m3(facts: Facts) -> Iterable[Finding]:
    """What an M3 process would not start with."""
    if not facts.back:
        return
    if not facts.knows_etcd:
        yield problem(
            "KV", "M3's processes know etcd only", "move the cluster's keys to an etcd first, or make it anew there"
        )
    for name in facts.ours_in_file:
        yield problem(
            "file", f"M3's process does not start with {name} in its file", "take it out of the file that M3's gets"
        )
    yield note(
        "KV",
        "keys of ours below …/complete-since/ and …/delivered/ are not looked at by M3; the first end with their leases",
    )


def _members(facts: Facts, one: ShardSetState) -> Iterable[Finding]:
    what = f"shard set {one.number}"
    ids = [m.target.id for m in one.members if m.target.instance is not None]
    if len(ids) < 2:
        yield problem(
            what,
            f"{' and '.join(ids) or 'nobody'} alone has its shards: the windows that are open when it stops are lost, and what comes until "
            "another one listens waits in producers",
            "add a replica first (replication factor 2), or accept one window with gaps",
        )
    for ident in ids:
        if facts.whose.get(ident, UNKNOWN) == UNKNOWN:
            yield problem(
                what,
                f"it cannot be seen whose {ident} is: it does not answer",
                "start it, or name its HTTP: --aggregator",
            )
    shards = {i.id: tuple(sorted(s.id for s in i.shards)) for i in facts.placement.instances.values() if i.id in ids}
    if len(set(shards.values())) > 1:
        yield problem(
            what, f"{' and '.join(ids)} do not have the same shards", "set a placement in which replicas are alike"
        )


def _election(facts: Facts, one: ShardSetState) -> Iterable[Finding]:
    what = f"shard set {one.number}"
    ids = [m.target.id for m in one.members if m.target.instance is not None]
    candidates = facts.candidates.get(one.number, ())
    strangers = [ident for ident in candidates if ident not in ids]
    if strangers:
        yield problem(
            what,
            f"{', '.join(strangers)} takes part in its election and is no instance of it",
            "stop it, or wait for its lease to end; its host id is not that of the placement",
        )
    if not candidates:
        yield problem(
            what, "nobody holds its election in the KV: nothing is flushed", "are the electionKeyFmt and --env right?"
        )
    elif missing := [
        m.target.id for m in one.members if m.state and m.target.id in ids and m.target.id not in candidates
    ]:
        cold = [ident for ident in missing if facts.whose.get(ident) == OURS]
        text = f"{', '.join(missing)} takes no part in its election: it cannot take over"
        yield problem(
            what,
            text,
            "wait: it does once it holds whole windows" if cold else "see its log; it campaigns when it runs",
        )
    if (
        one.leaders
        and len(one.members) > 1
        and not any(m.can_lead for m in one.members if m.target.id not in one.leaders)
    ):
        yield problem(
            what,
            "no other instance can take the lead over without gaps yet: windows are open that began before it did",
            "wait until m3ctl leaders says that it can lead",
        )


def _flushed(facts: Facts, one: ShardSetState) -> Iterable[Finding]:
    what = f"shard set {one.number}"
    lists = [row for row in facts.lists if row.shard_set == one.number]
    if not lists:
        return  # Said where it is watched whether they advance.
    lags = {row.name: facts.now_ns - (row.newest_ns or row.oldest_ns) - row.resolution_ns for row in lists}
    name, lag_ns = min(lags.items(), key=lambda pair: pair[1])
    ahead = max(row.newest_ns or row.oldest_ns for row in lists) - facts.now_ns
    if ahead > _OLD_NS:
        yield problem(
            what,
            f"flush times are {shown_duration(ahead / 1e9)} ahead of this clock",
            "set the clocks right: NTP on every host",
        )
    elif lag_ns > _OLD_NS:
        yield problem(
            what,
            f"flush times are old: the newest, of {name}, is {shown_duration((lag_ns + _resolution(lists, name)) / 1e9)} old; what was "
            "flushed since then comes again from whoever leads next",
            "is there a leader, do metrics arrive, and do the consumers of the output topic acknowledge?",
        )
    else:
        yield ok(what, f"flush times are up to date ({len(lists)} lists)")
        for row in lists:
            if lags[row.name] > _LONG_OLD_NS:
                yield note(
                    what,
                    f"{row.name} is flushed through {age(row.newest_ns or row.oldest_ns, facts.now_ns)}: is it fed?",
                )
    times = facts.times.get(one.number)
    listed = set() if times is None else {number for number, shard in times.by_shard.items() if not shard.tombstoned}
    foreign = sorted(listed - set(one.shards))
    if foreign:
        yield note(what, f"flush times have shards that it does not own any more: {ranges(foreign)}")


def _resolution(lists: Sequence[ListTimes], name: str) -> int:
    return next(row.resolution_ns for row in lists if row.name == name)

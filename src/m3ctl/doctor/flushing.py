"""Whether flush times advance: the one sign that windows leave the aggregators and arrive downstream."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from m3ctl.client import CtlError
from m3ctl.cluster import Cluster
from m3ctl.doctor.finding import Finding, note, ok, problem, unknown
from m3ctl.flush_times import ListTimes, read_lists
from m3ctl.leaders import ShardSetState
from m3ctl.report import age, shown_duration

__all__ = ["check_flushing"]

_LOOK_EVERY_S = 0.5


def check_flushing(
    cluster: Cluster, sets: Iterable[ShardSetState], wait_s: float, sleep: Callable[[float], None] = time.sleep
) -> list[Finding]:
    """Reads the flush times until those of every short list have advanced, for ``wait_s`` at most."""
    ordered = [one for one in sets if one.number and one.cutover_ns <= cluster.now_ns()]
    if not ordered:
        return []
    try:
        first, silent = read_lists(cluster, ordered)
        seen = _watch(cluster, ordered, first, wait_s, sleep)
    except CtlError as error:
        return [problem("flush times", str(error), "name the KV that the aggregators use")]
    found = [unknown("flush times", line.partition("; ")[0], line.partition("; ")[2]) for line in silent]
    for one in ordered:
        lists = [row for row in first if row.shard_set == one.number]
        if not lists and not any(line.startswith(f"shard set {one.number}:") for line in silent):
            text = "no lists yet: no metric has arrived since the cluster was made"
            found.append(note(f"shard set {one.number}", text))
        found += [_judged(cluster, row, seen, wait_s) for row in lists]
    return found


@dataclass(slots=True)
class _Seen:
    """Lists, by shard set and name, whose flush times were seen to advance: on all shards, and on some."""

    everywhere: set[tuple[int, str]] = field(default_factory=set)
    somewhere: set[tuple[int, str]] = field(default_factory=set)


def _watch(
    cluster: Cluster, sets: list[ShardSetState], first: list[ListTimes], wait_s: float, sleep: Callable[[float], None]
) -> _Seen:
    """Looks until every short list has advanced everywhere, at most for ``wait_s``."""
    before = {(row.shard_set, row.name): row for row in first}
    awaited = {(row.shard_set, row.name) for row in first if row.resolution_ns / 1e9 <= wait_s}
    seen = _Seen()
    deadline_ns = cluster.now_ns() + int(wait_s * 1e9)
    while not awaited <= seen.everywhere and cluster.now_ns() < deadline_ns:
        sleep(_LOOK_EVERY_S)
        for row in read_lists(cluster, sets)[0]:
            key = row.shard_set, row.name
            was = before.get(key, row)
            if row.oldest_ns > was.oldest_ns:
                seen.everywhere.add(key)
            if (row.newest_ns or row.oldest_ns) > (was.newest_ns or was.oldest_ns):
                seen.somewhere.add(key)
    return seen


def _judged(cluster: Cluster, row: ListTimes, watched: _Seen, wait_s: float) -> Finding:
    what, key = f"shard set {row.shard_set}", (row.shard_set, row.name)
    seen = age(row.oldest_ns, cluster.now_ns()) or "never"
    if key in watched.everywhere:
        return ok(what, f"flush times of {row.name} advance")
    if row.resolution_ns / 1e9 > wait_s:
        text = (
            f"{row.name}: flushed through {seen}; too coarse to be seen advancing in {shown_duration(wait_s)} (--wait)"
        )
        return note(what, text)
    if key in watched.somewhere:
        text = (
            f"flush times of {row.name} advance on some of its {row.shards} shards, the oldest is flushed through {seen}: nobody feeds the "
            "others (M3's leader leaves their times where they are), or a consumer of what they put out is away"
        )
        return note(what, text)
    if any(number == row.shard_set for number, _ in watched.somewhere):
        text = (
            f"flush times of {row.name} stand still ({seen}) while those of other lists advance: nobody feeds it any more (M3's leader "
            "leaves its time where it is), or every consumer of what it puts out is away"
        )
        return note(what, text)
    fix = (
        "is there a leader, and are the consumers of the output topic reachable? Flush times only advance when downstream has "
        "acknowledged; a longer --wait helps if nothing is wrong"
    )
    return problem(
        what, f"flush times of {row.name} did not advance in {shown_duration(wait_s)} (flushed through: {seen})", fix
    )

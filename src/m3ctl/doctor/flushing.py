"""Whether flush times advance: the one sign that windows leave the aggregators and arrive downstream."""

import time
from collections.abc import Callable, Iterable

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
        moved = _advanced(cluster, ordered, first, wait_s, sleep)
    except CtlError as error:
        return [problem("flush times", str(error), "name the KV that the aggregators use")]
    found = [unknown("flush times", line.partition("; ")[0], line.partition("; ")[2]) for line in silent]
    for one in ordered:
        lists = [row for row in first if row.shard_set == one.number]
        if not lists and not any(line.startswith(f"shard set {one.number}:") for line in silent):
            text = "no lists yet: no metric has arrived since the cluster was made"
            found.append(note(f"shard set {one.number}", text))
        found += [_judged(cluster, row, (row.shard_set, row.name) in moved, wait_s) for row in lists]
    return found


def _advanced(
    cluster: Cluster, sets: list[ShardSetState], first: list[ListTimes], wait_s: float, sleep: Callable[[float], None]
) -> set[tuple[int, str]]:
    """The lists whose time is later than at first."""
    before = {(row.shard_set, row.name): row.oldest_ns for row in first}
    awaited = {(row.shard_set, row.name) for row in first if row.resolution_ns / 1e9 <= wait_s}
    moved: set[tuple[int, str]] = set()
    deadline_ns = cluster.now_ns() + int(wait_s * 1e9)
    while not awaited <= moved and cluster.now_ns() < deadline_ns:
        sleep(_LOOK_EVERY_S)
        rows, _ = read_lists(cluster, sets)
        moved |= {(r.shard_set, r.name) for r in rows if r.oldest_ns > before.get((r.shard_set, r.name), r.oldest_ns)}
    return moved


def _judged(cluster: Cluster, row: ListTimes, moved: bool, wait_s: float) -> Finding:
    what = f"shard set {row.shard_set}"
    seen = age(row.oldest_ns, cluster.now_ns()) or "never"
    if moved:
        return ok(what, f"flush times of {row.name} advance")
    if row.resolution_ns / 1e9 > wait_s:
        text = (
            f"{row.name}: flushed through {seen}; too coarse to be seen advancing in {shown_duration(wait_s)} (--wait)"
        )
        return note(what, text)
    fix = (
        "is there a leader, and are the consumers of the output topic reachable? Flush times only advance when downstream has "
        "acknowledged; a longer --wait helps if nothing is wrong"
    )
    return problem(
        what, f"flush times of {row.name} did not advance in {shown_duration(wait_s)} (flushed through: {seen})", fix
    )

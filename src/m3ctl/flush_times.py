"""``m3ctl flush-times``: up to where every list of every shard set is flushed for good.

The times are in the KV, written by the leader and watched by all. Read from the KV itself where it is named (``--etcd`` and its like), else
from ``/shards`` of an instance of the shard set (the leader's first), which only ours serves.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from m3cluster.flush_times import ShardSetFlushTimes
from m3ctl import kv
from m3ctl.answers import Shards
from m3ctl.client import ask_all
from m3ctl.cluster import AGGREGATOR, Cluster
from m3ctl.leaders import ShardSetState, look
from m3ctl.report import Report, Table, age, clock

__all__ = ["ListTimes", "lists_of", "read_lists", "show_flush_times"]

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ListTimes:
    """One list of a shard set; times are Unix nanoseconds, 0: never flushed. ``newest_ns`` None: not told."""

    shard_set: int
    name: str
    resolution_ns: int
    shards: int
    oldest_ns: int
    newest_ns: int | None
    source: str


def show_flush_times(cluster: Cluster) -> Report:
    """One row per shard set and list. Raises ``CtlError``."""
    placement = cluster.placement(AGGREGATOR).placement
    report = Report({"environment": cluster.settings.environment})
    sets = look(cluster, placement)
    found, silent = read_lists(cluster, sets)
    now_ns = cluster.now_ns()
    table = Table(("shard set>", "list", "shards>", "flushed through", "age>", "newest shard", "from"))
    for one in found:
        table.rows.append(
            (
                str(one.shard_set),
                one.name,
                str(one.shards),
                clock(one.oldest_ns),
                age(one.oldest_ns, now_ns) or "-",
                "-" if one.newest_ns is None else clock(one.newest_ns),
                one.source,
            )
        )
    report.blocks.append(table)
    report.problems += silent
    for number in sorted({s.number for s in sets} - {one.shard_set for one in found}):
        if not any(line.startswith(f"shard set {number}:") for line in silent):
            report.notes.append(
                f"shard set {number} has no lists yet: one comes to be with the first metric of its resolution"
            )
    report.data["lists"] = [
        {
            "shardSet": one.shard_set,
            "list": one.name,
            "resolutionNanos": one.resolution_ns,
            "shards": one.shards,
            "oldestNanos": one.oldest_ns,
            "newestNanos": one.newest_ns,
            "source": one.source,
        }
        for one in found
    ]
    return report


def read_lists(cluster: Cluster, sets: Iterable[ShardSetState]) -> tuple[list[ListTimes], list[str]]:
    """All lists, and one line for every shard set whose times cannot be read."""
    ordered = list(sets)
    if cluster.settings.kv is not None:
        stored = kv.flush_times(cluster.settings, [one.number for one in ordered])
        source = kv.where(cluster.settings)
        return [row for number, (times, _) in stored.items() for row in lists_of(number, times, source)], []
    found: list[ListTimes] = []
    silent: list[str] = []
    for one in ordered:
        # The leader knows its own writes first; a follower has what its watch has brought.
        targets = [m.target for m in sorted(one.members, key=lambda m: m.state != "leader") if not m.error]
        answers = ask_all(cluster.shards, targets)
        served = [(t, a) for t, a in zip(targets, answers, strict=True) if isinstance(a, Shards)]
        if not served:
            silent.append(
                f"shard set {one.number}: no instance tells its flush times (M3's own m3aggregator does not serve /shards); "
                "read them from the KV with --etcd, --zookeeper or --embedded"
            )
            continue
        target, answer = served[0]
        found += [
            ListTimes(
                one.number,
                row.name,
                row.resolution_ns,
                row.shards,
                row.flushed_through_ns,
                row.newest_flushed_through_ns,
                target.id,
            )
            for row in answer.lists
        ]
    return found, silent


def lists_of(shard_set: int, times: ShardSetFlushTimes, source: str) -> list[ListTimes]:
    """The lists of one shard set's flush times; shards that have been given away are left out."""
    by_list: dict[tuple[int, int, int], list[int]] = {}
    for shard in times.by_shard.values():
        if shard.tombstoned:
            continue
        for kind, by_resolution in ((0, shard.standard), (1, shard.timed)):
            for resolution, at in by_resolution.items():
                by_list.setdefault((kind, resolution, 0), []).append(at)
        for resolution, by_hops in shard.forwarded.items():
            for hops, at in by_hops.items():
                by_list.setdefault((2, resolution, hops), []).append(at)
    return [
        ListTimes(shard_set, _name(*key), key[1], len(ats), min(ats), max(ats), source)
        for key, ats in sorted(by_list.items())
    ]


def _name(kind: int, resolution_ns: int, hops: int) -> str:
    seconds = resolution_ns / _SECOND_NS
    shown = f"{seconds:g}s"
    return f"forwarded×{hops} {shown}" if kind == 2 else f"{('standard', 'timed')[kind]} {shown}"

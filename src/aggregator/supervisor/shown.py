"""Gauges of an instance that are looked at when its page of metrics is made: lags, queues, shards."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from aggregator import ipc
from aggregator.lists import ListId
from aggregator.supervisor.flushing.commands import Flushing
from aggregator.supervisor.flushing.flush_times import flushed_through
from aggregator.supervisor.output.forwarder import Forwarder
from aggregator.supervisor.placement import View
from m3cluster.flush_times import ShardSetFlushTimes
from m3metrics.policy import format_duration
from m3x.clock import wall_ns
from m3x.instrument import Scope

__all__ = ["count_shard_check", "show_serving"]


class _Member(Protocol):
    number: int
    times: ShardSetFlushTimes | None


class Looked(Protocol):
    """What is looked at (``Serving``)."""

    view: View
    flushing: Flushing
    worker_stats: dict[int, ipc.WorkerStats]
    output: Forwarder
    rollups: Forwarder

    @property
    def shard_set(self) -> _Member: ...


def show_serving(serving: Looked, scope: Scope) -> None:
    """Sets the gauges; ``scope``: that of the aggregator."""
    now_ns, member = wall_ns(), serving.shard_set
    lists = scope.sub("list")
    for list_id, oldest_ns in _oldest(member.times, serving.view.owned).items():
        tags = {"list": str(list_id), "resolution": format_duration(list_id.resolution_ns)}
        lists.tagged(**tags, shard_set=str(member.number)).gauge("lag-seconds", (now_ns - oldest_ns) / 1e9)
    scope.sub("flush-manager.leader").gauge("queue-size", len(list(serving.flushing.schedule.lists())))
    shards = scope.sub("shards")
    cut_off = sum(shard.cutoff_ns <= now_ns for shard in serving.view.owned.values())
    shards.gauge("owned", len(serving.view.owned) - cut_off)
    shards.gauge("pending-close", cut_off)
    for name, forwarder in (("final", serving.output), ("forwarded", serving.rollups)):
        waiting = scope.sub("forwarder").tagged(output=name)
        waiting.gauge("waiting-bytes", forwarder.waiting_bytes)
        waiting.gauge("age-seconds", forwarder.age_s)


def _oldest(times: ShardSetFlushTimes | None, owned: Iterable[int]) -> dict[ListId, int]:
    """Up to where each list is flushed on all of our shards that have it."""
    found: dict[ListId, int] = {}
    for shard in owned if times is not None else ():
        assert times is not None
        if (of_shard := times.by_shard.get(shard)) is not None and not of_shard.tombstoned:
            for list_id, at in flushed_through(of_shard):
                if at:
                    found[list_id] = min(found.get(list_id, at), at)
    return found


def count_shard_check(scope: Scope, times: ShardSetFlushTimes | None, owned: Mapping[int, ipc.OwnedShard]) -> None:
    """What the flush times say of each of our shards: whether there are any, and all lists are flushed to its cutoff."""
    if times is None or not times.by_shard:
        scope.count("no-flush-times", len(owned))
        return
    for number, shard in owned.items():
        found = times.by_shard.get(number)
        if found is None:
            scope.count("shard-not-found")
            continue
        flushed = all(at >= shard.cutoff_ns for _, at in flushed_through(found))
        scope.count("all-flushed" if flushed else "not-fully-flushed")

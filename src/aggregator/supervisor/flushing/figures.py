"""What M3 counts of flushes, from the commands that workers are given and from their answers."""

from collections.abc import Iterable

from aggregator.ipc import Flush, Flushed
from aggregator.lists import ListId
from aggregator.supervisor.flushing.commands import Send
from m3cluster.flush_times import ShardSetFlushTimes
from m3cluster.placement.model import NEVER_NS
from m3metrics.policy import format_duration
from m3x.instrument import Scope

__all__ = ["FlushFigures", "count_updates"]

_KINDS = ("standard", "timed", "forwarded")
_MOST = 4096
"""Flushes that were given and have not ended; of more, as of a worker that has died, the oldest are forgotten."""


class FlushFigures:
    """How long flushes take, by list, and what of their shards they find cut over.

    ``buffer_ns``: how long a shard that was cut off is still flushed for.
    """

    def __init__(self, scope: Scope, buffer_ns: int) -> None:
        self._list = scope.sub("list")
        self._manager = scope.sub("flush-manager")
        self._buffer_ns = buffer_ns
        self._given: dict[tuple[int, int], tuple[Flush, int]] = {}
        self._lists: dict[tuple[Scope, ListId], Scope] = {}

    def given(self, sends: Iterable[Send], shards: int, wall_ns: int, steady_ns: int) -> None:
        """Workers are given these commands; ``shards``: how many the instance has, where bounds are those of all."""
        for send in sends:
            command = send.command
            if not isinstance(command, Flush):
                continue
            self._given[send.worker, command.id] = command, steady_ns
            if len(self._given) > _MOST:
                del self._given[next(iter(self._given))]
            if not command.emit:
                self._list.count("discard-before")
                continue
            for bounds in command.bounds:
                name = self._phase(wall_ns, bounds.cutover_ns, bounds.cutoff_ns)
                self._list.count(f"flush.{name}", len(bounds.shards) or shards)

    def _phase(self, now_ns: int, cutover_ns: int, cutoff_ns: int) -> str:
        if now_ns < cutover_ns:
            return "before-cutover"
        if now_ns < cutoff_ns or cutoff_ns == NEVER_NS:
            return "between-cutover-cutoff"
        return "between-cutoff-bufferend" if now_ns < cutoff_ns + self._buffer_ns else "after-bufferend"

    def answered(self, worker: int, answer: Flushed, steady_ns: int) -> None:
        """A worker has answered with a part, or with the end of a flush."""
        if (found := self._given.get((worker, answer.id))) is None:
            return
        command, begun_ns = found
        by_list = self._of(self._list, command.list_id)
        if answer.values and not answer.forwarded:
            by_list.count("writer.encode-success", answer.values)
            by_list.count("writer.route-success", answer.values)
        if not answer.last:
            return
        del self._given[worker, answer.id]
        seconds = (steady_ns - begun_ns) / 1e9
        if not command.emit:
            by_list.record("flush-before.duration", seconds)
            return
        by_list.record("flush.duration", seconds)
        self._of(self._manager, command.list_id).record("bucket.duration", seconds)

    def _of(self, scope: Scope, list_id: ListId) -> Scope:
        found = self._lists.get((scope, list_id))
        if found is None:
            resolution, kind = format_duration(list_id.resolution_ns), _KINDS[list_id.kind]
            if scope is self._list:
                found = scope.tagged(list_type=kind, resolution=resolution)
            else:
                found = scope.tagged(bucket_type=kind, interval=resolution)
            self._lists[scope, list_id] = found
        return found


def count_updates(
    scope: Scope,
    times: ShardSetFlushTimes,
    before: ShardSetFlushTimes | None,
    owned: Iterable[int],
    lists: Iterable[ListId],
) -> None:
    """As follower: what new flush times of the leader say of our shards and lists, and what they lack. ``scope``: that of followers."""
    lists = list(lists)
    kinds = {
        kind: [one for one in lists if (one.kind == 2) == (kind == "forwarded")] for kind in ("standard", "forwarded")
    }
    for kind, of_kind in kinds.items():
        if not of_kind:
            continue
        told = scope.tagged(flusher_type=kind)
        told.count("kv-updates")
        for shard in owned:
            found = times.by_shard.get(shard)
            if found is None:
                told.count("shard-not-found")
                continue
            earlier = None if before is None else before.by_shard.get(shard)
            if earlier == found:
                told.count("flush-windows-not-ended")
            for one in of_kind:
                if one.kind != 2:
                    if one.resolution_ns not in (found.timed if one.kind == 1 else found.standard):
                        told.count("resolution-not-found")
                elif one.resolution_ns not in found.forwarded:
                    told.count("resolution-not-found")
                elif not found.forwarded[one.resolution_ns]:
                    told.count("nil-forwarded-times")
                elif one.times_forwarded not in found.forwarded[one.resolution_ns]:
                    told.count("num-forwarded-times-not-found")

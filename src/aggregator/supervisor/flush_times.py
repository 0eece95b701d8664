"""Up to where each list is flushed for good: the watermark that is kept in the KV (docs/architecture.md §4, "Flush times").

Pure. Every flush of a list by a worker is a ``_Flush``: its messages are handed out in parts, each part is *done* when nobody will send it
again (acked, refused by a filter, or given up). A flush is complete when its last part has come and all parts are done; the time of a list
advances over complete flushes in the order in which they were begun, never past one that is still open.

Times are per (list, shard), as in M3's message (reference/aggregator_core.md §9), and never go back.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aggregator.ipc import KIND_FORWARDED, KIND_STANDARD, KIND_TIMED
from aggregator.supervisor.schedule import ListId, truncate
from m3cluster.flush_times import ShardFlushTimes, ShardSetFlushTimes

__all__ = ["FlushTimes", "can_lead", "flushed_through", "has_flushed", "incomplete_windows", "lacks_more"]


@dataclass(slots=True)
class _Flush:
    list_id: ListId
    targets: Mapping[int, int]
    """Shard → target."""
    counts: bool
    """Whether completion advances the times: not for a flush that was broken off, or that threw its output away."""
    open_parts: int = 0
    ended: bool = False


@dataclass(slots=True)
class FlushTimes:
    """Flush times of the shards of one instance in one role; ``base`` is what the KV said when the role began."""

    base: ShardSetFlushTimes = field(default_factory=ShardSetFlushTimes)
    _times: dict[tuple[ListId, int], int] = field(default_factory=dict)
    _emitted: dict[tuple[ListId, int], int] = field(default_factory=dict)
    _flushes: dict[int, _Flush] = field(default_factory=dict)
    _order: dict[tuple[int, ListId], deque[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.learn(self.base)

    def learn(self, message: ShardSetFlushTimes) -> None:
        """Times that the KV holds, whoever wrote them: ours never lie behind them."""
        for shard, times in message.by_shard.items():
            for list_id, at in flushed_through(times):
                key = (list_id, shard)
                self._times[key] = max(self._times.get(key, 0), at)
                self._emitted[key] = max(self._emitted.get(key, 0), at)

    def add_list(self, list_id: ListId, shards: Iterable[int]) -> bool:
        """Lists that exist now; ones never flushed are written with time 0. Returns whether any is new."""
        fresh = [shard for shard in shards if (list_id, shard) not in self._times]
        for shard in fresh:
            self._times[list_id, shard] = 0
        return bool(fresh)

    def begin(self, flush_id: int, worker: int, list_id: ListId, targets: Mapping[int, int], *, counts: bool) -> None:
        """A flush command was given; flushes of one worker and list are numbered in the order in which they are given."""
        self._flushes[flush_id] = _Flush(list_id, targets, counts)
        self._order.setdefault((worker, list_id), deque()).append(flush_id)

    def is_open(self, flush_id: int) -> bool:
        """Whether the last part of that flush is still to come."""
        flush = self._flushes.get(flush_id)
        return flush is not None and not flush.ended

    def part(self, flush_id: int) -> bool:
        """Output of that flush was handed on; False: the flush is not known or has ended, and nobody waits for the part."""
        if not self.is_open(flush_id):
            return False
        self._flushes[flush_id].open_parts += 1
        return True

    def last(self, flush_id: int, *, whole: bool = True) -> dict[tuple[ListId, int], int]:
        """No more parts will come; ``whole`` False: because the worker is gone. Returns what advanced."""
        flush = self._flushes.get(flush_id)
        if flush is None or flush.ended:
            return {}
        flush.ended = True
        if not whole:
            flush.counts = False
        elif flush.counts:
            for shard, target in flush.targets.items():
                key = (flush.list_id, shard)
                self._emitted[key] = max(self._emitted.get(key, 0), target)
        return self._advance()

    def done(self, flush_id: int) -> dict[tuple[ListId, int], int]:
        """One part of that flush is done. Returns what advanced."""
        flush = self._flushes.get(flush_id)
        if flush is None or flush.open_parts == 0:
            return {}
        flush.open_parts -= 1
        return self._advance()

    def all(self) -> list[tuple[tuple[ListId, int], int]]:
        """Every (list, shard) with its time."""
        return list(self._times.items())

    def forget(self, list_id: ListId, shard: int) -> None:
        """As if that list had never been."""
        self._times.pop((list_id, shard), None)
        self._emitted.pop((list_id, shard), None)

    def emitted(self, list_id: ListId, shard: int) -> int:
        """Up to where this instance has handed out all output of that list, or the KV says that somebody has."""
        return self._emitted.get((list_id, shard), 0)

    def time(self, list_id: ListId, shard: int) -> int:
        """Up to where that list is flushed for good; 0: never."""
        return self._times.get((list_id, shard), 0)

    def lag_ns(self, now_ns: int) -> int:
        """Age of the oldest target that is handed out and not done; 0: none."""
        targets = [max(f.targets.values(), default=now_ns) for f in self._flushes.values() if f.ended and f.counts]
        return max(now_ns - min(targets, default=now_ns), 0)

    def message(self, owned: Iterable[int], redirects: Mapping[int, int] | None = None) -> ShardSetFlushTimes:
        """What goes into the KV: every list of every shard ever seen; shards that are not ``owned`` are tombstoned.

        ``redirects``: shard → the shard that takes its metrics; it mirrors the times of that one (reference §9.3).
        """
        kept = set(owned)
        shards = sorted({*self.base.by_shard, *(shard for _, shard in self._times)})
        by_shard = {shard: ShardFlushTimes(tombstoned=shard not in kept) for shard in shards}
        for (list_id, shard), at in sorted(self._times.items()):
            _put(by_shard[shard], list_id, at)
        for shard, target in (redirects or {}).items():
            if target in by_shard:
                own = by_shard.get(shard)
                mirrored = by_shard[target]
                tombstoned = (own.tombstoned if own is not None else True) and mirrored.tombstoned
                by_shard[shard] = ShardFlushTimes(mirrored.standard, mirrored.timed, mirrored.forwarded, tombstoned)
        return ShardSetFlushTimes(by_shard)

    def _advance(self) -> dict[tuple[ListId, int], int]:
        advanced: dict[tuple[ListId, int], int] = {}
        for order, ids in list(self._order.items()):
            while ids and self._flushes[ids[0]].ended and self._flushes[ids[0]].open_parts == 0:
                flush = self._flushes.pop(ids.popleft())
                if not flush.counts:
                    continue
                for shard, target in flush.targets.items():
                    key = (flush.list_id, shard)
                    if target > self._times.get(key, -1):
                        self._times[key] = advanced[key] = target
            if not ids:
                del self._order[order]
        return advanced


def flushed_through(times: ShardFlushTimes) -> list[tuple[ListId, int]]:
    """The lists of one shard with their times."""
    return [
        *((ListId(KIND_STANDARD, resolution), at) for resolution, at in times.standard.items()),
        *((ListId(KIND_TIMED, resolution), at) for resolution, at in times.timed.items()),
        *(
            (ListId(KIND_FORWARDED, resolution, hops), at)
            for resolution, by_hops in times.forwarded.items()
            for hops, at in by_hops.items()
        ),
    ]


def has_flushed(message: ShardSetFlushTimes | None, shard: int, until_ns: int) -> bool:
    """Whether every list of the shard is flushed up to that time (reference §9.4)."""
    times = None if message is None else message.by_shard.get(shard)
    return times is not None and all(at >= until_ns for _, at in flushed_through(times))


def can_lead(
    message: ShardSetFlushTimes | None, opened_ns: int, now_ns: int, past_ns: int, *, longest_ns: int | None = None
) -> bool:
    """Whether an instance that holds all samples since ``opened_ns`` could lead without gaps (reference §8.4).

    ``past_ns``: how late timed samples may be, without the resolution. ``longest_ns``: lists of longer windows are not looked at. None
    or empty flush times: a new cluster, True.
    """
    if message is None or not message.by_shard:
        return True
    for times in message.by_shard.values():
        if times.tombstoned:
            continue
        for list_id, at in flushed_through(times):
            window = list_id.resolution_ns
            if longest_ns is not None and window > longest_ns:
                continue
            start = truncate(opened_ns, window)
            if at == 0:
                current = truncate(now_ns - (past_ns if list_id.kind == KIND_TIMED else 0), window)
                warm = opened_ns < current
            elif list_id.kind == KIND_FORWARDED:
                warm = at > (start - window if start == opened_ns else start)
            else:
                warm = at >= (start if start == opened_ns else start + window)
            if not warm:
                return False
    return True


def incomplete_windows(message: ShardSetFlushTimes, opened_ns: int) -> int:
    """How many windows (of list ids, not of shards) are not flushed and began before ``opened_ns``.

    An instance that holds all samples since then and leads now emits them, and they may lack samples (docs/architecture.md §4).
    """
    oldest: dict[ListId, int] = {}
    for times in message.by_shard.values():
        for list_id, at in () if times.tombstoned else flushed_through(times):
            if at:
                oldest[list_id] = min(oldest.get(list_id, at), at)
    count = 0
    for list_id, at in oldest.items():
        window = list_id.resolution_ns
        last = truncate(opened_ns - 1, window) + window
        count += max(last - truncate(at, window), 0) // window
    return count


def lacks_more(
    message: ShardSetFlushTimes | None, own_ns: int, other_ns: int, *, longest_ns: int | None = None
) -> bool:
    """Whether who holds all samples since ``own_ns`` lacks some of a window that is not flushed and that who does since ``other_ns`` holds.

    ``longest_ns``: lists of longer windows are not looked at.
    """
    for times in message.by_shard.values() if message is not None else ():
        for list_id, at in () if times.tombstoned else flushed_through(times):
            window = list_id.resolution_ns
            if longest_ns is not None and window > longest_ns:
                continue
            whole_from = truncate(own_ns - 1, window) + window
            if whole_from > at and whole_from > truncate(other_ns - 1, window) + window:
                return True
    return False


def _put(times: ShardFlushTimes, list_id: ListId, at: int) -> None:
    if list_id.kind == KIND_STANDARD:
        times.standard[list_id.resolution_ns] = at
    elif list_id.kind == KIND_TIMED:
        times.timed[list_id.resolution_ns] = at
    else:
        times.forwarded.setdefault(list_id.resolution_ns, {})[list_id.times_forwarded] = at

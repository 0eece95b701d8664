"""When each list is flushed (docs/m3/aggregation.md, lists; docs/m3/aggregation.md, flush schedule).

Pure: a list joins with the time at which it came to be, ``due`` is asked with the current time. A list (kind, resolution, times forwarded)
exists once per shard; all of them share one bucket, whose flush interval is the resolution. Where in the interval a bucket is flushed:

| list | offset |
|---|---|
| forwarded | its delay mod the resolution |
| timed, with ``timedMetricsFlushOffsetEnabled`` | its delay mod the resolution |
| other, jitter off | that of the moment when the list came to be, as in M3 |
| other, jitter on | a hash of shard set and list id, below the configured maximum |

M3 draws the last one at random, so that a failover or a restart moves the flushes; here all replicas agree.

A bucket that missed ticks runs once: M3 runs it once for every missed tick, but at one target, so that all runs but the first do nothing.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from aggregator.lists import KIND_FORWARDED, KIND_TIMED, ListId, truncate

__all__ = ["Schedule", "ScheduleOptions", "Tick"]


class Tick(NamedTuple):
    """A bucket whose time has come: windows up to ``target_ns`` are due."""

    list_id: ListId
    target_ns: int


@dataclass(frozen=True, slots=True)
class ScheduleOptions:
    """What the configuration says about flushing."""

    timed_delay_ns: Callable[[int], int]
    """Resolution → delay."""
    forwarding_delay_ns: Callable[[int, int], int]
    """(resolution, times forwarded) → delay."""
    max_jitter_ns: Callable[[int], int] | None
    """Interval → largest offset; None: jitter is off."""
    timed_offset: bool = False
    max_buffer_ns: int = 300_000_000_000
    """``flushManager.maxBufferSize``: so long what comes after a shard's cutoff is kept, for ownership may come back."""

    def delay_ns(self, list_id: ListId) -> int:
        """How far the target of a flush lies before the time of the flush."""
        if list_id.kind == KIND_TIMED:
            return self.timed_delay_ns(list_id.resolution_ns)
        if list_id.kind == KIND_FORWARDED:
            return self.forwarding_delay_ns(list_id.resolution_ns, list_id.times_forwarded)
        return 0

    def reach_ns(self, target_ns: int, cutover_ns: int, cutoff_ns: int) -> int:
        """Up to where a flush deals with a list: not beyond the cutoff of its shard until that is long ago.

        docs/m3/aggregation.md, flushing a list.
        """
        if target_ns <= max(cutover_ns, cutoff_ns):
            return target_ns
        return max(target_ns - self.max_buffer_ns, cutoff_ns)

    def offset_ns(self, list_id: ListId, shard_set: int, created_ns: int) -> int:
        """Where in the interval the bucket of a list is flushed."""
        resolution = list_id.resolution_ns
        if list_id.kind == KIND_FORWARDED or (list_id.kind == KIND_TIMED and self.timed_offset):
            return self.delay_ns(list_id) % resolution
        if self.max_jitter_ns is None:
            return created_ns - truncate(created_ns, resolution)
        limit = self.max_jitter_ns(resolution)
        if limit <= 0:
            return 0
        text = f"{shard_set} {list_id.kind} {resolution} {list_id.times_forwarded}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") % limit


@dataclass(slots=True)
class _Bucket:
    offset_ns: int
    next_ns: int
    extra_ns: int | None = None
    """A flush between two regular ones."""

    def due_ns(self) -> int:
        """The earlier of the two."""
        return self.next_ns if self.extra_ns is None else min(self.next_ns, self.extra_ns)


@dataclass(slots=True)
class Schedule:
    """The buckets of one shard set."""

    options: ScheduleOptions
    shard_set: int = 0
    _buckets: dict[ListId, _Bucket] = field(default_factory=dict)

    def join(self, list_id: ListId, created_ns: int, now_ns: int) -> None:
        """A list of that id came to be on some shard: its bucket's next flush is the one of the current interval, often at once."""
        bucket = self._buckets.get(list_id)
        if bucket is None:
            bucket = self._buckets[list_id] = _Bucket(
                self.options.offset_ns(list_id, self.shard_set, created_ns), next_ns=0
            )
        bucket.next_ns = truncate(now_ns, list_id.resolution_ns) + bucket.offset_ns

    def restart(self, now_ns: int) -> None:
        """A new term as leader begins: every bucket starts again in the current interval. Offsets stay."""
        for list_id, bucket in self._buckets.items():
            bucket.next_ns = truncate(now_ns, list_id.resolution_ns) + bucket.offset_ns

    def also_at(self, list_id: ListId, at_ns: int) -> None:
        """One flush more than regular, for one that was not done."""
        if (bucket := self._buckets.get(list_id)) is not None:
            bucket.extra_ns = at_ns

    def due(self, now_ns: int) -> list[Tick]:
        """The buckets whose time has come, earliest first; each is due again in its next interval that is still to come."""
        ready = sorted((b.due_ns(), list_id) for list_id, b in self._buckets.items() if b.due_ns() <= now_ns)
        ticks = []
        for _, list_id in ready:
            bucket, interval = self._buckets[list_id], list_id.resolution_ns
            bucket.extra_ns = None
            if bucket.next_ns <= now_ns:
                bucket.next_ns += ((now_ns - bucket.next_ns) // interval + 1) * interval
            ticks.append(Tick(list_id, now_ns - self.options.delay_ns(list_id)))
        return ticks

    def next_ns(self) -> int | None:
        """When the earliest bucket is due; None without lists."""
        return min((b.due_ns() for b in self._buckets.values()), default=None)

    def lists(self) -> Iterable[ListId]:
        """All lists that ever joined."""
        return self._buckets.keys()

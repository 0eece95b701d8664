"""Up to where each list is flushed for good: the watermark that is kept in the KV (docs/architecture.md §4, "Flush times").

Pure. Every flush of a list by a worker is a ``_Flush``: its messages are handed out in parts, each part is *done* when nobody will send it
again (acked, refused by a filter, or given up); of a part that takes long it is known which shards' messages are still awaited. A flush is
through on a shard when its last part has come and no part awaits messages of that shard; the time of a shard's list advances over such
flushes in the order in which they were begun, never past one that is still open there. What one shard waits for holds no other back.

Times are per (list, shard), as in M3's message (docs/m3/aggregation.md, flush times), and never go back.

Of a part that is done, forwarded metrics may still be *owed* to a replica (docs/architecture.md §4, "Rollups of a pair"). Its flush is not
through on the shards that they come from, but the flush's final output is delivered: that is a second watermark, never behind the first.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, KIND_TIMED, ListId, truncate
from aggregator.supervisor.flushing.holding import Gap, Holding, any_lacks, first_unflushed
from m3cluster.flush_times import ShardFlushTimes, ShardSetFlushTimes

__all__ = [
    "FlushTimes",
    "can_lead",
    "distinct_lists",
    "flushed_through",
    "has_flushed",
    "held_elsewhere",
    "incomplete_windows",
    "lacks_delivered",
    "lacks_more",
    "newest",
]

_NOTHING: frozenset[int] = frozenset()
_PLAIN = {KIND_STANDARD: attrgetter("standard"), KIND_TIMED: attrgetter("timed")}
"""Where M3's message has the times of a kind that has one per resolution; forwarded lists have one per number of hops besides."""


@dataclass(slots=True)
class _Flush:
    worker: int
    list_id: ListId
    targets: dict[int, int]
    """Shard → target, of the shards whose times have not advanced to it."""
    counts: bool
    """Whether completion advances the times: not for a flush that was broken off, or that threw its output away."""
    parts: dict[int, frozenset[int] | None] = field(default_factory=dict)
    """Those that are not done, and the shards whose messages they await; None: those of all that it has."""
    ended: bool = False

    def awaits(self) -> frozenset[int] | None:
        """The shards on which it is not through; None: perhaps on all."""
        if not self.ended:
            return None
        found = _NOTHING
        for shards in self.parts.values():
            if shards is None:
                return None
            found |= shards
        return found


@dataclass(slots=True)
class FlushTimes:
    """Flush times of the shards of one instance in one role; ``base`` is what the KV said when the role began.

    ``delivered``: the same flushes, but for what is owed to replicas; None: nobody asks.
    """

    base: ShardSetFlushTimes = field(default_factory=ShardSetFlushTimes)
    delivered: "FlushTimes | None" = None
    _times: dict[tuple[ListId, int], int] = field(default_factory=dict)
    _emitted: dict[tuple[ListId, int], int] = field(default_factory=dict)
    _flushes: dict[int, _Flush] = field(default_factory=dict)
    _order: dict[tuple[int, ListId], deque[int]] = field(default_factory=dict)
    _part_ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.learn(self.base)

    def learn(self, message: ShardSetFlushTimes) -> None:
        """Times that the KV holds, whoever wrote them: ours never lie behind them."""
        for shard, times in message.by_shard.items():
            for list_id, at in flushed_through(times):
                key = (list_id, shard)
                self._times[key] = max(self._times.get(key, 0), at)
                self._emitted[key] = max(self._emitted.get(key, 0), at)
        if self.delivered is not None:
            self.delivered.learn(message)

    def add_list(self, list_id: ListId, shards: Iterable[int]) -> bool:
        """Lists that exist now; ones never flushed are written with time 0. Returns whether any is new."""
        fresh = [shard for shard in shards if (list_id, shard) not in self._times]
        for shard in fresh:
            self._times[list_id, shard] = 0
        if self.delivered is not None:
            self.delivered.add_list(list_id, fresh)
        return bool(fresh)

    def begin(self, flush_id: int, worker: int, list_id: ListId, targets: Mapping[int, int], *, counts: bool) -> None:
        """A flush command was given; flushes of one worker and list are numbered in the order in which they are given."""
        self._flushes[flush_id] = _Flush(worker, list_id, dict(targets), counts)
        self._order.setdefault((worker, list_id), deque()).append(flush_id)
        if self.delivered is not None:
            self.delivered.begin(flush_id, worker, list_id, targets, counts=counts)

    def is_open(self, flush_id: int) -> bool:
        """Whether the last part of that flush is still to come."""
        flush = self._flushes.get(flush_id)
        return flush is not None and not flush.ended

    def part(self, flush_id: int) -> int:
        """Output of that flush was handed on: a number for ``done``; 0: the flush is not known or has ended, nobody waits for the part."""
        if not self.is_open(flush_id):
            return 0
        number = next(self._part_ids)
        self._flushes[flush_id].parts[number] = None
        if self.delivered is not None:
            self.delivered._flushes[flush_id].parts[number] = None
        return number

    def last(self, flush_id: int, *, whole: bool = True) -> dict[tuple[ListId, int], int]:
        """No more parts will come; ``whole`` False: because the worker is gone. Returns what advanced, on either watermark."""
        ahead = {} if self.delivered is None else self.delivered.last(flush_id, whole=whole)
        flush = self._flushes.get(flush_id)
        if flush is None or flush.ended:
            return ahead
        flush.ended = True
        if not whole:
            flush.counts = False
        elif flush.counts:
            for shard, target in flush.targets.items():
                key = (flush.list_id, shard)
                self._emitted[key] = max(self._emitted.get(key, 0), target)
        return ahead | self._advance(flush)

    def done(
        self, flush_id: int, part: int, awaited: frozenset[int] = _NOTHING, owed: frozenset[int] = _NOTHING
    ) -> dict[tuple[ListId, int], int]:
        """A part of that flush is done, but for messages of the ``awaited`` shards; those of the ``owed`` ones some replica lacks.

        Returns what advanced, on either watermark.
        """
        ahead = {} if self.delivered is None else self.delivered.done(flush_id, part, awaited)
        flush = self._flushes.get(flush_id)
        if flush is None or part not in flush.parts:
            return ahead
        if awaited or owed:
            flush.parts[part] = awaited | owed
        else:
            del flush.parts[part]
        return ahead | self._advance(flush)

    def lists(self) -> list[tuple[ListId, int]]:
        """Every list that has a time, with its shard."""
        return list(self._times)

    def shards(self, list_id: ListId, among: Iterable[int]) -> set[int]:
        """Those shards on which that list has a time."""
        return {shard for shard in among if (list_id, shard) in self._times}

    def forget(self, list_id: ListId, shard: int) -> None:
        """As if that list had never been."""
        self._times.pop((list_id, shard), None)
        self._emitted.pop((list_id, shard), None)
        if self.delivered is not None:
            self.delivered.forget(list_id, shard)

    def emitted(self, list_id: ListId, shard: int) -> int:
        """Up to where this instance has handed out all output of that list, or the KV says that somebody has."""
        return self._emitted.get((list_id, shard), 0)

    def time(self, list_id: ListId, shard: int) -> int:
        """Up to where that list is flushed for good; 0: never."""
        return self._times.get((list_id, shard), 0)

    def times(self, list_id: ListId, shards: Iterable[int]) -> dict[int, int]:
        """``time`` by shard."""
        return {shard: self.time(list_id, shard) for shard in shards}

    @property
    def awaits(self) -> bool:
        """Whether some flush is not done, but for what is owed to replicas."""
        return bool(self._flushes if self.delivered is None else self.delivered._flushes)

    @property
    def owes(self) -> bool:
        """Whether more is delivered somewhere than these times say."""
        return self.delivered is not None and any(self.delivered.time(*key) > at for key, at in self._times.items())

    def message(self, owned: Iterable[int], redirects: Mapping[int, int] | None = None) -> ShardSetFlushTimes:
        """What goes into the KV: every list of every shard ever seen; shards that are not ``owned`` are tombstoned.

        ``redirects``: shard → the shard that takes its metrics; it mirrors the times of that one (docs/m3/aggregation.md, flush times).
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

    def _advance(self, changed: _Flush) -> dict[tuple[ListId, int], int]:
        """Goes through the flushes of one worker and list in their order; what is through everywhere is forgotten."""
        advanced: dict[tuple[ListId, int], int] = {}
        order = (changed.worker, changed.list_id)
        ids, kept, waiting = self._order[order], deque[int](), _NOTHING
        while ids:
            flush = self._flushes[ids[0]]
            awaits = flush.awaits()
            if awaits is None:
                break
            kept.append(ids.popleft())
            waiting |= awaits
            for shard in flush.targets.keys() - waiting:
                target = flush.targets.pop(shard)
                key = (flush.list_id, shard)
                if flush.counts and target > self._times.get(key, -1):
                    self._times[key] = advanced[key] = target
            if not flush.counts:
                flush.targets.clear()
            if not flush.parts:
                self._forget(kept)
        self._order[order] = kept + ids
        if not self._order[order]:
            del self._order[order]
        return advanced

    def _forget(self, kept: deque[int]) -> None:
        """The last of ``kept`` is done: if shards wait for an earlier one, that takes its targets over where it is done as well."""
        flush = self._flushes[kept[-1]]
        before = self._flushes[kept[-2]] if len(kept) > 1 else None
        if flush.targets:
            if before is None or before.parts:
                return
            before.targets |= flush.targets
        del self._flushes[kept.pop()]


def flushed_through(times: ShardFlushTimes) -> list[tuple[ListId, int]]:
    """The lists of one shard with their times."""
    plain = [(ListId(kind, resolution), at) for kind in _PLAIN for resolution, at in _PLAIN[kind](times).items()]
    forwarded = times.forwarded.items()
    return plain + [(ListId(KIND_FORWARDED, r, hops), at) for r, by_hops in forwarded for hops, at in by_hops.items()]


def newest(message: ShardSetFlushTimes) -> int:
    """The latest time of all lists and shards that were not given away; 0: there is none."""
    kept = (times for times in message.by_shard.values() if not times.tombstoned)
    return max((at for times in kept for _, at in flushed_through(times)), default=0)


def has_flushed(message: ShardSetFlushTimes | None, shard: int, until_ns: int) -> bool:
    """Whether every list of the shard is flushed up to that time (docs/m3/aggregation.md, flushed shards)."""
    times = None if message is None else message.by_shard.get(shard)
    return times is not None and all(at >= until_ns for _, at in flushed_through(times))


def can_lead(
    message: ShardSetFlushTimes | None,
    opened_ns: int,
    now_ns: int,
    past_ns: int,
    *,
    longest_ns: int | None = None,
    unfed_ns: int | None = None,
    gaps: Iterable[Gap] = (),
    lists: frozenset[tuple[ListId, int]] | None = None,
) -> bool:
    """Whether an instance that holds all samples since ``opened_ns``, but for some ``gaps``, could lead without leaving any.

    M3's rule: docs/m3/aggregation.md, whether a follower can lead.

    ``past_ns``: how late timed samples may be, without the resolution. ``longest_ns``: lists of longer windows are not looked at.
    ``unfed_ns``: nor are lists whose times have stood still for so long, and for two windows: their leader does not flush them, so nobody
    feeds them. ``lists``: what ``distinct_lists`` says of ``message``, for who asks often. None or empty flush times: a new cluster, True.
    """
    for list_id, at in distinct_lists(message) if lists is None else lists:
        window = list_id.resolution_ns
        if longest_ns is not None and window > longest_ns:
            continue
        if unfed_ns is not None and at and now_ns - past_ns - at > max(unfed_ns, window) + 2 * window:
            continue
        start = truncate(opened_ns, window)
        first = first_unflushed(list_id, at)
        if at == 0:
            first = truncate(now_ns - (past_ns if list_id.kind == KIND_TIMED else 0), window)
            warm = opened_ns < first
        elif list_id.kind == KIND_FORWARDED:
            warm = at > (start - window if start == opened_ns else start)
        else:
            warm = at >= (start if start == opened_ns else start + window)
        if not warm or any(span[1] > first for gap in gaps if (span := gap.lacking(list_id))):
            return False
    return True


def incomplete_windows(message: ShardSetFlushTimes, holding: Holding, now_ns: int) -> int:
    """How many windows (of list ids, not of shards) that are not flushed, and have begun, lack samples here.

    An instance that leads now emits them as they are (docs/architecture.md §4).
    """
    oldest: dict[ListId, int] = {}
    for list_id, at in _lists(message):
        if at:
            oldest[list_id] = min(oldest.get(list_id, at), at)
    count = 0
    for list_id, at in oldest.items():
        window, done = list_id.resolution_ns, first_unflushed(list_id, at)
        for start, end in sorted(holding.lacking(list_id)):
            first, last = max(start, done), min(end, truncate(now_ns, window) + window)
            count += max(last - first, 0) // window
            done = max(done, last)
    return count


def lacks_delivered(
    message: ShardSetFlushTimes | None, delivered: ShardSetFlushTimes | None, own: Holding, *, longest_ns: int
) -> bool:
    """Whether windows that are delivered, and not flushed for good, lack samples in ``own``: somebody has, or had, all of them.

    ``longest_ns``: lists of longer windows are not looked at.
    """
    flushed = FlushTimes(message or ShardSetFlushTimes())
    for shard, times in (delivered or ShardSetFlushTimes()).by_shard.items():
        for list_id, at in flushed_through(times):
            if times.tombstoned or list_id.resolution_ns > longest_ns:
                continue
            first = first_unflushed(list_id, flushed.time(list_id, shard))
            last = first_unflushed(list_id, at)
            if any(begin < last and end > first for begin, end in own.lacking(list_id) if first < last):
                return True
    return False


def lacks_more(
    message: ShardSetFlushTimes | None, own: Holding, other: Holding, *, longest_ns: int | None = None
) -> bool:
    """Whether, of the windows that are not flushed, the first one that only one of the two holds is lacking in ``own``.

    So of any two instances that do not hold the same, one lacks more, and whose windows are due first leads first: with two restarts, one
    after the other, each flushes what only it holds. ``longest_ns``: lists of longer windows are not looked at.
    """
    found: tuple[int, ListId] | None = None
    is_own = False
    for list_id, starts in _compared(message, own, other, longest_ns):
        different = next(((start, mine) for start, mine, others in starts if mine != others), None)
        if different is None:
            continue
        end = different[0] + list_id.resolution_ns
        if found is None or (end, list_id) < found:
            found, is_own = (end, list_id), different[1]
    return is_own


def held_elsewhere(
    message: ShardSetFlushTimes | None, own: Holding, other: Holding, *, longest_ns: int | None = None
) -> dict[ListId, int]:
    """By list the start of the first window that is not flushed, lacks samples in ``own``, and does not in ``other``; without those that
    have none.
    """
    found: dict[ListId, int] = {}
    for list_id, starts in _compared(message, own, other, longest_ns):
        first = next((start for start, mine, others in starts if mine and not others), None)
        if first is not None:
            found[list_id] = min(first, found.get(list_id, first))
    return found


def _compared(
    message: ShardSetFlushTimes | None, own: Holding, other: Holding, longest_ns: int | None
) -> Iterator[tuple[ListId, Iterator[tuple[int, bool, bool]]]]:
    """Of each list, and time it is flushed up to, the starts of the windows that are not flushed, as far as something changes there:
    whether they lack samples in ``own``, and in ``other``."""
    for list_id, at in distinct_lists(message):
        if longest_ns is not None and list_id.resolution_ns > longest_ns:
            continue
        first, mine, others = first_unflushed(list_id, at), own.lacking(list_id), other.lacking(list_id)
        starts = sorted({first, *(max(time, first) for span in mine + others for time in span)})
        yield list_id, ((start, any_lacks(mine, start), any_lacks(others, start)) for start in starts)


def distinct_lists(message: ShardSetFlushTimes | None) -> frozenset[tuple[ListId, int]]:
    """Every list with its time, whatever the shard, of those that are not left."""
    return frozenset() if message is None else frozenset(_lists(message))


def _lists(message: ShardSetFlushTimes) -> Iterator[tuple[ListId, int]]:
    """Every list of every shard that is not left, with its time."""
    for times in message.by_shard.values():
        if not times.tombstoned:
            yield from flushed_through(times)


def _put(times: ShardFlushTimes, list_id: ListId, at: int) -> None:
    if list_id.kind in _PLAIN:
        _PLAIN[list_id.kind](times)[list_id.resolution_ns] = at
    else:
        times.forwarded.setdefault(list_id.resolution_ns, {})[list_id.times_forwarded] = at

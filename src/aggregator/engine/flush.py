"""Flushes: which windows of a list id are due on which shards, and their values in parts.

Starting a flush closes every due window at once: from then on no sample changes what it will emit, so the parts can be taken whenever
there is room for them, and ingest goes on between them. Windows stay after they have been emitted, in every role, until flush times in
KV cover them (``Engine.commit``), or memory is short and they are ``max_buffer_ns`` older than the last flush.
Rules: reference/aggregator_core.md §6.3, §6.4.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator import ipc
from aggregator.engine import flush_kernels
from aggregator.engine.flush_kernels import ACTION_DISCARD, ACTION_EMIT, ACTION_NONE, CUR_NEED, CURSOR
from aggregator.engine.options import EngineOptions
from aggregator.engine.tables import H_WINDOWS, MIN_INT64, Tables
from m3msg.batch import MessageBatch

PART_BYTES = 512 * 1024
_PART_MESSAGES = 8192
_NEVER = MIN_INT64


class FlushPart(msgspec.Struct, frozen=True):
    """A part of what a flush puts out."""

    batch: MessageBatch | None
    """Encoded messages with their shards; None: nothing in this part."""
    last: bool
    discarded: int
    """With ``last``: values thrown away by the whole flush (follower, outside cutover and cutoff, NaN)."""
    forwarded: bool = False
    """False: AggregatedMetric messages, with the shards of the output topic. True: MetricWithMetadatas messages (ForwardedMetric), with
    the shards of their rollup ids in the placement. A part is wholly the one or the other."""


class Bounds(msgspec.Struct, frozen=True):
    """Per shard (int64 arrays), in this order of time: discard up to, emit up to, discard up to. ``_NEVER``: nothing."""

    before: NDArray[np.int64]
    emit: NDArray[np.int64]
    after: NDArray[np.int64]

    def reach(self) -> NDArray[np.int64]:
        """What the flush will have dealt with."""
        return np.maximum(np.maximum(self.before, self.emit), self.after)

    def actions(self, end_ns: int, flushed: NDArray[np.int64], late: bool) -> NDArray[np.uint8]:
        """What happens to a window that ends at ``end_ns``, by shard; ``flushed``: through what each shard has been flushed before.

        ``late``: to records written after their window had been flushed.
        """
        actions = np.zeros(len(flushed), np.uint8)
        due = (end_ns <= flushed) if late else (end_ns > flushed)
        for bound, action in ((self.before, ACTION_DISCARD), (self.emit, ACTION_EMIT), (self.after, ACTION_DISCARD)):
            hit = due & (bound > flushed) & (end_ns <= bound) & (actions == ACTION_NONE)
            actions[hit] = action
        return actions


def shard_bounds(command: ipc.Flush, lists: NDArray[np.int64], num_shards: int, max_buffer_ns: int) -> Bounds:
    """Splits the bounds of a flush command into what is discarded and what is emitted (reference/aggregator_core.md §6.3).

    ``lists``: the shards that have such a list; the others are not touched.
    """
    target = np.full(num_shards, _NEVER, np.int64)
    cutover = np.zeros(num_shards, np.int64)
    cutoff = np.zeros(num_shards, np.int64)
    named = {shard for group in command.bounds for shard in group.shards}
    for group in command.bounds:
        chosen = group.shards or [shard for shard in lists.tolist() if shard not in named]
        where = np.array([shard for shard in chosen if 0 <= shard < num_shards], np.int64)
        target[where] = group.target_ns
        cutover[where] = group.cutover_ns
        cutoff[where] = group.cutoff_ns
    mine = np.zeros(num_shards, bool)
    mine[lists] = True
    asked = mine & (target != _NEVER)
    early = asked & (target <= cutover)
    rest = asked & ~early
    beyond = rest & (target > cutoff)
    old = target - np.where(beyond, max_buffer_ns, 0)
    before = np.where(early, target, np.where(rest & (cutover > 0), cutover, _NEVER))
    emit = np.where(rest, np.where(beyond, cutoff, target), _NEVER)
    after = np.where(beyond & (old > cutoff), old, _NEVER)
    return Bounds(before, emit, after)


class _Item(msgspec.Struct, frozen=True):
    window: int
    actions: NDArray[np.uint8]
    uniform: int
    late: bool


class FlushRun:
    """One flush under way: an iterator over its parts. ``close`` gives it up; the engine then may release its windows."""

    def __init__(
        self,
        tables: Tables,
        address: np.uint64,
        options: EngineOptions,
        topic_shards: int,
        bucket: int | None,
        items: list[_Item],
        policy_names: tuple[str, ...],
        finished: Callable[[int, int, int], None],
    ) -> None:
        self._tables = tables
        self._address = address
        self._options = options
        self._topic_shards = topic_shards
        self._bucket = bucket
        self._items = items
        self._policy_names = policy_names
        self._finished = finished
        self._at = 0
        self._cursor = np.zeros(CURSOR, np.int64)
        self._values = np.zeros(1, np.float64)
        self._starts = np.zeros(2, np.int64)
        self._gathered = -1
        self._discarded = 0
        self._emitted = 0
        self._done = False
        if bucket is not None:
            tables.buckets[bucket]["flushing"] += 1

    def __iter__(self) -> "FlushRun":
        return self

    def __next__(self) -> FlushPart:
        if self._done:
            raise StopIteration
        batch = self._fill()
        if self._at < len(self._items):
            return FlushPart(batch, last=False, discarded=0)
        self.close()
        return FlushPart(batch, last=True, discarded=self._discarded)

    def close(self) -> None:
        """Ends the flush; what it has not given yet is not emitted. Closing twice does nothing."""
        if not self._done and self._bucket is not None:
            self._tables.buckets[self._bucket]["flushing"] -= 1
            self._finished(self._bucket, self._emitted, self._discarded)
        self._done = True

    def _fill(self) -> MessageBatch | None:
        out = np.empty(PART_BYTES, np.uint8)
        offsets = np.zeros(_PART_MESSAGES + 1, np.int64)
        shards = np.empty(_PART_MESSAGES, np.uint32)
        policies = np.empty(_PART_MESSAGES, np.uint16)
        tally = np.zeros(2, np.int64)
        while self._at < len(self._items):
            item = self._items[self._at]
            self._gather(item.window)
            ended = flush_kernels.emit_window(
                self._address,
                item.window,
                item.actions,
                item.uniform,
                item.late,
                self._cursor,
                self._values,
                self._starts,
                self._options.discard_nan,
                self._topic_shards,
                out,
                offsets,
                shards,
                policies,
                tally,
            )
            if ended:
                self._at += 1
            elif self._cursor[CUR_NEED] > len(out):
                out = np.empty(int(self._cursor[CUR_NEED]), np.uint8)
            else:
                break
        self._discarded += int(tally[1])
        n = int(tally[0])
        self._emitted += n
        if n == 0:
            return None
        end = int(offsets[n])
        return MessageBatch(
            payload=out[:end],
            offsets=offsets[: n + 1],
            shards=shards[:n],
            policies=policies[:n],
            policy_names=self._policy_names,
        )

    def _gather(self, window: int) -> None:
        """Groups the timer samples of a window by slot, once."""
        row = self._tables.windows[window]
        if self._gathered == window or row["logged"] == 0:
            if self._gathered != window:
                self._no_log(window)
            return
        self._gathered = window
        self._values = np.empty(int(row["logged"]), np.float64)
        self._starts = np.empty(int(self._tables.buckets[self._bucket]["slots"]) + 2, np.int64)
        flush_kernels.gather_log(self._address, window, self._values, self._starts)

    def _no_log(self, window: int) -> None:
        """Timers that ask for quantiles may exist without a sample: every range is empty."""
        self._gathered = window
        slots = int(self._tables.buckets[self._bucket]["slots"])
        if len(self._starts) < slots + 2 or self._starts[-1] != 0:
            self._starts = np.zeros(slots + 2, np.int64)


def plan(tables: Tables, bucket: int, bounds: Bounds, emit: bool, lists: NDArray[np.int64]) -> list[_Item]:
    """Closes the due windows of a bucket and says what happens to each, oldest first; ``lists``: the shards that have such a list."""
    row = tables.buckets[bucket]
    resolution = int(row["resolution"])
    shards = len(bounds.emit)
    flushed = tables.emitted_through[bucket, :shards].copy()
    if not emit:
        bounds = Bounds(bounds.reach(), np.full(shards, _NEVER, np.int64), np.full(shards, _NEVER, np.int64))
    items: list[tuple[int, bool, _Item]] = []
    windows = tables.windows[: int(tables.heads[H_WINDOWS])]
    ends = windows["start"] + resolution
    oldest = flushed[lists].min(initial=(1 << 63) - 1)
    due = ((ends > oldest) | (windows["late"] != 0)) & (ends <= bounds.reach().max(initial=_NEVER))
    for number in np.flatnonzero((windows["used"] != 0) & (windows["bucket"] == bucket) & due).tolist():
        start = int(windows[number]["start"])
        for late in (True, False) if windows[number]["late"] else (False,):
            actions = bounds.actions(start + resolution, flushed, late)
            mine = actions[lists]
            if mine.any():
                uniform = int(mine[0]) if (mine == mine[0]).all() else ACTION_NONE
                items.append((start, not late, _Item(number, actions, uniform, late)))
    reach = np.maximum(flushed, bounds.reach())
    tables.emitted_through[bucket, :shards] = reach
    closed = tables.closed_through[bucket, :shards]
    np.maximum(closed, reach, out=closed)
    row["closed_max"] = closed.max(initial=0)
    items.sort(key=lambda item: item[:2])
    return [item for _, _, item in items]


def releasable(
    tables: Tables, bucket: int, committed: Any, owned: NDArray[np.int64], kept_ns: int
) -> NDArray[np.int64]:
    """Flushed windows of a bucket that nobody needs any more: every shard with such a list has committed them, or has flushed
    what is ``kept_ns`` younger."""
    born = owned[tables.list_born[bucket, owned] != 0]
    flushed = tables.emitted_through[bucket, born]
    through = int(
        np.maximum(np.minimum(committed[bucket, born], flushed), flushed - kept_ns).min(initial=(1 << 63) - 1)
    )
    windows = tables.windows[: int(tables.heads[H_WINDOWS])]
    end = windows["start"] + tables.buckets[bucket]["resolution"]
    return np.flatnonzero(
        (windows["used"] != 0) & (windows["bucket"] == bucket) & (end <= through) & (windows["late"] == 0)
    )

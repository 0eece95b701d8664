"""What a flush will put out: which windows are due on which shards, and what elements with state make of them.

Rules: docs/m3/aggregation.md, flushing a list.
"""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator import ipc
from aggregator.engine.flush.forward import count_versions, order_contributions
from aggregator.engine.state.elements import unregister_elements
from aggregator.engine.state.pipeline import consume_window, most_contributions
from aggregator.engine.tables import layout
from aggregator.engine.tables.layout import ACTION_DISCARD, ACTION_EMIT, ACTION_NONE, Tables
from aggregator.engine.windows.samples import find_runs

_NEVER = layout.MIN_INT64


class Bounds(msgspec.Struct, frozen=True):
    """Per shard (int64 arrays), in this order of time: discard up to, emit up to, discard up to. ``_NEVER``: nothing."""

    before: NDArray[np.int64]
    emit: NDArray[np.int64]
    after: NDArray[np.int64]

    def reach(self) -> NDArray[np.int64]:
        """What the flush will have dealt with."""
        return np.maximum(np.maximum(self.before, self.emit), self.after)

    def actions(self, due_ns: int, flushed: NDArray[np.int64], late: bool | None) -> NDArray[np.uint8]:
        """What happens to a window that is due at ``due_ns``, by shard; ``flushed``: through what each shard has been flushed before.

        ``late``: to records written after their window had been flushed; None: to all.
        """
        actions = np.zeros(len(flushed), np.uint8)
        due = np.ones(len(flushed), bool) if late is None else (due_ns <= flushed) if late else (due_ns > flushed)
        for bound, action in ((self.before, ACTION_DISCARD), (self.emit, ACTION_EMIT), (self.after, ACTION_DISCARD)):
            hit = due & (bound > flushed) & (due_ns <= bound) & (actions == ACTION_NONE)
            actions[hit] = action
        return actions


def shard_bounds(command: ipc.Flush, lists: NDArray[np.int64], num_shards: int, max_buffer_ns: int) -> Bounds:
    """Splits the bounds of a flush command into what is discarded and what is emitted (docs/m3/aggregation.md, flushing a list).

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


class Item(msgspec.Struct, frozen=True):
    """A window with final values to put out."""

    window: int
    actions: NDArray[np.uint8]
    uniform: int
    late: bool


class Rollups(msgspec.Struct, frozen=True):
    """What a window contributes to rollups."""

    window: int
    time_ns: int
    rows: NDArray[Any]
    """CONTRIBUTION."""
    order: NDArray[np.int64]
    versions: NDArray[np.uint32]
    """Of the message that begins at that place of ``order``."""
    largest: int
    """Values of the largest message."""


class Plan(msgspec.Struct, frozen=True):
    """What a flush will put out."""

    items: list[Item]
    rollups: list[Rollups]
    discarded: int = 0


class Planner:
    """What happens to the windows of one bucket in one flush; ``lists``: the shards that have such a list."""

    def __init__(
        self, tables: Tables, address: np.uint64, bucket: int, lists: NDArray[np.int64], discard_nan: bool
    ) -> None:
        self._tables = tables
        self._address = address
        self._bucket = bucket
        self._lists = lists
        self._discard_nan = discard_nan
        self._due = int(tables.buckets[bucket]["due"])

    def plan(self, bounds: Bounds, emit: bool, number: int) -> Plan:
        """Closes the due windows and says what happens to each, oldest first; ``number``: of this flush, never 0."""
        tables = self._tables
        row = tables.buckets[self._bucket]
        shards = len(bounds.emit)
        flushed = tables.emitted_through[self._bucket, :shards].copy()
        if not emit:
            bounds = Bounds(bounds.reach(), np.full(shards, _NEVER, np.int64), np.full(shards, _NEVER, np.int64))
        windows = tables.windows
        mine = tables.windows_of(self._bucket)
        order = mine[np.argsort(windows["start"][mine], kind="stable")]
        due = windows["start"][order] + self._due <= bounds.reach().max(initial=_NEVER)
        oldest = flushed[self._lists].min(initial=(1 << 63) - 1)
        items: list[Item] = []
        rollups: list[Rollups] = []
        discarded = 0
        again = False
        for position in np.flatnonzero(due).tolist():
            window = windows[order[position]]
            late = bool(window["late"])
            again |= late
            if not again and window["start"] + self._due <= oldest:
                continue
            if row["stateful"]:
                found, lost = self._consume(order, position, bounds, flushed, number)
                rollups += found
                discarded += lost
            for when in (True, False) if late else (False,):
                items += self._item(int(order[position]), bounds, flushed, when)
        reach = np.maximum(flushed, bounds.reach())
        tables.emitted_through[self._bucket, :shards] = reach
        closed = tables.closed_through[self._bucket, :shards]
        np.maximum(closed, reach, out=closed)
        row["closed_max"] = closed.max(initial=0)
        if row["tombstoned"] and row["stateful"]:
            unregister_elements(self._address, self._bucket)
        return Plan(items, rollups, discarded)

    def _item(self, window: int, bounds: Bounds, flushed: NDArray[np.int64], late: bool) -> list[Item]:
        due_ns = int(self._tables.windows[window]["start"]) + self._due
        actions = bounds.actions(due_ns, flushed, late)
        mine = actions[self._lists]
        if not mine.any() and (late or not self._tables.buckets[self._bucket]["stateful"]):
            return []
        uniform = int(mine[0]) if len(mine) and (mine == mine[0]).all() else ACTION_NONE
        return [Item(window, actions, uniform, late)]

    def _consume(
        self, order: NDArray[np.int64], position: int, bounds: Bounds, flushed: NDArray[np.int64], number: int
    ) -> tuple[list[Rollups], int]:
        """Processes the elements with state in a window; what it contributes to rollups, and how many values are thrown away."""
        tables, window = self._tables, int(order[position])
        row, bucket = tables.windows[window], tables.buckets[self._bucket]
        actions = bounds.actions(int(row["start"]) + self._due, flushed, None)
        if not actions[self._lists].any():
            return [], 0
        samples = samples_of(tables, self._address, window)
        rows = np.empty(most_contributions(self._address, window), layout.CONTRIBUTION)
        tally = np.zeros(1, layout.TALLY)
        consume_window(
            self._address,
            order,
            position,
            actions,
            flushed,
            samples,
            self._discard_nan,
            number,
            rows,
            tally,
        )
        n = int(tally["contributions"][0])
        lost = int(tally["discarded"][0])
        if n == 0:
            return [], lost
        rows = rows[:n]
        places = np.empty(n, np.int64)
        counts = np.zeros(int(bucket["slots"]) + 1, np.int64)
        order_contributions(rows, n, counts, places)
        versions = np.zeros(n, np.uint32)
        largest = count_versions(self._address, window, rows, places, n, versions)
        time_ns = int(row["start"]) + int(bucket["stamp"])
        return [Rollups(window, time_ns, rows, places, versions, int(largest))], lost


def samples_of(tables: Tables, address: np.uint64, window: int) -> layout.Samples:
    """The timer samples of a window; without such no slot has any."""
    row = tables.windows[window]
    slots = int(tables.buckets[int(row["bucket"])]["slots"])
    runs = np.empty(int(row["logged"]), np.int64)
    samples = layout.Samples(runs, np.zeros(slots + 2, np.int64), np.zeros(slots, np.int64), np.empty(0, np.float64))
    most = int(find_runs(address, window, samples)) if row["logged"] else 0
    return samples._replace(values=np.empty(max(most, 1), np.float64))


def releasable(
    tables: Tables, bucket: int, committed: Any, owned: NDArray[np.int64], kept_ns: int
) -> NDArray[np.int64]:
    """Flushed windows of a bucket that nobody needs any more: every shard with such a list has committed them, or has flushed what is
    ``kept_ns`` younger.

    Windows that may be flushed again, and all after them, stay as long as something may come for them.
    """
    born = owned[tables.list_born[bucket, owned] != 0]
    flushed = tables.emitted_through[bucket, born]
    through = int(
        np.maximum(np.minimum(committed[bucket, born], flushed), flushed - kept_ns).min(initial=(1 << 63) - 1)
    )
    row = tables.buckets[bucket]
    mine = tables.windows_of(bucket)
    windows = tables.windows[mine]
    due = windows["start"] + row["due"]
    if row["resent"]:
        settled = int(tables.closed_through[bucket, born].min(initial=(1 << 63) - 1)) - int(row["past_limit"])
        open_still = (windows["resend"] != 0) & (due > settled)
        through = min(through, int(due[open_still].min(initial=(1 << 63) - 1)) - 1)
    over: NDArray[np.bool_] = (due <= through) & (windows["late"] == 0)
    return mine[over]

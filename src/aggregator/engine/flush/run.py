"""Flushes: which windows of a list id are due on which shards, and their values in parts.

Starting a flush closes every due window at once, and computes what elements with state put out (``plan``): from then on no sample
changes what it will emit, so the parts can be taken whenever there is room for them, and ingest goes on between them. First comes what
goes to rollups, as it is too late soon, then the final values, those of *settled* slots before all others: of slots that the output of one
resolution has reached before. These parts are *early*: they may pass the other ones of flushes before. Where series are new in such
numbers that their values take longer than a resolution, those of series that have been there before are on time all the same, and each
series has its values in order. Windows stay after they have been emitted, in every role, until flush
times in KV cover them (``Engine.commit``), or memory is short and they are ``max_buffer_ns`` older than the last flush.
Rules: docs/m3/aggregation.md, flushing a list.
"""

from collections.abc import Callable

import msgspec
import numpy as np

from aggregator.engine.flush.emit import emit_window
from aggregator.engine.flush.forward import emit_forwarded
from aggregator.engine.flush.plan import Plan, samples_of
from aggregator.engine.options import EngineOptions
from aggregator.engine.tables.layout import CURSOR, TALLY, Part, Samples, Tables
from m3msg.batch import MessageBatch

PART_BYTES = 512 * 1024
_PART_MESSAGES = 8192
_ALL_SLOTS = 1 << 62


class FlushPart(msgspec.Struct, frozen=True):
    """A part of what a flush puts out."""

    batch: MessageBatch | None
    """Encoded messages with their shards; None: nothing in this part."""
    last: bool
    discarded: int
    """With ``last``: values thrown away by the whole flush (follower, outside cutover and cutoff, NaN)."""
    early: bool = False
    """Whether it may go before parts of earlier flushes that are not early."""
    forwarded: bool = False
    """False: AggregatedMetric messages, with the shards of the output topic. True: MetricWithMetadatas messages (ForwardedMetric), with
    the shards of their rollup ids in the placement. A part is wholly the one or the other."""


class FlushRun:
    """One flush under way: an iterator over its parts. ``close`` gives it up; the engine then may release its windows."""

    def __init__(
        self,
        tables: Tables,
        address: np.uint64,
        options: EngineOptions,
        topic_shards: int,
        bucket: int | None,
        plan: Plan,
        policy_names: tuple[str, ...],
        settled: int,
        finished: Callable[["FlushRun"], None],
    ) -> None:
        self._tables = tables
        self._address = address
        self._options = options
        self._topic_shards = topic_shards
        self._num_shards = int(tables.head["num_shards"])
        self.bucket = bucket
        """None: there is no such list."""
        self.alone = bucket is None or not tables.buckets[bucket]["flushing"]
        """Whether all flushes of its list before it had ended when it began."""
        self._settled = settled
        self._plan = plan
        self._policy_names = policy_names
        self._finished = finished
        self._rest = not settled
        """Whether the settled slots are done."""
        self._at = 0
        self._rollups_at = 0
        self._cursor = np.zeros(1, CURSOR)
        self._samples: Samples | None = None
        self._samples_of = -1
        self.discarded = plan.discarded
        self.emitted = 0
        self.forwarded = 0
        self._done = False
        if bucket is not None:
            tables.buckets[bucket]["flushing"] += 1

    @property
    def windows(self) -> list[int]:
        """What it still reads."""
        if self._done:
            return []
        return [item.window for item in self._plan.items] + [rollups.window for rollups in self._plan.rollups]

    @property
    def reached(self) -> int:
        """The slot behind the last one of which a value was put out."""
        return int(self._cursor["reached"][0])

    @property
    def early(self) -> bool:
        """Whether the next part most likely is."""
        return not self._done and (self._rollups_at < len(self._plan.rollups) or not self._rest)

    def __iter__(self) -> "FlushRun":
        return self

    def __next__(self) -> FlushPart:
        if self._done:
            raise StopIteration
        batch, forwarded, early = None, True, True
        if self._rollups_at < len(self._plan.rollups):
            batch = self._fill(self._put_rollups)
            if self._rollups_at == len(self._plan.rollups):
                # What follows may wait for long, and needs none of this; the windows are those of its items.
                self._plan, self._rollups_at = Plan(self._plan.items, []), 0
        while batch is None and self._at < len(self._plan.items):
            early = not self._rest
            batch, forwarded = self._fill(self._put_final), False
            self._go_on()
        if self._at < len(self._plan.items) or self._rollups_at < len(self._plan.rollups):
            return FlushPart(batch, last=False, discarded=0, early=early, forwarded=forwarded)
        self.close()
        return FlushPart(batch, last=True, discarded=self.discarded, forwarded=forwarded)

    def _go_on(self) -> None:
        """With what is not settled, once all that is has been put out."""
        if self._at == len(self._plan.items) and not self._rest:
            self._rest = True
            if self._settled < self._tables.buckets[self.bucket]["slots"]:
                self._at, self._cursor["next"] = 0, self._settled

    def close(self) -> None:
        """Ends the flush; what it has not given yet is not emitted. Closing twice does nothing."""
        ended, self._done = self._done, True
        if not ended and self.bucket is not None:
            self._tables.buckets[self.bucket]["flushing"] -= 1
            self._finished(self)

    def _fill(self, put: Callable[[Part], bool]) -> MessageBatch | None:
        """A part: ``put`` encodes what comes next behind what is there already, and says whether to go on."""
        part = Part(
            payload=np.empty(PART_BYTES, np.uint8),
            offsets=np.zeros(_PART_MESSAGES + 1, np.int64),
            shards=np.empty(_PART_MESSAGES, np.uint32),
            policies=np.zeros(_PART_MESSAGES, np.uint16),
            origins=np.empty(_PART_MESSAGES, np.uint32),
            tally=np.zeros(1, TALLY),
        )
        while put(part):
            if self._need > len(part.payload):
                part = part._replace(payload=np.empty(self._need, np.uint8))
        tally = part.tally[0]
        self.forwarded += int(tally["forwarded"])
        self.discarded += int(tally["discarded"])
        n = int(tally["messages"])
        if n == 0:
            return None
        return MessageBatch(
            payload=part.payload[: int(part.offsets[n])],
            offsets=part.offsets[: n + 1],
            shards=part.shards[:n],
            policies=part.policies[:n],
            policy_names=self._policy_names,
            origins=part.origins[:n],
        )

    @property
    def _need(self) -> int:
        """Bytes that the next message needs where nothing fitted, else 0."""
        return int(self._cursor["need"][0])

    def _put_final(self, part: Part) -> bool:
        if self._at >= len(self._plan.items):
            return False
        item = self._plan.items[self._at]
        if self._samples is None or self._samples_of != item.window:
            self._samples, self._samples_of = samples_of(self._tables, self._address, item.window), item.window
        emitted = int(part.tally["messages"][0])
        ended = emit_window(
            self._address,
            item.window,
            _ALL_SLOTS if self._rest else self._settled,
            item.actions,
            item.uniform,
            item.late,
            self._cursor,
            self._samples,
            self._options.discard_nan,
            self._topic_shards,
            part,
        )
        self.emitted += int(part.tally["messages"][0]) - emitted
        self._at += ended
        if ended and self._rest:
            self._cursor["next"] = self._settled
        return bool(ended or self._need > len(part.payload))

    def _put_rollups(self, part: Part) -> bool:
        if self._rollups_at >= len(self._plan.rollups):
            return False
        rollups = self._plan.rollups[self._rollups_at]
        ended = emit_forwarded(
            self._address,
            rollups.window,
            rollups.time_ns,
            rollups.rows,
            rollups.order,
            rollups.versions,
            self._cursor,
            self._num_shards,
            np.empty(rollups.largest, np.float64),
            np.empty(rollups.largest, np.float64),
            part,
        )
        self._rollups_at += ended
        return bool(ended or self._need > len(part.payload))

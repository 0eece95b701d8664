"""The engine of a worker: samples in, aggregated values out. Pure: bytes, commands and ``now_ns`` come as arguments.

``Engine`` keeps the tables (``tables``), lets compiled kernels do what happens per sample (``ingest``) and per value
(``flush``), and does itself what is rare: unseen metadata bytes, messages of a shape that no encoder writes, commands.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator import ipc
from aggregator.engine import reasons as why
from aggregator.engine.flush.plan import Plan, Planner, releasable, shard_bounds
from aggregator.engine.flush.run import FlushRun
from aggregator.engine.ingest import scan, shorthand
from aggregator.engine.ingest.apply import (
    DONE,
    NEED_INDEX,
    NEED_METADATA,
    NEED_PASSTHROUGH,
    NEED_PLAIN,
    NEED_REPEATS,
    refuse,
)
from aggregator.engine.ingest.entries import (
    collect_elements,
    expire_entries,
    mark_entries,
    reset_value_limits,
    reshard_entries,
)
from aggregator.engine.ingest.looking import SEEN, look_at
from aggregator.engine.ingest.metadata import MetadataTable
from aggregator.engine.ingest.repeats import expect_repeats
from aggregator.engine.ingest.shapes import SHAPE, SHAPES
from aggregator.engine.options import EngineOptions
from aggregator.engine.passthrough import Passthrough
from aggregator.engine.reasons import CATEGORIES, COUNTERS, DETAILS, error_name
from aggregator.engine.snapshot import Loader, State, Table, save
from aggregator.engine.state.state import retire_window
from aggregator.engine.tables import layout
from aggregator.engine.tables.grow import addresses, index_limit, reserve_index, reserve_tables
from aggregator.engine.tables.ids import move_ids
from aggregator.engine.tables.index import rehash
from aggregator.engine.tables.memory import held_bytes, over_limit, used_bytes
from aggregator.engine.windows.pages import release_window
from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, KIND_TIMED, ListId
from m3metrics.codec import TimedMetricWithStoragePolicy, decode_metric, encode_metric
from m3metrics.errors import IdError, MetricsError, UnrecognizedTypeError
from m3metrics.growth import Growth, GrowthReport
from m3metrics.ids import NAME_TAG, Tags, decode_tags, iterate_tags, readable_id
from m3metrics.policy import format_duration
from m3metrics.rows import METRIC_ROW
from m3metrics.shard import MAX_SHARDS
from m3metrics.traffic import MOST_AT_ONCE, Traffic, TrafficReport
from m3msg.batch import MessageBatch
from m3msg.rows import FRAME_ROW
from m3x.reserve import release, reserve
from m3x.shared_memory import as_writeable

_CALL, _WRITTEN, _EXPECT, _ACKS = (
    (layout.PROGRESS.names or ()).index(name) for name in ("call", "written", "expect", "acks")
)
_NEW_LISTS, _ERRORS = ((layout.HEAD.names or ()).index(name) for name in ("new_lists", "errors"))
_OWN_ROWS = np.zeros(0, np.uint32)
_ENTRY_BYTES = 128
"""Of an entry with its id and its elements, roughly."""
_COMPACT_FROM = 1 << 16
"""Bytes of dead ids below which the arena is left as it is."""
_MOVED_BYTES = 4 << 20
"""Of the arena, with each batch, or twice as many as that has, so that it comes to an end."""
_MAX_CALL = 65535
_PATH_PARTS = 2
"""Parts of a carbon path that tell traffic apart."""
_LOOKED_AT_REFUSED = 4
"""Of the messages of a batch that are refused."""
_MOST_UNNAMED = 256
"""Messages that were looked at and whose names are found out later."""
_WINDOWS_OPEN = 4
"""At least so many are, where it matters: a part of what they take is kept for the next one."""
_LARGE_SOURCES = 12
"""Tables of ``2**_LARGE_SOURCES`` sources, and larger ones, are given back to the system."""
_SAVED = ("num_shards", "value_limit", "new_limit", "grace")
_KIND_NAMES = {KIND_STANDARD: "standard", KIND_TIMED: "timed", KIND_FORWARDED: "forwarded"}


@dataclass(slots=True)
class IngestResult:
    """What a batch led to. Every message is acked, whether it was accepted or not (docs/m3/aggregation.md, servers)."""

    acks: NDArray[np.uint8]
    """Ack frames, segment after segment."""
    ack_sizes: NDArray[np.int64]
    """Bytes of ``acks`` per segment."""
    messages: int
    rows: NDArray[np.uint8]
    """What was applied, for a journal (``ingest.shorthand``), if it was asked for; good until the next call."""
    expected: bool
    """Whether all of it is expected to come again."""


@dataclass(slots=True)
class Replayed:
    """What became of the rows of a batch."""

    lost: int
    """Samples of series that are not known."""
    whole: bool
    """False: the rows end in the middle of one."""


class Engine:
    """State of one worker. Not thread-safe; every method returns at once.

    ``max_series`` bounds the number of entries (address space is reserved for them; memory is used as they come). Raises
    ``MemoryError`` where so much address space is refused, ``PolicyError`` for options that name unknown types or policies.
    """

    def __init__(self, options: EngineOptions, *, max_series: int = 1 << 24) -> None:
        self._options = options
        self._max_series = max_series
        self._tables = reserve_tables(max_series, options)
        self._addresses = addresses(self._tables)
        self._t = np.uint64(self._addresses.ctypes.data)
        self._head: memoryview[int] = self._tables.head.reshape(1).view(np.int64).data
        self._counts: memoryview[int] = self._tables.counts.data
        """What is looked at with every batch, as plain numbers: to ask numpy for them takes ten times as long."""
        self._metadata = MetadataTable(options, self._tables)
        self._topic_shards = max(options.topic_shards, 1)
        self._owned = np.zeros(0, np.int64)
        self._committed = reserve(layout.MAX_BUCKETS * MAX_SHARDS, np.int64).reshape(layout.MAX_BUCKETS, MAX_SHARDS)
        self._reported = np.zeros((layout.MAX_BUCKETS, MAX_SHARDS), bool)
        self._frames = np.zeros(scan.BLOCK, FRAME_ROW)
        self._rows = np.zeros(scan.BLOCK, METRIC_ROW)
        self._hints = np.zeros(scan.BLOCK, layout.HINT)
        self._shapes = np.zeros(SHAPES, SHAPE)
        self._stages = self._shapes["stage"]
        self._scratch = np.zeros(1, np.float64)
        self._progress = np.zeros(1, layout.PROGRESS)
        self._steps = self._progress.view(np.int64)
        """The same as plain numbers, which cost a tenth to look at."""
        self._marks = np.zeros(layout.MARKS, layout.MARK)
        self._call = 0
        self._written = np.empty(0, np.uint8)
        self._moves_ids = False
        """Whether those that are in use are being moved together."""
        self._flushes = 0
        self._running: list[FlushRun] = []
        self._settled: dict[int | None, int] = {}
        """By bucket, how far into its slots the last flush came that had ended before the next one began."""
        self._passthrough = Passthrough(self._tables.counts, self._topic_shards)
        self._active: dict[str, float] = {}
        self._growth = Growth()
        self._grown = 0
        """Entries made that it knows of."""
        self._traffic = Traffic()
        self._seen = np.zeros(MOST_AT_ONCE, SEEN)
        self._looked: list[tuple[bytes, int, int, int, int]] = []
        """Messages that were looked at: id, what each has, and for how many it stands. Their names are found out together."""
        self._refused = 0
        """Messages that it knows to be refused."""
        self._rollups = (0, 0, 0)
        """How many targets of rollups there are, came and went, as seen from ``stats`` to ``stats``."""
        self.recent_errors: list[tuple[str, str]] = []
        """Samples of refused metrics, (what was wrong, id as text): at most 64; whoever reports them clears the list."""

    # --- samples

    def ingest(
        self,
        payload: NDArray[np.uint8],
        sizes: NDArray[np.int64],
        now_ns: int,
        *,
        hosts: Sequence[int] = (),
        connections: Sequence[int] = (),
        journaled: bool = False,
        again: bool = False,
        comes_again: Callable[[int], bool] | None = None,
    ) -> IngestResult:
        """Applies complete m3msg frames. ``sizes[k]`` bytes of ``payload`` came from connection ``k`` of the batch.

        ``hosts``: a number of 32 bits for the host of each connection: what may come again is recognised if it comes from there.
        ``again``: these may, even in this batch.
        ``comes_again``: is told which of ``connections`` has brought something a second time, by its id, before that is applied; returns
        whether what this batch has brought may come again as well.
        All untimed values are taken to have come at ``now_ns``, one after another in the order of the payload.
        """
        payload = as_writeable(payload)
        ends = np.add.accumulate(sizes, dtype=np.int64)
        of = np.array(hosts, np.uint32) if len(hosts) else np.zeros(len(sizes), np.uint32)
        over = np.array(connections, np.uint64) if len(connections) else np.zeros(len(sizes), np.uint64)
        marks = self._marks if comes_again is not None and len(connections) else self._marks[:0]
        acks = np.empty(len(payload) + len(payload) // 128 + 8 * len(sizes) + 64, np.uint8)
        ack_sizes = np.zeros(len(sizes), np.int64)
        steps = self._steps
        steps.fill(0)
        steps[_CALL], steps[_WRITTEN], steps[_EXPECT] = self._next_call(), -1, again
        if journaled:
            steps[_WRITTEN] = 0
            self._make_room(len(payload))
        messages = self._counts[why.C_MESSAGES]
        self._stages.fill(0)
        while True:
            code = scan.ingest(
                self._t,
                payload,
                ends,
                of,
                over,
                marks,
                self._shapes,
                self._progress,
                self._frames,
                self._rows,
                self._hints,
                self._scratch,
                acks,
                ack_sizes,
                self._written,
                now_ns,
            )
            if code == DONE:
                break
            if code == NEED_REPEATS:
                assert comes_again is not None
                # Rows of a journal are read with these.
                progress = self._progress[0]
                n = int(progress["rows"])
                rows, hints = self._rows[:n].copy(), self._hints[:n].copy()
                expects = bool(progress["expect"]) or comes_again(connections[int(progress["again"]) - 1])
                if expects and not progress["expect"]:
                    self._expect_own(messages, now_ns)
                self._rows[:n], self._hints[:n] = rows, hints
                progress["again"] = -1 if expects else 0
                continue
            self._help(code, payload, now_ns)
        self._move_ids(max(2 * len(payload), _MOVED_BYTES))
        self._collect_errors()
        done = self._counts[why.C_MESSAGES] - messages
        if wanted := self._traffic.passed(done):
            self._look_at(payload, ends, wanted)
        return IngestResult(
            acks[: steps[_ACKS]],
            ack_sizes,
            done,
            self._written[: max(steps[_WRITTEN], 0)],
            bool(steps[_EXPECT]),
        )

    def _look_at(self, payload: NDArray[np.uint8], ends: NDArray[np.int64], wanted: list[int]) -> None:
        """At messages of a batch that has been applied, by their numbers in it."""
        numbers = np.array(wanted, np.int64)
        count = look_at(self._t, payload, ends, numbers, self._frames, self._rows, self._seen)
        data, step = payload.data, self._traffic.step
        for id_at, id_size, *has in self._seen[:count].tolist():
            self._looked.append((bytes(data[id_at : id_at + id_size]), *has, step))
        if len(self._looked) > _MOST_UNNAMED:
            self._name_looked()

    def _name_looked(self) -> None:
        """Tells ``Traffic`` what was looked at: a few at a time find nothing of this in the caches of the processor."""
        looked, self._looked = self._looked, []
        for ident, samples, updates, timer_bytes, weight in looked:
            self._traffic.add(_name_of(ident), samples, updates, timer_bytes, weight)

    def _expect_own(self, before: int, now_ns: int) -> None:
        """What the batch that is being applied has brought so far may come again, and what is still to come of it; ``before``: messages
        that had come before it."""
        progress = self._progress[0]
        count = int(self._tables.counts[why.C_MESSAGES]) - before - int(progress["rows"])
        self.expect_repeats(self.repeats_of(self._written[: int(progress["written"])], count, None, now_ns))
        progress["expect"] = 1

    def forget_marks(self) -> None:
        """Connections have new numbers from now on."""
        self._marks[:] = 0

    def recognised(self) -> int:
        """How many messages came again and were recognised, since the start."""
        return int(self._tables.counts[why.C_REDELIVERED])

    def _make_room(self, nbytes: int) -> None:
        """Room for the rows of ``nbytes`` of frames, each of which has at least six bytes."""
        need = nbytes + nbytes // 6 * shorthand.LARGEST_HEAD + 64
        if len(self._written) < need:
            self._written = np.empty(need, np.uint8)

    def _help(self, code: int, data: NDArray[np.uint8], now_ns: int) -> None:
        """Does what a kernel cannot do with the row at which it stopped; ``data``: what the ranges of rows are in."""
        progress = self._progress[0]
        number = int(progress["row"])
        row = self._rows[number]
        if code in (NEED_PLAIN, NEED_PASSTHROUGH):
            at = int(row["message_at"])
            entry = self._apply_odd(data[at : at + int(row["message_size"])].tobytes(), now_ns)
            self._hints[number]["entry"] = entry
            progress["row"] += 1
        elif not self._provide(code, data, row):
            progress["row"] += 1

    def _next_call(self) -> int:
        self._call = self._call % _MAX_CALL + 1
        return self._call

    def _provide(self, code: int, payload: NDArray[np.uint8], row: Any) -> bool:
        """Does what a kernel needs before it can apply ``row``; False: there is no room, the row has been refused."""
        if code == NEED_INDEX:
            self._grow_index()
            return True
        assert code == NEED_METADATA, code
        if over_limit(self._t):
            self._refuse(why.D_MEMORY, payload, int(row["id_at"]), int(row["id_size"]))
            return False
        at = int(row["meta_at"])
        data = payload[at : at + int(row["meta_size"])].tobytes()
        if self._metadata.intern(data, int(row["payload"]), int(row["metric_type"])) >= 0:
            self._tables.head["metadata_bytes"] = self._metadata.size_bytes
            return True
        self._refuse(why.D_METADATAS, payload, int(row["id_at"]), int(row["id_size"]))
        return False

    def _refuse(self, detail: int, payload: NDArray[np.uint8], id_at: int, id_size: int) -> None:
        refuse(self._t, why.OTHER, detail, payload, id_at, id_size)

    def _apply_odd(self, message: bytes, now_ns: int) -> int:
        """A message that no encoder writes: the plain decoder says what it means; it is written anew and applied.

        Passthrough metrics come here, too: they only have to be written anew. Returns ``HINT.entry``, never with the metadata known.
        """
        nothing = np.zeros(1, np.uint8)
        try:
            metric = decode_metric(message)
            if isinstance(metric, TimedMetricWithStoragePolicy):
                if self._options.passthrough:
                    self._passthrough.add(metric)
                else:
                    ident = np.frombuffer(bytearray(metric.id or b"?"), np.uint8)
                    self._refuse(why.D_UNRECOGNIZED, ident, 0, len(metric.id))
                return layout.NO_ENTRY
            data = np.frombuffer(bytearray(encode_metric(metric)), np.uint8)
        except MetricsError as error:
            detail = why.D_UNRECOGNIZED if isinstance(error, UnrecognizedTypeError) else why.D_DECODE
            self._refuse(detail, nothing, 0, 0)
            return layout.NO_ENTRY
        rows = np.zeros(1, METRIC_ROW)
        hints = np.zeros(1, layout.HINT)
        hints["key"] = self._hints["key"][int(self._progress["row"][0])]
        while True:
            call = int(self._progress["call"][0])
            code = scan.ingest_one(self._t, data, rows, hints, self._scratch, now_ns, call)
            if code in (NEED_PLAIN, NEED_PASSTHROUGH):
                self._refuse(why.D_DECODE, nothing, 0, 0)
                return layout.NO_ENTRY
            if code == DONE or not self._provide(code, data, rows[0]):
                entry = int(hints["entry"][0])
                return entry & ~1 if entry >= 0 else entry

    # --- the same once more

    def replay(self, rows: NDArray[np.uint8], numbers: NDArray[np.uint32], now_ns: int) -> Replayed:
        """Applies what ``ingest`` has written, as it was applied then; ``numbers``: entry rows + 1 by number, 0: not known (yet).

        ``rows`` must be writeable.
        """
        self._steps.fill(0)
        self._steps[_CALL] = self._next_call()
        while True:
            code = shorthand.replay(
                self._t, rows, len(rows), self._progress, self._rows, self._hints, self._scratch, numbers, now_ns
            )
            if code == DONE:
                break
            hint = self._hints[int(self._progress["row"][0])]
            self._help(code, rows, now_ns)
            if hint["entry"] >= 0 and hint["number"] < len(numbers):
                numbers[int(hint["number"])] = (int(hint["entry"]) >> 1) + 1
        return Replayed(int(self._progress["acks"][0]), whole=not self._progress["segment"][0])

    def repeats_of(
        self, rows: NDArray[np.uint8], count: int, numbers: NDArray[np.uint32] | None, now_ns: int
    ) -> NDArray[np.void]:
        """What ``expect_repeats`` takes (REPEAT), of each of the ``count`` messages of ``rows``.

        ``numbers`` as for ``replay``; None, or empty: this engine has written the rows, numbers are rows of entries.
        """
        words = np.zeros(count, layout.REPEAT)
        known = _OWN_ROWS if numbers is None else numbers
        shorthand.repeats_of(rows, 0, len(rows), self._rows, self._hints, known, now_ns, words)
        return words

    def expect_repeats(self, words: NDArray[np.void]) -> None:
        """These messages may come again: they are acked then, and not applied."""
        expect_repeats(self._t, words)

    def forget_repeats(self) -> None:
        """No message comes again."""
        for table in (self._tables.repeats, self._tables.repeat_blocks):
            release(table, 0, len(table))
        for what in ("repeats", "repeats_used", "repeats_mask"):
            self._tables.head[what] = 0

    def begin_replay(self) -> None:
        """What follows was accepted before: memory does not limit it."""
        self._tables.head["memory_limit"] = 0

    def end_replay(self) -> None:
        """From now on it counts."""
        self._tables.head["memory_limit"] = self._options.memory_limit_bytes
        self._tables.counts[:] = self._grown = 0
        self._tables.errors[:] = self._refused = 0
        self._tables.head["errors"] = 0
        self.recent_errors.clear()
        # They were passed on before, or are lost: nobody sends them again either.
        self._passthrough.take()

    def _grow_index(self) -> None:
        """Doubles the index: a fresh one takes the words of the old."""
        tables = self._tables
        size = int(tables.head["index_mask"]) + 1
        fresh = reserve_index(self._max_series)
        rehash(tables.entry_index, size, fresh, 2 * size - 1)
        tables.head["index_mask"] = 2 * size - 1
        tables.head["index_limit"] = index_limit(2 * size)
        self._replace(entry_index=fresh)

    def _replace(self, **arrays: NDArray[Any]) -> None:
        self._tables = self._tables._replace(**arrays)
        self._addresses[:] = addresses(self._tables)

    def _collect_errors(self) -> None:
        n = self._head[_ERRORS]
        if n == 0:
            return
        self._count_refused(n)
        for row in self._tables.recent[:n]:
            if len(self.recent_errors) < len(self._tables.recent):
                ident = bytes(row["id"][: int(row["size"])])
                self.recent_errors.append((DETAILS[int(row["detail"])].text, readable_id(ident)))
        self._tables.head["errors"] = 0

    @property
    def passes_on(self) -> bool:
        """Whether passthrough metrics wait to be taken."""
        return self._passthrough.waiting

    def _count_refused(self, kept: int) -> None:
        """Those that are kept stand for all that were refused since the last call."""
        before, self._refused = self._refused, int(self._tables.errors.sum())
        chosen = self._tables.recent[: min(kept, _LOOKED_AT_REFUSED)]
        weight = (self._refused - before) / len(chosen)
        for row in chosen:
            ident = bytes(row["id"][: int(row["size"])])
            self._traffic.refused(_name_of(ident), DETAILS[int(row["detail"])].reason, weight)

    def take_passthrough(self) -> MessageBatch | None:
        """The passthrough metrics since the last call, as AggregatedMetric messages; None: there are none."""
        return self._passthrough.take()

    # --- commands

    def set_shards(self, command: ipc.Shards, now_ns: int) -> None:
        """Takes over the shards of a placement. Data of shards that are gone is dropped; that of shards that stay is kept."""
        tables = self._tables
        options = self._options
        self._topic_shards = max(command.topic_shards, 1)
        self._passthrough.topic_shards = self._topic_shards
        tables.head["num_shards"] = max(command.num_shards, 1)
        shards = tables.shards
        was = set(self._owned.tolist())
        owned = sorted(shard.id for shard in command.owned)
        if owned and not 0 <= owned[0] <= owned[-1] < min(command.num_shards, MAX_SHARDS):
            raise ValueError(f"shards {owned[0]}…{owned[-1]}: expected ids below {min(command.num_shards, MAX_SHARDS)}")
        shards["owned"] = 0
        rows = [shard.id for shard in command.owned]
        shards["owned"][rows] = 1
        if options.writes_ignore_cutoff_cutover:
            shards["earliest"][rows], shards["latest"][rows] = 0, layout.MAX_INT64
        else:
            early, late = options.buffer_before_cutover_ns, options.buffer_after_cutoff_ns
            shards["earliest"][rows] = [max(shard.cutover_ns - early, 0) for shard in command.owned]
            shards["latest"][rows] = [min(shard.cutoff_ns + late, layout.MAX_INT64) for shard in command.owned]
        self._owned = np.array(owned, np.int64)
        if was:
            reshard_entries(self._t)
            self._drop_tombstoned()
        for gone in was - set(owned):
            for table in (
                tables.list_born,
                tables.closed_through,
                tables.emitted_through,
                self._committed,
                self._reported,
            ):
                table[:, gone] = 0
            shards[gone]["first_insert"] = 0
        self._release_all()

    def add_shards(self, command: ipc.Shards, now_ns: int) -> None:
        """``set_shards``, but what is here of other shards stays; samples of them are not accepted."""
        named = [shard.id for shard in command.owned]
        rest = [s for s in self._owned.tolist() if s not in set(named) and s < command.num_shards]
        others = [ipc.OwnedShard(shard, 0, layout.MAX_INT64) for shard in rest]
        self.set_shards(msgspec.structs.replace(command, owned=[*command.owned, *others]), now_ns)
        self._tables.shards["owned"][rest] = 0

    def _drop_tombstoned(self) -> None:
        """Elements that wait to be collected emit nothing more, either, where their shard is gone."""
        tables = self._tables
        for bucket in range(int(tables.head["buckets"])):
            elements = tables.elements_of(bucket)
            waiting = np.flatnonzero(elements["state"] == layout.ELEMENT_TOMBSTONED)
            gone = tables.shards["owned"][tables.entries["shard"][elements["entry"][waiting]]] == 0
            elements["state"][waiting[gone]] = layout.ELEMENT_DROPPED

    def set_runtime(self, command: ipc.RuntimeOptions) -> None:
        """Takes over new limits; what has been used of the old ones is forgotten."""
        head = self._tables.head
        head["value_limit"] = command.values_per_metric_limit_per_second
        head["new_limit"] = command.new_metric_limit_per_shard_per_second
        self._tables.shards["rate_second"] = 0
        self._tables.shards["rate_count"] = 0
        reset_value_limits(self._t)

    def set_grace(self, command: ipc.Grace) -> None:
        """Forwarded values are not too late for a while."""
        self._tables.head["grace"] = command.until_ns

    def expire(self, now_ns: int) -> None:
        """Collects entries idle for longer than the TTL and gives memory back that is not needed.

        Ids are moved together a piece at a time, here and with each batch that follows.
        """
        tables = self._tables
        expire_entries(self._t, now_ns - self._options.entry_ttl_ns)
        self._release_all()
        dead = int(tables.head["dead_ids"])
        least = min(self._options.memory_limit_bytes // 32 or _COMPACT_FROM, _COMPACT_FROM)
        self._moves_ids |= dead > least and 3 * dead > int(tables.head["ids"])
        self._move_ids(_MOVED_BYTES)
        self._trim()
        if not tables.buckets["flushing"].any():
            self._metadata.sweep()
            tables.head["metadata_bytes"] = self._metadata.size_bytes
        self._count_active()

    def _move_ids(self, nbytes: int) -> None:
        """Goes on with so much of the arena, if there is something to do; the end of it is given back."""
        if self._moves_ids:
            head = self._tables.head
            end = int(head["ids"])
            self._moves_ids = not move_ids(self._t, nbytes)
            release(self._tables.ids, int(head["ids"]), end)

    def _trim(self) -> None:
        """Gives the memory of free pages and log chunks back to the system, but for what the next window takes; used again, they read as
        zero."""
        tables = self._tables
        for kind, free, table, rows in (
            ("pages", tables.free_pages, tables.records, layout.PAGE_ROWS),
            ("slim_pages", tables.free_slim_pages, tables.slim_records, layout.PAGE_ROWS),
            ("chunks", tables.free_chunks, tables.log, layout.LOG_CHUNK),
        ):
            spare = int(tables.head[f"used_{kind}"]) // _WINDOWS_OPEN
            numbers = np.sort(free[: max(int(tables.head[f"free_{kind}"]) - spare, 0)]).astype(np.int64)
            for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
                if len(run):
                    release(table, int(run[0]) * rows, (int(run[-1]) + 1) * rows)
        for bits in range(_LARGE_SOURCES, len(tables.free_sources)):
            at = int(tables.free_sources[bits])
            # The first one of a size is the next to be used.
            while at and (at := int(tables.sources["key"][at - 1])):
                release(tables.sources, at, at - 1 + (1 << bits))

    def new_lists(self) -> list[ipc.NewList]:
        """Lists that came to be since the last call, with the stamp of the batch that made them."""
        if self._head[_NEW_LISTS] == 0:
            return []
        tables = self._tables
        tables.head["new_lists"] = 0
        lists = []
        for bucket in range(int(tables.head["buckets"])):
            born = self._owned[tables.list_born[bucket, self._owned] != 0]
            row = tables.buckets[bucket]
            list_id = ListId(int(row["kind"]), int(row["resolution"]), int(row["times_forwarded"]))
            for shard in born[~self._reported[bucket, born]].tolist():
                self._reported[bucket, shard] = True
                lists.append(ipc.NewList(shard, list_id, now_ns=int(tables.list_born[bucket, shard])))
        return lists

    def flush(self, command: ipc.Flush, now_ns: int) -> FlushRun:
        """Closes all windows that are due and returns an iterator over their values in parts of about 512 KiB.

        A target that has been flushed before puts nothing out. The parts may be taken at any time; call ``close`` on a run that is
        given up. There is always at least one part, the last one has ``last`` set.
        """
        bucket = self._metadata.bucket(command.list_id)
        plan = Plan([], [])
        if bucket is not None:
            lists = self._owned[self._tables.list_born[bucket, self._owned] != 0]
            num_shards = int(self._tables.head["num_shards"])
            bounds = shard_bounds(command, lists, num_shards, self._options.max_buffer_ns)
            if not (bounds.reach()[lists] > self._tables.emitted_through[bucket, lists]).any():
                self._tables.counts[why.C_STALE_FLUSH] += 1
            planner = Planner(self._tables, self._t, bucket, lists, self._options.discard_nan)
            self._flushes += 1
            plan = planner.plan(bounds, command.emit, self._flushes)
        run = FlushRun(
            self._tables,
            self._t,
            self._options,
            self._topic_shards,
            bucket,
            plan,
            self._metadata.policy_names,
            self._settled.get(bucket, 0),
            self._flush_finished,
        )
        if bucket is not None:
            self._running.append(run)
        return run

    def _flush_finished(self, run: FlushRun) -> None:
        assert run.bucket is not None
        self._running.remove(run)
        self._tables.counts[why.C_EMITTED] += run.emitted
        self._tables.counts[why.C_FORWARDED_OUT] += run.forwarded
        self._tables.counts[why.C_DISCARDED] += run.discarded
        if run.alone and run.reached and not self._tables.buckets[run.bucket]["flushing"]:
            self._settled[run.bucket] = run.reached
        self._release(run.bucket)

    def commit(self, command: ipc.Commit) -> None:
        """Flush times in KV cover this list up to ``through_ns``: its windows up to there are not needed any more."""
        bucket = self._metadata.bucket(command.list_id)
        if bucket is None:
            return
        where = (
            np.array([s for s in command.shards if 0 <= s < MAX_SHARDS], np.int64) if command.shards else self._owned
        )
        self._committed[bucket, where] = np.maximum(self._committed[bucket, where], command.through_ns)
        self._release(bucket)

    def reopen(self, command: ipc.Reopen) -> None:
        """The next flush of this list emits again what is still kept of windows that end after ``since_ns``.

        They stay closed for samples: what is emitted again is what was emitted before.
        """
        bucket = self._metadata.bucket(command.list_id)
        if bucket is not None:
            emitted = self._tables.emitted_through[bucket]
            np.minimum(emitted, command.since_ns, out=emitted)

    def _release(self, bucket: int) -> None:
        row = self._tables.buckets[bucket]
        crowded = int(used_bytes(self._t)) > self._options.retained_bytes
        kept_ns = self._options.max_buffer_ns if crowded else layout.MAX_INT64
        windows = releasable(self._tables, bucket, self._committed, self._owned, kept_ns)
        if row["flushing"]:
            read = [window for run in self._running if run.bucket == bucket for window in run.windows]
            windows = windows[~np.isin(windows, read)]
        for window in windows.tolist():
            if row["stateful"]:
                retire_window(self._t, window)
            release_window(self._t, window)
        if len(windows):
            self._trim()
        # What a flush under way puts out for rollups may name elements that are in none of its windows.
        if row["tombstoned"] and not (row["flushing"] and row["stateful"]):
            collect_elements(self._t, bucket)

    def _release_all(self) -> None:
        for bucket in range(int(self._tables.head["buckets"])):
            self._release(bucket)

    # --- snapshots

    def save(self, *, consuming: bool = False) -> tuple[dict[str, int], Iterator[Table]]:
        """What there is once, by name, and the tables of a snapshot; nothing may be changed before the last one is taken.

        ``consuming``: in a forked child, whose memory is given back table by table.
        """
        head = self._tables.head
        once = {"call": self._call, "flushes": self._flushes, "topic_shards": self._topic_shards}
        return once | {name: int(head[name]) for name in _SAVED}, save(self._state(), *([release] if consuming else []))

    def loader(self, once: dict[str, int], numbers: NDArray[np.uint32]) -> Loader:
        """Takes the tables of a snapshot; ``finish_loading`` is to follow. ``numbers`` as for ``replay``."""
        self._call = max(self._call, once["call"])
        self._flushes = max(self._flushes, once["flushes"])
        self._topic_shards = self._passthrough.topic_shards = once["topic_shards"]
        for name in _SAVED:
            self._tables.head[name] = once[name]
        return Loader(self._state(), numbers)

    def finish_loading(self) -> None:
        """All tables are taken."""
        self._owned = np.union1d(self._owned, np.flatnonzero(self._tables.shards["owned"]))

    def _state(self) -> State:
        return State(self._tables, self._t, self._metadata, self._committed, self._owned, self._grow_index)

    # --- figures

    def stats(self) -> tuple[dict[str, int], dict[str, float], list[ipc.ShardStats]]:
        """Counters since the start, by M3's names; gauges; one row per owned shard."""
        tables = self._tables
        counters = dict(zip(COUNTERS, self._counts.tolist(), strict=False))
        for category, number in np.argwhere(tables.errors[: len(CATEGORIES), : len(DETAILS)]).tolist():
            name = error_name(category, DETAILS[number].reason)
            counters[name] = counters.get(name, 0) + int(tables.errors[category, number])
        head = self._heads()
        used, needed = held_bytes(self._t)
        by_table = self._table_bytes()
        news = head["groups"] - self._rollups[0]
        self._rollups = (head["groups"], self._rollups[1] + max(news, 0), self._rollups[2] + max(-news, 0))
        tag = "{writer-type=forwarded}"
        counters[f"list.writer.aggregations.added{tag}"] = self._rollups[1]
        counters[f"list.writer.aggregations.removed{tag}"] = self._rollups[2]
        gauges = self._active | {
            "engine.entries": float(head["live"]),
            "engine.entries-room": float(head["entries"]),
            "engine.entries-free": float(head["entries"] - head["live"]),
            "engine.log-chunks": float(head["chunks"]),
            "engine.log-chunks-free": float(head["free_chunks"]),
            "engine.rollups": float(head["groups"]),
            "engine.windows": float((tables.windows[: int(head["windows"])]["used"] != 0).sum()),
            "engine.window-bytes": float(used_bytes(self._t)),
            "engine.memory-bytes": float(sum(by_table.values())),
            **{f"engine.table-bytes{{table={table}}}": float(size) for table, size in by_table.items()},
            "engine.messages-expected-again": float(head["repeats"]),
            "memory.used-bytes": float(used),
            "memory.needed-bytes": float(needed),
            "memory.limit-bytes": float(head["memory_limit"]),
        }
        return counters, gauges, self._shard_stats()

    def growth(self) -> GrowthReport:
        """Which metric names and label names the entries have that were made of late; to be called about once a second."""
        tables = self._tables
        made = int(tables.counts[why.C_NEW_ENTRIES])
        new = made - self._grown
        self._grown = made
        chosen = self._growth.sample(new)
        # Of more than there is room for, the last ones stand for all.
        kept = min(new, layout.FRESH)
        for k in chosen:
            at = made - kept + (k * kept // new)
            entry = tables.entries[int(tables.fresh[at % layout.FRESH])]
            first = int(entry["id_at"])
            self._growth.add(_tags(tables.ids[first : first + int(entry["id_size"])].tobytes()), chosen.step)
        return self._growth.report()

    def traffic(self) -> TrafficReport:
        """Which metric names send most, cost most and are refused most."""
        self._name_looked()
        return self._traffic.report()

    def successes(self) -> list[int]:
        """How many untimed, timed and forwarded metrics were taken since the start."""
        return self._counts[why.C_SUCCESS : why.C_SUCCESS + 3].tolist()

    def saved_bytes(self) -> int:
        """The memory of what a snapshot has in it; how large one is goes with this."""
        return int(used_bytes(self._t)) + _ENTRY_BYTES * int(self._tables.head["live"])

    def late_values(self) -> int:
        """How many timed and forwarded values were refused because they came too late."""
        return int(self._tables.counts[why.C_PAST] + self._tables.counts[why.C_LATE])

    def _shard_stats(self) -> list[ipc.ShardStats]:
        tables = self._tables
        owned = self._owned
        used = tables.windows[: int(tables.head["windows"])]
        used = used[used["used"] != 0]
        count = np.zeros(len(owned), np.int64)
        for window in used:
            bucket = int(window["bucket"])
            if bucket >= layout.MAX_BUCKETS:
                continue
            end = int(window["start"]) + int(tables.buckets[bucket]["due"])
            count += (tables.list_born[bucket, owned] != 0) & (tables.closed_through[bucket, owned] < end)
        n = max(int(tables.head["buckets"]), 1)
        last = tables.emitted_through[:n, owned].max(axis=0, initial=0)
        entries = tables.shards["entries"][owned]
        return [
            ipc.ShardStats(id=shard, entries=int(entries[k]), open_windows=int(count[k]), last_flush_ns=int(last[k]))
            for k, shard in enumerate(owned.tolist())
        ]

    def _count_active(self) -> None:
        totals = np.zeros(3 + layout.MAX_BUCKETS, np.int64)
        mark_entries(self._t, totals)
        self._active = {
            f"tick.active-entries{{metric-type={_KIND_NAMES[kind]}}}": float(totals[kind]) for kind in _KIND_NAMES
        }
        for bucket in range(int(self._tables.head["buckets"])):
            row = self._tables.buckets[bucket]
            name = f"metric-type={_KIND_NAMES[int(row['kind'])]},resolution={format_duration(int(row['resolution']))}"
            self._active[f"tick.active-elems{{{name}}}"] = float(totals[3 + bucket])

    def memory_bytes(self) -> int:
        """Memory that the tables use, free pages that were not given back included."""
        return sum(self._table_bytes().values())

    def _heads(self) -> dict[str, int]:
        """All fields of ``HEAD`` as plain numbers."""
        return dict(zip(layout.HEAD.names or (), self._head, strict=True))

    def _table_bytes(self) -> dict[str, int]:
        tables = self._tables
        head = self._heads()
        return {
            "entry-index": (head["index_mask"] + 1) * 8,
            "entries": head["entries"] * layout.ENTRY.itemsize,
            "ids": head["ids"],
            "elements": int(tables.buckets["slots"].sum()) * 16,
            "records": head["pages"] * layout.PAGE_ROWS * layout.RECORD.itemsize,
            "slim-records": head["slim_pages"] * layout.PAGE_ROWS * layout.SLIM_LAST.itemsize,
            "log": head["chunks"] * layout.LOG_CHUNK * 8,
            "annotations": int(tables.annotation_table["used"][0]),
            "sources": head["sources"] * layout.SOURCE.itemsize,
            "metadata": self._metadata.size_bytes,
        }


def _name_of(ident: bytes) -> bytes:
    """By which traffic is told apart: the metric name, the beginning of a carbon path, or else the id."""
    tags = {}
    try:
        for name, value in iterate_tags(ident):
            if name == NAME_TAG:
                return value
            tags[name] = value
    except IdError:
        return ident
    if b"__g0__" in tags:
        more = b".*" if len(tags) > _PATH_PARTS else b""
        return (
            b".".join(
                tags[b"__g%d__" % part] for part in range(min(len(tags), _PATH_PARTS)) if b"__g%d__" % part in tags
            )
            + more
        )
    return ident


def _tags(ident: bytes) -> Tags:
    """Of an id; one that has none is a metric name."""
    try:
        return decode_tags(ident)
    except IdError:
        return [(NAME_TAG, ident)]

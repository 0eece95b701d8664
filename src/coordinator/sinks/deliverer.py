"""The shell of one sink: its queue, its ``Delivery``, and the loops between them. All in one event loop.

``run`` has a loop for each lane (a batch to the sink, its verdict back), one that reads from disk what is not in memory, and one that saves
the cursor twice a second, deletes what is delivered, and shows figures.
"""

import asyncio
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from coordinator.examples import Examples, SampleTime, about
from coordinator.sinks.delivery import Delivery, DeliveryOptions
from coordinator.sinks.lanes import Batch, Record, Watcher
from coordinator.sinks.queue import Chunk, Place, Queue, QueueFullError
from coordinator.sinks.records import RecordError
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.sink import Delivered, HeldError, RefusedWhy, Sink, TryAgainError
from coordinator.sinks.status import Ages, Rate, SinkStatus
from coordinator.sinks.values import Values
from m3x.clock import monotonic_ns, wall_ns
from m3x.instrument import Scope
from m3x.log import logger
from m3x.segments import Position, SegmentError

__all__ = ["Deliverer"]

_log = logger(__name__)
_SECOND = 1_000_000_000
_SAVE_EVERY_S = 0.5
_READ_AGAIN_S = 1.0
_RECORDS_AT_A_TIME = 64


class Deliverer:
    """One sink behind a queue. ``tables`` gives the table that what is read from disk is counted in; ``on_room`` is told of new room."""

    def __init__(
        self,
        sink: Sink,
        queue: Queue,
        scope: Scope,
        tables: Callable[[], SeriesTable],
        on_room: Callable[[], None],
    ) -> None:
        self.sink = sink
        self._queue = queue
        self._scope = scope.tagged(sink=sink.name)
        self._tables = tables
        self._on_room = on_room
        self._examples = Examples()
        options = DeliveryOptions(
            ordered=sink.ordered,
            lanes=sink.lanes,
            batch_rows=sink.batch_rows,
            window_bytes=queue.options.window_bytes,
        )
        self._core = Delivery(options, queue.done, queue.end, queue.available, damaged=queue.damaged)
        self._ages = Ages()
        for first, at_ns in queue.began:
            self._ages.note(first, at_ns)
        self._lane_wakes = [asyncio.Event() for _ in self._core.lanes]
        self._read_wake = asyncio.Event()
        self._reader = queue.reader()
        self._reading = ThreadPoolExecutor(1, f"sink-{sink.name}")
        self._closing = False
        self._idle = asyncio.Event()
        self._under_way = 0
        self._appended = 0
        self._rate_in, self._rate_out = Rate(monotonic_ns()), Rate(monotonic_ns())
        self._failing_since_ns: int | None = None
        self._dropped = 0
        self._dropped_ns: int | None = None
        self._append_error = self._read_error = self._save_error = ""
        self._unreadable_ns: int | None = None
        self._full = False
        self._note_dropped()
        self._lost(self._core.counts.unreadable)

    @property
    def name(self) -> str:
        """Of the sink."""
        return self.sink.name

    def append(self, batch: Values, *, watcher: Watcher | None = None) -> Place:
        """Puts a batch of at least one row into the queue.

        Raises ``QueueFullError`` or ``SegmentError``: then the queue has nothing of it.
        """
        now_ns = wall_ns()
        try:
            place = self._queue.append(batch, now_ns, waiting=self._core.waiting, answered=watcher is not None)
        except QueueFullError:
            self._full = True
            raise
        except SegmentError as error:
            self._append_error = str(error)
            _log.error_limited(f"sink {self.name}: what arrives waits", per_second=0.1, error=str(error))
            raise
        finally:
            self._core.drop(self._queue.available)
            self._note_dropped()
        self._full, self._append_error = False, ""
        self._appended += len(batch)
        self._scope.count("appended", len(batch))
        self._ages.note(place.first, now_ns)
        self._core.append(Record(place.first, place.stop, batch, watcher=watcher))
        self._note_dropped()
        self._wake_lanes()
        return place

    def is_durable(self, end: Position) -> bool:
        """Whether what was appended before ``end`` is as durable as the configuration says."""
        return self._queue.is_durable(end)

    async def run(self) -> None:
        """Delivers, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(len(self._core.lanes)):
                tasks.create_task(self._lane(number), name=f"sink {self.name} lane {number}")
            tasks.create_task(self._read(), name=f"sink {self.name} reader")
            tasks.create_task(self._save_often(), name=f"sink {self.name} cursor")

    async def settle(self, timeout_s: float) -> None:
        """Gives the sink nothing more, and waits for what it has been given."""
        self._closing = True
        if self._under_way:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._idle.wait()
            except TimeoutError:
                _log.warning(
                    "a sink did not answer before the end; what it has been given is sent again", sink=self.name
                )

    async def close(self) -> None:
        """After ``run`` has ended: saves the cursor and closes queue and sink."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._reading.shutdown)
        self._reader.close()
        self._save()
        await loop.run_in_executor(None, self._queue.close)
        await self.sink.close()

    def status(self) -> SinkStatus:
        """What is known now."""
        core, now_ns = self._core, monotonic_ns()
        failures = [lane for lane in core.lanes if lane.failure]
        oldest = core.first_unparked
        at_ns = self._ages.at(oldest) if oldest < core.end else None
        worst = max(failures, key=lambda lane: lane.held, default=None)
        parked = core.parked()
        return SinkStatus(
            name=self.name,
            waiting_values=core.waiting,
            waiting_bytes=self._queue.bytes_of(core.waiting),
            disk_bytes=self._queue.size_bytes,
            most_bytes=self._queue.options.max_bytes,
            memory_bytes=core.memory_bytes,
            age_s=max(wall_ns() - at_ns, 0) / _SECOND if at_ns is not None else 0.0,
            rate_in=self._rate_in.value,
            rate_out=self._rate_out.value,
            appended=self._appended,
            delivered=core.counts.delivered,
            refused={why.value: count for why, count in core.counts.refused.items()},
            refused_after_answer=core.counts.refused_after_answer,
            dropped=core.counts.dropped,
            dropped_ago_s=(now_ns - self._dropped_ns) / _SECOND if self._dropped_ns is not None else None,
            unreadable=core.counts.unreadable,
            unreadable_ago_s=(now_ns - self._unreadable_ns) / _SECOND if self._unreadable_ns is not None else None,
            error=worst.failure if worst is not None else "",
            failing_s=(now_ns - self._failing_since_ns) / _SECOND if self._failing_since_ns is not None else 0.0,
            held=worst is not None and worst.held,
            full=self._full,
            parked_values=parked.values if parked is not None else 0,
            parked_s=(now_ns - parked.since_ns) / _SECOND if parked is not None else 0.0,
            parked_why=parked.text if parked is not None else "",
            trouble=[one for one in self._trouble() if one],
        )

    def _trouble(self) -> list[str]:
        return [self._append_error, self._read_error, self._save_error, self._queue.trouble]

    async def _lane(self, number: int) -> None:
        wake = self._lane_wakes[number]
        while True:
            wake.clear()
            if self.sink.gather_s and not self._closing and self._core.gathers(number):
                await asyncio.sleep(self.sink.gather_s)
            batch = None if self._closing else self._core.take(number, monotonic_ns())
            if batch is not None:
                await self._attempt(number, batch)
                continue
            due_ns = None if self._closing else self._core.due_ns(number)
            pause_s = None if due_ns is None else max(due_ns - monotonic_ns(), 0) / _SECOND
            try:
                async with asyncio.timeout(pause_s):
                    await wake.wait()
            except TimeoutError:
                continue

    async def _attempt(self, number: int, batch: Batch) -> None:
        self._under_way += 1
        self._idle.clear()
        try:
            result = await self.sink.deliver(batch.values, again=batch.again)
        except TryAgainError as error:
            self._failed(number, error, held=isinstance(error, HeldError))
        except Exception as error:
            # Its text may have anything in it, credentials as well.
            kind, frames = type(error).__name__, "".join(traceback.format_tb(error.__traceback__))
            _log.error_limited(f"sink {self.name} failed by a mistake of ours", error=kind, traceback=frames)
            self._failed(number, TryAgainError(f"{kind}, a mistake of ours: see the log"), held=False)
        else:
            self._settled(number, batch, result)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
        # A sink that never waits must not keep the loop to itself.
        await asyncio.sleep(0)

    def _failed(self, number: int, error: TryAgainError, *, held: bool) -> None:
        now_ns = monotonic_ns()
        if self._failing_since_ns is None:
            self._failing_since_ns = now_ns
        text = str(error)
        self._core.failed(number, now_ns, text, retry_after_s=error.retry_after_s, held=held, arrived=error.arrived)
        self._scope.count("failed_attempts")
        _log.warning_limited(f"sink {self.name} did not take a batch; it is sent again", per_second=0.1, error=text)

    def _settled(self, number: int, batch: Batch, result: Delivered) -> None:
        before = self._core.counts.refused_after_answer
        self._core.settled(number, result, monotonic_ns())
        if result.parked:
            self._lane_wakes[-1].set()
        if self._failing_since_ns is not None:
            self._failing_since_ns = None
            self._wake_lanes()
        refused = 0
        for one in result.refused:
            refused += len(one.rows)
            self._scope.tagged(reason=one.why).count("refused", len(one.rows))
            if one.why is not RefusedWhy.ALREADY_THERE and len(one.rows):
                row = one.rows[self._examples.choose(len(one.rows))]
                metric = batch.values.table.id(int(batch.values.series[row]))
                time = SampleTime(int(batch.values.time_ns[row]))
                _log.warning_limited(
                    f"sink {self.name} refused values: {one.why}", values=len(one.rows), error=one.text,
                    **about(metric, time, wall_ns()),
                )  # fmt: skip
        parked = sum(len(one.rows) for one in result.parked)
        self._scope.count("delivered", len(batch.values) - refused - parked)
        if (late := self._core.counts.refused_after_answer - before) > 0:
            self._scope.count("refused_after_answer", late)
        if self._core.lags:
            self._read_wake.set()

    def _note_dropped(self) -> None:
        lost = self._core.counts.dropped - self._dropped
        if lost:
            self._dropped = self._core.counts.dropped
            self._dropped_ns = monotonic_ns()
            self._scope.count("dropped", lost)
            _log.warning_limited(f"sink {self.name}: its queue is full, the oldest values are dropped", values=lost)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._read_wake.clear()
            wanted = None if self._closing else self._core.wanted()
            if wanted is None:
                await self._read_wake.wait()
                continue
            try:
                chunk = await loop.run_in_executor(self._reading, self._reader.read, *wanted)
            except (OSError, RecordError) as error:
                self._read_error = str(error)
                _log.error_limited(f"sink {self.name}: its queue cannot be read", per_second=0.1, error=str(error))
                await asyncio.sleep(_READ_AGAIN_S)
                continue
            self._read_error = ""
            await self._load(chunk)

    async def _load(self, chunk: Chunk) -> None:
        for start, stop in chunk.lost:
            self._lost(self._core.unreadable(start, stop))
        for k, read in enumerate(chunk.records):
            values = self._reader.values(read, self._tables())
            if read.wanted:
                header = read.record.header
                self._core.loaded(Record(header.first, header.first + header.rows, values, answered=header.answered))
                self._lost(header.rows - len(values))
            if k % _RECORDS_AT_A_TIME == 0:
                self._wake_lanes()
                await asyncio.sleep(0)
        self._wake_lanes()

    def _lost(self, count: int) -> None:
        if count:
            self._unreadable_ns = monotonic_ns()
            self._scope.count("unreadable", count)
            _log.warning_limited(f"sink {self.name}: a part of its queue is damaged", values=count)

    async def _save_often(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_EVERY_S)
            self._save()
            now_ns = monotonic_ns()
            self._rate_in.observe(self._appended, now_ns)
            self._rate_out.observe(self._core.counts.delivered, now_ns)
            self.status().gauge(self._scope)

    def _save(self) -> None:
        before = self._queue.size_bytes
        try:
            if self._queue.crowded and not self._closing:
                self._move_parked(self._queue.began[1][0])
            self._queue.save(self._core.cursor())
            self._save_error = ""
        except SegmentError as error:
            self._save_error = str(error)
            _log.error_limited(f"sink {self.name}: its cursor cannot be saved", per_second=0.1, error=str(error))
        if self._queue.size_bytes < before:
            self._on_room()

    def _move_parked(self, before: int) -> None:
        """Writes what is parked of the oldest segment to the end of the queue, so that the segment can go. Raises ``SegmentError``."""
        moving = self._core.parked_before(before)
        if not moving:
            return
        records = []
        for values, answered in moving:
            try:
                place = self._queue.append(values, wall_ns(), waiting=self._core.waiting, answered=answered)
            except QueueFullError:
                return
            records.append(Record(place.first, place.stop, values, answered=answered))
        self._core.moved(before, records)
        _log.info(
            f"sink {self.name}: values that wait for themselves were moved to the end of its queue",
            values=sum(len(values) for values, _ in moving),
        )
        self._wake_lanes()

    def _wake_lanes(self) -> None:
        for wake in self._lane_wakes:
            wake.set()
        if self._core.on_disk:
            self._read_wake.set()

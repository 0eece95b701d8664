"""All sinks of a coordinator: every batch to each sink that takes it, and an answer when each of them has it safely.

*Safely* is: in the sink's queue (and as durable as the queue's ``sync`` says). Where one sink has no room or its disk fails, the write
waits, and with it its sender; the others have it already. So what its sender sends once more meanwhile, the same value of the same series,
time and destination, is not given to anyone again, but shares the fate of the first: also if the first sender has gone. What waits like
this is kept in memory up to a bound, beyond which writers wait before anyone is given anything.

One sink may have no queue: it must be the only one (the embedded store, alone), and a write is its ``deliver``.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.sinks.deliverer import Deliverer
from coordinator.sinks.queue import Queue, QueueFullError, QueueOptions
from coordinator.sinks.resends import Resends, hashes_of
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.sink import Delivered, Refused, RefusedWhy, Sink, TryAgainError
from coordinator.sinks.status import SinkStatus
from coordinator.sinks.values import Destination, Values
from m3x.instrument import Scope
from m3x.log import logger
from m3x.segments import Position, SegmentError

__all__ = ["Hub", "HubOptions", "NotYetSafeError", "Orphan", "QueuedSink", "Verdict", "open_hub"]

_log = logger(__name__)
_TRY_AGAIN_S = 1.0
_HASH_BYTES = 8
_ENDS = "the process ends"


class NotYetSafeError(TryAgainError):
    """Some queue has had no room for the batch in time; it waits. Who gives it once more gives it to nobody twice."""


@dataclass(frozen=True, slots=True)
class QueuedSink:
    """A sink as it is configured; ``queue`` None: it is the only one, and is written at once."""

    sink: Sink
    queue: QueueOptions | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions:
    """Bounds."""

    most_series: int = 5_000_000
    """A ``SeriesTable`` with more is left, and a new one begun."""
    most_table_bytes: int = 2 << 30
    """The same."""
    most_waiting_bytes: int = 64 << 20
    """Memory for writes that wait to be safe."""
    settle_s: float = 5.0
    """How long what is under way may take at the end."""


class Orphan(msgspec.Struct, frozen=True, rename="camel"):
    """A queue whose sink is not configured any more, or alone and without a queue now."""

    name: str
    size_bytes: int


@dataclass(slots=True)
class Verdict:
    """What the sinks have said of a batch."""

    delivered: dict[str, Delivered] = field(default_factory=dict)
    """By the name of the sink; rows are those of the batch."""
    waiting: list[str] = field(default_factory=list)
    """Sinks that have it in their queue, and have not said anything in time of some rows at least."""


class _Watch:
    """The verdict of one sink, on its way. ``rows``: where the rows that the sink was given are in the batch; None: they are all of it."""

    def __init__(self, rows: NDArray[np.int64] | None) -> None:
        self.answered = False
        self.said: asyncio.Future[Delivered | None] = asyncio.get_running_loop().create_future()
        self._rows = rows
        self._delivered = Delivered()

    def refused(self, why: RefusedWhy, rows: NDArray[np.int64], text: str) -> None:
        """See ``Watcher``."""
        rows = rows if self._rows is None else self._rows[rows]
        self._delivered.refused.append(Refused(why, rows, text))

    def final(self) -> None:
        """See ``Watcher``."""
        if not self.said.done():
            self.said.set_result(self._delivered)

    def forgotten(self) -> None:
        """See ``Watcher``."""
        if not self.said.done():
            self.said.set_result(None)


@dataclass(slots=True, eq=False)
class _Write:
    """A batch that not every sink has safely yet."""

    number: int
    size_bytes: int
    safe: asyncio.Future[None]
    missing: int = 0
    """How many sinks do not have it safely."""


@dataclass(slots=True)
class _Part:
    """What of a batch is for one sink."""

    values: Values
    watch: _Watch | None
    write: _Write


class _Line:
    """The writes that wait for one sink, in order."""

    def __init__(self, deliverer: Deliverer) -> None:
        self.deliverer = deliverer
        self.parts: deque[_Part] = deque()
        """They are not in the queue."""
        self.syncing: deque[tuple[Position, _Write]] = deque()
        """They are, but not durable."""
        self.reconsider()

    def reconsider(self) -> None:
        """The sink may take others now."""
        self._known: tuple[Destination, ...] = ()
        self._takes = np.zeros(0, np.bool_)
        self._takes_all = True

    def of(self, batch: Values) -> tuple[Values, NDArray[np.int64] | None]:
        """The rows that the sink takes, and which they are; None: all."""
        if batch.destinations is not self._known:
            self._known = batch.destinations
            self._takes = np.array([self.deliverer.sink.takes(one) for one in batch.destinations], np.bool_)
            self._takes_all = bool(self._takes.all())
        if self._takes_all:
            return batch, None
        rows = np.flatnonzero(self._takes[batch.destination])
        return (batch, None) if len(rows) == len(batch) else (batch.rows(rows), rows)


class Hub:
    """Use ``open_hub``. Its methods belong to that event loop."""

    def __init__(
        self, deliverers: Sequence[Deliverer], direct: Sink | None, orphans: Sequence[Orphan], options: HubOptions
    ) -> None:
        self.orphans = tuple(orphans)
        self.direct = direct
        """The sink without a queue."""
        self._options = options
        self._table = SeriesTable()
        self._lines = [_Line(one) for one in deliverers]
        self._writes: dict[int, _Write] = {}
        self._numbers = 0
        self._waiting_bytes = 0
        self._resends = Resends()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._known: tuple[Destination, ...] = ()
        self._homeless = np.zeros(0, np.bool_)
        self._all_have_homes = True
        self._failure = ""
        self._closed = False

    @property
    def table(self) -> SeriesTable:
        """The table for the next batch. Ask for it anew for each one: a table that has become too large is left."""
        table, options = self._table, self._options
        if len(table) >= options.most_series or table.size_bytes >= options.most_table_bytes:
            self._table = SeriesTable()
        return self._table

    def takes(self, destination: Destination) -> bool:
        """Whether any sink does."""
        sinks = [line.deliverer.sink for line in self._lines] if self.direct is None else [self.direct]
        return any(sink.takes(destination) for sink in sinks)

    def reconsider(self) -> None:
        """Sinks may take other destinations than before."""
        self._known = ()
        for line in self._lines:
            line.reconsider()

    async def write(self, batch: Values) -> Delivered:
        """Returns when every sink that takes a row of ``batch`` has it safely. May take as long as a full queue is full.

        The columns are kept until they are delivered: they must stay as they are, and be no views of something larger.
        Refused are rows that no sink takes, and what a sink without a queue refuses. Raises ``TryAgainError`` for the latter, and at
        the end of the process. Whoever is cancelled here may send the same once more: it is not given to a sink twice while it waits.
        """
        if self.direct is not None:
            return await self.direct.deliver(batch, again=False)
        waited, _ = await self._submit(batch, None)
        for safe in waited:
            await asyncio.shield(safe)
        return Delivered(self._nowhere(batch))

    async def write_watched(self, batch: Values, timeout_s: float) -> Verdict:
        """``write``, and what the sinks have said of it within the time; what they refuse later is counted ``refused_after_answer``.

        Raises ``NotYetSafeError`` where not every sink has it safely in that time: then it must not be answered with success.
        """
        if self.direct is not None:
            return Verdict({self.direct.name: await self.direct.deliver(batch, again=False)})
        until = asyncio.get_running_loop().time() + timeout_s
        watches: dict[str, _Watch] = {}
        verdict, is_safe = Verdict(), False
        try:
            async with asyncio.timeout_at(until):
                waited, resent = await self._submit(batch, watches)
                if resent:
                    # What becomes of the rows that had come before is told to nobody.
                    verdict.waiting = [line.deliverer.name for line in self._lines]
                for safe in waited:
                    await asyncio.shield(safe)
                is_safe = True
                if watches:
                    await asyncio.wait([watch.said for watch in watches.values()])
        except TimeoutError:
            if not is_safe:
                full = [line.deliverer.name for line in self._lines if line.parts or line.syncing]
                raise NotYetSafeError(f"not yet safe with {', '.join(full)}") from None
        for name, watch in watches.items():
            watch.answered = True
            said = watch.said.result() if watch.said.done() else None
            if said is not None:
                verdict.delivered[name] = said
            elif name not in verdict.waiting:
                verdict.waiting.append(name)
        if nowhere := self._nowhere(batch):
            verdict.delivered[""] = Delivered(nowhere)
        return verdict

    def status(self) -> list[SinkStatus]:
        """Of each sink with a queue."""
        return [line.deliverer.status() for line in self._lines]

    def problems(self) -> list[str]:
        """What an operator should know, one line each."""
        return [
            *([self._failure] if self._failure else []),
            *(problem for status in self.status() for problem in status.problems()),
            *(
                f"the queue {one.name} has {one.size_bytes} bytes, and no sink of that name is configured that has a queue: they stay "
                "until one is, or until the directory is deleted"
                for one in self.orphans
            ),
        ]

    async def run(self) -> None:
        """Delivers, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pump(), name="sinks")
            for line in self._lines:
                tasks.create_task(line.deliverer.run(), name=f"sink {line.deliverer.name}")

    def advance(self) -> None:
        """Something may be safe now, or have room."""
        self._wake.set()

    def failed(self, error: BaseException) -> None:
        """``run`` has ended, which it must not: said until the end."""
        self._failure = f"sinks: delivery has ended by a mistake of ours ({error!r}): restart the process"
        _log.error("delivery to sinks has ended", exception=error)

    async def close(self) -> None:
        """After ``run`` has ended. Who still waits, or comes now, is told that it is not safe."""
        self._closed = True
        self._room.set()
        for write in self._writes.values():
            write.safe.set_exception(TryAgainError(_ENDS))
            write.safe.exception()
        self._writes.clear()
        for line in self._lines:
            await line.deliverer.close()
        if self.direct is not None:
            await self.direct.close()

    async def settle(self) -> None:
        """Waits for what is under way, up to the bound."""
        await asyncio.gather(*(line.deliverer.settle(self._options.settle_s) for line in self._lines))

    async def _submit(
        self, batch: Values, watches: dict[str, _Watch] | None
    ) -> tuple[list[asyncio.Future[None]], bool]:
        """Gives a batch to all, but for rows that wait already: what to wait for until it is safe, and whether there were such rows."""
        while self._waiting_bytes > self._options.most_waiting_bytes and not self._closed:
            self._room.clear()
            await self._room.wait()
        if self._closed:
            raise TryAgainError(_ENDS)
        hashes = rows = None
        waited: list[asyncio.Future[None]] = []
        if self._writes and len(batch):
            hashes = hashes_of(batch)
            owners = self._resends.find(hashes)
            if (owners >= 0).any():
                waited = [self._writes[one].safe for one in np.unique(owners).tolist() if one >= 0]
                rows = np.flatnonzero(owners < 0)
                batch, hashes = batch.rows(rows), hashes[rows]
        return [*waited, *self._give(batch, hashes, rows, watches)], bool(waited)

    def _give(
        self,
        batch: Values,
        hashes: NDArray[np.uint64] | None,
        rows: NDArray[np.int64] | None,
        watches: dict[str, _Watch] | None,
    ) -> list[asyncio.Future[None]]:
        """To every sink that takes some of it. ``rows``: which ones of the sender's batch they are."""
        self._numbers += 1
        write = _Write(
            self._numbers, batch.size_bytes + _HASH_BYTES * len(batch), asyncio.get_running_loop().create_future()
        )
        parts = [(line, *line.of(batch)) for line in self._lines]
        parts = [(line, values, some) for line, values, some in parts if len(values)]
        write.missing = len(parts)
        for line, values, some in parts:
            watch = None
            if watches is not None:
                sent = some if rows is None else rows if some is None else rows[some]
                watch = watches[line.deliverer.name] = _Watch(sent)
            part = _Part(values, watch, write)
            if line.parts or not self._put(line, part):
                line.parts.append(part)
        if not write.missing:
            return []
        self._writes[write.number] = write
        self._waiting_bytes += write.size_bytes
        self._resends.add(write.number, hashes_of(batch) if hashes is None else hashes)
        self._wake.set()
        return [write.safe]

    def _put(self, line: _Line, part: _Part) -> bool:
        """Whether the sink's queue has it now."""
        try:
            place = line.deliverer.append(part.values, watcher=part.watch)
        except (QueueFullError, SegmentError):
            return False
        if line.deliverer.is_durable(place.end):
            self._safe(part.write)
        else:
            line.syncing.append((place.end, part.write))
        return True

    def _safe(self, write: _Write) -> None:
        """One sink more has it safely."""
        write.missing -= 1
        if not write.missing and self._writes.pop(write.number, None) is not None:
            self._waiting_bytes -= write.size_bytes
            self._resends.remove(write.number)
            self._room.set()
            write.safe.set_result(None)

    async def _pump(self) -> None:
        """Tries again for what waits."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TRY_AGAIN_S if self._writes else None):
                    await self._wake.wait()
            self._wake.clear()
            for line in self._lines:
                while line.parts and self._put(line, line.parts[0]):
                    line.parts.popleft()
                while line.syncing and line.deliverer.is_durable(line.syncing[0][0]):
                    self._safe(line.syncing.popleft()[1])

    def _nowhere(self, batch: Values) -> list[Refused]:
        """Rows that no sink takes."""
        if batch.destinations is not self._known:
            self._known = batch.destinations
            self._homeless = np.array([not self.takes(one) for one in batch.destinations], np.bool_)
            self._all_have_homes = not self._homeless.any()
        if self._all_have_homes:
            return []
        rows = np.flatnonzero(self._homeless[batch.destination])
        text = "no sink takes values of this policy"
        return [Refused(RefusedWhy.NO_NAMESPACE, rows, text)] if len(rows) else []


@contextlib.asynccontextmanager
async def open_hub(
    queued: Sequence[QueuedSink], directory: Path, scope: Scope, options: HubOptions | None = None
) -> AsyncIterator[Hub]:
    """The hub of these sinks, whose queues are below ``directory``, until the context ends; ``scope`` is ``sink``.

    At the end it waits for what is under way, a bounded time; what waits stays in the queues. Closes the sinks.
    Raises ``SegmentError`` or ``RecordError`` where a queue cannot be opened, ``ValueError`` for a sink without queue beside others or
    two of one name.
    """
    names = [one.sink.name for one in queued]
    if len(set(names)) != len(names):
        raise ValueError(f"two sinks of one name: {', '.join(sorted(names))}")
    direct = [one.sink for one in queued if one.queue is None]
    if direct and len(queued) > 1:
        raise ValueError(f"sink {direct[0].name} has no queue: it cannot be one of several")
    options = options or HubOptions()
    with_queue = [one.sink.name for one in queued if one.queue is not None]
    orphans = await asyncio.to_thread(lambda: list(_orphans(directory, with_queue)))
    for orphan in orphans:
        _log.warning("a queue has no sink any more; it is kept", queue=orphan.name, bytes=orphan.size_bytes)
    loop = asyncio.get_running_loop()
    deliverers: list[Deliverer] = []
    hub: Hub | None = None

    def advance() -> None:
        if hub is not None:
            hub.advance()

    def advance_soon() -> None:
        with contextlib.suppress(RuntimeError):  # the loop may have ended before the queue's thread
            loop.call_soon_threadsafe(advance)

    def table() -> SeriesTable:
        assert hub is not None
        return hub.table

    try:
        for one in queued:
            if one.queue is not None:
                path = directory / one.sink.name
                queue = await asyncio.to_thread(Queue, path, one.queue, advance_soon)
                deliverers.append(Deliverer(one.sink, queue, scope, table, advance))
    except BaseException:
        for deliverer in deliverers:
            await deliverer.close()
        raise
    hub = Hub(deliverers, direct[0] if direct else None, orphans, options)
    running = asyncio.create_task(hub.run(), name="sinks")
    running.add_done_callback(lambda task: _judge(hub, task))
    try:
        yield hub
    finally:
        try:
            await hub.settle()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await hub.close()


def _judge(hub: Hub, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        hub.failed(error)


def _orphans(directory: Path, names: Iterable[str]) -> Iterable[Orphan]:
    """Queues below ``directory`` that have values, and none of these names."""
    if not directory.is_dir():
        return
    for path in sorted(directory.iterdir()):
        segments = list(path.glob("*.segment")) if path.name not in names else []
        if segments:
            yield Orphan(path.name, sum(one.stat().st_size for one in segments))

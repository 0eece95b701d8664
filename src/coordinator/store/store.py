"""The store: points in by columns, committed in groups; points out by matchers.

One event loop owns a ``Store``. It resolves ids and answers from the label index; a single writer thread owns the
database's transactions; a few reader threads fetch. Everything that waits to be committed is bounded: beyond the bound ``write`` waits.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.matchers import Matcher
from coordinator.store.database import Database, Rows
from coordinator.store.errors import StoreError
from coordinator.store.select import PolicyTable, Selection, present, read
from coordinator.store.series import SeriesIndex, stored_forms
from coordinator.store.windows import RecentWindows, Window
from m3metrics.policy import UNITS, StoragePolicy, max_unit
from m3x.clock import monotonic_ns, wall_ns
from m3x.instrument import Registry, Scope
from m3x.log import logger

__all__ = ["Refusal", "Store", "StoreOptions", "WriteBatch", "Written"]

_log = logger(__name__)
_SECOND = 1_000_000_000


class StoreOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds and rules; the defaults suit one service on one machine."""

    memory_bytes: int = 512 << 20
    """What DuckDB may use."""
    threads: int = 2
    """Threads of DuckDB, and of reads at a time."""
    max_pending_rows: int = 1 << 20
    """Rows that wait for their commit; beyond it writers wait."""
    max_commit_rows: int = 1 << 17
    """Rows of one transaction, as far as batches can be told apart."""
    max_series: int = 5_000_000
    """New series are refused beyond it."""
    max_query_points: int = 20_000_000
    """A read of more points is refused."""
    max_future_ns: int = 3600 * _SECOND
    """Points that lie further in the future are refused for good, as M3DB does."""
    retention_interval_ns: int = 60 * _SECOND
    """How often expired points are deleted. They are invisible at once."""
    allow_duplicate_tag_names: bool = False
    allow_empty_tag_values: bool = False


class Refusal:
    """Why a row was not written; 0 means that it was."""

    WRITTEN = 0
    BAD_ID = 1
    """The id is not an encoded tag set, or one that M3 does not store."""
    OUTSIDE_RETENTION = 2
    """Older than the policy's retention, or too far in the future: sending it again cannot help."""
    TOO_MANY_SERIES = 3


@dataclass(slots=True)
class WriteBatch:
    """Points to be written: ids as ranges of ``buf`` (uint8, writable), all other columns with one row per point."""

    buf: NDArray[np.uint8]
    id_at: NDArray[np.int64]
    id_size: NDArray[np.int64]
    time_ms: NDArray[np.int64]
    values: NDArray[np.float64]
    policies: NDArray[np.int64]
    """Indexes into ``Store.policies``."""


@dataclass(slots=True)
class Written:
    """What became of a batch, row by row."""

    refusals: NDArray[np.uint8]
    """A constant of ``Refusal`` per row."""
    errors: list[tuple[int, str]]
    """Rows refused for ``BAD_ID`` and what is wrong with them."""


@dataclass(slots=True)
class _Pending:
    """Rows that wait for the next transaction."""

    entries: NDArray[np.int64]
    numbers: NDArray[np.uint32]
    time_ms: NDArray[np.int64]
    values: NDArray[np.float64]
    policies: NDArray[np.int64]
    committed: asyncio.Future[None]


class Store:
    """Open one with ``open_store``; the methods belong to that event loop."""

    def __init__(
        self,
        database: Database,
        policies: Sequence[StoragePolicy],
        options: StoreOptions,
        scope: Scope,
        *,
        clock: Callable[[], int] = wall_ns,
    ) -> None:
        self.policies = tuple(policies)
        self.options = options
        self._clock = clock
        self._database = database
        self._tables = [PolicyTable(policy, database.policy(_name(policy))) for policy in self.policies]
        self._scope = scope
        self._index = SeriesIndex()
        self._next_number = 0
        self._unsaved = 0
        """Entries from here on are not in the database yet."""
        self._pending: deque[_Pending] = deque()
        self._pending_rows = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Condition()
        self._committing = asyncio.Lock()
        self._windows = RecentWindows()
        self._writer = ThreadPoolExecutor(1, "store-writer")
        self._readers = ThreadPoolExecutor(options.threads, "store-reader")
        self._reading = asyncio.Semaphore(options.threads)
        now_s = self._clock() // _SECOND
        numbers, series_ids = database.load_series()
        self._index.load(series_ids, numbers, now_s)
        self._next_number = int(numbers[-1]) + 1 if len(numbers) else 0
        self._unsaved = len(self._index)

    @property
    def index(self) -> SeriesIndex:
        """The series; do not change it."""
        return self._index

    @property
    def pending_rows(self) -> int:
        """Rows that wait for their commit."""
        return self._pending_rows

    def oldest_ms(self, window_ms: int) -> int:
        """From when on points of policies with that window are kept, in ms since the epoch."""
        kept_ms = max((table.retention_ms for table in self._tables if table.window_ms == window_ms), default=0)
        return self._clock() // 1_000_000 - kept_ms

    def policy_index(self, window_ns: int, retention_ns: int) -> int:
        """Index of the policy with exactly that window and retention, or -1."""
        for index, policy in enumerate(self.policies):
            if (policy.window_ns, policy.retention_ns) == (window_ns, retention_ns):
                return index
        return -1

    async def write(self, batch: WriteBatch) -> Written:
        """Returns when everything that is not refused is committed. Raises ``StoreError``: then nothing of the batch is kept for sure."""
        async with self._room:
            await self._room.wait_for(lambda: self._pending_rows < self.options.max_pending_rows)
        result, pending = self._resolve(batch)
        if pending is not None:
            self._pending.append(pending)
            self._pending_rows += len(pending.entries)
            self._wake.set()
            await pending.committed
        return result

    def _resolve(self, batch: WriteBatch) -> tuple[Written, _Pending | None]:
        """Finds or makes the series; nothing may be awaited between this and the queue, or entries could change their meaning."""
        result = Written(np.zeros(len(batch.id_at), np.uint8), [])
        entries, unknown = self._index.find(batch.buf, batch.id_at, batch.id_size)
        if unknown:
            self._make_series(batch, entries, result)
        now_ms = self._clock() // 1_000_000
        oldest = np.array([now_ms - policy.retention_ns // 1_000_000 for policy in self.policies], np.int64)
        outside = (batch.time_ms < oldest[batch.policies]) | (
            batch.time_ms > now_ms + self.options.max_future_ns // 1_000_000
        )
        result.refusals[outside & (entries >= 0)] = Refusal.OUTSIDE_RETENTION
        rows = np.flatnonzero(result.refusals == Refusal.WRITTEN)
        if len(rows) == 0:
            return result, None
        kept = entries if len(rows) == len(entries) else entries[rows]
        self._index.seen(kept, now_ms // 1000)
        future = asyncio.get_running_loop().create_future()
        return result, _Pending(
            entries=kept,
            numbers=self._index.numbers(kept),
            time_ms=np.ascontiguousarray(batch.time_ms[rows]),
            values=np.ascontiguousarray(batch.values[rows]),
            policies=batch.policies[rows],
            committed=future,
        )

    def _make_series(self, batch: WriteBatch, entries: NDArray[np.int64], result: Written) -> None:
        """Fills the entries that are -1, with new ones for new series; what cannot have one is refused."""
        options, index = self.options, self._index
        rows = np.flatnonzero(entries < 0)
        at, size = batch.id_at[rows], batch.id_size[rows]
        forms = stored_forms(
            batch.buf,
            at,
            size,
            allow_duplicates=options.allow_duplicate_tag_names,
            allow_empty_value=options.allow_empty_tag_values,
        )
        sound = np.ones(len(rows), np.bool_)
        sound[list(forms.errors)] = False
        result.refusals[rows[~sound]] = Refusal.BAD_ID
        result.errors += [(int(rows[k]), text) for k, text in forms.errors.items()]
        chosen = np.flatnonzero(sound)
        before = len(index)
        found = index.enter(forms, chosen, options.max_series, self._next_number, self._clock() // _SECOND)
        self._next_number += len(index) - before
        entries[rows[chosen]] = found
        result.refusals[rows[chosen[found < 0]]] = Refusal.TOO_MANY_SERIES
        known = chosen[found >= 0]
        index.remember(batch.buf, at[known], size[known], found[found >= 0])

    async def select(
        self,
        matchers: Sequence[Matcher],
        start_ms: int,
        end_ms: int,
        *,
        lookback_ms: int = 0,
        policies: Collection[int] | None = None,
    ) -> Selection:
        """Points of the matching series with start ≤ time ≤ end, of ``policies`` (None: all); which one answers: see ``select``.

        With a look-back, points up to that much before ``start_ms`` come as well. Raises ``StoreError``.
        """
        tables = self._tables_of(policies)
        now_ms = self._clock() // 1_000_000
        async with self._reading:
            return await asyncio.get_running_loop().run_in_executor(
                self._readers,
                lambda: read(
                    self._database, self._index, tables, matchers, start_ms, end_ms, lookback_ms, now_ms,
                    self.options.max_query_points,
                ),
            )  # fmt: skip

    async def match(
        self,
        alternatives: Sequence[Sequence[Matcher]],
        within_ms: tuple[int, int] | None = None,
        *,
        policies: Collection[int] | None = None,
    ) -> tuple[SeriesIndex, NDArray[np.int64]]:
        """The series that satisfy all matchers of one of the alternatives: the index, and entries of it, ascending.

        ``within_ms``: only those with a point with start ≤ time ≤ end, in ``policies`` (None: in any). Raises ``StoreError``.
        """
        index, tables, now_ms = self._index, self._tables_of(policies), self._clock() // 1_000_000

        def matching() -> NDArray[np.int64]:
            found = reduce(np.union1d, [index.labels.match(matchers) for matchers in alternatives])
            return found if within_ms is None else present(self._database, index, tables, found, *within_ms, now_ms)

        async with self._reading:
            return index, await asyncio.get_running_loop().run_in_executor(self._readers, matching)

    def _tables_of(self, policies: Collection[int] | None) -> list[PolicyTable]:
        return [table for i, table in enumerate(self._tables) if policies is None or i in policies]

    def windows(self, since: int) -> tuple[list[Window], int]:
        """Windows written after change number ``since``, and the number to go on with (see ``RecentWindows``)."""
        return self._windows.since(since, monotonic_ns() / _SECOND)

    async def run(self) -> None:
        """Commits what waits, in as few transactions as possible, and enforces retention, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._commit_loop())
            tasks.create_task(self._retention_loop())

    async def _commit_loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                await self._commit_group()

    async def _commit_group(self) -> None:
        """One transaction. Cancelled, it ends that first: the thread goes on anyway, and those who wait must hear how it went."""
        async with self._committing:
            commit = asyncio.create_task(self._commit_some(), name="store commit")
            cancelled: asyncio.CancelledError | None = None
            while not commit.done():
                try:
                    await asyncio.wait([commit])
                except asyncio.CancelledError as error:
                    cancelled = error
            commit.result()
            if cancelled is not None:
                raise cancelled

    async def _commit_some(self) -> None:
        group = [self._pending.popleft()]
        rows = len(group[0].entries)
        while self._pending and rows + len(self._pending[0].entries) <= self.options.max_commit_rows:
            group.append(self._pending.popleft())
            rows += len(group[-1].entries)
        last = len(self._index)
        series, parts = self._index.new_ids(self._unsaved, last), _parts(group, self._tables)
        started_ns = monotonic_ns()
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._database.commit, series, parts)
        except Exception as error:
            # Whatever it is: those who wait must hear of it, and the next group has its own chance.
            self._scope.count("commit_errors")
            _log.error_limited("a commit failed; what it held is not stored", error=repr(error), rows=rows)
            for one in group:
                if not one.committed.done():
                    one.committed.set_exception(error if isinstance(error, StoreError) else StoreError(repr(error)))
        else:
            self._unsaved = last
            self._committed(group, rows, started_ns)
        finally:
            async with self._room:
                self._pending_rows -= rows
                self._room.notify_all()

    def _committed(self, group: list[_Pending], rows: int, started_ns: int) -> None:
        now_ns = monotonic_ns()
        self._scope.record("commit_latency", (now_ns - started_ns) / _SECOND)
        self._scope.count("commits")
        self._scope.count("rows", rows)
        self._scope.gauge("series", len(self._index))
        for one in group:
            if not one.committed.done():
                one.committed.set_result(None)
            for policy in np.unique(one.policies).tolist():
                chosen = one.policies == policy
                self._windows.add(
                    policy, one.entries[chosen], one.time_ms[chosen], one.values[chosen], now_ns / _SECOND
                )

    async def _retention_loop(self) -> None:
        while True:
            try:
                await self.expire()
            except StoreError as error:
                self._scope.count("retention_errors")
                _log.error("old points could not be deleted; will try again", error=str(error))
            await asyncio.sleep(self.options.retention_interval_ns / _SECOND)

    async def expire(self) -> None:
        """One round of retention. Raises ``StoreError``."""
        loop, now_ms = asyncio.get_running_loop(), self._clock() // 1_000_000
        for name, number in self._database.policies().items():
            before_ms = now_ms - StoragePolicy.parse(name).retention_ns // 1_000_000
            deleted = await loop.run_in_executor(self._writer, self._database.expire, number, before_ms)
            self._scope.count("expired_points", deleted)
        numbers = await self._forget_unseen(now_ms // 1000)
        if len(numbers):
            await loop.run_in_executor(self._writer, self._database.forget_series, numbers)
            self._scope.count("expired_series", len(numbers))

    async def _forget_unseen(self, now_s: int) -> NDArray[np.uint32]:
        """Leaves series out that were not written for the longest retention, unless they are few; their numbers in the database."""
        longest_ns = max((StoragePolicy.parse(name).retention_ns for name in self._database.policies()), default=0)
        async with self._committing:
            unseen = self._index.unseen_since(now_s - (longest_ns + self.options.max_future_ns) // _SECOND)
            # It costs time for each series that stays.
            if len(unseen) * 20 < len(self._index) or self._pending or self._unsaved < len(self._index):
                return np.zeros(0, np.uint32)
            numbers = self._index.numbers(unseen)
            if len(unseen):
                self._index = self._index.without(unseen)
                self._unsaved = len(self._index)
                self._windows.clear()
            return numbers

    async def close(self) -> None:
        """Commits what waits, then closes the file."""
        while self._pending:
            await self._commit_group()
        self._readers.shutdown()
        await asyncio.get_running_loop().run_in_executor(self._writer, self._database.close)
        self._writer.shutdown()


def _name(policy: StoragePolicy) -> str:
    """Precision does not tell namespaces apart (docs/m3/coordinator.md, namespaces)."""
    return str(StoragePolicy(policy.window_ns, UNITS[max_unit(policy.window_ns)[1]], policy.retention_ns))


def _parts(group: list[_Pending], tables: list[PolicyTable]) -> list[Rows]:
    """The rows of a transaction by policy, in the order in which they came."""
    policies = np.concatenate([one.policies for one in group])
    numbers = np.concatenate([one.numbers for one in group])
    time_ms = np.concatenate([one.time_ms for one in group])
    values = np.concatenate([one.values for one in group])
    present = np.unique(policies).tolist()
    if len(present) == 1:
        return [Rows(tables[present[0]].number, numbers, time_ms, values)]
    return [
        Rows(tables[policy].number, numbers[chosen], time_ms[chosen], values[chosen])
        for policy in present
        for chosen in [policies == policy]
    ]


@contextlib.asynccontextmanager
async def open_store(
    path: str | Path,
    policies: Sequence[StoragePolicy],
    options: StoreOptions | None = None,
    scope: Scope | None = None,
    *,
    clock: Callable[[], int] = wall_ns,
) -> AsyncIterator[Store]:
    """A store on the file ``path`` with one table per policy, until the context ends; what was written is committed by then.

    ``clock`` gives the time in ns by which retention is judged. Raises ``StoreError`` if the file cannot be opened.
    """
    options = options or StoreOptions()
    database = await asyncio.to_thread(Database, Path(path), options.memory_bytes, options.threads)
    store = Store(database, policies, options, scope or Registry().scope("store"), clock=clock)
    running = asyncio.create_task(store.run(), name="store")
    try:
        yield store
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()

"""The embedded store as a source of queries. What it lists without a range stays as long as a point of it may."""

import asyncio
import contextlib
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.matchers import Matcher
from coordinator.query.errors import QueryError
from coordinator.query.source import (
    EARLIEST_MS,
    LATEST_MS,
    NO_NOTES,
    Alternatives,
    Listing,
    Notes,
    ReadOptions,
    Restriction,
    Selection,
    Series,
    beyond_docs_limit,
)
from coordinator.store import QueryTooLargeError, SeriesIndex, Store, StoreError

__all__ = ["EmbeddedSource"]


class EmbeddedSource:
    """``Source`` over a store, on the event loop that owns it.

    Its own bounds hold, and of those of requests only how many entries of the index a listing may match.
    """

    lists_cheaply = True
    knows_ids = False

    def __init__(self, store: Store) -> None:
        self._store = store

    def oldest_ms(self, resolution_ms: int) -> int:
        """See ``Source``."""
        return self._store.oldest_ms(resolution_ms)

    async def select(
        self, matchers: Sequence[Matcher], start_ms: int, end_ms: int, options: ReadOptions, *, lookback_ms: int = 0
    ) -> Selection:
        """See ``Source``; which policy answers for a series: ``coordinator.store.select``."""
        policies = self._policies(options.restriction)
        with _told():
            found = await self._store.select(matchers, start_ms, end_ms, lookback_ms=lookback_ms, policies=policies)
        return Selection(
            _series(found.index, found.entries), found.windows_ms, found.offsets, found.time_ms, found.bits
        )

    async def label_names(
        self, alternatives: Alternatives, start_ms: int, end_ms: int, options: ReadOptions
    ) -> Listing:
        """See ``Source``."""
        index, among, notes = await self._entries(alternatives, start_ms, end_ms, options)
        return Listing(await asyncio.to_thread(index.labels.names, among), notes)

    async def label_values(
        self, name: bytes, alternatives: Alternatives, start_ms: int, end_ms: int, options: ReadOptions
    ) -> Listing:
        """See ``Source``."""
        index, among, notes = await self._entries(alternatives, start_ms, end_ms, options)
        return Listing(await asyncio.to_thread(index.labels.values, name, among), notes)

    async def series(self, alternatives: Alternatives, start_ms: int, end_ms: int, options: ReadOptions) -> Series:
        """See ``Source``."""
        index, among, notes = await self._entries(alternatives, start_ms, end_ms, options)
        return _series(index, np.arange(len(index)) if among is None else among, notes)

    async def _entries(
        self, alternatives: Alternatives, start_ms: int, end_ms: int, options: ReadOptions
    ) -> tuple[SeriesIndex, NDArray[np.int64] | None, Notes]:
        """Entries that are meant, None: all."""
        policies, limit = self._policies(options.restriction), options.docs_limit
        anywhere = policies is None and start_ms <= EARLIEST_MS and end_ms >= LATEST_MS
        if anywhere and not alternatives and limit == 0:
            return self._store.index, None, NO_NOTES
        within_ms = None if anywhere else (start_ms, end_ms)
        with _told():
            index, entries = await self._store.match(alternatives or ((),), within_ms, policies=policies)
        if beyond_docs_limit(len(entries), options):
            return index, entries[:limit], Notes(limited=True)
        return index, entries, NO_NOTES

    def _policies(self, restriction: Restriction) -> Collection[int] | None:
        """Policies of the store that may answer, None: all. Raises ``QueryError``."""
        policy, aggregated = restriction.policy, restriction.aggregated
        if policy is not None:
            index = self._store.policy_index(policy.window_ns, policy.retention_ns)
            if index < 0:
                raise QueryError(f"could not find namespace for storage policy: {policy}")
            return (index,)
        if aggregated is None:
            return None
        return [i for i, one in enumerate(self._store.policies) if (one.window_ns > 0) == aggregated]


def _series(index: SeriesIndex, entries: NDArray[np.int64], notes: Notes = NO_NOTES) -> Series:
    arena, at, size = index.ids()
    return Series(arena, at[entries], size[entries], notes)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Errors of the store as answers to a query."""
    try:
        yield
    except QueryTooLargeError as error:
        raise QueryError(str(error), kind="execution", status=422) from error
    except StoreError as error:
        raise QueryError(str(error), kind="internal", status=500) from error

"""Reading: which policy answers for a series, and its points in order.

**Which policy.** Policies whose retention reaches back to the start of the range come first, the finest resolution first; then the
others, the longest retention first. A series is read from the first of them that has a point of it in the range, and from that one
only. This is M3's preference (the finest aggregated namespace that covers the range, else the one that keeps longest), decided per
series: one that a rule keeps only at another resolution is found there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.matchers import Matcher
from coordinator.store import kernels
from coordinator.store.database import Database
from coordinator.store.errors import QueryTooLargeError
from coordinator.store.series import SeriesIndex
from m3metrics.ids import Tags
from m3metrics.policy import StoragePolicy

__all__ = ["PolicyTable", "Selection", "policy_order", "present", "read"]

_FILTER_IN_DATABASE = 8
"""Below one in so many of all series the database picks the rows, else we do."""

_DENSE_SPAN = 16
"""Numbers are looked up in a table if it has at most so many rows for each series and point."""


@dataclass(frozen=True, slots=True)
class PolicyTable:
    """A configured policy and the number of its table."""

    policy: StoragePolicy
    number: int

    @property
    def window_ms(self) -> int:
        """Resolution."""
        return self.policy.window_ns // 1_000_000

    @property
    def retention_ms(self) -> int:
        """How long points are kept."""
        return self.policy.retention_ns // 1_000_000


@dataclass(slots=True)
class Selection:
    """Series with their points: those of series ``i`` are ``[offsets[i], offsets[i + 1])``, ascending in time, at least one."""

    index: SeriesIndex
    entries: NDArray[np.int64]
    windows_ms: NDArray[np.int64]
    """Resolution of the policy that each series was read from."""
    offsets: NDArray[np.int64]
    time_ms: NDArray[np.int64]
    bits: NDArray[np.uint64]
    """IEEE-754 patterns of the values."""

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def values(self) -> NDArray[np.float64]:
        """The values of all points."""
        return self.bits.view(np.float64)

    def tags(self, i: int) -> Tags:
        """Tags of series ``i``, sorted by name."""
        return self.index.tags(int(self.entries[i]))


def policy_order(tables: Sequence[PolicyTable], start_ms: int, now_ms: int) -> list[PolicyTable]:
    """The order in which policies are asked for a range that begins at ``start_ms``."""

    def key(table: PolicyTable) -> tuple[bool, int, int]:
        covers = now_ms - table.retention_ms <= start_ms
        return (not covers, table.window_ms if covers else -table.retention_ms, -table.retention_ms)

    return sorted(tables, key=key)


def read(
    database: Database,
    index: SeriesIndex,
    tables: Sequence[PolicyTable],
    matchers: Sequence[Matcher],
    start_ms: int,
    end_ms: int,
    lookback_ms: int,
    now_ms: int,
    limit: int,
) -> Selection:
    """Blocking; for any thread. A look-back above 0 is at least the resolution. Raises ``StoreError``."""
    left = index.labels.match(matchers)
    parts: list[Selection] = []
    for table in policy_order(tables, start_ms, now_ms):
        if len(left) == 0:
            break
        back_ms = max(lookback_ms, table.window_ms) if lookback_ms else 0
        first_ms = max(start_ms - back_ms, now_ms - table.retention_ms)
        part = _read_table(database, index, table, left, first_ms, end_ms, limit)
        limit -= len(part.time_ms)
        parts.append(part)
        left = np.setdiff1d(left, part.entries, assume_unique=True)
    return _join(index, parts)


def present(
    database: Database,
    index: SeriesIndex,
    tables: Sequence[PolicyTable],
    entries: NDArray[np.int64],
    start_ms: int,
    end_ms: int,
    now_ms: int,
) -> NDArray[np.int64]:
    """Those of ``entries`` (ascending) with a point with start ≤ time ≤ end in one of ``tables``. Blocking; for any thread.

    Raises ``StoreError``.
    """
    there = np.zeros(len(entries), np.bool_)
    # The coarsest first: it has the fewest points to look at, and often every series.
    for table in sorted(tables, key=lambda table: -table.window_ms):
        left = np.flatnonzero(~there)
        if len(left) == 0:
            break
        numbers = index.numbers(entries[left])
        few = numbers if len(numbers) * _FILTER_IN_DATABASE < len(index) else None
        found = database.present(table.number, few, max(start_ms, now_ms - table.retention_ms), end_ms)
        there[left] = np.isin(numbers, found)
    return entries[there]


def _read_table(
    database: Database,
    index: SeriesIndex,
    table: PolicyTable,
    entries: NDArray[np.int64],
    start_ms: int,
    end_ms: int,
    limit: int,
) -> Selection:
    numbers = index.numbers(entries)
    few = len(numbers) * _FILTER_IN_DATABASE < len(index)
    if limit < 0:
        raise QueryTooLargeError("the query reads too many points; ask for fewer series or a shorter range")
    try:
        fetched = database.fetch(table.number, numbers if few else None, start_ms, end_ms, limit)
    except QueryTooLargeError:
        if few:
            raise
        # Points of other series were among them, which the limit is not for.
        fetched = database.fetch(table.number, numbers, start_ms, end_ms, limit)
    rank, low, series = ranks(numbers, fetched.series)
    offsets = np.zeros(len(numbers) + 1, np.int64)
    time_ms, bits = np.empty(len(fetched.series), np.int64), np.empty(len(fetched.series), np.uint64)
    count = kernels.arrange(rank, low, series, fetched.time_ms, fetched.bits, fetched.seq, offsets, time_ms, bits)
    present = np.flatnonzero(np.diff(offsets))
    return Selection(
        index=index,
        entries=entries[present],
        windows_ms=np.full(len(present), table.window_ms, np.int64),
        offsets=np.append(offsets[present], count),
        time_ms=time_ms[:count],
        bits=bits[:count],
    )


def ranks(numbers: NDArray[np.uint32], series: NDArray[np.uint32]) -> tuple[NDArray[np.int64], int, NDArray[np.uint32]]:
    """What ``kernels.arrange`` looks groups up with: ``rank``, ``low``, and the column ``series`` in its terms.

    ``numbers`` ascend. Where they lie far apart a table over their span could need gigabytes: then ``series`` is searched for instead.
    """
    low = int(numbers[0])
    span = int(numbers[-1]) - low + 1
    if span <= _DENSE_SPAN * (len(numbers) + len(series)):
        rank = np.full(span, -1, np.int64)
        rank[numbers.astype(np.int64) - low] = np.arange(len(numbers))
        return rank, low, series
    groups = np.searchsorted(numbers, series)
    groups[groups == len(numbers)] = 0
    # One more group than there are takes what is not wanted.
    found = np.where(numbers[groups] == series, groups, len(numbers)).astype(np.uint32)
    return np.append(np.arange(len(numbers)), -1), 0, found


def _join(index: SeriesIndex, parts: Sequence[Selection]) -> Selection:
    if len(parts) == 1:
        return parts[0]
    empty = np.zeros(0, np.int64)
    offsets, base = [np.zeros(1, np.int64)], 0
    for part in parts:
        offsets.append(part.offsets[1:] + base)
        base += len(part.time_ms)
    return Selection(
        index=index,
        entries=np.concatenate([part.entries for part in parts]) if parts else empty,
        windows_ms=np.concatenate([part.windows_ms for part in parts]) if parts else empty,
        offsets=np.concatenate(offsets),
        time_ms=np.concatenate([part.time_ms for part in parts]) if parts else empty,
        bits=np.concatenate([part.bits for part in parts]) if parts else np.zeros(0, np.uint64),
    )

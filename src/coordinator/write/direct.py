"""Writes that go straight into storage: ``M3-Metrics-Type: aggregated``, and carbon rules without aggregation."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.store import Refusal, Store, StoreError, WriteBatch
from m3metrics.ids import Tags, encode_tags
from m3metrics.policy import StoragePolicy

SCHEME_TAG = (b"__option_id_scheme__", b"graphite")
"""Tells storage that the tags are the parts of a Graphite path; not stored."""

_REASONS = {
    Refusal.OUTSIDE_RETENTION: "datapoint too far in past or in future",
    Refusal.TOO_MANY_SERIES: "storage holds as many series as it may",
}


class DirectWriteError(Exception):
    """Storage failed; trying again may help."""


@dataclass(slots=True)
class DirectSeries:
    """One series for storage itself, not for the aggregators."""

    tags: Tags
    """Sorted and valid."""
    graphite: bool
    times_ms: NDArray[np.int64]
    values: NDArray[np.float64]


class DirectStore(Protocol):
    """Storage for samples that are not aggregated on the way."""

    def accepts(self, policy: StoragePolicy | None) -> bool:
        """Whether there is a namespace for the policy (None: the unaggregated one)."""

    async def write(self, policy: StoragePolicy | None, series: list[DirectSeries]) -> list[tuple[int, str]]:
        """Writes, durably on return; returns each sample refused for good, counted over all series, and why.

        Raises ``DirectWriteError``.
        """


class EmbeddedDirectStore:
    """The embedded store as ``DirectStore``; it has aggregated namespaces only."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def accepts(self, policy: StoragePolicy | None) -> bool:
        """See ``DirectStore``."""
        return policy is not None and self._store.policy_index(policy.window_ns, policy.retention_ns) >= 0

    async def write(self, policy: StoragePolicy | None, series: list[DirectSeries]) -> list[tuple[int, str]]:
        """See ``DirectStore``."""
        series = [one for one in series if len(one.times_ms)]
        if policy is None or not series:
            return []
        ids = [encode_tags([*one.tags, SCHEME_TAG] if one.graphite else one.tags) for one in series]
        sizes = np.array([len(one) for one in ids], np.int64)
        counts = [len(one.times_ms) for one in series]
        total = sum(counts)
        batch = WriteBatch(
            buf=np.frombuffer(bytearray(b"".join(ids)), np.uint8),
            id_at=np.repeat(np.cumsum(sizes) - sizes, counts),
            id_size=np.repeat(sizes, counts),
            time_ms=np.concatenate([one.times_ms for one in series]),
            values=np.concatenate([one.values for one in series]),
            policies=np.full(total, self._store.policy_index(policy.window_ns, policy.retention_ns), np.int64),
        )
        try:
            written = await self._store.write(batch)
        except StoreError as error:
            raise DirectWriteError(str(error)) from error
        texts = dict(written.errors)
        return [
            (row, texts.get(row) or _REASONS.get(int(written.refusals[row]), "refused by storage"))
            for row in np.flatnonzero(written.refusals).tolist()
        ]

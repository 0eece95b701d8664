"""Writes that go straight into storage: ``M3-Metrics-Type: aggregated``, and carbon rules without aggregation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.config import Namespace
from coordinator.not_kept import Reason
from coordinator.store import Refusal, Store, StoreError, WriteBatch
from m3metrics.errors import IdError
from m3metrics.ids import Tags, encode_tags
from m3metrics.policy import StoragePolicy
from m3x.golang import go_duration

SCHEME_TAG = (b"__option_id_scheme__", b"graphite")
"""Tells storage that the tags are the parts of a Graphite path; not stored."""

_REFUSALS = {
    Refusal.BAD_ID: (Reason.INVALID_LABELS, "refused by storage"),
    Refusal.OUTSIDE_RETENTION: (Reason.OUTSIDE_RETENTION, "datapoint too far in past or in future"),
    Refusal.TOO_MANY_SERIES: (Reason.STORAGE_FULL, Reason.STORAGE_FULL.text),
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


class RefusedSample(NamedTuple):
    """A sample that is refused for good."""

    row: int
    """Counted over the samples of all series."""
    reason: Reason
    text: str


class DirectStore(Protocol):
    """Storage for samples that are not aggregated on the way."""

    def refusal(self, policy: StoragePolicy | None) -> str | None:
        """Why nothing can be written for the policy (None: unaggregated), in M3's words; None: it can."""

    async def write(self, policy: StoragePolicy | None, series: list[DirectSeries]) -> list[RefusedSample]:
        """Writes, durably on return. Raises ``DirectWriteError``."""


class EmbeddedDirectStore:
    """The embedded store as ``DirectStore``; it has the aggregated ones of ``namespaces``."""

    def __init__(self, store: Store, namespaces: Sequence[Namespace]) -> None:
        self._store = store
        self._namespaces = {(n.resolution_ns, n.retention_ns): n for n in namespaces if n.aggregated}

    def refusal(self, policy: StoragePolicy | None) -> str | None:
        """See ``DirectStore``."""
        if policy is None:
            return "unaggregated namespace is not yet initialized: storage here holds aggregated namespaces only"
        namespace = self._namespaces.get((policy.window_ns, policy.retention_ns))
        resolution, retention = go_duration(policy.window_ns), go_duration(policy.retention_ns)
        if namespace is None:
            return f"no configured cluster namespace for: retention={retention}, resolution={resolution}"
        if namespace.read_only:
            return f"cannot write to read only namespace {namespace.name} ({resolution}:{retention})"
        return None

    async def write(self, policy: StoragePolicy | None, series: list[DirectSeries]) -> list[RefusedSample]:
        """See ``DirectStore``."""
        if policy is None:
            raise DirectWriteError(self.refusal(None))
        refused: list[RefusedSample] = []
        ids: list[bytes] = []
        kept: list[DirectSeries] = []
        rows: list[NDArray[np.int64]] = []
        row = 0
        for one in series:
            samples = np.arange(row, row + len(one.times_ms))
            row += len(samples)
            try:
                ids.append(encode_tags([*one.tags, SCHEME_TAG] if one.graphite else one.tags))
            except IdError as error:
                refused += [RefusedSample(k, Reason.INVALID_LABELS, str(error)) for k in samples.tolist()]
                continue
            kept.append(one)
            rows.append(samples)
        if any(len(samples) for samples in rows):
            refused += await self._write(policy, ids, kept, np.concatenate(rows))
        return refused

    async def _write(
        self, policy: StoragePolicy, ids: list[bytes], series: list[DirectSeries], rows: NDArray[np.int64]
    ) -> list[RefusedSample]:
        """Writes ``series``, which have ``ids`` and whose samples are called ``rows``."""
        sizes = np.array([len(one) for one in ids], np.int64)
        counts = [len(one.times_ms) for one in series]
        index = self._store.policy_index(policy.window_ns, policy.retention_ns)
        batch = WriteBatch(
            buf=np.frombuffer(bytearray(b"".join(ids)), np.uint8),
            id_at=np.repeat(np.cumsum(sizes) - sizes, counts),
            id_size=np.repeat(sizes, counts),
            time_ms=np.concatenate([one.times_ms for one in series]),
            values=np.concatenate([one.values for one in series]),
            policies=np.full(len(rows), index, np.int64),
        )
        try:
            written = await self._store.write(batch)
        except StoreError as error:
            raise DirectWriteError(str(error)) from error
        texts = dict(written.errors)
        refused = []
        for k in np.flatnonzero(written.refusals).tolist():
            reason, text = _REFUSALS[int(written.refusals[k])]
            refused.append(RefusedSample(int(rows[k]), reason, texts.get(k, text)))
        return refused

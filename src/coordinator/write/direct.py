"""Writes that go straight into storage: unaggregated samples, ``M3-Metrics-Type: aggregated``, and carbon rules without aggregation.

They go to the same sinks as aggregated values (``coordinator.sinks``). The sender waits a while for what the stores say. What a store
refuses within ``writeTimeout`` is refused to the sender; otherwise the sender is told that it is taken, which is true as it is in the
queues, and a later refusal is counted (``sink_refused_after_answer``). The answer of the embedded store alone is always known.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.config import Namespace
from coordinator.not_kept import Reason
from coordinator.sinks import Delivered, Hub, NotYetSafeError, RefusedWhy, SeriesTable, TryAgainError, Values
from coordinator.sinks.annotations import Annotations
from coordinator.sinks.values import Destination
from m3metrics.policy import StoragePolicy
from m3x.golang import go_duration
from m3x.log import logger

SCHEME_TAG = (b"__option_id_scheme__", b"graphite")
"""Tells storage that the tags are the parts of a Graphite path; not stored."""

_PATIENT_S = 1.0
log = logger(__name__)
_REASONS = {
    RefusedWhy.BAD_ID: Reason.INVALID_LABELS,
    RefusedWhy.OUTSIDE_RETENTION: Reason.OUTSIDE_RETENTION,
    RefusedWhy.TOO_MANY_SERIES: Reason.STORAGE_FULL,
    RefusedWhy.TOO_LARGE: Reason.TOO_LARGE,
}


_MOST_ROWS = 1 << 20
"""A record of a queue has a largest size: what a request has more than this is written in pieces."""


class DirectWriteError(Exception):
    """Storage failed; trying again may help."""


class RefusedSample(NamedTuple):
    """A sample that is refused for good."""

    row: int
    """Of the batch."""
    reason: Reason
    text: str


class DirectStore(Protocol):
    """Storage for samples that are not aggregated on the way."""

    @property
    def table(self) -> SeriesTable:
        """What the series of the next batch count in; ask anew for each batch, in the same step of the event loop."""

    def refusal(self, policy: StoragePolicy | None) -> str | None:
        """Why nothing can be written for the policy (None: unaggregated), in M3's words; None: it can."""

    async def write(self, batch: Values, *, patient: bool = False) -> list[RefusedSample]:
        """Writes, safe on return. ``patient``: waits for room however long it takes. Raises ``DirectWriteError``."""


def one_destination(
    table: SeriesTable,
    series: NDArray[np.uint32],
    time_ns: NDArray[np.int64],
    values: NDArray[np.float64],
    destination: Destination,
    annotations: Annotations | None = None,
) -> Values:
    """A batch for one destination."""
    return Values(table, series, time_ns, values, (destination,), np.zeros(len(series), np.uint16), annotations)


class Writable:
    """What a direct store says of policies. ``namespaces``: what may be written for."""

    def __init__(self, namespaces: Sequence[Namespace]) -> None:
        self.set_namespaces(namespaces)

    def set_namespaces(self, namespaces: Sequence[Namespace]) -> None:
        """From now on these are what may be written for."""
        self._unaggregated = any(not n.aggregated for n in namespaces)
        self._aggregated = {(n.resolution_ns, n.retention_ns): n for n in namespaces if n.aggregated}

    def refusal(self, policy: StoragePolicy | None) -> str | None:
        """See ``DirectStore``."""
        if policy is None:
            return (
                None
                if self._unaggregated
                else "unaggregated namespace is not yet initialized: no namespace or endpoint has it"
            )
        namespace = self._aggregated.get((policy.window_ns, policy.retention_ns))
        resolution, retention = go_duration(policy.window_ns), go_duration(policy.retention_ns)
        if namespace is None:
            return f"no configured cluster namespace for: retention={retention}, resolution={resolution}"
        if namespace.read_only:
            return f"cannot write to read only namespace {namespace.name} ({resolution}:{retention})"
        return None


class HubDirectStore(Writable):
    """The sinks of this coordinator. ``timeout_s``: how long their answer is waited for."""

    def __init__(self, hub: Hub, namespaces: Sequence[Namespace], timeout_s: float) -> None:
        super().__init__(namespaces)
        self._hub = hub
        self._timeout_s = timeout_s

    @property
    def table(self) -> SeriesTable:
        """See ``DirectStore``."""
        return self._hub.table

    async def write(self, batch: Values, *, patient: bool = False) -> list[RefusedSample]:
        """See ``DirectStore``. Of a sample that several stores refuse the first refusal is told."""
        if len(batch) <= _MOST_ROWS:
            return await self._write(batch, patient)
        refused = []
        for begin in range(0, len(batch), _MOST_ROWS):
            piece = batch.rows(np.arange(begin, min(begin + _MOST_ROWS, len(batch))))
            refused += [sample._replace(row=begin + sample.row) for sample in await self._write(piece, patient)]
        return refused

    async def _write(self, batch: Values, patient: bool) -> list[RefusedSample]:
        timeout_s, verdict = self._timeout_s, None
        while verdict is None:
            try:
                verdict = await self._hub.write_watched(batch, timeout_s)
            except NotYetSafeError as error:
                if not patient:
                    raise DirectWriteError(str(error)) from error
                # At once: it must not become safe unnoticed, or it would be given a second time.
                timeout_s = max(timeout_s, _PATIENT_S)
                log.warning_limited("a direct write waits for room", per_second=0.1, reason=str(error))
            except TryAgainError as error:
                raise DirectWriteError(str(error)) from error
        refused: dict[int, RefusedSample] = {}
        for delivered in verdict.delivered.values():
            for sample in _samples(delivered):
                refused.setdefault(sample.row, sample)
        return [refused[row] for row in sorted(refused)]


def _samples(delivered: Delivered) -> Iterator[RefusedSample]:
    """One for each row that a store refused, in the words of the write path."""
    for refused in delivered.refused:
        if refused.why is not RefusedWhy.ALREADY_THERE:
            reason = _REASONS.get(refused.why, Reason.REFUSED_BY_STORE)
            for row in refused.rows.tolist():
                yield RefusedSample(row, reason, refused.text)

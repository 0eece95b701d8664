"""The embedded store as a sink behind a queue, beside other sinks. Alone it is written without a queue: ``coordinator.storage``."""

from collections.abc import Iterable, Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray

from coordinator.config import Namespace
from coordinator.sinks.sink import Delivered, Refused, RefusedWhy, TryAgainError
from coordinator.sinks.values import Destination, Values, milliseconds
from coordinator.store import Refusal, Store, StoreError, WriteBatch

__all__ = ["EmbeddedSink"]

_WHY = {
    Refusal.BAD_ID: (RefusedWhy.BAD_ID, "refused by storage"),
    Refusal.OUTSIDE_RETENTION: (RefusedWhy.OUTSIDE_RETENTION, "datapoint too far in past or in future"),
    Refusal.TOO_MANY_SERIES: (RefusedWhy.TOO_MANY_SERIES, "storage holds as many series as it may"),
}


class EmbeddedSink:
    """``indexes``: by resolution and retention in ns, (0, 0) for raw samples, the store's policies."""

    ordered = False
    lanes = 1
    batch_rows = 1 << 16
    gather_s = 0.0

    def __init__(self, store: Store, indexes: Mapping[tuple[int, int], int], name: str = "embedded") -> None:
        self.name = name
        self._store = store
        self._indexes = dict(indexes)

    @classmethod
    def of(
        cls,
        store: Store,
        namespaces: Iterable[Namespace],
        name: str = "embedded",
        wanted: frozenset[tuple[int, int]] | None = None,
    ) -> Self:
        """For the values of ``namespaces``, whose policies ``store`` has; of these the ``wanted`` ones (None: all).

        A namespace without retention (an endpoint for raw samples is one) cannot be kept here.
        """
        indexes = {}
        for namespace in namespaces:
            policy = (namespace.resolution_ns, namespace.retention_ns)
            attributes = policy if namespace.aggregated else (0, 0)
            if namespace.retention_ns > 0 and (wanted is None or attributes in wanted):
                indexes[attributes] = store.policy_index(*policy)
        return cls(store, indexes, name)

    def takes(self, destination: Destination) -> bool:
        """See ``Sink``."""
        return destination.attributes in self._indexes

    async def deliver(self, batch: Values, *, again: bool) -> Delivered:
        """See ``Sink``. A value that was written before replaces itself."""
        table = np.array([self._indexes.get(one.attributes, -1) for one in batch.destinations], np.int64)
        policies = table[batch.destination]
        homeless = np.flatnonzero(policies < 0)
        delivered = Delivered()
        if len(homeless):
            text = f"the embedded store has no namespace for {batch.destinations[batch.destination[homeless[0]]]}"
            delivered.refused.append(Refused(RefusedWhy.NO_NAMESPACE, homeless, text))
        rows = np.flatnonzero(policies >= 0)
        if len(rows):
            delivered.refused += await self._write(batch, rows, policies[rows])
        return delivered

    async def _write(self, batch: Values, rows: NDArray[np.int64], policies: NDArray[np.int64]) -> list[Refused]:
        arena, at, size = batch.table.ids()
        series = batch.series[rows]
        points = WriteBatch(
            buf=arena,
            id_at=at[series],
            id_size=size[series],
            time_ms=milliseconds(batch.time_ns[rows]),
            values=np.ascontiguousarray(batch.values[rows]),
            policies=policies,
        )
        try:
            written = await self._store.write(points)
        except StoreError as error:
            raise TryAgainError(str(error)) from error
        texts = dict(written.errors)
        refused = []
        for code, (why, text) in _WHY.items():
            found = np.flatnonzero(written.refusals == code)
            if len(found):
                refused.append(Refused(why, rows[found], texts.get(int(found[0]), text)))
        return refused

    async def close(self) -> None:
        """The store is closed by whoever opened it."""

"""Where decoded values go: the embedded store alone, written at once, or the hub of all sinks with their queues."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.sinks import Hub
from coordinator.sinks.annotations import AnnotationTable
from coordinator.sinks.metric_types import MetricTypes
from coordinator.sinks.values import Destination, Values, milliseconds
from coordinator.store import WriteBatch, Written
from m3metrics.policy import StoragePolicy

__all__ = ["Arrived", "HubOutlet", "Outlet", "StoreOutlet"]


@dataclass(slots=True)
class Arrived:
    """Values as they arrived: ids as ranges of ``buf`` (uint8, writable), all other columns with one row per value."""

    buf: NDArray[np.uint8]
    id_at: NDArray[np.int64]
    id_size: NDArray[np.int64]
    time_ns: NDArray[np.int64]
    values: NDArray[np.float64]
    policies: NDArray[np.int64]
    """Indexes of the outlet's own (``Outlet.index_of``)."""
    annotation_at: NDArray[np.uint32]
    annotation_size: NDArray[np.uint32]
    """Annotations as ranges of ``buf``; size 0: there is none."""


class Outlet(Protocol):
    """What is needed of whoever takes values."""

    def index_of(self, policy: StoragePolicy) -> int:
        """How values of that policy are to be marked in ``Arrived.policies``; -1: nobody stores them."""

    async def write(self, batch: Arrived) -> Written:
        """Returns when the values are safe. Raises ``StoreError``: then nothing of the batch is sure, and it may be given again."""


class PolicyStore(Protocol):
    """``coordinator.store.Store``, as far as it is written to."""

    def policy_index(self, window_ns: int, retention_ns: int) -> int:
        """Index of the policy with exactly that window and retention, or -1."""

    async def write(self, batch: WriteBatch) -> Written:
        """Returns after the commit. Raises ``StoreError``."""


class StoreOutlet:
    """The embedded store: safe means committed, and what it refuses is known."""

    def __init__(self, store: PolicyStore) -> None:
        self._store = store

    def index_of(self, policy: StoragePolicy) -> int:
        """See ``Outlet``."""
        return self._store.policy_index(policy.window_ns, policy.retention_ns)

    async def write(self, batch: Arrived) -> Written:
        """See ``Outlet``."""
        return await self._store.write(
            WriteBatch(
                buf=batch.buf,
                id_at=batch.id_at,
                id_size=batch.id_size,
                time_ms=milliseconds(batch.time_ns),
                values=batch.values,
                policies=batch.policies,
            )
        )


class HubOutlet:
    """The hub: safe means in the queue of every sink that takes the value. What a sink refuses later it counts itself."""

    def __init__(self, hub: Hub, types: MetricTypes | None = None) -> None:
        """``types``: where the types of metrics are noted, for sinks that want them."""
        self._hub = hub
        self._types = types
        self._annotations = AnnotationTable()
        self._destinations: tuple[Destination, ...] = ()

    def index_of(self, policy: StoragePolicy) -> int:
        """See ``Outlet``. Policies that differ in precision are different destinations."""
        destination = Destination.of(policy)
        if not self._hub.takes(destination):
            return -1
        if destination not in self._destinations:
            self._destinations += (destination,)
        return self._destinations.index(destination)

    async def write(self, batch: Arrived) -> Written:
        """See ``Outlet``. Waits as long as a queue is full."""
        table = self._hub.table
        series = table.numbers(batch.buf, batch.id_at, batch.id_size)
        if self._types is not None and batch.annotation_size.any():
            annotations = batch.annotation_at.astype(np.int64), batch.annotation_size.astype(np.int64)
            self._types.note(table, series, batch.buf, (batch.id_at, batch.id_size), annotations)
        await self._hub.write(
            Values(
                table=table,
                series=series,
                time_ns=batch.time_ns,
                values=batch.values,
                destinations=self._destinations,
                destination=batch.policies.astype(np.uint16),
                annotations=self._annotations.annotations(batch.buf, batch.annotation_at, batch.annotation_size),
            )
        )
        return Written(np.zeros(len(batch.id_at), np.uint8), [])

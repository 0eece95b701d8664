"""A Prometheus remote write endpoint as a sink: Prometheus itself, Mimir, Thanos, VictoriaMetrics and whoever else takes the protocol."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coordinator.sinks.metric_types import NOTHING, MetricTypes
from coordinator.sinks.prom_remote.answers import Answer, Kind
from coordinator.sinks.prom_remote.labels import LabelCache, LabelFields, fields_of, why_bad
from coordinator.sinks.prom_remote.metadata import MetadataSender
from coordinator.sinks.prom_remote.named import named_series
from coordinator.sinks.prom_remote.sender import Endpoint, Sender
from coordinator.sinks.prom_remote.splitting import Splitting, Suspects, bound
from coordinator.sinks.prom_remote.symbols import SymbolEncoder
from coordinator.sinks.prom_remote.version import VERSION_2, Version
from coordinator.sinks.sink import Delivered, HeldError, RefusedWhy, TryAgainError
from coordinator.sinks.values import Destination, Values
from m3x.instrument import Scope

__all__ = ["PromRemoteOptions", "PromRemoteSink"]

_SPLIT_PAUSE_S = 1.0
"""Between the deliveries of a batch with so many bad rows that one does not settle it."""
_LAST_REQUESTS = 80
"""Of a delivery; before them, every row is asked for."""
_ARRIVED_BEFORE = {RefusedWhy.OUT_OF_ORDER, RefusedWhy.DUPLICATE}


@dataclass(frozen=True, slots=True)
class PromRemoteOptions:
    """What is known of an endpoint but how to reach it."""

    name: str
    attributes: tuple[int, int] = (0, 0)
    """Resolution and retention in ns of the values that it takes; (0, 0): raw samples."""
    ordered: bool = True
    lanes: int = 4
    batch_rows: int = 5000
    remote_write_2: bool = False
    """Whether it is sent Remote Write 2.0 as long as it takes it."""


@dataclass(frozen=True, slots=True)
class _Interrupted:
    """A batch of which a part is settled."""

    batch: Values
    splitting: Splitting
    sure: bool
    """Whether nothing of the rest can have arrived before."""


class PromRemoteSink:
    """See ``coordinator.sinks.sink.Sink``. ``labels``: shared by the endpoints that take aggregated values, or by those that take raw ones.

    Everything but the HTTP exchange happens between two awaits on the event loop: a batch of 5000 costs it about two milliseconds.
    """

    gather_s = 0.0

    def __init__(
        self,
        options: PromRemoteOptions,
        endpoint: Endpoint,
        labels: LabelCache,
        told: tuple[MetricTypes, Scope] | None = None,
    ) -> None:
        """``told``: the types that the endpoint is told of, and where that is counted."""
        self._options = options
        self._labels = labels
        self._sender = Sender(endpoint)
        self._types = None if told is None else told[0]
        self._metadata = None if told is None else MetadataSender(told[0], self._sender, told[1])
        self._encoder = SymbolEncoder()
        self._version = Version(options.remote_write_2, self._sender.shown)
        self._suspects = Suspects()
        self._chance = np.random.default_rng()
        self._interrupted: list[_Interrupted] = []

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return self._options.name

    @property
    def ordered(self) -> bool:
        """Whether the store refuses late samples."""
        return self._options.ordered

    @property
    def lanes(self) -> int:
        """Requests at a time."""
        return self._options.lanes

    @property
    def batch_rows(self) -> int:
        """Samples in a request."""
        return self._options.batch_rows

    @property
    def attributes(self) -> tuple[int, int]:
        """Resolution and retention in ns of what it takes; (0, 0): raw samples."""
        return self._options.attributes

    def takes(self, destination: Destination) -> bool:
        """As M3 chooses: resolution and retention are equal; without a storage policy, raw samples only."""
        return destination.attributes == self.attributes

    async def deliver(self, batch: Values, *, again: bool) -> Delivered:
        """Sends the batch, and parts of it where the endpoint refuses some rows (``splitting``).

        Raises ``TryAgainError``, ``HeldError``; the same batch then goes on with what is not settled.
        """
        labels = self._labels.of(batch.table)
        bad = labels.require(batch.table, batch.series)
        splitting, sure = self._resumed(batch) or (self._begun(batch, labels, bad), not again)
        requests, most = 0, bound(len(batch))
        while (rows := splitting.next()) is not None:
            if requests == most:
                self._interrupt(batch, splitting, sure)
                raise TryAgainError(
                    f"{self.name} refuses many of {len(batch)} values, one by one: {splitting.unsettled} are left",
                    _SPLIT_PAUSE_S,
                )
            answer = await self._post(batch, rows, labels)
            requests += 1
            if answer.kind in (Kind.LATER, Kind.HELD):
                if requests > 1:
                    self._interrupt(batch, splitting, sure=False)
                self._raise(answer)
            if not sure and answer.why in _ARRIVED_BEFORE:
                answer = replace(answer, why=RefusedWhy.ALREADY_THERE)
            splitting.settle(answer, _named(answer, batch, rows, labels))
            if splitting.hopeless(long=requests > most - _LAST_REQUESTS):
                splitting.draw(self._chance)
        refused = splitting.result()
        self._suspects.learn(batch, refused)
        if self._metadata is not None and not self._version.is_2:
            self._metadata.begin_if_due()
        return Delivered(refused)

    async def _post(self, batch: Values, rows: NDArray[np.int64], labels: LabelFields) -> Answer:
        """Sends some rows in the version that the endpoint takes."""
        if self._version.is_2:
            described = NOTHING if self._types is None else self._types.of(batch.table)
            answer = await self._sender.post(self._encoder.body_2(batch, rows, labels, described), VERSION_2)
            if not self._version.refused(answer):
                return answer
        return await self._sender.post(self._encoder.body(batch, rows, labels))

    async def close(self) -> None:
        """Closes the connections."""
        if self._metadata is not None:
            await self._metadata.close()
        await self._sender.close()

    def _raise(self, answer: Answer) -> None:
        text = f"{self.name} ({self._sender.shown}): {answer.text}"
        if answer.kind is Kind.HELD:
            raise HeldError(text)
        raise TryAgainError(text, answer.retry_after_s, arrived=answer.arrived)

    def _begun(self, batch: Values, labels: LabelFields, bad: NDArray[np.int64]) -> Splitting:
        """Nothing is sent yet. ``bad``: rows whose series cannot be stored."""
        rows = np.arange(len(batch))
        if not len(bad):
            return Splitting(batch.time_ns, *self._suspects.split(batch, rows))
        splitting = Splitting(batch.time_ns, *self._suspects.split(batch, np.setdiff1d(rows, bad)))
        splitting.refuse(RefusedWhy.BAD_ID, bad, why_bad(batch.table.id(int(batch.series[bad[0]])), labels.rules))
        return splitting

    def _resumed(self, batch: Values) -> tuple[Splitting, bool] | None:
        """What is left of a batch that was interrupted, and whether none of that can have arrived before."""
        for place, known in enumerate(self._interrupted):
            if known.batch is batch:
                del self._interrupted[place]
                return known.splitting, known.sure
        return None

    def _interrupt(self, batch: Values, splitting: Splitting, sure: bool) -> None:
        # A batch that does not come again (it may be cut otherwise then) must not stay for ever.
        self._interrupted = [*self._interrupted[-2 * self.lanes :], _Interrupted(batch, splitting, sure)]


def _named(answer: Answer, batch: Values, rows: NDArray[np.int64], labels: LabelFields) -> NDArray[np.int64] | None:
    """The rows of the series that a refusal names."""
    if answer.kind is not Kind.REFUSED or len(rows) == 1:
        return None
    found = named_series(answer.body)
    return None if found is None else rows[labels.rows_of(fields_of(found), batch.table, batch.series[rows])]

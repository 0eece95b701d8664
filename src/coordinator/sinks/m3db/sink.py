"""M3DB as a sink: a batch → rows of the session, what became of each → what the queue does with it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.sinks.m3db.ailing import Ailing
from coordinator.sinks.m3db.forms import FormCache
from coordinator.sinks.m3db.sorting import LONGEST_AHEAD_NS, Absences, Sendable, sort
from coordinator.sinks.m3db.targets import Targets
from coordinator.sinks.m3db.troubles import short_shards
from coordinator.sinks.m3db.verdicts import judge
from coordinator.sinks.sink import Delivered, Parked, Refused, RefusedWhy, TryAgainError
from coordinator.sinks.values import Destination, TimeUnit, Values
from m3db.consistency import RowState
from m3db.errors import CallFailure
from m3db.host import HostStatus
from m3db.options import SessionOptions
from m3db.session import WriteResult
from m3db.topology import Topology
from m3db.write import FormRules, WriteRows
from m3db.write.forms import why_bad
from m3x.clock import wall_ns

__all__ = ["M3DBSink", "WritingSession"]

_PATIENCE_S = 1.0
"""Values whose nodes answer nothing for so long, while others do, wait for themselves."""
_UNIT_NS = np.array([unit.ns for unit in TimeUnit], np.int64)


class WritingSession(Protocol):
    """``m3db.session.Session``, as far as it is written to."""

    @property
    def options(self) -> SessionOptions: ...

    @property
    def topology(self) -> Topology | None:
        """None: nothing can be written yet."""

    @property
    def hosts(self) -> list[HostStatus]:
        """Of the topology."""

    def trouble(self) -> list[str]:
        """Why nothing can be written."""

    async def write(self, rows: WriteRows, *, patience_s: float | None = None) -> WriteResult:
        """Returns when every row is decided, or rows of hosts that do not answer have waited for so long while others are written."""


class M3DBSink:
    """See ``coordinator.sinks.sink.Sink``. ``rules``: how series are called, but for what the topology says.

    Values of one series come in order, the oldest first: nodes take them for as long as ``bufferPast``, and of two values for one time
    they keep the one that came last.
    """

    ordered = True
    gather_s = 0.01
    """M3's client gathers for 5 ms. A batch costs as much as some hundred values: with it a value costs a fifth less."""

    def __init__(
        self,
        session: WritingSession,
        targets: Targets,
        rules: FormRules,
        *,
        name: str = "m3db",
        grace_ns: int = 0,
        lanes: int = 2,
        batch_rows: int = 8192,
        clock: Callable[[], int] = wall_ns,
    ) -> None:
        """``grace_ns``: how long a namespace that has gone may come back, until what waits for it is refused."""
        self.name = name
        self.lanes = lanes
        self.batch_rows = batch_rows
        self._session = session
        self._targets = targets
        self._absences = Absences(0 if targets.fixed else grace_ns)
        self._unknown_since = Absences(grace_ns)
        self._clock = clock
        self._offset_ns = session.options.write_timestamp_offset_ns
        self._use(rules)

    def _use(self, rules: FormRules) -> None:
        self._aggregated, self._raw = FormCache(rules), FormCache(replace(rules, keep_scheme=True))
        self._ailing = Ailing(rules.shards)

    def takes(self, destination: Destination) -> bool:
        """See ``Sink``. What it has taken once it takes for ever: a namespace that goes may come back."""
        return destination.attributes in self._targets.taken

    async def deliver(self, batch: Values, *, again: bool) -> Delivered:
        """See ``Sink``. A value that was written before replaces itself."""
        self._prepare()
        sendable = sort(batch, self._targets, self._absences, self._clock(), self._offset_ns)
        delivered = sendable.others
        parts: list[tuple[FormCache, NDArray[np.int64] | None]] = []
        raw = np.flatnonzero(sendable.raw)
        if len(raw) < len(sendable.rows):
            parts.append((self._aggregated, np.flatnonzero(~sendable.raw) if len(raw) else None))
        if len(raw):
            parts.append((self._raw, raw if parts else None))
        # What comes again is in nobody's way: its nodes have all of writeTimeout to answer.
        patience_s = None if again else _PATIENCE_S
        written = await asyncio.gather(
            *(self._write(batch, sendable, cache, rows, patience_s) for cache, rows in parts)
        )
        failed = np.concatenate([one.failed for one in written]) if written else np.zeros(0, np.int64)
        if len(failed) and len(failed) == sum(one.sent for one in written) and self._all_away():
            raise TryAgainError(next(one.why for one in written if len(one.failed)))
        for one in written:
            delivered.refused += one.refused
            delivered.parked += one.parked
            if len(one.failed):
                delivered.parked.append(Parked(one.failed, None, one.why))
        return delivered

    async def close(self) -> None:
        """The session is closed by whoever opened it."""

    def _prepare(self) -> None:
        """Raises ``TryAgainError`` while nothing can be written; forms are those of the topology."""
        if not self._targets.known:
            raise TryAgainError("the KV has not said yet which namespaces M3DB has", arrived=False)
        topology = self._session.topology
        if topology is None:
            said = "; ".join(self._session.trouble())
            raise TryAgainError(f"no node of M3DB can be written to yet: {said or 'connecting'}", arrived=False)
        rules = self._aggregated.rules
        if (rules.shards, rules.hash_seed) != (topology.num_shards, topology.seed):
            self._use(replace(rules, shards=topology.num_shards, hash_seed=topology.seed))

    def _all_away(self) -> bool:
        """Whether no shard can be written: there is no use in going on with others then. Else what has failed waits for itself alone."""
        session = self._session
        topology = session.topology
        return topology is None or (
            len(short_shards(topology, session.hosts, session.options.rules)) == topology.num_shards
        )

    async def _write(
        self,
        batch: Values,
        sendable: Sendable,
        cache: FormCache,
        chosen: NDArray[np.int64] | None,
        patience_s: float | None,
    ) -> "_Written":
        """``chosen``: of the rows that may be sent; None: all, as a rule. Then nothing is copied."""
        forms = cache.of(batch.table)
        refused = []
        rows = sendable.rows if chosen is None else sendable.rows[chosen]
        bad = forms.require(batch.table, batch.columns[0] if len(rows) == len(batch) else batch.series[rows])
        if len(bad):
            text = why_bad(batch.table.id(int(batch.series[rows[bad[0]]])), forms.rules)
            refused.append(Refused(RefusedWhy.BAD_ID, rows[bad], text))
            chosen = np.delete(np.arange(len(rows)) if chosen is None else chosen, bad)
            rows = sendable.rows[chosen]
        parked = []
        if patience_s is not None and self._ailing.any(self._clock()):
            ailing = self._ailing.among(forms.shards[batch.series[rows]], self._clock())
            if ailing.any():
                parked.append(Parked(rows[ailing], None, self._ailing.why))
                chosen = np.flatnonzero(~ailing) if chosen is None else chosen[~ailing]
                rows = sendable.rows[chosen]
        if not len(rows):
            return _Written(refused, parked)
        texts, annotation = _annotations(batch, rows)
        whole = len(rows) == len(batch)
        columns = WriteRows(
            forms=forms,
            series=batch.columns[0] if whole else batch.series[rows],
            namespaces=sendable.namespaces,
            namespace=sendable.namespace if chosen is None else sendable.namespace[chosen],
            timestamp=sendable.timestamp if chosen is None else sendable.timestamp[chosen],
            time_type=sendable.time_type if chosen is None else sendable.time_type[chosen],
            values=batch.columns[2] if whole else batch.values[rows],
            annotations=texts,
            annotation=annotation,
        )
        ailing_before = self._ailing
        result = await self._session.write(columns, patience_s=patience_s)
        # With another topology these are the shards of nobody.
        self._note_shards(ailing_before, result, columns.shards)
        if not result.states.any():
            if self._unknown_since.any():
                for number in np.unique(batch.destination[rows]).tolist():
                    self._unknown_since.there(batch.destinations[number].attributes)
            return _Written(refused, parked, sent=len(rows))
        sent_ns = columns.timestamp * _UNIT_NS[columns.time_type]
        verdict = judge(result, sent_ns - self._clock() > LONGEST_AHEAD_NS)
        refused += [Refused(one.why, rows[one.rows], one.text) for one in verdict.delivered.refused]
        parked += [Parked(rows[one.rows], one.due_in_s, one.text) for one in verdict.delivered.parked]
        failed = rows[verdict.failed]
        if late := self._unknown(batch, rows[verdict.unknown], verdict.why):
            refused += late
            failed = np.setdiff1d(failed, np.concatenate([one.rows for one in late]))
        return _Written(refused, parked, failed, sent=len(rows), why=verdict.why)

    def _note_shards(self, ailing: Ailing, result: WriteResult, shards: NDArray[np.uint32]) -> None:
        written = result.states == RowState.WRITTEN
        if written.all():
            ailing.written(shards)
            return
        ailing.written(shards[written])
        for error in result.errors:
            if error.kind == CallFailure.TIMEOUT.value and not error.host:
                ailing.unanswered(shards[error.rows], self._clock(), f"its nodes do not answer: {error.text}")

    def _unknown(self, batch: Values, rows: NDArray[np.int64], text: str) -> list[Refused]:
        """Of rows whose namespace nodes do not know: those for which it is too late to come."""
        refused = []
        for number in np.unique(batch.destination[rows]).tolist():
            if self._unknown_since.note(batch.destinations[number].attributes, self._clock()):
                refused.append(Refused(RefusedWhy.NO_NAMESPACE, rows[batch.destination[rows] == number], text))
        return refused


@dataclass(frozen=True, slots=True)
class _Written:
    """What became of one write of the session; rows are those of the batch."""

    refused: list[Refused]
    parked: list[Parked] = field(default_factory=list)
    failed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Too few nodes have written them."""
    sent: int = 0
    why: str = ""


def _annotations(batch: Values, rows: NDArray[np.int64]) -> tuple[tuple[bytes, ...], NDArray[np.uint16]]:
    if batch.annotations is None:
        return (b"",), np.zeros(len(rows), np.uint16)
    used = batch.annotations.rows(rows).used()
    numbers: dict[bytes, int] = {b"": 0}
    renumbered = np.array([numbers.setdefault(text, len(numbers)) for text in used.texts], np.uint16)
    return tuple(numbers), renumbered[used.column]

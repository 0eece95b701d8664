"""One round of a write: rows go to their hosts, answers are counted, and it is over when every row is decided.

Nothing waits for a host whose answer decides nothing any more; what comes later is not looked at.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from m3db.connection import Answer
from m3db.consistency import PENDING, RowState
from m3db.errors import CallError, CallFailure
from m3db.host import NO_CONNECTION, HostPool
from m3db.tallies import BAD, ERROR, SUCCESS, Routing, WriteTally
from m3db.write import Calls, ElementErrors, WriteRows, all_written, element_errors, encode_calls

__all__ = ["BAD_REQUEST", "INTERNAL", "RESOURCE_EXHAUSTED", "TOO_NEW", "TOO_OLD", "Attempt", "Hurry", "RowError"]

INTERNAL, RESOURCE_EXHAUSTED, BAD_REQUEST = "internal", "resource exhausted", "bad request"
TOO_OLD, TOO_NEW = "too far in past", "too far in future"
"""Kinds of errors of single elements; the last two are bad requests, too."""
_TIMES = ((TOO_OLD, b"datapoint too far in past"), (TOO_NEW, b"datapoint too far in future"))
"""How the texts of those begin."""


@dataclass(frozen=True, slots=True, eq=False)
class RowError:
    """What one host said, or did not say, of some rows."""

    rows: NDArray[np.int64]
    host: str
    """Its id; empty: there was nobody to ask."""
    kind: str
    """BAD_REQUEST, TOO_OLD, TOO_NEW, RESOURCE_EXHAUSTED, INTERNAL, or how the call ended (a value of ``CallFailure``)."""
    text: str


@dataclass(frozen=True, slots=True)
class Hurry:
    """That rows whose copies do not answer may be left undecided while others are written."""

    patience_s: float
    """So long nothing has been answered then."""
    others_are_written: Callable[[], bool]
    """Whether rows of other rounds have been, since this one began."""


class Attempt:
    """One round; ``pools`` has the hosts of the topology of ``routing``."""

    def __init__(
        self,
        routing: Routing,
        pools: Sequence[HostPool],
        rows: WriteRows,
        timeout_s: float,
    ) -> None:
        self.tally = WriteTally(routing, rows.shards)
        """The state of each row."""
        self.errors: list[RowError] = []
        """As far as they came before all was decided."""
        self._routing = routing
        self._pools = pools
        self._rows = rows
        self._timeout_s = timeout_s
        self._decided = asyncio.get_running_loop().create_future()
        self._answers = 0

    async def run(self, reserve: Callable[[int], int], elements: int, hurry: "Hurry | None" = None) -> None:
        """Returns when every row is decided, or as ``hurry`` says, and every host that answers has been sent its share.

        ``reserve`` gives message ids, ``elements`` is how many a call has at most.
        """
        full: defaultdict[int, list[Calls]] = defaultdict(list)
        for part in self._routing.parts(self._rows.shards):
            ttl_ms = max(1, int(self._timeout_s * 1000))
            calls = encode_calls(self._rows, part.rows, reserve, ttl_ms, most_elements=elements)
            for host in part.hosts:
                if host in full or not self._pools[host].has_room(len(calls.frames)):
                    full[host].append(calls)
                else:
                    self._send(host, calls)
        if full:
            async with asyncio.TaskGroup() as group:
                for host, waiting in full.items():
                    group.create_task(self._send_when_there_is_room(host, waiting))
        if self.tally.undecided:
            await self._decide(hurry)

    async def _decide(self, hurry: "Hurry | None") -> None:
        while True:
            answers = self._answers
            await asyncio.wait([self._decided], timeout=None if hurry is None else hurry.patience_s)
            if self._decided.done():
                self._decided.result()
                return
            if hurry is not None and answers == self._answers and (self._any_written() or hurry.others_are_written()):
                rows = np.flatnonzero(self.tally.states == PENDING)
                text = f"not decided after {hurry.patience_s:g} s without an answer, while others are"
                self.errors.append(RowError(rows, "", CallFailure.TIMEOUT.value, text))
                return

    def _any_written(self) -> bool:
        return bool((self.tally.states == RowState.WRITTEN).any())

    def _send(self, host: int, calls: Calls) -> None:
        if not self._pools[host].send(calls, self._timeout_s, partial(self._answered, host, calls)):
            self._failed(host, calls.rows, CallFailure.NETWORK.value, NO_CONNECTION)

    async def _send_when_there_is_room(self, host: int, waiting: list[Calls]) -> None:
        pool = self._pools[host]
        last_s = asyncio.get_running_loop().time() + self._timeout_s
        for calls in waiting:
            if await pool.until_room(len(calls.frames), last_s):
                self._send(host, calls)
            else:
                text = f"{pool.host.endpoint}: too much is on its way there without an answer"
                self._failed(host, calls.rows, CallFailure.BUSY.value, text)

    def _answered(self, host: int, calls: Calls, numbers: Sequence[int], result: Answer | CallError) -> None:
        self._answers += 1
        if self.tally.undecided:
            try:
                if isinstance(result, CallError):
                    self._failed(host, calls.rows_of(numbers), result.kind.value, result.text)
                elif all_written(result.code, result.body):
                    rows = calls.rows_of(numbers)
                    self._count(host, rows, np.zeros(len(rows), np.uint8))
                else:
                    for number in numbers:
                        self._take(host, calls.rows_of((number,)), result)
            except Exception as error:
                # A mistake of ours must end the write, which would wait for ever.
                if not self._decided.done():
                    self._decided.set_exception(error)

    def _take(self, host: int, rows: NDArray[np.int64], answer: Answer) -> None:
        try:
            errors = element_errors(answer.code, answer.body, len(rows))
        except CallError as error:
            self._failed(host, rows, error.kind.value, error.text)
        else:
            self._count(host, rows, self._outcomes(host, rows, errors))

    def _outcomes(self, host: int, rows: NDArray[np.int64], errors: ElementErrors) -> NDArray[np.uint8]:
        """Exhausted resources are a bad request to nodes; here they are worth another try."""
        outcomes = np.full(len(rows), SUCCESS, np.uint8)
        if not len(errors):
            return outcomes
        exhausted, bad = errors.exhausted, errors.bad_request & ~errors.exhausted
        kinds = [(INTERNAL, ~exhausted & ~bad, ERROR), (RESOURCE_EXHAUSTED, exhausted, ERROR)]
        if bad.any():
            begins = [bad & errors.begin_with(text) for _, text in _TIMES]
            kinds += [(kind, chosen, BAD) for (kind, _), chosen in zip(_TIMES, begins, strict=True)]
            kinds.append((BAD_REQUEST, bad & ~begins[0] & ~begins[1], BAD))
        for kind, chosen, outcome in kinds:
            if chosen.any():
                index = np.unique(errors.index[chosen])
                outcomes[index] = outcome
                self._note(host, rows[index], kind, errors.text(int(np.argmax(chosen))))
        return outcomes

    def _failed(self, host: int, rows: NDArray[np.int64], kind: str, text: str) -> None:
        self._note(host, rows, kind, text)
        self._count(host, rows, np.full(len(rows), ERROR, np.uint8))

    def _count(self, host: int, rows: NDArray[np.int64], outcomes: NDArray[np.uint8]) -> None:
        self.tally.answered(host, rows, outcomes)
        if not self.tally.undecided and not self._decided.done():
            self._decided.set_result(None)

    def _note(self, host: int, rows: NDArray[np.int64], kind: str, text: str) -> None:
        self.errors.append(RowError(rows, self._pools[host].host.id, kind, text))

"""From workers' output to sinks: parts of flushes in, messages to the m3msg producers out, and the news when they are done.

Parts wait in one queue, bounded by the output credit that workers have; a part goes on when every sink has room and somebody has not
enough to do yet, and then its bytes are given back as credit: what is still to come of a window stays with its worker, where it takes
least. A sink that is away (none of its consumers can be reached) does not hold the others up: it loses what exceeds its buffer, counted
and named; where all are away, parts wait. Forwarded metrics (rollups) have a ``Forwarder`` of their own, with a credit and a sink of
their own, so that neither class holds the other up.

A batch that is done may still be *owed* to a replica that is away for a moment: then its flush is done, but the flush times wait.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import zmq

from aggregator.ipc import Flushed, Passed
from m3msg.batch import MessageBatch
from m3x.clock import monotonic_ns
from m3x.instrument import Scope
from m3x.log import logger

__all__ = ["Blackhole", "Ended", "Forwarder", "LoggingSink", "Nowhere", "Part", "Settled", "Sink"]

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of the messages of a batch."""

    acked: int
    lost: int = 0
    fenced: int = 0
    """Not sent because the right to write was lost."""
    example: Mapping[str, str] = field(default_factory=dict)
    """One of the lost ones, for the log: topic, consumer, reason, metric, policy."""


class Settled(Protocol):
    """Hears of a part that its messages are done but for those of some shards; with none left it is done."""

    def __call__(self, flush_id: int, part: int, awaited: frozenset[int], owed: frozenset[int] = frozenset()) -> None:
        """``awaited``: shards of the placement; ``owed``: those whose messages some replica lacks that is expected back."""


class Sink(Protocol):
    """Takes batches; calls what it was made with when all messages of one are done."""

    @property
    def away(self) -> bool:
        """Whether nobody takes anything from it, and has not for a while."""

    @property
    def saturated(self) -> bool:
        """Whether everybody who takes something from it has enough in hand."""

    def room(self, nbytes: int) -> bool:
        """Whether a batch of that size may be delivered now."""

    def deliver(self, batch: MessageBatch) -> None:
        """Takes a batch; its ``token`` comes back with ``Ended``, sooner or later."""

    def look(self) -> bool:
        """Tells of what replicas have got since the last call; whether something is still owed to one."""


class Part:
    """One part of a flush on its way; the token of its batch."""

    __slots__ = (
        "_batch",
        "awaited",
        "begun_ns",
        "epoch",
        "flush_id",
        "messages",
        "nbytes",
        "number",
        "origins",
        "owed",
        "worker",
    )

    def __init__(self, worker: int, epoch: int, flush_id: int, number: int, batch: MessageBatch) -> None:
        self.worker = worker
        self.epoch = epoch
        self.flush_id = flush_id
        self.number = number
        """That of ``Flushing.part``."""
        self.nbytes = batch.size_bytes
        self.messages = len(batch)
        self.begun_ns = monotonic_ns()
        """When it came from the worker."""
        self.origins = batch.origins
        """Shards of the placement, of each message."""
        self._batch: MessageBatch | None = batch
        self.awaited: dict[Sink, frozenset[int] | None] = {}
        """Sinks that are not done with it, and the shards of which they await messages; None: perhaps all."""
        self.owed: frozenset[int] = frozenset()
        """Shards whose messages a sink that is done with it owes to a replica."""
        batch.token = self

    def take(self) -> MessageBatch:
        """Its messages, once: whoever takes them holds the part, which shall not hold them. Raises ``LookupError`` the second time."""
        batch, self._batch = self._batch, None
        if batch is None:
            raise LookupError("the messages of this part have been taken")
        return batch


def batch_of(header: Flushed | Passed, frames: Sequence[zmq.Frame]) -> MessageBatch:
    """The arrays of a part, without copying. Raises ``ValueError`` if they do not fit together."""
    if len(frames) < 3:
        raise ValueError(f"a part with {header.values} values needs 5 frames, found {len(frames)}")
    payload = np.frombuffer(frames[0].buffer, np.uint8)
    offsets = np.frombuffer(frames[1].buffer, np.int64)
    shards = np.frombuffer(frames[2].buffer, np.uint32)
    policies = np.frombuffer(frames[3].buffer, np.uint16) if len(frames) > 3 and len(frames[3].buffer) else None
    origins = np.frombuffer(frames[4].buffer, np.uint32) if len(frames) > 4 and len(frames[4].buffer) else None
    if len(offsets) != header.values + 1 or len(shards) != header.values:
        raise ValueError(f"{header.values} values announced, {len(offsets)} offsets and {len(shards)} shards found")
    for what, column in (("policies", policies), ("origins", origins)):
        if column is not None and len(column) != header.values:
            raise ValueError(f"{header.values} values announced, {len(column)} {what} found")
    return MessageBatch(payload, offsets, shards, policies, tuple(header.policy_names), origins)


class Forwarder:
    """Queue between the workers and the sinks of one kind of output."""

    def __init__(
        self,
        settled: Settled,
        fenced: Callable[[], None],
        credit: Callable[[int, int, int], None],
        scope: Scope,
        output: str = "final",
        client: Scope | None = None,
    ) -> None:
        """``fenced``: called when messages were not sent because the right to write was lost. ``client``: where M3 counts rollups."""
        self.sinks: list[Sink] = []
        self._settled = settled
        self._fenced = fenced
        self._credit = credit
        self._scope = scope.tagged(output=output)
        self._output = output
        self._client = client
        self._queue: deque[Part] = deque()
        self.held_up = asyncio.Event()
        """Set while parts wait for room, or for replicas: ``pump`` is to be called from time to time."""

    @property
    def waiting_bytes(self) -> int:
        """Output that no sink has taken yet."""
        return sum(part.nbytes for part in self._queue)

    @property
    def age_s(self) -> float:
        """How long the oldest part has waited for a sink to take it; 0: none waits."""
        return (monotonic_ns() - self._queue[0].begun_ns) / 1e9 if self._queue else 0.0

    def offer(self, part: Part) -> None:
        """Takes a part of a flush."""
        self._queue.append(part)
        self.pump()

    def refuse(self, worker: int, epoch: int, nbytes: int) -> None:
        """Output that nobody waits for: only its credit goes back."""
        self._credit(worker, epoch, nbytes)

    def drop(self) -> None:
        """The right to emit is gone: nothing that waits is sent."""
        while self._queue:
            part = self._queue.popleft()
            self._scope.count("fenced", len(part.take()))
            self._credit(part.worker, part.epoch, part.nbytes)

    def pump(self) -> None:
        """Hands on what sinks have room for, and looks what replicas have got; call it again when that may have changed."""
        while self._queue and self._has_room(self._queue[0].nbytes):
            part = self._queue.popleft()
            part.awaited = dict.fromkeys(self.sinks)
            batch = part.take()
            self._scope.count("messages", len(batch))
            self._scope.count("bytes", part.nbytes)
            for sink in self.sinks:
                sink.deliver(batch)
            self._credit(part.worker, part.epoch, part.nbytes)
        owing = [sink for sink in self.sinks if sink.look()]
        if self._queue or owing:
            self.held_up.set()
        else:
            self.held_up.clear()

    def _has_room(self, nbytes: int) -> bool:
        waited_for = [sink for sink in self.sinks if not sink.away] or self.sinks
        if not waited_for or all(sink.saturated for sink in waited_for):
            return False
        return all(sink.room(nbytes) for sink in waited_for)

    def awaits(self, sink: Sink, part: Part, shards: frozenset[int]) -> None:
        """A sink waits for messages of those shards only; they may be others than before."""
        if sink in part.awaited:
            part.awaited[sink] = shards
            self._tell(part)

    def ended(self, sink: Sink, part: Part, result: Ended) -> None:
        """A sink is done with a batch."""
        if result.lost:
            self._scope.count("lost", result.lost)
            self._scope.count("parts-lost")
            log.warning_limited(
                "output was given up: no consumer has taken it",
                messages=result.lost,
                output=self._output,
                example=dict(result.example),
            )
        if result.fenced:
            self._fenced()
        elif sink in part.awaited:
            del part.awaited[sink]
            if not part.awaited:
                self._arrived(part)
            self._tell(part)
        if part.owed:
            self.held_up.set()

    def arrived(self, part: Part) -> None:
        """Every replica has what was owed."""
        part.owed = frozenset()
        self._tell(part)

    def fenced(self) -> None:
        """The right to write was lost before a replica had what was owed to it."""
        self._fenced()

    def _arrived(self, part: Part) -> None:
        """No sink has anything to do with it any more."""
        seconds = (monotonic_ns() - part.begun_ns) / 1e9
        self._scope.count("parts")
        self._scope.record("latency", seconds)
        if self._client is not None:
            self._client.observe("flush.success-latency", seconds)
            self._client.observe("writeForwarded.success-latency", seconds, part.messages)

    def _tell(self, part: Part) -> None:
        awaited: frozenset[int] = frozenset()
        for shards in part.awaited.values():
            if shards is None:
                return
            awaited |= shards
        if part.owed:
            self._settled(part.flush_id, part.number, awaited, part.owed)
        else:
            self._settled(part.flush_id, part.number, awaited)


class _Bottomless:
    """What is common to sinks that are done with a batch at once."""

    away = False
    saturated = False

    def __init__(self, ended: Callable[[Sink, Part, Ended], None]) -> None:
        self._ended = ended

    def room(self, _nbytes: int) -> bool:
        """Always: what is not sent must not hold flushes up."""
        return True

    def look(self) -> bool:
        """Nothing is owed to anybody."""
        return False


class Blackhole(_Bottomless):
    """``staticBackend: {type: blackhole}``: everything is done at once."""

    def deliver(self, batch: MessageBatch) -> None:
        """Forgets it."""
        self._ended(self, batch.token, Ended(len(batch)))


class Nowhere(_Bottomless):
    """For output that has nowhere to go: all of it is lost, and ``told`` says so."""

    def __init__(self, ended: Callable[[Sink, Part, Ended], None], told: Callable[[], None]) -> None:
        super().__init__(ended)
        self._told = told

    def deliver(self, batch: MessageBatch) -> None:
        """Loses it."""
        self._told()
        self._ended(self, batch.token, Ended(0, lost=len(batch)))


class LoggingSink(_Bottomless):
    """``staticBackend: {type: logging}``: a line per metric."""

    def __init__(
        self, ended: Callable[[Sink, Part, Ended], None], describe: Callable[[bytes], dict[str, object]]
    ) -> None:
        super().__init__(ended)
        self._describe = describe

    def deliver(self, batch: MessageBatch) -> None:
        """Logs it."""
        for i in range(len(batch)):
            payload = batch.payload[int(batch.offsets[i]) : int(batch.offsets[i + 1])].tobytes()
            log.info("aggregated metric with policy", **self._describe(payload))
        self._ended(self, batch.token, Ended(len(batch)))

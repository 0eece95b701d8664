"""From workers' output to sinks: parts of flushes in, messages to the m3msg producers out, and the news when they are done.

Parts wait in one queue, bounded by the output credit that workers have; a part goes on when every sink has room, and then its bytes are
given back as credit. Forwarded metrics (rollups) have a ``Forwarder`` of their own, with a credit and a sink of their own, so that neither
class holds the other up.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import zmq

from aggregator.ipc import Flushed
from m3msg.batch import MessageBatch
from m3x.instrument import Scope
from m3x.log import logger

__all__ = ["Blackhole", "Ended", "Forwarder", "LoggingSink", "Nowhere", "Part", "Sink"]

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of the messages of a batch."""

    acked: int
    lost: int = 0
    fenced: int = 0
    """Not sent because the right to write was lost."""


class Sink(Protocol):
    """Takes batches; calls what it was made with when all messages of one are done."""

    def room(self, nbytes: int) -> bool:
        """Whether a batch of that size may be delivered now."""

    def deliver(self, batch: MessageBatch) -> None:
        """Takes a batch; its ``token`` comes back with ``Ended``, sooner or later."""


class Part:
    """One part of a flush on its way; the token of its batch."""

    __slots__ = ("batch", "epoch", "flush_id", "left", "nbytes", "worker")

    def __init__(self, worker: int, epoch: int, flush_id: int, batch: MessageBatch) -> None:
        self.worker = worker
        self.epoch = epoch
        self.flush_id = flush_id
        self.batch = batch
        self.nbytes = batch.size_bytes
        self.left = 0
        """Sinks that are not done with it."""
        batch.token = self


def batch_of(header: Flushed, frames: Sequence[zmq.Frame]) -> MessageBatch:
    """The arrays of a part, without copying. Raises ``ValueError`` if they do not fit together."""
    if len(frames) < 3:
        raise ValueError(f"a part with {header.values} values needs 4 frames, found {len(frames)}")
    payload = np.frombuffer(frames[0].buffer, np.uint8)
    offsets = np.frombuffer(frames[1].buffer, np.int64)
    shards = np.frombuffer(frames[2].buffer, np.uint32)
    policies = np.frombuffer(frames[3].buffer, np.uint16) if len(frames) > 3 and len(frames[3].buffer) else None
    if len(offsets) != header.values + 1 or len(shards) != header.values:
        raise ValueError(f"{header.values} values announced, {len(offsets)} offsets and {len(shards)} shards found")
    if policies is not None and len(policies) != header.values:
        raise ValueError(f"{header.values} values announced, {len(policies)} policies found")
    return MessageBatch(payload, offsets, shards, policies, tuple(header.policy_names))


class Forwarder:
    """Queue between the workers and the sinks of one kind of output."""

    def __init__(
        self,
        done: Callable[[int, Ended], None],
        credit: Callable[[int, int, int], None],
        scope: Scope,
        output: str = "final",
    ) -> None:
        self.sinks: list[Sink] = []
        self._done = done
        self._credit = credit
        self._scope = scope.tagged(output=output)
        self._output = output
        self._queue: deque[Part] = deque()
        self.held_up = asyncio.Event()
        """Set while parts wait for room: ``pump`` is to be called from time to time."""

    @property
    def waiting_bytes(self) -> int:
        """Output that no sink has taken yet."""
        return sum(part.nbytes for part in self._queue)

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
            self._scope.count("fenced", len(part.batch))
            self._credit(part.worker, part.epoch, part.nbytes)

    def pump(self) -> None:
        """Hands on what sinks have room for; call it again when they may have more."""
        while self._queue and self.sinks and all(sink.room(self._queue[0].nbytes) for sink in self.sinks):
            part = self._queue.popleft()
            part.left = len(self.sinks)
            self._scope.count("messages", len(part.batch))
            self._scope.count("bytes", part.nbytes)
            for sink in self.sinks:
                sink.deliver(part.batch)
            self._credit(part.worker, part.epoch, part.nbytes)
        if self._queue:
            self.held_up.set()
        else:
            self.held_up.clear()

    def ended(self, part: Part, result: Ended) -> None:
        """A sink is done with a batch."""
        if result.lost:
            self._scope.count("lost", result.lost)
            log.warning_limited(
                "output was given up: no consumer has taken it", messages=result.lost, output=self._output
            )
        part.left -= 1
        if part.left == 0 or result.fenced:
            self._done(part.flush_id, result)


class Blackhole:
    """``staticBackend: {type: blackhole}``: everything is done at once."""

    def __init__(self, ended: Callable[[Part, Ended], None]) -> None:
        self._ended = ended

    def room(self, _nbytes: int) -> bool:
        """Always."""
        return True

    def deliver(self, batch: MessageBatch) -> None:
        """Forgets it."""
        self._ended(batch.token, Ended(len(batch)))


class Nowhere:
    """For output that has nowhere to go: all of it is lost, and ``told`` says so."""

    def __init__(self, ended: Callable[[Part, Ended], None], told: Callable[[], None]) -> None:
        self._ended = ended
        self._told = told

    def room(self, _nbytes: int) -> bool:
        """Always: what cannot be sent must not hold flushes up."""
        return True

    def deliver(self, batch: MessageBatch) -> None:
        """Loses it."""
        self._told()
        self._ended(batch.token, Ended(0, lost=len(batch)))


class LoggingSink:
    """``staticBackend: {type: logging}``: a line per metric."""

    def __init__(self, ended: Callable[[Part, Ended], None], describe: Callable[[bytes], dict[str, object]]) -> None:
        self._ended = ended
        self._describe = describe

    def room(self, _nbytes: int) -> bool:
        """Always."""
        return True

    def deliver(self, batch: MessageBatch) -> None:
        """Logs it."""
        for i in range(len(batch)):
            payload = batch.payload[int(batch.offsets[i]) : int(batch.offsets[i + 1])].tobytes()
            log.info("aggregated metric with policy", **self._describe(payload))
        self._ended(batch.token, Ended(len(batch)))

"""Order, credits and waiting between the front and its workers (docs/architecture.md §4): a state machine without I/O.

What a worker that died had not acked is given to its successor as it was, with stamp and number, before anything else: the successor knows
what of it the journal has. A batch that ``_MAX_DEATHS`` workers did not survive is dropped, unacked.

A batch is *settled* when the producers' systems have taken all its acks (or the time is over in which a producer that was cut off sends
again): no worker needs to recognise its messages any more.

Each worker has one ordered stream of batches and commands. Batches need credit: at most ``credit_bytes`` are on the way to, or at, a
worker without its ack. What may not go yet waits in the stream's queue, commands in their place between the batches.

A worker is *lagging* while it is down, has not been told its shards yet, or owes acks and has given none for ``stall_ns``. It stays
so until its queue is empty, or short and an ack has come, or, as new input may keep that from ever being so, until its acks have flowed
again for ``stall_ns``. The distinction keeps two things apart:

* Workers that are merely slow: nothing is thrown away, reading pauses (``Flow.paused``) and TCP passes the pressure on to producers.
* Lagging workers, while others are not: their batches wait up to their share of the waiting buffer; beyond it their messages are
  discarded, unacked, so that producers send them again (``Flow.discarding``), and the others go on.

The share of a lagging worker is ``_SHARE`` times what all of them leave free (the dynamic threshold of shared-memory switches): one alone
gets most of the room, and leaves some for the next. Without it a worker that stalls for a moment, as its disk does, would find all room
taken by one that has been away for long, and its messages would be discarded at once.

If all that own shards lag there is nobody to go on, so nothing is discarded: reading pauses when one has its share. A worker without
shards gets no load (but for worker 0, which gets what belongs to nobody), so it is nobody to go on either.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aggregator import ipc

Payload = bytes | NDArray[np.uint8]
MAX_QUEUED_COMMANDS = 65536
_MAX_DEATHS = 3
_LAGGING_PART = 0.875
"""Part of the waiting buffer for lagging workers; the rest is for the others."""
_SHARE = 3
"""With it the second one may still have more than all of the others' part: what it brings when it begins to lag."""
_NONE: frozenset[int] = frozenset()


class Link(Protocol):
    """The way to one incarnation of a worker."""

    def send(self, header: ipc.ToWorker, payload: Payload | None) -> bool:
        """Hands a message over; False if the way is blocked for now. Never waits."""

    def close(self) -> None:
        """Throws away what the worker has not received."""


@dataclass(slots=True)
class Batch:
    """Frames of some connections, read at ``now_ns``."""

    now_ns: int
    payload: Payload
    connections: list[int]
    sizes: list[int]
    """Bytes per connection."""
    counts: list[int]
    """Messages per connection."""
    hosts: list[int]
    """``Connection.host_number`` of each."""
    since_ns: int
    """Since when, at the earliest, their producers wait for acks (monotonic)."""
    buffer: NDArray[np.uint8] | None = None
    """The reusable buffer that ``payload`` lies in, if any."""
    at: int = -1
    """Where in the memory that workers map ``payload`` lies; -1: elsewhere."""
    seq: int = -1
    """Its number, from when it was first sent on."""
    deaths: int = 0
    """How many workers died while they had it."""

    @property
    def nbytes(self) -> int:
        """Size of the payload."""
        return len(self.payload)


@dataclass(slots=True)
class _Order:
    now_ns: int
    command: ipc.Command


@dataclass(slots=True)
class Dropped:
    """What was lost with an incarnation of a worker."""

    batches: list[Batch] = field(default_factory=list)
    """Sent too often."""
    commands: list[ipc.Command] = field(default_factory=list)
    """Never sent."""


class WorkerStream:
    """The ordered stream to one worker, over its incarnations."""

    def __init__(self, worker: int, credit_bytes: int, stall_ns: int, front: int = 0) -> None:
        """``front``: ``ipc.Batch.front``."""
        self.worker = worker
        self.epoch = -1
        """The current incarnation, −1 before the first one."""
        self.lagging = True
        self.unacked_bytes = 0
        self.waiting_bytes = 0
        self.acked_batches = 0
        self._credit_bytes = credit_bytes
        self._stall_ns = stall_ns
        self._front = front
        self._settled = -1
        self._unsettled: deque[tuple[int, list[int], int]] = deque()
        """Numbers of acked batches, with their connections and the time of the ack."""
        self._link: Link | None = None
        self._routed = False
        """Whether this incarnation has been told its shards."""
        self._seq = 0
        self._progress_ns = 0
        self._flowing_since_ns = -1
        """The first ack of a lagging worker since it last stalled, −1 before it."""
        self._first_orders: deque[_Order] = deque()
        self._queue: deque[Batch | _Order | ipc.Cut] = deque()
        self._inflight: dict[int, Batch] = {}

    @property
    def attached(self) -> bool:
        """Whether there is a worker process to talk to."""
        return self._link is not None

    @property
    def inflight(self) -> int:
        """Batches sent and not acked."""
        return len(self._inflight)

    @property
    def oldest_ns(self) -> int | None:
        """The stamp of the first batch that is not acked; None: all are."""
        first = next(iter(self._inflight.values()), None)
        waiting = first or next((entry for entry in self._queue if isinstance(entry, Batch)), None)
        return None if waiting is None else waiting.now_ns

    @property
    def idle(self) -> bool:
        """Whether everything was sent and acked."""
        return not self._inflight and not self._queue and not self._first_orders

    def attach(self, link: Link, epoch: int) -> None:
        """A new incarnation is there; ``detach`` came before if there was one. Waiting batches go to it after its shards."""
        self._link, self.epoch = link, epoch
        self._routed = False

    def detach(self) -> Dropped:
        """The incarnation is gone: its link is closed, what it had not acked and what still waits is kept for the next one."""
        if self._link is not None:
            self._link.close()
        commands = [order.command for order in self._first_orders]
        commands += [entry.command for entry in self._queue if isinstance(entry, _Order)]
        given = list(self._inflight.values())
        for batch in given:
            batch.deaths += 1
        kept = [batch for batch in given if batch.deaths < _MAX_DEATHS]
        self.waiting_bytes += sum(batch.nbytes for batch in kept)
        self._queue = deque([*kept, *(entry for entry in self._queue if not isinstance(entry, _Order))])
        self._first_orders.clear()
        self._inflight.clear()
        self._link, self._routed, self.unacked_bytes, self.lagging = None, False, 0, True
        self._flowing_since_ns = -1
        return Dropped([batch for batch in given if batch.deaths >= _MAX_DEATHS], commands)

    def cut(self, ended: dict[int, int]) -> None:
        """These connections ended. Their producers may not know of all acks, but do of those given before the time (monotonic)."""
        self._queue.append(ipc.Cut({number: self._first_unread(number, read_ns) for number, read_ns in ended.items()}))

    def _first_unread(self, number: int, read_ns: int) -> int:
        """Up to where of a connection's batches no message comes again. What is not acked is behind all that is."""
        first = 0
        for seq, connections, acked_ns in self._unsettled:
            if acked_ns >= read_ns and number in connections:
                return seq
            first = seq + 1
        return first

    def settle(self, delivered: Callable[[int, int], bool]) -> None:
        """Looks what is settled; ``delivered(connection, acked_ns)``: whether all acks given until then have arrived."""
        while self._unsettled:
            seq, connections, acked_ns = self._unsettled[0]
            if not all(delivered(connection, acked_ns) for connection in connections):
                return
            self._settled = seq
            self._unsettled.popleft()

    def put(self, batch: Batch, mono_ns: int) -> bool:
        """Sends a batch, or lets it wait; returns whether it went at once. Stamps must not decrease."""
        if not self._queue and self._send_batch(batch, mono_ns):
            return True
        self._queue.append(batch)
        self.waiting_bytes += batch.nbytes
        return False

    def order(self, command: ipc.Command, epoch: int, now_ns: int, mono_ns: int) -> bool:
        """Puts a command into the stream; False if it is for another incarnation or the queue is full: not delivered.

        What an incarnation has to know before its first batch (shards, limits) overtakes the batches that wait for it, and takes the
        oldest one's stamp. Nothing else does: a flush would close the windows of what waits.
        """
        if self._link is None or epoch != self.epoch:
            return False
        if not self._routed and isinstance(command, ipc.Shards | ipc.RuntimeOptions):
            first = next((entry for entry in self._queue if not isinstance(entry, ipc.Cut)), None)
            self._first_orders.append(_Order(now_ns if first is None else min(first.now_ns, now_ns), command))
        elif len(self._queue) < MAX_QUEUED_COMMANDS:
            self._queue.append(_Order(now_ns, command))
        else:
            return False
        self.pump(mono_ns)
        return True

    def goodbye(self) -> bool:
        """Ends the stream of a worker to which everything was sent."""
        return self._link is not None and self._link.send(ipc.Goodbye(), None)

    def pump(self, mono_ns: int) -> None:
        """Sends what may go now, in order."""
        if self._link is None or not (self._queue or self._first_orders):
            return
        while self._first_orders:
            order = self._first_orders[0]
            if not self._link.send(ipc.Order(order.now_ns, order.command), None):
                return
            self._first_orders.popleft()
            self._routed = self._routed or isinstance(order.command, ipc.Shards)
        while self._queue and self._routed:
            entry = self._queue[0]
            if isinstance(entry, Batch):
                if not self._send_batch(entry, mono_ns):
                    return
                self.waiting_bytes -= entry.nbytes
            elif not self._link.send(
                entry if isinstance(entry, ipc.Cut) else ipc.Order(entry.now_ns, entry.command), None
            ):
                return
            self._queue.popleft()

    def acked(self, seq: int, mono_ns: int) -> Batch | None:
        """The worker has applied batch ``seq``: gives its credit back. None: not of this incarnation."""
        batch = self._inflight.pop(seq, None)
        if batch is not None:
            self.unacked_bytes -= batch.nbytes
            self._progress_ns = mono_ns
            if self.lagging and self._flowing_since_ns < 0:
                self._flowing_since_ns = mono_ns
            self.acked_batches += 1
            self._unsettled.append((seq, batch.connections, mono_ns))
            self.pump(mono_ns)
        return batch

    def judge(self, mono_ns: int) -> None:
        """Looks whether the worker lags."""
        stalled = bool(self._inflight) and mono_ns - self._progress_ns > self._stall_ns
        if self._link is None or not self._routed or stalled:
            self.lagging = True
            self._flowing_since_ns = -1
        elif self.lagging and (not self._queue or self._is_short() or self._flows()):
            self.lagging = False
            self._flowing_since_ns = -1

    def _is_short(self) -> bool:
        # Were it more, one that acks a batch now and then would hold the others again and again.
        return self._flowing_since_ns >= 0 and self.waiting_bytes <= self._credit_bytes // 2

    def _flows(self) -> bool:
        # From ack to ack: one burst of acks and then silence is no flow.
        return self._flowing_since_ns >= 0 and self._progress_ns - self._flowing_since_ns >= self._stall_ns

    def _send_batch(self, batch: Batch, mono_ns: int) -> bool:
        if self._link is None or not self._routed:
            return False
        if self._inflight and self.unacked_bytes + batch.nbytes > self._credit_bytes:
            return False
        if batch.seq < 0:
            batch.seq = self._seq
            self._seq += 1
        header = ipc.Batch(
            batch.seq, batch.now_ns, batch.connections, batch.sizes, batch.counts, self._front, self._settled,
            batch.hosts, batch.since_ns, batch.at,
        )  # fmt: skip
        if not self._link.send(header, batch.payload if batch.at < 0 else None):
            return False
        if not self._inflight:
            self._progress_ns = mono_ns
        self._inflight[batch.seq] = batch
        self.unacked_bytes += batch.nbytes
        return True


class Flow:
    """The streams of all workers, and what their states mean for reading."""

    def __init__(self, credit_bytes: int, waiting_bytes: int, stall_ns: int, front: int = 0) -> None:
        """``front``: ``ipc.Batch.front``."""
        self.streams: list[WorkerStream] = []
        self._owning: list[WorkerStream] = self.streams
        """Those that own shards; all of them until the first route."""
        self._credit_bytes = credit_bytes
        self._waiting_bytes = waiting_bytes
        self._stall_ns = stall_ns
        self._front = front

    def stream(self, worker: int) -> WorkerStream:
        """The stream of a worker; made, with those below it, when first named."""
        while len(self.streams) <= worker:
            self.streams.append(WorkerStream(len(self.streams), self._credit_bytes, self._stall_ns, self._front))
        return self.streams[worker]

    def route(self, owners: list[int]) -> None:
        """Shard ownership as in ``ipc.Route``."""
        self._owning = [self.stream(worker) for worker in sorted({max(owner, 0) for owner in owners} or {0})]

    def step(self, mono_ns: int) -> None:
        """Tries blocked links again and judges all workers."""
        for stream in self.streams:
            stream.pump(mono_ns)
            stream.judge(mono_ns)

    def paused(self) -> bool:
        """Whether no connection may be read."""
        if not any(stream.waiting_bytes for stream in self.streams):
            return False
        if all(stream.lagging for stream in self._owning):
            return bool(self._have_their_share())
        others = sum(stream.waiting_bytes for stream in self.streams if not stream.lagging)
        return others >= self._waiting_bytes * (1 - _LAGGING_PART)

    def discarding(self) -> frozenset[int]:
        """Workers whose further messages are to be thrown away, unacked."""
        full = self._have_their_share()
        return _NONE if all(stream.lagging for stream in self._owning) else full

    def _have_their_share(self) -> frozenset[int]:
        """Lagging workers that may have no more."""
        waiting = {stream.worker: stream.waiting_bytes for stream in self.streams if stream.lagging}
        if not waiting:
            return _NONE
        free = self._waiting_bytes * _LAGGING_PART - sum(waiting.values())
        return frozenset(worker for worker, nbytes in waiting.items() if nbytes >= _SHARE * free)

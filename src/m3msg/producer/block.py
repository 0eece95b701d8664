"""What a producer holds: blocks of messages, their copies per consumer instance (parcels), and how each batch ended.

    MessageBatch ──> Block (payload in columns) ──> Share per consumer service ──> Parcel per lane (a row per copy)

A large batch becomes one or several blocks without copying; small ones are joined. A block's payload lives as long as any parcel still
needs it. Nothing here is an object per message.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from m3msg.batch import MessageBatch
from m3msg.producer.kernels import collect, judge
from m3msg.producer.rows import (
    BIT_ACKED,
    BIT_PENDING,
    COPY_ROW,
    NUM_OUTCOMES,
    OUTCOME_ACKED,
    OUTCOME_CLOSED,
    OUTCOME_FENCED,
    OUTCOME_FILTERED,
    OUTCOME_LOST,
    OUTCOME_UNWANTED,
    RUN_ROW,
)

__all__ = [
    "NO_MASK",
    "Awaited",
    "Block",
    "Delivery",
    "Done",
    "Loss",
    "Mark",
    "Moment",
    "Parcel",
    "Queue",
    "Secured",
    "Share",
]

NO_MASK = np.zeros(0, np.uint8)
"""A mask that lets everything through."""
_NOTHING: NDArray[Any] = np.zeros(0, np.uint8)
_NO_ROWS = np.zeros(0, COPY_ROW)


class Moment(NamedTuple):
    """Now, on two clocks: shells read them, cores never do."""

    wall_ns: int
    """Unix time: sentAtNanos, cutover, cutoff."""
    steady_ns: int
    """A clock that is never set: retries, TTLs."""


class Loss(NamedTuple):
    """A message that was given up, as an example of others."""

    reason: str
    consumer: str
    """Instance that it was meant for; empty: none."""
    payload: bytes


@dataclass(frozen=True, slots=True)
class Awaited:
    """Of a batch only messages of these ``origins`` are still awaited: all others have ended, or were overtaken (``Lane``)."""

    token: Any
    origins: frozenset[int]


@dataclass(frozen=True, slots=True)
class Secured:
    """Each message of a batch has an ack of every service that wants it, though not yet of every replica that can be reached."""

    token: Any


class Mark(NamedTuple):
    """A moment of a producer: ``have`` says whether all replicas have what was made until then."""

    until_ns: int
    """Steady clock."""
    drops: int
    """``ProducerCore.drops`` then."""


@dataclass(frozen=True, slots=True)
class Done:
    """Every message of a batch has ended for every consumer service of the topic."""

    token: Any
    acked: int
    """Messages that every service which wanted them has acked."""
    lost: int
    """Messages given up for some service: TTL, full buffer, no message writer, too large, invalid shard. Counted by reason."""
    filtered: int
    """Messages that no service wanted."""
    fenced: int = 0
    """Messages removed because the right to write was lost: whoever leads now sends them."""
    closed: int = 0
    """Messages that were wanted, until the instances that were to take them left the placement, or all services that were the topic:
    some service has never acked them, and nobody will send them again."""
    loss: Loss | None = field(default=None, compare=False)
    """One of the lost ones."""


@dataclass(slots=True)
class Delivery:
    """A batch on its way: in how many blocks it still is, and what has become of its messages."""

    token: Any
    origins: NDArray[np.uint32] | None = None
    """Of the batch."""
    asks_secured: bool = False
    """Whether the owner wants to know when the batch is secured."""
    parts: int = 0
    ends: list[int] = field(default_factory=lambda: [0] * NUM_OUTCOMES)
    """Messages per ``OUTCOME_*``."""
    loss: Loss | None = None
    awaited: "dict[Block, frozenset[int]]" = field(default_factory=dict)
    """Origins that a block still waits for, of each block that has said so."""
    told: frozenset[int] | None = None
    """What the owner of the batch was told last."""
    secured: "set[Block]" = field(default_factory=set)
    """Blocks of which each message has an ack of every service."""

    @property
    def kept(self) -> bool:
        """Whether nothing that has ended was given up on the way."""
        return sum(self.ends) == self.ends[OUTCOME_ACKED] + self.ends[OUTCOME_FILTERED]

    def security(self) -> Secured | None:
        """The event, once: when no block is left that lacks an ack."""
        if not self.asks_secured or len(self.secured) < self.parts or not self.kept:
            return None
        self.asks_secured = False
        for block in self.secured:
            block.judge_use()
        self.secured.clear()
        return Secured(self.token)

    def news(self) -> Awaited | None:
        """What the owner does not know yet of the origins that are awaited."""
        if len(self.awaited) < self.parts:
            return None
        origins = frozenset().union(*self.awaited.values())
        if origins == self.told:
            return None
        self.told = origins
        return Awaited(self.token, origins)

    def done(self) -> Done:
        """The event; only valid once ``parts`` is 0."""
        return Done(
            self.token,
            acked=self.ends[OUTCOME_ACKED],
            lost=self.ends[OUTCOME_LOST],
            filtered=self.ends[OUTCOME_FILTERED],
            fenced=self.ends[OUTCOME_FENCED],
            closed=self.ends[OUTCOME_CLOSED] + self.ends[OUTCOME_UNWANTED],
            loss=self.loss,
        )


class Block:
    """Messages that travel together, for all consumer services; the columns are those of ``MessageBatch``."""

    __slots__ = (
        "_emit", "_left", "changed", "created_ns", "deliveries", "fenced", "first_id", "forwarded", "holders", "loss", "offsets",
        "payload", "policies", "refused", "shards", "watched",
    )  # fmt: skip

    def __init__(
        self,
        batch: MessageBatch,
        *,
        deliveries: Sequence[tuple[Delivery, int, int, int]],
        created_ns: int,
        fenced: bool,
        forwarded: bool,
        emit: Callable[[Done], None],
    ) -> None:
        self.payload = batch.payload
        self.offsets = batch.offsets
        self.shards = batch.shards
        self.policies = batch.policies
        """Numbers of the core's policy table."""
        self.first_id = batch.first_id
        self.deliveries = deliveries
        """Which rows belong to which batch: its delivery, the first row, the one behind the last, and where the batch has the first."""
        self.created_ns = created_ns
        """Steady clock."""
        self.fenced = fenced
        self.forwarded = forwarded
        self.refused = NO_MASK
        """uint8 per message: 0 where it can go nowhere (too large, invalid shard); empty: all may go."""
        self.loss: Loss | None = None
        """The first message that was given up."""
        self.changed = True
        """Whether copies ended, or were overtaken, since ``look``."""
        self.watched = False
        """Whether ``look`` is of use: owners want to hear of batches before the block ends."""
        self.holders = 0
        """Parcels with something pending."""
        self._emit = emit
        self._left: list[Share] | None = None

    def __len__(self) -> int:
        return len(self.shards)

    def dispatched(self, shares: list["Share"]) -> None:
        """All services have their copies: from now on the block may end."""
        self._left = list(shares)
        self.check()
        self.judge_use()

    def check(self) -> None:
        """Ends the block if nothing is awaited any more."""
        left, n = self._left, len(self)
        if left is None:
            return
        outcome = None
        if not left or not all([share.acked for share in left]):
            if not all([share.ended() for share in left]):
                return
            outcome = self._judged([share.result(n) for share in left], 0, n)
            if outcome is None:
                return
        for share in left:
            share.close()
        self._left = None
        self.watched = False
        for delivery, first, last, _ in self.deliveries:
            if outcome is None:
                delivery.ends[OUTCOME_ACKED] += last - first
                self._leave(delivery)
            else:
                self._end(delivery, first, outcome[first:last])
        self.deliveries = ()
        self.let_go()

    def let_go(self) -> None:
        """Lets go of the payload if nobody sends any of it any more. Who remembers the block for a while longer remembers no more than
        that it has ended."""
        if self._left is None and self.holders == 0:
            self.payload = self.shards = self.offsets = _NOTHING
            self.policies = None

    def _judged(self, results: list[NDArray[np.uint8]], first: int, last: int) -> NDArray[np.uint8] | None:
        """``OUTCOME_*`` of the messages ``[first, last)``; None: some are awaited. ``results``: of every share that is left."""
        outcome = np.full(last - first, OUTCOME_FILTERED, np.uint8)
        for share, result in zip(self._left or (), results, strict=True):
            if not judge(result[first:last], share.mask[first:last], outcome):
                return None
        if len(self.refused):
            outcome[self.refused[first:last] == 0] = OUTCOME_LOST
        return outcome

    def _end(self, delivery: Delivery, first: int, outcome: NDArray[np.uint8]) -> None:
        """Nothing of a batch is awaited here any more; its messages, from row ``first`` on, ended as ``outcome`` says."""
        for end, count in enumerate(np.bincount(outcome, minlength=NUM_OUTCOMES).tolist()):
            delivery.ends[end] += count
            if count and end == OUTCOME_LOST and delivery.loss is None:
                delivery.loss = self.loss or self._nowhere(first + int(np.argmax(outcome == end)))
        self._leave(delivery)

    def _leave(self, delivery: Delivery) -> None:
        """Nothing of a batch is awaited here any more, and how it ended is counted."""
        delivery.parts -= 1
        delivery.awaited.pop(self, None)
        delivery.secured.discard(self)
        if delivery.parts == 0:
            self._emit(delivery.done())

    def _look_at_each(self) -> None:
        """Ends the batches of which nothing is awaited any more, although others of the block are: a stuck one holds none up that it
        was joined with. Of the others it is noted which have an ack for every message."""
        n, left = len(self), self._left or ()
        waits = np.zeros(n, np.bool_)
        for share in left:
            waits |= share.awaited(n, overtaken=True)
        results = [share.result(n) for share in left]
        going_on = []
        for entry in self.deliveries:
            delivery, first, last, _ = entry
            outcome = self._judged(results, first, last)
            if outcome is not None and not waits[first:last].any():
                self._end(delivery, first, outcome)
                continue
            going_on.append(entry)
            if outcome is not None and ((outcome == OUTCOME_ACKED) | (outcome == OUTCOME_FILTERED)).all():
                delivery.secured.add(self)
        self.deliveries = going_on

    def judge_use(self) -> None:
        """Says anew whether the block is to be ``watched``."""
        if self.ended:
            return
        several = len(self.deliveries) > 1
        self.watched = any(
            [d.asks_secured or d.origins is not None or (several and d.token is not None) for d, *_ in self.deliveries]
        )

    @property
    def ended(self) -> bool:
        """Whether every message has."""
        return self._left is None

    def value(self, row: int) -> bytes:
        """The payload of a message."""
        return self.payload[int(self.offsets[row]) : int(self.offsets[row + 1])].tobytes()

    def _nowhere(self, row: int) -> Loss:
        return Loss("no consumer takes its shard", "", self.value(row))

    def look(self) -> None:
        """Ends what has nothing left to wait for, and tells the other deliveries which of their origins are still awaited here, and
        whether all is acked."""
        if not self.changed:
            return
        self.changed = False
        if len(self.deliveries) > 1 or any(delivery.asks_secured for delivery, *_ in self.deliveries):
            self._look_at_each()
            self.judge_use()
        if any(delivery.origins is not None for delivery, *_ in self.deliveries):
            self._look_at_origins()

    def _look_at_origins(self) -> None:
        n = len(self)
        waits = np.zeros(n, np.bool_)
        for share in self._left or ():
            waits |= share.awaited(n)
        for delivery, first, last, at in self.deliveries:
            if delivery.origins is not None:
                found = delivery.origins[at : at + last - first][waits[first:last]]
                delivery.awaited[self] = frozenset(np.unique(found).tolist())


class Share:
    """What one consumer service does with one block."""

    __slots__ = ("_parcels", "block", "mask", "replicated", "whole")

    def __init__(self, block: Block, mask: NDArray[np.uint8], replicated: bool) -> None:
        self.block = block
        self.mask = mask
        """uint8 per message: 0 where a filter refused it; empty: all pass."""
        self.replicated = replicated
        self.whole = False
        """Whether there is a copy of every message."""
        self._parcels: list[Parcel] | None = []
        """None once the block has ended."""

    def add(self, parcel: "Parcel") -> None:
        """Copies that count for the end of the block, unless it has ended already."""
        if self._parcels is not None:
            self._parcels.append(parcel)

    def close(self) -> None:
        """The block has ended. What an unreachable replica has not got yet then lives as long as its lane keeps it, and not until the
        next search for cycles."""
        for parcel in self._parcels or ():
            if not parcel.pending:
                parcel.rows = _NO_ROWS
        self._parcels = None

    @property
    def acked(self) -> bool:
        """Whether there is a copy of every message, and all copies were acked. False where that is for ``result`` to say."""
        return self.whole and not any([parcel.pending or parcel.lost for parcel in self._parcels or ()])

    def ended(self) -> bool:
        """Whether nothing that can be reached is pending. A replica that cannot be reached is not waited for: ``judge`` sees to it
        that another one has acked (docs/architecture.md §4)."""
        return not any([p.pending and (p.lane.reachable or not self.replicated) for p in self._parcels or ()])

    def awaited(self, n: int, *, overtaken: bool = False) -> NDArray[np.bool_]:
        """Which of the ``n`` messages of the block are, as ``ended`` and ``judge`` say; ``overtaken``: also where that is all that is."""
        firm, weak, aside = (np.zeros(n, np.uint8) for _ in range(3))
        for parcel in self._parcels or ():
            reached = parcel.lane.reachable or not self.replicated
            collect(parcel.rows, aside if parcel.overtaken and not overtaken else firm if reached else weak)
        acked = ((firm | weak | aside) & BIT_ACKED) != 0
        waits: NDArray[np.bool_] = (firm & BIT_PENDING != 0) | ((weak & BIT_PENDING != 0) & ~acked)
        return waits

    def result(self, n: int) -> NDArray[np.uint8]:
        """``BIT_*`` per message of the block."""
        result = np.zeros(n, np.uint8)
        for parcel in self._parcels or ():
            collect(parcel.rows, result)
        return result


class Queue(Protocol):
    """Where parcels wait for one consumer instance (``Lane``), as they see it."""

    num_links: int
    reachable: bool
    """Whether the instance is connected and answers."""


class Parcel:
    """The copies of one block's messages that are in the queue of one lane."""

    __slots__ = (
        "acked_ns", "block", "cost", "lane", "links", "lost", "next", "overtaken", "pending", "previous", "rows", "runs", "sent_ns",
        "share", "unsent",
    )  # fmt: skip

    def __init__(
        self,
        share: Share,
        lane: Queue,
        rows: NDArray[np.void],
        runs: NDArray[np.void],
        *,
        size_bytes: int,
        pending: int,
    ) -> None:
        self.share = share
        self.block = share.block
        self.lane = lane
        self.rows = rows
        self.runs = runs
        self.pending = pending
        """Rows that are neither acked nor given up."""
        self.cost = size_bytes + rows.nbytes
        """Bytes that count in the buffer of the lane until the parcel is done."""
        one = lane.num_links == 1
        self.links: list[int] = [0, len(rows)] if one else _link_bounds(rows, lane.num_links)
        """Rows of connection ``k`` are ``[links[k], links[k + 1])``."""
        self.lost = False
        """Whether some copies ended otherwise than by an ack."""
        self.unsent = 0
        """Connections that have not sent all of their rows, a bit each."""
        self.sent_ns = 0
        """Steady clock: since when all rows are on the wire; 0: not all are."""
        self.acked_ns = 0
        """When a row was acked last."""
        self.overtaken = False
        """Whether the consumer left what is pending aside and acked what came after it (``Lane``)."""
        self.previous: Parcel | None = None
        self.next: Parcel | None = None
        if pending:
            self.block.holders += 1
        share.add(self)

    def end(self) -> None:
        """Nothing is pending here any more."""
        self.block.holders -= 1
        if self.block.ended:
            self.rows = _NO_ROWS
            self.block.let_go()


def _link_bounds(rows: NDArray[np.void], num_links: int) -> list[int]:
    """Where the rows of each connection begin, and where the last ones end."""
    bounds: list[int] = rows["link"].searchsorted(np.arange(num_links + 1)).tolist()
    return bounds


def new_rows(n: int, num_shards: int) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Room for ``n`` copies, and zeroed runs."""
    return np.empty(n, COPY_ROW), np.zeros(num_shards, RUN_ROW)

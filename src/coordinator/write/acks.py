"""Remote writes that are answered when the aggregators have them: ``writes.ack: aggregated`` (docs/answers.md, Waiting for aggregators).

All messages of a request are one batch for the producer, with a *ticket*; the producer tells how the batch ended. It is acknowledged when
every consumer service of the ingest topic has every message. Of a replicated service that means: each replica that can be reached has
acked it, and at least one (docs/architecture.md §4), as flush times mean it; after a second at least one is enough (``Secured``), so that
a worker that is stuck in one replica holds nothing up that the other one has. So some owner of the shard has applied the sample, and has
it in its journal if it keeps one, before the sender lets go of it. A replica that lacks samples says so in the KV, and does not lead while
another one has them. Whatever else becomes of a message is no ack: given up (TTL, full buffer, end of the producer), its instance gone
from the placement, or merely *overtaken*.

What was sent cannot be called back, so that a sender that was told to come again would have its samples counted twice wherever repeats
count. Therefore the tickets of such requests are remembered, and a request of the same bytes and headers takes the ticket of the first
instead of being sent again. That ends with this process, with a ticket that came to nothing, and after a while (``repeats``).
What is sent again after that bears the same message ids: they follow from the request. So an aggregator that looks for what comes again,
as it does when a coordinator has died, recognises it.

What waits is bounded by the producer's buffer: messages that it gives up end their tickets.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from coordinator.write.options import WriteOptions
from coordinator.write.repeats import Elsewhere, Repeats, key_of
from coordinator.write.sink import MessageSink, RefusedError
from m3msg.batch import MessageBatch
from m3msg.producer import Done, Secured
from m3x.instrument import Scope
from m3x.log import logger

_WATCH_AFTER_S = 1.0
"""Acks usually come sooner; from then on it is noticed when the sender goes away."""
_END_S = 2.0
"""At the end of the process: how long acks are waited for."""
_ID_BITS = 20
_SOON_S = 1
"""Who is told to come again although the messages are on their way shall do so soon: it costs nothing."""

log = logger(__name__)


class Why(StrEnum):
    """Why a request was not acknowledged: the tag of ``write_unacked``."""

    TIMEOUT = "timeout"
    GIVEN_UP = "given-up"
    """By the producer."""
    CLOSED = "closed"
    """The instances that were to take it have left the placement, or their service the topic."""
    ENDED = "ended"
    """The producer has failed, or the process ends."""
    SENDER_GONE = "sender-gone"


class Unacked(NamedTuple):
    """How a ticket ends that is not acknowledged."""

    why: Why
    text: str


@dataclass(slots=True, eq=False)
class Ticket:
    """The token of one request's batch."""

    ended: "asyncio.Future[Unacked | None]"
    """None: acknowledged."""
    sent_s: float
    """Monotonic clock."""
    key: bytes | None = None
    """By which others know of it, as long as its request waits for the first time."""
    follower: Callable[[], None] | None = None
    """Is to be told of its end, or that it takes long."""

    def tell(self, _: object = None) -> None:
        """Tells the follower, once."""
        follower, self.follower = self.follower, None
        if follower is not None:
            follower()


class Acks:
    """The tickets of one process; used from its event loop only.

    ``timeout_s``: the longest that a request waits. ``elsewhere``: other processes that take writes.
    """

    def __init__(self, timeout_s: float, scope: Scope, elsewhere: Elsewhere | None = None) -> None:
        self.timeout_s = timeout_s
        self.behind: Callable[[], str] = str
        """Names the aggregators that owe acks, for the answer; may be set later."""
        self._scope = scope
        self._open: set[Ticket] = set()
        """What the producer has not told the end of."""
        self._waiting = 0
        self._elsewhere = elsewhere
        self._remembered = Repeats[Ticket](elsewhere)
        """Tickets of requests that have not been answered with success."""
        self._ended: str | None = None
        self._followed: deque[Ticket] = deque()
        """In the order in which they were sent; ended ones are among them."""
        self._looking: asyncio.TimerHandle | None = None
        self._look_after_s = min(_WATCH_AFTER_S, timeout_s)

    # --- tickets

    def produce(self, sink: MessageSink, batch: MessageBatch, body: bytes, options: WriteOptions) -> Ticket | None:
        """Gives the batch of a request to the sink, with a ticket; None: the sink does not take it."""
        batch.first_id = _first_id(body, options)
        ticket = Ticket(asyncio.get_running_loop().create_future(), time.monotonic())
        batch.token = ticket
        self._open.add(ticket)
        if not sink.produce(batch):
            self._open.discard(ticket)
            return None
        if self._elsewhere is not None:
            ticket.key = key_of(body, options)
            self._elsewhere.remember(ticket.key)
        if self._ended is not None:
            self._settle(ticket, Unacked(Why.ENDED, self._ended))
        return ticket

    def on_done(self, done: Done) -> None:
        """What the producer tells of every batch; those without a ticket (carbon) are nobody's concern."""
        if isinstance(done.token, Ticket):
            self._settle(done.token, _unacked(done))

    def on_secured(self, secured: Secured) -> None:
        """What the producer tells of batches that take long because of single replicas."""
        if isinstance(secured.token, Ticket):
            self._settle(secured.token, None)

    def _settle(self, ticket: Ticket, end: Unacked | None) -> None:
        self._open.discard(ticket)
        if not ticket.ended.done():
            ticket.ended.set_result(end)

    def fail(self, reason: str) -> None:
        """Nobody acknowledges anything any more: everything that waits, and all that comes, is told so."""
        self._ended = f"{reason}; the aggregators may have this request or not: send it again"
        for ticket in list(self._open):
            self._settle(ticket, Unacked(Why.ENDED, self._ended))

    def end(self) -> None:
        """The process ends: what waits is answered, with success where acks come soon."""
        asyncio.get_running_loop().call_later(_END_S, self.fail, "the coordinator ends")

    # --- requests that come again

    def repeated(self, body: bytes, options: WriteOptions) -> Ticket | None:
        """The ticket of an earlier request that is the same and may still come to something, or has."""
        ticket = self._remembered.get(body, options)
        if ticket is not None and ticket.ended.done() and ticket.ended.result() is not None:
            self._remembered.forget(body, options)
            return None
        if ticket is not None:
            self._scope.count("write_repeats")
        return ticket

    def knows(self, body: bytes, options: WriteOptions) -> bool:
        """Whether ``repeated`` may have a ticket for a request."""
        return self._remembered.get(body, options) is not None

    def remember(self, ticket: Ticket, body: bytes, options: WriteOptions) -> None:
        """The sender of this request will come again, or may."""
        self._remembered.remember(body, options, ticket)
        self._release(ticket)

    def _release(self, ticket: Ticket) -> None:
        """Its request has waited."""
        if ticket.key is not None and self._elsewhere is not None:
            self._elsewhere.forget(ticket.key)
            ticket.key = None

    # --- waiting

    def follow(self, ticket: Ticket, then: Callable[[], None]) -> None:
        """Calls ``then`` from the event loop, once: when a ticket that was just made has ended, or after a while; who wants to go on
        waiting then has to ``wait``."""

        def told() -> None:
            self._count_waiting(-1)
            then()

        self._count_waiting(1)
        ticket.follower = told
        ticket.ended.add_done_callback(ticket.tell)
        self._followed.append(ticket)
        if self._looking is None:
            self._look_later()

    def _look_later(self) -> None:
        left_s = self._followed[0].sent_s + self._look_after_s - time.monotonic()
        self._looking = asyncio.get_running_loop().call_later(left_s, self._look)

    def _look(self) -> None:
        """Tells those who follow what takes long."""
        until_s = time.monotonic() - self._look_after_s
        while self._followed and self._followed[0].sent_s <= until_s:
            self._followed.popleft().tell()
        self._looking = None
        if self._followed:
            self._look_later()

    def acknowledged(self, ticket: Ticket, body: bytes, options: WriteOptions) -> bool:
        """Whether a request is by now, which is counted then, and ends what is remembered of it."""
        if not ticket.ended.done() or ticket.ended.result() is not None:
            return False
        self._scope.record("write_ack_latency", time.monotonic() - ticket.sent_s)
        self._remembered.forget(body, options)
        self._release(ticket)
        return True

    async def wait(
        self,
        ticket: Ticket,
        body: bytes,
        options: WriteOptions,
        deadline_s: float,
        gone: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        """Returns when the request is acknowledged. ``gone`` returns when its sender has gone away; ``deadline_s`` is on the monotonic
        clock. Raises ``RefusedError``."""
        self._count_waiting(1)
        try:
            end = await self._end_of(ticket, deadline_s, gone)
        finally:
            self._count_waiting(-1)
        if end is None:
            self.acknowledged(ticket, body, options)
            return
        self._scope.tagged(reason=end.why).count("write_unacked")
        log.warning_limited("a remote write was not acknowledged", per_second=0.1, reason=end.text)
        if ticket.ended.done():
            self._release(ticket)
            raise RefusedError(end.text)
        self.remember(ticket, body, options)
        raise RefusedError(end.text, _SOON_S)

    async def _end_of(
        self, ticket: Ticket, deadline_s: float, gone: Callable[[], Awaitable[Any]] | None
    ) -> Unacked | None:
        ended = ticket.ended
        if not ended.done() and (left := deadline_s - time.monotonic()) > 0:
            unwatched = max(ticket.sent_s + _WATCH_AFTER_S - time.monotonic(), 0.0) if gone is not None else left
            await asyncio.wait((ended,), timeout=min(left, unwatched))
        if not ended.done() and gone is not None and (left := deadline_s - time.monotonic()) > 0:
            watching = asyncio.ensure_future(gone())
            try:
                await asyncio.wait((ended, watching), timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if watching.done() and not ended.done():
                    return Unacked(Why.SENDER_GONE, "the sender went away before the aggregators had acknowledged it")
            finally:
                watching.cancel()
        if ended.done():
            return ended.result()
        behind = self.behind()
        return Unacked(
            Why.TIMEOUT,
            f"the aggregators have not acknowledged all of it within {self.timeout_s:g} s"
            f"{f' ({behind})' if behind else ''}; send it again",
        )

    def _count_waiting(self, change: int) -> None:
        self._waiting += change
        self._scope.gauge("write_ack_waiting", self._waiting)


def _first_id(body: bytes, options: WriteOptions) -> int:
    """The first message id of a request in each shard: a hash of 35 bits, and room for a million messages behind it."""
    return (int.from_bytes(key_of(body, options)[:8], "little") >> 29 << _ID_BITS) + 1


def _unacked(done: Done) -> Unacked | None:
    """What an ended batch comes to; messages that a filter of the topic keeps from every service are nobody's, as in M3."""
    total = done.acked + done.lost + done.filtered + done.fenced + done.closed
    if done.lost:
        reason = f"{done.loss.reason}, for {done.loss.consumer or 'no instance'}" if done.loss is not None else "closed"
        return Unacked(
            Why.GIVEN_UP,
            f"{done.lost} of {total} messages were given up before the aggregators had acknowledged them ({reason}); send it again",
        )
    if done.closed:
        return Unacked(
            Why.CLOSED,
            f"{done.closed} of {total} messages were for aggregators that have left the placement, or the topic; send it again",
        )
    return None

"""The queue of one consumer instance: its parcels in order of age, its connections, its bytes and its figures.

A lane is bounded by bytes, apart for final output and for forwarded (rollup) messages; beyond the limit it loses its own oldest parcels,
counted, and nobody else's (docs/architecture.md §4).

Of forwarded messages it can be asked whether the instance *has* them, or will never get them from here: one that is away is expected
back for a while, and what is queued for it then is its backlog (docs/architecture.md §4, "Rollups of a pair").

A message is *overtaken* when its consumer, which is there, has had it for a while, leaves it unacked, and acks what was sent after it: M3's
ingest server does so with values that it cannot write. It is sent again until its TTL, but nobody waits for it any more.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from m3msg.producer.block import Loss, Moment, Parcel
from m3msg.producer.kernels import mark_acks, settle
from m3msg.producer.link import LaneSettings, Link
from m3msg.producer.rows import ABANDONED, CLOSED, DROPPED, EXPIRED, FENCED, NO_WRITER, SHARD_ROW, UNWANTED, WAITING

__all__ = ["Lane", "Waits"]


class Waits:
    """How long messages took since they were last asked: milliseconds → how many."""

    def __init__(self) -> None:
        self.acked: Counter[int] = Counter()
        """From when they were produced to their acks."""
        self.written: Counter[int] = Counter()
        """From when they were produced until all of their batch was written."""


_REASONS = {
    DROPPED: "buffer-full",
    EXPIRED: "ttl-expire",
    CLOSED: "closed",
    UNWANTED: "closed",
    FENCED: "fenced",
    ABANDONED: "producer-closed",
}
_MS = 1_000_000
_AWAY = "instance-away"
"""The reason in place of ``producer-closed`` for an instance that cannot be reached then."""
_OVERTAKEN_NS = 2_000_000_000
"""So long after a later message was acked, and nothing else of its parcel, a message counts as overtaken."""
_EXPECTED_NS = 60_000_000_000
"""So long an instance that cannot be reached is expected back; a restart that takes longer counts as a loss to it as well."""


class Lane:
    """See the module. ``endpoint`` is the identity, as in M3 (docs/m3/m3msg.md, placements)."""

    def __init__(
        self,
        endpoint: str,
        instance: str,
        settings: LaneSettings,
        *,
        local: bool,
        figures: Counter[tuple[str, str]],
        waits: Waits,
        dirty: set[Link],
        on_changed: Callable[["Lane"], None],
        on_strange_acks: Callable[["Lane", NDArray[np.void], int, Moment], None],
    ) -> None:
        self.endpoint = endpoint
        self.instance = instance
        self.settings = settings
        self.local = local
        """Whether it is this very service: forwarded messages to it are never held back."""
        self.num_links = settings.num_links
        self.links = [Link(self, i) for i in range(settings.num_links)] if endpoint else []
        """Empty for the lane that keeps messages while a shared service has no instance."""
        self.table = np.zeros(settings.num_shards, SHARD_ROW)
        self.table["writer"] = NO_WRITER
        self.table["last_id"] = settings.last_id
        self.cutover_ns = np.zeros(settings.num_shards, np.int64)
        self.cutoff_ns = np.zeros(settings.num_shards, np.int64)
        self.order = np.arange(settings.num_shards, dtype=np.uint32)
        self.inflight = np.zeros(settings.num_links, np.int64)
        """Payload bytes on the wire, per link."""
        self.held = [0, 0]
        """Bytes of final output and of forwarded messages."""
        self.pending = 0
        """Messages neither acked nor given up."""
        self.dropped = 0
        """Messages given up because the buffer was full, since the lane exists."""
        self.reachable = False
        """Connected and answering. What is not reachable is not waited for where another replica has acked."""
        self.stalled = False
        """Connected but not answering."""
        self.away = True
        """Not reachable for longer than ``stall_ns``, or never yet: its full buffer delays nobody."""
        self.oldest: Parcel | None = None
        self.newest: Parcel | None = None
        self._figures = figures
        self._waits = waits
        self._dirty = dirty
        self._on_changed = on_changed
        self._on_strange_acks = on_strange_acks
        self._progress_ns = 0
        self._gone_ns = 0
        """Since when it is not reachable; 0: it is, or not known yet."""
        self._backlog_ns = 0
        """What was made up to here was queued when it last became reachable."""
        self._newest_acked_ns = 0
        """Of all parcels of which a row was acked, the latest ``sent_ns``."""
        self._acked: deque[tuple[int, int]] = deque()
        """When that advanced, and to what, where that is not long ago."""
        self._aside: set[Parcel] = set()
        """What was overtaken and is still queued."""
        self._passed_ns = 0
        """What was sent up to here has been followed by an ack of something sent as late, ``_OVERTAKEN_NS`` ago."""

    def gone_s(self, steady_ns: int) -> float:
        """For how long it has had no connection; 0: it has one, or has not been looked at yet."""
        return (steady_ns - self._gone_ns) / 1e9 if self._gone_ns and not self.stalled else 0.0

    # --- figures and signals ---

    def count(self, name: str, n: int, tag: str = "") -> None:
        """Adds to a figure of the service; ``tag`` is ``key=value``."""
        if n:
            self._figures[name, tag] += n

    def touch(self, link: Link) -> None:
        """The shell should look whether ``link`` has something to write."""
        self._dirty.add(link)

    @property
    def connected_links(self) -> int:
        """How many connections are up."""
        return sum(link.connected for link in self.links)

    def link_changed(self) -> None:
        """A connection came or went."""
        connected = bool(self.links) and all([link.connected for link in self.links])
        self.stalled = self.stalled and connected
        self._set_reachable(connected)

    def _set_reachable(self, reachable: bool) -> None:
        if reachable != self.reachable:
            self.reachable = reachable
            self._progress_ns = self._gone_ns = 0
            self.away = self.away and not reachable
            self._backlog_ns = self.newest.block.created_ns if reachable and self.newest is not None else 0
            for parcel in self.parcels():
                parcel.block.changed = True
            self._on_changed(self)

    # --- shards ---

    def arrange(self) -> None:
        """Recomputes the connection of every shard (docs/m3/m3msg.md, connections) after writers were assigned."""
        self.table["link"] = self.table["writer"] % np.uint32(self.num_links)
        self.order = np.argsort(self.table["link"], kind="stable").astype(np.uint32)

    @property
    def served(self) -> NDArray[np.bool_]:
        """Which shards have a message writer here."""
        served: NDArray[np.bool_] = self.table["writer"] != NO_WRITER
        return served

    # --- parcels ---

    def parcels(self) -> Iterator[Parcel]:
        """What is queued, oldest first; the one that was given last may be taken out meanwhile."""
        parcel = self.oldest
        while parcel is not None:
            following = parcel.next
            yield parcel
            parcel = following

    def limit(self, forwarded: bool) -> int:
        """Bytes that this class of messages may hold."""
        if not forwarded:
            return self.settings.buffer_bytes
        return self.settings.loopback_buffer_bytes if self.local else self.settings.forwarded_buffer_bytes

    def has_enough(self, messages: int, now: Moment) -> bool:
        """Whether so many are in hand, not counting overtaken ones, and as many more for each two seconds in which nothing was acked: what
        is never acked holds nothing up, and an instance that is silent for a moment does not fill its buffer."""
        if not self._progress_ns:
            return False
        in_hand = self.pending - sum(parcel.pending for parcel in self._aside)
        return in_hand >= messages * (1 + (now.steady_ns - self._progress_ns) // _OVERTAKEN_NS)

    def free(self, forwarded: bool) -> int:
        """Bytes that are left for this class; negative when over the limit."""
        return self.limit(forwarded) - self.held[forwarded]

    def add(self, parcel: Parcel, *, moved: bool = False) -> None:
        """Takes a parcel in order of age and drops the oldest of its class that exceed the limit; not for one that another lane held
        until now: what two instances were to get may be more than one buffer, and nothing new comes in before there is room again."""
        behind = self.newest
        while behind is not None and behind.block.created_ns > parcel.block.created_ns:
            behind = behind.previous
        parcel.lane = self
        parcel.previous = behind
        parcel.next = self.oldest if behind is None else behind.next
        if parcel.previous is None:
            self.oldest = parcel
        else:
            parcel.previous.next = parcel
        if parcel.next is None:
            self.newest = parcel
        else:
            parcel.next.previous = parcel
        forwarded = parcel.block.forwarded
        self.held[forwarded] += parcel.cost
        self.pending += parcel.pending
        for link in self.links:
            link.enqueue(parcel)
        if not any([link.connected for link in self.links]):
            self.count("write-invalid-conn", parcel.pending)
        if not moved and self.held[forwarded] > self.limit(forwarded):
            self._drop_oldest(forwarded, parcel)

    def _drop_oldest(self, forwarded: bool, newcomer: Parcel) -> None:
        parcel = self.oldest
        while parcel is not None and self.held[forwarded] > self.limit(forwarded):
            following = parcel.next
            if parcel.block.forwarded == forwarded and parcel is not newcomer:
                self.count("drop-oldest-sync", 1)
                self.give_up(parcel, DROPPED)
            parcel = following

    def has(self, until_ns: int, now: Moment) -> bool:
        """Whether nothing is queued here of the forwarded messages that were made up to then (steady clock); what came since it was last
        away does not count, nor what was overtaken, nor an instance that is not expected back any more."""
        if self.reachable:
            until_ns = min(until_ns, self._backlog_ns)
        elif self._gone_ns and now.steady_ns - self._gone_ns > _EXPECTED_NS:
            return True
        for parcel in self.parcels():
            if parcel.block.created_ns > until_ns:
                break
            if parcel.block.forwarded and not parcel.overtaken:
                return False
        return True

    def give_up(self, parcel: Parcel, state: int) -> int:
        """Ends what is pending in the parcel; returns how many messages that were."""
        reason = _AWAY if state == ABANDONED and not self.reachable else _REASONS[state]
        if parcel.block.loss is None and state in (DROPPED, EXPIRED, ABANDONED):
            parcel.block.loss = self._example(parcel, reason)
        count, freed = settle(parcel.rows, 0, len(parcel.rows), state, self.inflight)
        parcel.lost |= count > 0
        self.count("message-dropped", count, f"reason={reason}")
        if state == DROPPED:
            self.dropped += count
            self.count("buffer-message-dropped", count)
            self.count("buffer-byte-dropped", freed)
        self._ended(parcel, count)
        return int(count)

    def give_up_all(self, state: int, *, fenced_only: bool = False) -> None:
        """Ends every parcel, or every fenced one."""
        parcel = self.oldest
        while parcel is not None:
            following = parcel.next
            if parcel.block.fenced or not fenced_only:
                self.give_up(parcel, state)
            parcel = following

    def _example(self, parcel: Parcel, reason: str) -> Loss:
        first = int(np.argmax(parcel.rows["state"] <= WAITING))
        return Loss(reason, self.instance, parcel.block.value(int(parcel.rows["message"][first])))

    def overtaken(self) -> dict[int, tuple[int, bytes]]:
        """What was overtaken and is still sent again: number of the policy → messages, and the payload of the oldest; -1: no policy."""
        found: dict[int, tuple[int, bytes]] = {}
        for parcel in sorted(self._aside, key=lambda aside: aside.block.created_ns):
            block = parcel.block
            messages = parcel.rows["message"][parcel.rows["state"] <= WAITING]
            numbers = (
                np.full(len(messages), -1) if block.policies is None else block.policies[messages].astype(np.int64)
            )
            for number, at, count in zip(*np.unique(numbers, return_index=True, return_counts=True), strict=True):
                before, example = found.get(int(number), (0, b""))
                found[int(number)] = (before + int(count), example or block.value(int(messages[at])))
        return found

    def take_out(self, parcel: Parcel) -> None:
        """Unlinks a parcel of which nothing is pending here any more."""
        if parcel.previous is None:
            self.oldest = parcel.next
        else:
            parcel.previous.next = parcel.next
        if parcel.next is None:
            self.newest = parcel.previous
        else:
            parcel.next.previous = parcel.previous
        for link in self.links:
            link.ended(parcel)
            if link.hint is parcel:
                link.hint = parcel.next
        parcel.previous = parcel.next = None
        self._aside.discard(parcel)
        self.held[parcel.block.forwarded] -= parcel.cost
        parcel.end()

    def _ended(self, parcel: Parcel, count: int) -> None:
        parcel.pending -= count
        parcel.block.changed = True
        self.pending -= count
        if parcel.pending == 0:
            self.take_out(parcel)
            parcel.block.check()

    # --- acks ---

    def sent(self, link: Link, payload_bytes: int, count: int, now: Moment, *, resend: bool) -> None:
        """Frames were put into the output of ``link``."""
        if self._progress_ns == 0:
            self._progress_ns = now.steady_ns
        if not resend:
            self.inflight[link.index] += payload_bytes
        self.count("write-success", count)

    def acked(self, link: Link, acks: NDArray[np.void], n: int, now: Moment) -> None:
        """Acks that arrived on ``link``, wherever their messages are (docs/m3/m3msg.md, ack routing)."""
        self.link_changed()
        self._progress_ns = now.steady_ns
        self.stalled = False
        left, link.hint = self.mark(acks, n, link.hint, now)
        if left:
            self._on_strange_acks(self, acks, left, now)
        self.touch(link)

    def mark(self, acks: NDArray[np.void], n: int, hint: Parcel | None, now: Moment) -> tuple[int, Parcel | None]:
        """Looks through all parcels, from ``hint`` on, for the acked messages. Returns how many acks belong to none (they are at the
        front of ``acks`` then), and the parcel of the last one found."""
        start = hint or self.oldest
        parcel, wrapped, found = start, hint is None, hint
        while n and parcel is not None:
            following = parcel.next
            left, marked, _ = mark_acks(acks, n, parcel.rows, parcel.runs, self.inflight)
            if left < n:
                found = parcel
                self.count("message-acked", marked)
                made_ns = parcel.block.created_ns
                self._waits.acked[(now.steady_ns - made_ns) // _MS] += marked
                if parcel.sent_ns:
                    self._waits.written[(parcel.sent_ns - made_ns) // _MS] += marked
                parcel.acked_ns = now.steady_ns
                if parcel.sent_ns > self._newest_acked_ns:
                    self._newest_acked_ns = parcel.sent_ns
                    self._acked.append((now.steady_ns, parcel.sent_ns))
                self._ended(parcel, marked)
                if found.pending == 0:
                    found = following
            n = left
            parcel = following
            if parcel is None and not wrapped:
                parcel, wrapped = self.oldest, True
            if wrapped and parcel is start:
                break
        return n, found

    # --- time ---

    def tick(self, now: Moment, ttl_ns: int) -> None:
        """Expires what is older than the TTL (0: never), queues retries, and notices an instance that does not answer."""
        if ttl_ns > 0:
            while self.oldest is not None and self.oldest.block.created_ns + ttl_ns <= now.steady_ns:
                self.count("drop-oldest-async", 1)
                self.give_up(self.oldest, EXPIRED)
        for link in self.links:
            link.tick(now)
            if link.connected and link.needs_fill:
                self.touch(link)
        self._notice_overtaken(now)
        if self.pending == 0:
            self._progress_ns = 0
        elif self._progress_ns and now.steady_ns - self._progress_ns > self.settings.stall_ns and self._expects_acks():
            self.stalled = self.stalled or self.reachable
            self._set_reachable(False)
        if not self.reachable:
            self._gone_ns = self._gone_ns or now.steady_ns
            self.away = self.away or now.steady_ns - self._gone_ns > self.settings.stall_ns

    def _notice_overtaken(self, now: Moment) -> None:
        while self._acked and self._acked[0][0] + _OVERTAKEN_NS <= now.steady_ns:
            self._passed_ns = self._acked.popleft()[1]
        if not self.reachable or not self._passed_ns:
            return
        for parcel in self.parcels():
            if (
                0 < parcel.sent_ns <= self._passed_ns
                and parcel.acked_ns + _OVERTAKEN_NS <= now.steady_ns
                and not parcel.overtaken
            ):
                parcel.overtaken = parcel.block.changed = True
                self._aside.add(parcel)
                self.count("message-overtaken", parcel.pending)

    def _expects_acks(self) -> bool:
        return not all(parcel.overtaken for parcel in self.parcels())

    def close(self, state: int = CLOSED) -> None:
        """The instance is not in the placement any more, or (``UNWANTED``) its service not in the topic."""
        self.give_up_all(state)
        self.reachable = False
        for link in self.links:
            link.close()
            self.touch(link)

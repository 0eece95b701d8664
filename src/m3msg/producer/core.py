"""The producer as a pure state machine: topic, placements, batches and bytes in; bytes to write and events out.

The shell tells it what happened (``set_topic``, ``set_placement``, ``produce``, ``flush``, ``tick``, and on the links ``on_connected``,
``on_received``, ``wrote``, ``on_disconnected``) and then looks at ``dirty`` (links that may have something to write or to reset) and
``events``. Every link of ``links()`` wants a connection to the endpoint of its lane.

Small batches are joined until ``flush`` or until they are worth a block; large ones become blocks at once, without copying.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from m3cluster.placement.model import Placement
from m3cluster.topic import ConsumptionType, ServiceID, Topic
from m3msg.batch import MessageBatch, joined_messages
from m3msg.producer.block import NO_MASK, Awaited, Block, Delivery, Done, Loss, Mark, Moment, Secured
from m3msg.producer.filters import Filter, FilterError, PolicyTable, build
from m3msg.producer.kernels import largest
from m3msg.producer.lane import Lane
from m3msg.producer.link import LaneSettings, Link
from m3msg.producer.options import ProducerOptions
from m3msg.producer.rows import FRAME_OVERHEAD
from m3msg.producer.service_writer import UNBOUNDED, ServiceWriter

__all__ = ["ProducerCore", "TopicError"]

_JOIN_BYTES = 64 << 10
"""Batches of at least this size are not joined with others."""
_BLOCK_BYTES = 256 << 10
"""Joined batches of this size are sent at once."""
_LARGEST_BLOCK_BYTES = 1 << 20
_LEAST_WRITE_BUFFER_BYTES = 256 << 10
_STALL_NS = 10_000_000_000
_AWAIT_NS = 1_000_000_000
"""A batch is usually done sooner; after this time its owner is told which of its origins are still awaited, or that it is secured."""
_LEAST_WATCHED = 64
_ENOUGH = 1 << 16
"""Messages that keep all consumers busy for longer than it takes to bring them more."""
_ENOUGH_FOR_ONE = 1 << 12


class TopicError(ValueError):
    """A topic that cannot be used; the producer goes on with what it had."""


class _Kind(NamedTuple):
    fenced: bool
    forwarded: bool


@dataclass(slots=True)
class _Open:
    """Small batches of one kind that wait to be joined."""

    batches: list[MessageBatch] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    size_bytes: int = 0


class ProducerCore:
    """See the module. ``local`` are endpoints of this very service: they never hold forwarded messages back. ``tell_secured``: whether
    owners of batches hear of ``Secured``. ``last_id``: the message id before the first one of every shard."""

    def __init__(
        self,
        options: ProducerOptions,
        *,
        static_filters: Mapping[ServiceID, Sequence[Filter]] | None = None,
        local: frozenset[str] = frozenset(),
        stall_ns: int = _STALL_NS,
        tell_secured: bool = False,
        last_id: int = 0,
    ) -> None:
        self.options = options
        self.num_shards = 0
        """Of the topic; 0 until it is known, and fixed from then on."""
        self.services: dict[ServiceID, ServiceWriter] = {}
        self.dirty: set[Link] = set()
        self.events: deque[Done | Awaited | Secured] = deque()
        self.figures: Counter[tuple[str, str]] = Counter()
        """Counters since they were last taken; those of the services are theirs."""
        self.policies = PolicyTable()
        self.holds_fenced = False
        """Whether messages that need the right to write may be in here."""
        self.drops = 0
        """How often messages that need the right to write were thrown away."""
        self._static = dict(static_filters or {})
        self._local = local
        self._stall_ns = stall_ns
        self._tell_secured = tell_secured
        self._last_id = last_id
        self._open: dict[_Kind, _Open] = {}
        self._watched: deque[Block] = deque()
        """Blocks that are to be looked at, in the order of their making; ended ones are taken out from time to time."""
        self._most_watched = _LEAST_WATCHED
        """Beyond it that time has come."""
        self._block_bytes = min(max(options.buffer.max_buffer_size // 8, 4096), _LARGEST_BLOCK_BYTES)

    # --- topic and placements ---

    def set_topic(self, topic: Topic, now: Moment) -> list[str]:
        """Follows a topic: its services, their TTLs and filters. Returns problems of single services, which keep their former state.

        Raises ``TopicError`` for a topic that cannot be used at all; nothing changes then.
        """
        ids = [service.service_id for service in topic.consumer_services]
        if topic.number_of_shards <= 0:
            raise TopicError(f"topic {topic.name!r} has no shards; create it with numberOfShards > 0")
        if len(set(ids)) != len(ids):
            raise TopicError(f"topic {topic.name!r} names a consumer service twice")
        if self.num_shards and topic.number_of_shards != self.num_shards:
            raise TopicError(
                f"topic {topic.name!r} has {topic.number_of_shards} shards now and had {self.num_shards}; restart to follow"
            )
        self.num_shards = topic.number_of_shards
        problems: list[str] = []
        for service in topic.consumer_services:
            writer = self.services.get(service.service_id)
            try:
                if service.filters is not None:
                    filters = build(service.filters, self.policies)
                else:
                    filters = list(self._static.get(service.service_id, ()))
            except FilterError as error:
                problems.append(f"consumer service {service.service_id}: {error}")
                continue
            if writer is None:
                if service.consumption_type is ConsumptionType.UNKNOWN:
                    problems.append(f"consumer service {service.service_id}: unknown consumption type")
                    continue
                self.services[service.service_id] = ServiceWriter(
                    service,
                    self._settings(),
                    filters,
                    self.dirty,
                    ignore_cutoff_cutover=self.options.writer.ignore_cutoff_cutover,
                    local=self._local,
                )
            else:
                kind = writer.service.consumption_type
                if service.consumption_type is not kind:
                    problems.append(f"consumer service {service.service_id}: a new consumption type needs a restart")
                writer.service = replace(service, consumption_type=kind)
                writer.filters = filters
        for gone in set(self.services) - set(ids):
            self.services.pop(gone).close()
        return problems

    def _settings(self) -> LaneSettings:
        options = self.options
        largest = max(options.buffer.max_message_size + FRAME_OVERHEAD, _LEAST_WRITE_BUFFER_BYTES)
        return LaneSettings(
            num_links=options.writer.connection.num_connections,
            num_shards=self.num_shards,
            buffer_bytes=options.buffer.max_buffer_size,
            forwarded_buffer_bytes=options.buffer.forwarded_bytes,
            loopback_buffer_bytes=options.buffer.loopback_bytes,
            window_bytes=options.writer.connection.window_size,
            write_buffer_bytes=largest,
            max_ack_frame_bytes=options.writer.decoder.max_message_size,
            stall_ns=self._stall_ns,
            last_id=self._last_id,
            retry_delay_ns=options.writer.retry_delay_ns(),
        )

    def set_placement(self, service: ServiceID, placement: Placement, now: Moment) -> None:
        """Follows the placement of a service. Raises ``PlacementError``; nothing changes then."""
        writer = self.services.get(service)
        if writer is not None:
            writer.update_placement(placement, now)

    def links(self) -> list[Link]:
        """All links that should have a connection."""
        return [link for s in self.services.values() for lane in s.lanes.values() for link in lane.links]

    # --- batches ---

    def room(self, forwarded: bool = False) -> int:
        """Payload bytes that can be produced before some shard has no replica with free buffer; 0 while the topic is not known.

        Of forwarded messages: before one of its instances that can be reached, and is not this very service, has no free buffer. A shard
        all of whose instances are away, or a service that is, holds the others back only where everything is away.
        """
        if not self.num_shards:
            return 0
        limit = UNBOUNDED if forwarded else self.options.buffer.max_buffer_size
        some = not self.away
        room = limit
        for service in self.services.values():
            room = min(room, service.free(forwarded, leave_out_away=some))
        for kind, waiting in self._open.items():
            if kind.forwarded == forwarded:
                room -= waiting.size_bytes
        return max(room, 0)

    @property
    def away(self) -> bool:
        """Whether no consumer can be reached, for longer than a reconnect takes, or none is known."""
        return all([service.away for service in self.services.values()])

    def saturated(self, now: Moment) -> bool:
        """Whether every consumer instance that can be reached has enough to do for now: what it were given now would only lie here."""
        lanes = [lane for lane in self.lanes() if lane.reachable]
        enough = max(_ENOUGH // max(len(lanes), 1), _ENOUGH_FOR_ONE)
        return bool(lanes) and all(lane.has_enough(enough, now) for lane in lanes)

    def produce(self, batch: MessageBatch, now: Moment, *, fenced: bool = False, forwarded: bool = False) -> bool:
        """Takes a batch, as a whole or not at all; its arrays must not change afterwards.

        False: the topic is not known yet, or the strategy is returnError and there is no room; try again after ``room`` has grown.
        Single messages that can go nowhere (invalid shard, too large, no replica takes them) are counted and end as lost.
        """
        size = batch.size_bytes
        if not self.num_shards:
            return False
        if self.options.buffer.on_full_strategy == "returnError" and size > self.room(forwarded):
            self._count("buffer-full", len(batch))
            return False
        self._count("buffer-bytes-added", size)
        self.holds_fenced |= fenced
        delivery = Delivery(batch.token, batch.origins, self._tell_secured and batch.token is not None)
        kind = _Kind(fenced, forwarded)
        if len(batch) == 0:
            self.events.append(delivery.done())
        elif size >= _JOIN_BYTES or batch.first_id:
            self._seal(kind, now)
            self._split(batch, delivery, kind, now)
        else:
            waiting = self._open.setdefault(kind, _Open())
            waiting.batches.append(batch)
            waiting.deliveries.append(delivery)
            waiting.size_bytes += size
            if waiting.size_bytes >= min(_BLOCK_BYTES, self._block_bytes):
                self._seal(kind, now)
        return True

    @property
    def has_unsealed(self) -> bool:
        """Whether small batches wait for ``flush``."""
        return any(waiting.batches for waiting in self._open.values())

    def flush(self, now: Moment) -> None:
        """Sends the small batches that wait to be joined."""
        for kind in list(self._open):
            self._seal(kind, now)

    def _seal(self, kind: _Kind, now: Moment) -> None:
        waiting = self._open.pop(kind, None)
        if waiting is None or not waiting.batches:
            return
        if len(waiting.batches) == 1:
            self._split(waiting.batches[0], waiting.deliveries[0], kind, now)
            return
        deliveries, at = [], 0
        for batch, delivery in zip(waiting.batches, waiting.deliveries, strict=True):
            delivery.parts = 1
            deliveries.append((delivery, at, at + len(batch), 0))
            at += len(batch)
        joined = joined_messages(waiting.batches)
        joined.policies = self._joined_policies(waiting.batches)
        self._dispatch(joined, deliveries, kind, now)

    def _joined_policies(self, batches: list[MessageBatch]) -> NDArray[np.uint16] | None:
        if all(batch.policies is None for batch in batches):
            return None
        none = self.policies.numbers(("",))[0]
        return np.concatenate(
            [np.full(len(b), none, np.uint16) if b.policies is None else self._policies(b) for b in batches]
        )

    def _policies(self, batch: MessageBatch) -> NDArray[np.uint16]:
        assert batch.policies is not None
        numbers: NDArray[np.uint16] = self.policies.numbers(batch.policy_names)[batch.policies]
        return numbers

    def _split(self, batch: MessageBatch, delivery: Delivery, kind: _Kind, now: Moment) -> None:
        """Makes blocks of a batch; large ones are cut so that dropping the oldest never costs much of the buffer."""
        offsets = batch.offsets
        policies = None if batch.policies is None else self._policies(batch)
        if batch.size_bytes <= self._block_bytes and policies is None:
            delivery.parts = 1
            self._dispatch(batch, [(delivery, 0, len(batch), 0)], kind, now)
            return
        cuts = [0]
        while cuts[-1] < len(batch):
            first = cuts[-1]
            last = int(np.searchsorted(offsets, offsets[first] + self._block_bytes, side="right")) - 1
            cuts.append(min(max(last, first + 1), len(batch)))
        delivery.parts = len(cuts) - 1
        for first, last in pairwise(cuts):
            part = MessageBatch(
                batch.payload,
                offsets[first : last + 1],
                batch.shards[first:last],
                None if policies is None else policies[first:last],
                first_id=batch.first_id and batch.first_id + first,
            )
            self._dispatch(part, [(delivery, 0, last - first, first)], kind, now)

    def _dispatch(
        self, batch: MessageBatch, deliveries: list[tuple[Delivery, int, int, int]], kind: _Kind, now: Moment
    ) -> None:
        """``batch.policies`` are numbers of the policy table here."""
        block = Block(
            batch,
            deliveries=deliveries,
            created_ns=now.steady_ns,
            fenced=kind.fenced,
            forwarded=kind.forwarded,
            emit=self.events.append,
        )
        block.refused = self._refused(batch.offsets, batch.shards)
        if len(block.refused):
            first = int(np.argmin(block.refused))
            known = batch.shards[first] < self.num_shards
            block.loss = Loss("message-too-large" if known else "invalid-shard", "", block.value(first))
        block.dispatched([service.enqueue(block, now) for service in self.services.values()])
        for service in self.services.values():
            service.react(now)
        if block.watched:
            self._watched.append(block)

    def _refused(self, offsets: NDArray[np.int64], shards: NDArray[np.uint32]) -> NDArray[np.uint8]:
        size, shard = largest(offsets, shards)
        if size <= self.options.largest_message and shard < self.num_shards:
            return NO_MASK
        sizes = offsets[1:] - offsets[:-1]
        large, strange = sizes > self.options.largest_message, shards >= self.num_shards
        self._count("message-too-large", int(large.sum()))
        for service in self.services.values():
            # M3's producer finds out when it encodes them for a consumer.
            service.figures["encode-error", ""] += int(large.sum())
        self._count("invalid-shard-write", int(strange.sum()), "reason=invalid-shard")
        return (~(large | strange)).astype(np.uint8)

    # --- replicas ---

    def mark(self, now: Moment) -> Mark:
        """Stands for everything that was produced so far and is ``Done``."""
        return Mark(now.steady_ns, self.drops)

    def have(self, mark: Mark, now: Moment) -> bool:
        """Whether every replica, and not only those that could be reached, has acked the forwarded messages behind a mark, or will never
        get them from here: given up, overtaken, or for an instance that is not expected back (``Lane.has``).

        Not where messages were thrown away since, as the right to write was lost: whoever leads next sends them.
        """
        return mark.drops == self.drops and all(s.have(mark.until_ns, now) for s in self.services.values())

    # --- fencing, time, end ---

    def drop_unsent_fenced(self) -> None:
        """The right to write is lost: every fenced message leaves at once, sent or not; links in ``dirty`` may have to be reset."""
        for (fenced, _), waiting in self._open.items():
            if fenced:
                for batch, delivery in zip(waiting.batches, waiting.deliveries, strict=True):
                    self.events.append(Done(delivery.token, 0, 0, 0, fenced=len(batch)))
                waiting.batches.clear()
                waiting.deliveries.clear()
                waiting.size_bytes = 0
        for service in self.services.values():
            service.drop_fenced()
        self.drops += self.holds_fenced
        self.holds_fenced = False

    def tick(self, now: Moment) -> None:
        """Time passes: retries, TTLs, instances that do not answer. Some ten times a second."""
        for service in self.services.values():
            service.tick(now)
        self._tell_awaited(now)

    def _tell_awaited(self, now: Moment) -> None:
        while self._watched and not self._watched[0].watched:
            self._watched.popleft()
        if len(self._watched) > self._most_watched:
            # Behind one that is stuck: what has ended would be kept, with its payload, as long as that one is.
            self._watched = deque(block for block in self._watched if block.watched)
            self._most_watched = max(2 * len(self._watched), _LEAST_WATCHED)
        deliveries: dict[int, Delivery] = {}
        for block in self._watched:
            if block.created_ns + _AWAIT_NS > now.steady_ns:
                break
            block.look()
            deliveries.update((id(delivery), delivery) for delivery, *_ in block.deliveries)
        for delivery in deliveries.values():
            if delivery.origins is not None and (news := delivery.news()) is not None:
                self.events.append(news)
            if (security := delivery.security()) is not None:
                self.events.append(security)

    @property
    def unsettled(self) -> bool:
        """Whether links have changed since ``react``."""
        return any([service.unsettled for service in self.services.values()])

    def react(self, now: Moment) -> None:
        """After links changed: backlogs of shared services move, batches whose last awaited replica went away end."""
        for service in self.services.values():
            service.react(now)

    @property
    def pending(self) -> int:
        """Copies that are neither acked nor given up."""
        return sum(lane.pending for lane in self.lanes())

    def lanes(self) -> list[Lane]:
        """Every queue of every service, those without an instance included."""
        return [lane for service in self.services.values() for lane in service.all_lanes()]

    def close(self) -> None:
        """Gives up whatever is left; every batch gets its event: fenced messages count as such, since whoever leads next sends them."""
        self.drop_unsent_fenced()
        for service in self.services.values():
            service.abandon()
            service.close()
        for waiting in self._open.values():
            for batch, delivery in zip(waiting.batches, waiting.deliveries, strict=True):
                self.events.append(Done(delivery.token, 0, len(batch), 0))
        self._open.clear()

    def _count(self, name: str, n: int, tag: str = "") -> None:
        if n:
            self.figures[name, tag] += n

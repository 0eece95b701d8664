"""One consumer service of a topic: divides blocks over the lanes of its instances, finds the messages of acks, follows the placement.

Replicated (docs/m3/m3msg.md, replicated services): a message writer per replica of a shard, each message into all of them. Shared
(docs/m3/m3msg.md, shared services): a message writer per shard, each message to one of the instances that own the shard; if that one
goes away or does not answer, its backlog moves to the others at once.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from m3cluster.placement.model import Placement
from m3cluster.topic import ConsumerService, ConsumptionType
from m3msg.producer.block import Block, Moment, Parcel, Share, new_rows
from m3msg.producer.filters import Filter, mask_of
from m3msg.producer.kernels import extract, fill_parcel, settle
from m3msg.producer.lane import Lane, Waits
from m3msg.producer.link import LaneSettings, Link
from m3msg.producer.rows import ABANDONED, CLOSED, FENCED, UNWANTED
from m3msg.producer.writers import PlacementError, ReplicatedWriters, SharedWriters
from m3x.clock import monotonic_ns

__all__ = ["UNBOUNDED", "PlacementError", "ServiceWriter"]

UNBOUNDED = 1 << 62
"""Room that no buffer limits."""


class ServiceWriter:
    """See the module."""

    def __init__(
        self,
        service: ConsumerService,
        settings: LaneSettings,
        filters: Sequence[Filter],
        dirty: set[Link],
        *,
        ignore_cutoff_cutover: bool,
        local: frozenset[str],
    ) -> None:
        self.service = service
        self.filters = list(filters)
        self.figures: Counter[tuple[str, str]] = Counter()
        """Counters since they were last taken: (name, ``tag=value`` or empty) → n."""
        self.waits = Waits()
        """Since they were last taken."""
        self.scan_ns = 0
        """How long the last ``tick`` took."""
        self.lanes: dict[str, Lane] = {}
        """By endpoint."""
        self.has_placement = False
        self._settings = settings
        self._local = local
        self._dirty = dirty
        self._changed: set[Lane] = set()
        replicated = service.consumption_type is ConsumptionType.REPLICATED
        self._replicated = replicated
        self.writers: ReplicatedWriters | SharedWriters = (
            ReplicatedWriters(settings.num_shards, ignore_cutoff_cutover)
            if replicated
            else SharedWriters(settings.num_shards, self._new_lane("", ""))
        )
        self._moved = False

    def _new_lane(self, endpoint: str, instance: str) -> Lane:
        return Lane(
            endpoint,
            instance,
            self._settings,
            local=endpoint in self._local,
            figures=self.figures,
            waits=self.waits,
            dirty=self._dirty,
            on_changed=self._changed.add,
            on_strange_acks=self._on_strange_acks,
        )

    def all_lanes(self) -> list[Lane]:
        """Every queue, the one without instance included."""
        spare = self.writers.spare
        return [*self.lanes.values(), spare] if spare is not None else list(self.lanes.values())

    # --- what is sent ---

    def enqueue(self, block: Block, now: Moment) -> Share:
        """Copies of the block for every lane that takes them; the caller checks the block when all services have theirs."""
        mask = mask_of(self.filters, block)
        passed = len(block) if not len(mask) else int(mask.sum())
        self._count("filter-accepted", passed)
        self._count("filter-not-accepted", len(block) - passed)
        share = Share(block, mask, self._replicated)
        if len(block.refused):
            mask = block.refused if not len(mask) else mask & block.refused
        added: list[tuple[Lane, Parcel]] = []
        for lane, accept in self.writers.targets(now.wall_ns):
            rows, runs = new_rows(len(block), len(accept))
            table = lane.table
            if block.first_id:
                table = table.copy()
                table["last_id"] = block.first_id - 1
            n, size = fill_parcel(block.shards, block.offsets, accept, mask, table, lane.order, rows, runs)
            if n:
                rows = rows[:n] if n > len(block) // 2 else rows[:n].copy()
                added.append((lane, Parcel(share, lane, rows, runs, size_bytes=size, pending=n)))
                self._count("message-enqueue", n)
        share.whole = not len(mask) and not self.writers.refusals(now.wall_ns)
        self._count_refusals(block, mask, now)
        for lane, parcel in added:
            lane.add(parcel)
        return share

    def _count_refusals(self, block: Block, mask: NDArray[np.uint8], now: Moment) -> None:
        refusals = self.writers.refusals(now.wall_ns)
        if not refusals:
            return
        shards = block.shards if not len(mask) else block.shards[mask != 0]
        shards = shards[shards < self._settings.num_shards]
        per_shard = np.bincount(shards, minlength=self._settings.num_shards)
        for (name, tag), refusing in refusals.items():
            self._count(name, int((per_shard * refusing).sum()), tag)

    # --- what is acked ---

    def _on_strange_acks(self, lane: Lane, acks: NDArray[np.void], n: int, now: Moment) -> None:
        """Acks whose messages are not in the queue of the instance that sent them: moved away meanwhile, or done long ago."""
        if self._moved:
            for other in self.all_lanes():
                if n and other is not lane:
                    n, _ = other.mark(acks, n, None, now)
        self._count("ack-ignored", n)

    # --- instances ---

    def update_placement(self, placement: Placement, now: Moment) -> None:
        """Follows a new placement. Raises ``PlacementError`` and keeps everything as it is if it cannot be used."""
        self.writers.validate(placement)
        wanted: dict[str, str] = {}
        for instance in placement.instances:
            if instance.shards or not placement.is_sharded:
                wanted.setdefault(instance.endpoint, instance.id)
        gone = [lane for endpoint, lane in self.lanes.items() if endpoint not in wanted]
        lanes = {
            endpoint: self.lanes.get(endpoint) or self._new_lane(endpoint, name) for endpoint, name in wanted.items()
        }
        for endpoint, name in wanted.items():
            lanes[endpoint].instance = name
        self._count("instances", len(lanes.keys() - self.lanes.keys()), "action=add")
        self._count("instances", len(gone), "action=remove")
        self.lanes = lanes
        self.has_placement = True
        for source, target, shards in self.writers.assign(placement, lanes, gone):
            self._move(source, target, shards)
        for lane in gone:
            self._changed.discard(lane)
            lane.close()
        self.react(now)

    def _move(self, source: Lane, target: Lane | None, shards: NDArray[np.uint8]) -> None:
        """Brings the queue of some shards (uint8 mask) to another lane, or ends it where ``target`` is None."""
        moved: list[Parcel] = []
        parcel = source.oldest
        while parcel is not None:
            following = parcel.next
            rows, runs = new_rows(len(parcel.rows), len(shards))
            n, pending, size = extract(parcel.rows, parcel.runs, shards, rows, runs, source.inflight)
            if n:
                new = Parcel(parcel.share, target or source, rows[:n], runs, size_bytes=size, pending=pending)
                new.lost = parcel.lost
                parcel.pending -= pending
                parcel.block.changed = True
                source.pending -= pending
                if parcel.pending == 0:
                    source.take_out(parcel)
                if pending:
                    moved.append(new)
            parcel = following
        for new in moved:
            if target is not None:
                self._moved = True
                target.add(new, moved=True)
            else:
                count, _ = settle(new.rows, 0, len(new.rows), CLOSED, source.inflight)
                new.pending, new.lost = 0, True
                new.end()
                self._count("message-closed", count)
            new.block.check()

    @property
    def unsettled(self) -> bool:
        """Whether lanes became reachable or not since ``react``."""
        return bool(self._changed)

    def react(self, now: Moment) -> None:
        """Deals with lanes that became reachable or not since the last call."""
        if not self._changed:
            return
        changed = list(self._changed)
        self._changed.clear()
        for source, target, shards in self.writers.reassign(self.lanes):
            self._move(source, target, shards)
        for lane in changed:
            if not lane.reachable:
                for parcel in lane.parcels():
                    parcel.block.check()

    def tick(self, now: Moment) -> None:
        """Time passes."""
        begun_ns = monotonic_ns()
        for lane in self.all_lanes():
            lane.tick(now, self.service.message_ttl_ns)
        self.react(now)
        self.scan_ns = monotonic_ns() - begun_ns

    def drop_fenced(self) -> None:
        """Removes every message that needs the right to write; connections with such bytes half written must be made anew."""
        for lane in self.all_lanes():
            for link in lane.links:
                if link.out_fenced:
                    link.reset_reason = "the right to write was lost with messages half written"
                    self._dirty.add(link)
            lane.give_up_all(FENCED, fenced_only=True)

    def abandon(self) -> None:
        """The producer ends: what is not acked is lost."""
        for lane in self.all_lanes():
            lane.give_up_all(ABANDONED)

    def close(self) -> None:
        """The service is not in the topic any more: nobody wants what is queued."""
        for lane in self.all_lanes():
            lane.close(UNWANTED)

    def have(self, until_ns: int, now: Moment) -> bool:
        """Whether every replica has the forwarded messages that were made up to then, as ``Lane.has`` says."""
        return not self._replicated or all(lane.has(until_ns, now) for lane in self.lanes.values())

    # --- room ---

    @property
    def away(self) -> bool:
        """Whether none of its instances can be reached, for longer than a reconnect takes."""
        return all([lane.away for group in self.writers.groups() for lane in group])

    def free(self, forwarded: bool, *, leave_out_away: bool = False) -> int:
        """Bytes that every shard can take on at least one of its lanes that are reachable, or of all where none is; ``UNBOUNDED`` where
        nothing limits it.

        ``leave_out_away``: a shard all of whose instances are away does not count; its lanes lose their oldest messages. Forwarded
        messages come too late soon: a shard none of whose instances is reachable does not hold them back, nor does one that this very
        service has.
        """
        room = UNBOUNDED
        for group in self.writers.groups():
            lanes = [lane for lane in group if lane.reachable]
            if not lanes and (forwarded or (leave_out_away and all(lane.away for lane in group))):
                continue
            if forwarded and any(lane.local for lane in group):
                continue
            room = min(room, max([lane.free(forwarded) for lane in lanes or group], default=UNBOUNDED))
        return room

    def _count(self, name: str, n: int, tag: str = "") -> None:
        if n:
            self.figures[name, tag] += n

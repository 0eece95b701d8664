"""Which lane takes which shard: the message writers of a consumer service, without their queues.

A message writer is a row of ``SHARD_ROW`` in the table of a lane: its replicated shard id and the last message id it gave out. Both
classes answer the same questions; what has to move between lanes after a change comes back as ``Move`` tuples.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from m3cluster.placement.model import Placement, Shard
from m3msg.producer.lane import Lane
from m3msg.producer.rows import NO_WRITER

__all__ = ["Move", "PlacementError", "ReplicatedWriters", "SharedWriters"]

Move = tuple[Lane, Lane | None, NDArray[np.uint8]]
"""From which lane to which (None: nowhere, the messages are not wanted any more), and a mask of the shards."""
Accept = tuple[Lane, NDArray[np.uint8]]
"""A lane and the mask of the shards whose messages it takes."""

_NEVER = (1 << 63) - 1


class PlacementError(ValueError):
    """A placement that this kind of consumer service cannot use."""


class ReplicatedWriters:
    """A message writer per replica of a shard (docs/m3/m3msg.md, replicated services)."""

    spare: Lane | None = None

    def __init__(self, num_shards: int, ignore_cutoff_cutover: bool) -> None:
        self._num_shards = num_shards
        self._ignore = ignore_cutoff_cutover
        self._next_replica = [0] * num_shards
        self._lanes: list[Lane] = []
        self._groups: list[tuple[Lane, ...]] = []
        self._targets: list[Accept] = []
        self._refusals: dict[tuple[str, str], NDArray[np.int64]] = {}
        self._until_ns = 0

    def validate(self, placement: Placement) -> None:
        """Raises ``PlacementError`` for a placement without shards: M3 refuses it as well (docs/m3/m3msg.md, consumer services)."""
        if not placement.is_sharded:
            raise PlacementError("a replicated consumer service needs a sharded placement; this one has no shards")

    def assign(self, placement: Placement, lanes: Mapping[str, Lane], gone: Sequence[Lane]) -> list[Move]:
        """Keeps, re-points, creates and ends writers, shard by shard."""
        owners: list[dict[str, Shard]] = [{} for _ in range(self._num_shards)]
        for instance in placement.instances:
            for shard in instance.shards:
                if shard.id < self._num_shards:
                    owners[shard.id].setdefault(instance.endpoint, shard)
        moves: dict[tuple[Lane, Lane | None], NDArray[np.uint8]] = {}
        old = [(lane, lane.served.tolist()) for lane in self._lanes]
        for shard_id, wanted in enumerate(owners):
            before = [lane for lane, served in old if served[shard_id]]
            vanished = [lane for lane in before if lane.endpoint not in wanted]
            kept = {lane.endpoint for lane in before}
            fresh = [lanes[endpoint] for endpoint in wanted if endpoint not in kept]
            self._change(shard_id, vanished, fresh, moves)
            for endpoint, shard in wanted.items():
                lanes[endpoint].cutover_ns[shard_id] = shard.cutover_ns
                lanes[endpoint].cutoff_ns[shard_id] = shard.cutoff_ns
        self._lanes = list(lanes.values())
        for lane in self._lanes:
            lane.arrange()
        self._groups = list(dict.fromkeys(tuple(lanes[e] for e in wanted) for wanted in owners if wanted))
        self._until_ns = 0
        return [(source, target, mask) for (source, target), mask in moves.items()]

    def _change(
        self,
        shard: int,
        vanished: list[Lane],
        fresh: list[Lane],
        moves: dict[tuple[Lane, Lane | None], NDArray[np.uint8]],
    ) -> None:
        for i, source in enumerate(vanished):
            target = fresh[i] if i < len(fresh) else None
            if target is not None:  # the writer keeps its ids and its replicated shard id
                target.table[shard] = source.table[shard]
            source.table["writer"][shard] = NO_WRITER
            moves.setdefault((source, target), np.zeros(self._num_shards, np.uint8))[shard] = 1
        for target in fresh[len(vanished) :]:
            replica = self._next_replica[shard]
            self._next_replica[shard] += 1
            target.table["writer"][shard] = (replica * self._num_shards + shard) & 0xFFFFFFFF
            target.table["last_id"][shard] = target.settings.last_id

    def reassign(self, lanes: Mapping[str, Lane]) -> list[Move]:
        """Nothing: every replica keeps its own queue."""
        return []

    def targets(self, now_ns: int) -> list[Accept]:
        """Every lane, with the shards that are between cutover and cutoff there."""
        self._refresh(now_ns)
        return self._targets

    def refusals(self, now_ns: int) -> dict[tuple[str, str], NDArray[np.int64]]:
        """Figure → how many lanes refuse a message of each shard for that reason; empty if none does."""
        self._refresh(now_ns)
        return self._refusals

    def groups(self) -> list[tuple[Lane, ...]]:
        """The distinct sets of lanes that replicate a shard."""
        return self._groups

    def _refresh(self, now_ns: int) -> None:
        if now_ns < self._until_ns:
            return
        self._targets, until = [], _NEVER
        before = np.zeros(self._num_shards, np.int64)
        after = before.copy()
        writers = before.copy()
        for lane in self._lanes:
            served = lane.served
            writers += served
            early, late = (
                (lane.cutover_ns > now_ns) & served,
                (lane.cutoff_ns <= now_ns) & (lane.cutoff_ns > 0) & served,
            )
            if self._ignore:
                early, late = np.zeros_like(early), np.zeros_like(late)
            before += early
            after += late
            for edges in (lane.cutover_ns[served], lane.cutoff_ns[served]):
                coming = edges[edges > now_ns]
                until = min(until, int(coming.min())) if len(coming) else until
            self._targets.append((lane, (served & ~early & ~late).astype(np.uint8)))
        self._refusals = {
            key: counts
            for key, counts in {
                ("invalid-write", "reason=before-cutover"): before,
                ("invalid-write", "reason=after-cutoff"): after,
                ("write-error", "error-type=no-writers"): (writers == 0).astype(np.int64),
            }.items()
            if counts.any()
        }
        self._until_ns = until


class SharedWriters:
    """One message writer per shard; its messages go to one of the instances that own the shard (docs/m3/m3msg.md, shared services)."""

    def __init__(self, num_shards: int, spare: Lane) -> None:
        self.spare: Lane | None = spare
        """Keeps the messages of shards that no instance owns."""
        self._spare = spare
        self._num_shards = num_shards
        spare.table["writer"] = np.arange(num_shards)
        spare.arrange()
        self._owners: list[tuple[Lane, ...]] = [()] * num_shards
        self._groups: list[tuple[Lane, ...]] = [(spare,)]
        self._chosen: list[Lane] = [spare] * num_shards
        self._targets: list[Accept] = [(spare, np.ones(num_shards, np.uint8))]
        self._gone: list[Lane] = []

    def validate(self, placement: Placement) -> None:
        """Any placement will do."""

    def assign(self, placement: Placement, lanes: Mapping[str, Lane], gone: Sequence[Lane]) -> list[Move]:
        """Takes the owners of each shard from the placement; without shards every instance owns all of them."""
        owners: list[list[Lane]] = [[] for _ in range(self._num_shards)]
        for instance in placement.instances:
            lane = lanes.get(instance.endpoint)
            if lane is None:
                continue
            ids: Iterable[int] = (s.id for s in instance.shards) if placement.is_sharded else range(self._num_shards)
            for shard_id in ids:
                if shard_id < self._num_shards and lane not in owners[shard_id]:
                    owners[shard_id].append(lane)
        self._owners = [tuple(group) for group in owners]
        self._groups = list(dict.fromkeys(group or (self._spare,) for group in self._owners))
        for lane in lanes.values():  # ids count on across instances: the writer is the shard's
            lane.table, lane.order = self._spare.table, self._spare.order
        self._gone = list(gone)
        moves = self.reassign(lanes)
        self._gone = []
        return moves

    def reassign(self, lanes: Mapping[str, Lane]) -> list[Move]:
        """Spreads the shards over their reachable owners, and says which backlogs have to change the lane."""
        choices: dict[Lane, NDArray[np.uint8]] = {}
        for shard_id, group in enumerate(self._owners):
            usable = [lane for lane in group if lane.reachable] or group
            chosen = usable[shard_id % len(usable)] if usable else self._spare
            self._chosen[shard_id] = chosen
            choices.setdefault(chosen, np.zeros(self._num_shards, np.uint8))[shard_id] = 1
        self._targets = list(choices.items())
        moves: dict[tuple[Lane, Lane | None], NDArray[np.uint8]] = {}
        for source in (self._spare, *self._gone, *lanes.values()):
            if source.oldest is None:
                continue
            for shard_id, chosen in enumerate(self._chosen):
                stays = source in self._owners[shard_id] and (source.reachable or not chosen.reachable)
                if chosen is not source and not stays:
                    moves.setdefault((source, chosen), np.zeros(self._num_shards, np.uint8))[shard_id] = 1
        return [(source, target, mask) for (source, target), mask in moves.items()]

    def targets(self, now_ns: int) -> list[Accept]:
        """The lanes in use, each with its shards; cutover and cutoff do not count here (docs/m3/m3msg.md, shared services)."""
        return self._targets

    def refusals(self, now_ns: int) -> dict[tuple[str, str], NDArray[np.int64]]:
        """A shared service refuses nothing."""
        return {}

    def groups(self) -> list[tuple[Lane, ...]]:
        """The distinct sets of lanes that share a shard."""
        return self._groups

"""Distribution of shards over instances by weight and isolation group (reference/cluster.md §9.1): what all sharded algorithms share.

A ``Layout`` is a placement under change. It knows for each instance how many shards it should hold (its target, by weight) and moves
shards one by one so that no isolation group holds a shard twice. Which instance is served first is decided by a heap, as in M3.
"""

import functools
import heapq
import operator
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from m3cluster.placement.model import Instance, Placement, Shard, ShardState
from m3cluster.placement.options import CutoverTimes, PlacementError

__all__ = ["Layout", "Member"]

_NO_GROUPS = "not enough isolation groups to take shards, please make sure RF is less than number of isolation groups"


@dataclass(slots=True, eq=False)
class Member:
    """An instance under change. A shard that the running operation has placed here is in ``new`` (id → source id) until it is finished."""

    instance: Instance
    shards: dict[int, Shard] = field(default_factory=dict)
    new: dict[int, str] = field(default_factory=dict)
    load: int = 0
    """Number of shards that are here to stay, counted along because every comparison in a heap asks for it."""
    target: int = 0

    @classmethod
    def of(cls, instance: Instance) -> "Member":
        """The instance as it is in a placement."""
        staying = sum(s.state is not ShardState.LEAVING for s in instance.shards)
        return cls(instance, {s.id: s for s in instance.shards}, load=staying)

    @property
    def id(self) -> str:
        """The instance's id."""
        return self.instance.id

    @property
    def group(self) -> str:
        """The instance's isolation group."""
        return self.instance.isolation_group

    @property
    def held(self) -> int:
        """Number of shards including those that are leaving."""
        return len(self.new) + len(self.shards)

    @property
    def left(self) -> int:
        """How many shards it is short of its target; negative: has too many."""
        return self.target - self.load

    @property
    def is_leaving(self) -> bool:
        """Whether it has shards and all of them are leaving."""
        return bool(self.shards) and self.load == 0

    def owns(self, shard: int) -> bool:
        """Whether it holds the shard to stay."""
        return shard in self.new or (shard in self.shards and self.shards[shard].state is not ShardState.LEAVING)


class Layout:
    """Shards ``0..num_shards-1``, each on ``replica_factor`` of the members. Randomness comes from ``rng``, so that tests can repeat it."""

    def __init__(
        self, instances: Iterable[Instance], num_shards: int, replica_factor: int, rng: random.Random | None = None
    ) -> None:
        self.members = {i.id: Member.of(i) for i in instances}
        self.num_shards = num_shards
        self._rng = rng or random.Random()
        self._owners: dict[int, set[Member]] = defaultdict(set)
        for member in self.members.values():
            for shard in member.shards:
                if member.owns(shard):
                    self._owners[shard].add(member)
        self._set_targets(replica_factor)

    def _set_targets(self, replica_factor: int) -> None:
        """Targets by weight; a group too heavy to hold no shard twice gets every shard once, the others share the rest."""
        self.replica_factor = replica_factor
        staying = [m for m in self.members.values() if not m.is_leaving]
        self._group_weight = Counter[str]()
        for member in staying:
            self._group_weight[member.group] += member.instance.weight
        total = sum(self._group_weight.values())
        if staying and total == 0:
            raise PlacementError("instances of a sharded placement need a weight greater than 0")
        heavy = {g: w for g, w in self._group_weight.items() if w / total >= 1 / replica_factor}
        rest = total - sum(heavy.values())
        for member in staying:
            weight = member.instance.weight
            if member.group in heavy:
                if heavy[member.group]:
                    member.target = -(-self.num_shards * weight // heavy[member.group])
            elif rest:
                member.target = self.num_shards * (replica_factor - len(heavy)) * weight // rest

    def _before(self, one: Member, other: Member, *, stealing: bool) -> int:
        """Order in which members are served: negative if ``one`` comes first."""
        left, other_left = one.left, other.left
        weight, other_weight = self._group_weight[one.group], self._group_weight[other.group]
        if left > 0 and other_left > 0 and one.group != other.group and weight != other_weight:
            return -1 if weight > other_weight else 1
        if left != other_left:
            return -1 if (left < other_left) == stealing else 1
        return -1 if one.id < other.id else 1

    def _can_move(self, shard: int, source: Member | None, group: str) -> bool:
        """Whether the shard may go to a group: it stays in its own, or no owner is there yet."""
        if source is not None and source.group == group:
            return True
        return all(owner.group != group for owner in self._owners[shard])

    def move_new(self, shard: int, source: Member | None, to: Member) -> bool:
        """Gives ``to`` a shard that nobody serves yet: one without a place (``source`` None) or one just placed on ``source``."""
        if to.owns(shard) or not self._can_move(shard, source, to.group):
            return False
        source_id = ""
        if source is not None:
            source_id = source.new.pop(shard)
            source.load -= 1
            self._owners[shard].discard(source)
        to.new[shard] = source_id
        to.load += 1
        self._owners[shard].add(to)
        return True

    def place_shards(self, shards: Sequence[int], candidates: Iterable[Member]) -> None:
        """Puts each shard, in random order, on the first candidate that may take it. Raises ``PlacementError`` if none may.

        The order is random because with several replicas and unequal weights ascending order deviates further from the targets.
        """
        rank = functools.cmp_to_key(functools.partial(self._before, stealing=False))
        # A shard is refused by a whole isolation group or by none of it: one heap per group, and only their tops are compared.
        heaps: dict[str, list[tuple[Any, Member]]] = defaultdict(list)
        for member in candidates:
            if not member.is_leaving:
                heaps[member.group].append((rank(member), member))
        for heap in heaps.values():
            heapq.heapify(heap)
        order = list(shards)
        self._rng.shuffle(order)
        for shard in order:
            open_groups = [heap for group, heap in heaps.items() if self._can_move(shard, None, group)]
            if not open_groups:
                raise PlacementError(_NO_GROUPS)
            heap = min(open_groups, key=operator.itemgetter(0))
            entry = heap[0]
            self.move_new(shard, None, entry[1])
            heapq.heapreplace(heap, entry)

    def optimize(self) -> None:
        """Evens out by moving shards that were placed in this operation, and only those, to members short of their target."""
        done: set[str] = set()
        while True:
            if all(m.left >= 0 for m in self.members.values() if not m.is_leaving):
                return
            short = [m for m in self.members.values() if m.left > 0 and not m.is_leaving]
            if not short:
                return
            member = min(short, key=lambda m: (-m.left, m.id))
            if member.id in done:
                return
            done.add(member.id)
            self._fill(member)

    def _fill(self, to: Member) -> None:
        rank = functools.cmp_to_key(functools.partial(self._before, stealing=True))
        heap = [(rank(m), m) for m in self.members.values() if not m.is_leaving]
        heapq.heapify(heap)
        while heap and to.held < to.target:
            entry = heapq.heappop(heap)
            source = entry[1]
            if source is not to and any(self.move_new(shard, source, to) for shard in sorted(source.new)):
                heapq.heappush(heap, entry)

    def instances(self, times: CutoverTimes) -> list[Instance]:
        """The members with shards, newly placed shards INITIALIZING from the cutover on."""
        found = []
        for member in self.members.values():
            shards = dict(member.shards)
            for shard, source_id in member.new.items():
                shards[shard] = Shard(shard, ShardState.INITIALIZING, source_id, times.shard_cutover_ns)
            if shards:
                ordered = tuple(shards[key] for key in sorted(shards))
                found.append(msgspec.structs.replace(member.instance, shards=ordered))
        return sorted(found, key=lambda i: i.id)

    def placement(self, times: CutoverTimes) -> Placement:
        """The placement as it is now."""
        instances = self.instances(times)
        return Placement(
            instances=tuple(instances),
            num_shards=self.num_shards,
            replica_factor=self.replica_factor,
            is_sharded=True,
            cutover_time_ns=times.placement_ns,
            max_shard_set_id=max((i.shard_set_id for i in instances), default=0),
        )

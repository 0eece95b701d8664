"""Distribution of shards over instances by weight and isolation group (docs/m3/cluster.md, layout): what all sharded algorithms share.

A ``Layout`` is a placement under change. It knows for each instance how many shards it should hold (its target, by weight) and moves
shards one by one so that no isolation group holds a shard twice. Which instance is served first is decided by a heap, as in M3.
"""

import heapq
import operator
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from m3cluster.placement.errors import PlacementError
from m3cluster.placement.model import NEVER_NS, Instance, Placement, Shard, ShardState
from m3cluster.placement.options import PlacementOptions

__all__ = ["Layout", "Member", "NotEnoughGroupsError"]

_Rank = tuple[bool, int, int, str]


class NotEnoughGroupsError(PlacementError):
    """A shard finds no isolation group that does not hold it yet."""

    def __init__(self) -> None:
        super().__init__(
            "not enough isolation groups to take shards, please make sure RF is less than number of isolation groups"
        )


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

    def in_state(self, state: ShardState) -> list[int]:
        """Its shards in a state, in order; those just placed are in none."""
        return sorted(key for key, shard in self.shards.items() if shard.state is state)

    def staying(self) -> list[int]:
        """Its shards that are here to stay, in order."""
        return sorted(key for key, shard in self.shards.items() if shard.state is not ShardState.LEAVING)

    def movable(self, *, served: bool) -> list[int]:
        """The shards that may be taken away, those that cost least first; ``served``: also those of earlier operations."""
        placed = sorted(self.new)
        if not served:
            return placed
        return [*placed, *self.in_state(ShardState.INITIALIZING), *self.in_state(ShardState.AVAILABLE)]

    def give(self, shard: int, cutoff_ns: int) -> str | None:
        """Lets a shard go: one in service leaves at the cutoff, any other one is gone.

        Returns the source that the new owner takes it from; None if the shard is not here to stay anyway.
        """
        if shard in self.new:
            source = self.new.pop(shard)
        elif not self.owns(shard):
            return None
        elif self.shards[shard].state is ShardState.INITIALIZING:
            source = self.shards.pop(shard).source_id
        else:
            source = self.id
            self.shards[shard] = msgspec.structs.replace(
                self.shards[shard], state=ShardState.LEAVING, cutoff_ns=cutoff_ns
            )
        self.load -= 1
        return source

    def forget_source(self, shard: int, source: str) -> None:
        """The source has the shard back: nothing is taken from there any more."""
        if self.new.get(shard) == source:
            self.new[shard] = ""
        elif shard in self.shards and self.shards[shard].source_id == source:
            self.shards[shard] = msgspec.structs.replace(self.shards[shard], source_id="")

    def finished(self, cutover_ns: int) -> Instance:
        """The instance as it is now; what was placed on it is INITIALIZING from the cutover on."""
        shards = dict(self.shards)
        for shard, source in self.new.items():
            shards[shard] = Shard(shard, ShardState.INITIALIZING, source, cutover_ns)
        return msgspec.structs.replace(self.instance, shards=tuple(shards[key] for key in sorted(shards)))


class Layout:
    """Shards ``0..num_shards-1``, each on ``replica_factor`` of the instances of a placement.

    ``replica_factor`` defaults to the placement's. Randomness comes from ``rng``, so that tests can repeat it. Raises ``PlacementError``
    for instances without weight.
    """

    def __init__(
        self,
        placement: Placement,
        options: PlacementOptions,
        rng: random.Random | None = None,
        replica_factor: int | None = None,
    ) -> None:
        self.members = {i.id: Member.of(i) for i in placement.instances}
        self.num_shards = placement.num_shards
        self.replica_factor = placement.replica_factor if replica_factor is None else replica_factor
        self._max_shard_set_id = placement.max_shard_set_id
        self._options = options
        self._cutoff_ns = options.times.shard_cutoff_ns or NEVER_NS
        self._rng = rng or random.Random()
        self._owners: dict[int, set[Member]] = defaultdict(set)
        for member in self.members.values():
            for shard in member.staying():
                self._owners[shard].add(member)
        self._set_targets()

    def _set_targets(self) -> None:
        """Targets by weight; a group too heavy to hold no shard twice gets every shard once, the others share the rest."""
        staying = [m for m in self.members.values() if not m.is_leaving]
        self._group_weight = Counter[str]()
        for member in staying:
            self._group_weight[member.group] += member.instance.weight
        total = sum(self._group_weight.values())
        heavy = {g: w for g, w in self._group_weight.items() if total and w * self.replica_factor >= total}
        rest = total - sum(heavy.values())
        for member in staying:
            weight = member.instance.weight
            if member.group in heavy:
                member.target = -(-self.num_shards * weight // heavy[member.group])
            elif rest:
                member.target = self.num_shards * (self.replica_factor - len(heavy)) * weight // rest
            else:
                raise PlacementError(
                    f"instances that are to share shards need a weight greater than 0; {member.id} has {weight}, "
                    f"and no other isolation group has less than its share"
                )

    def _rank(self, member: Member, *, stealing: bool) -> _Rank:
        """Order in which members are served, least first: when placing those that lack shards come first, when stealing last; among
        these the heavier isolation group comes first."""
        left = member.left
        weight = self._group_weight[member.group] if left > 0 else 0
        return ((left > 0) == stealing, -weight, left if stealing else -left, member.id)

    def can_move(self, shard: int, source: Member | None, group: str) -> bool:
        """Whether the shard may go to a group: it stays in its own, or no owner is there yet."""
        if source is not None and source.group == group:
            return True
        return all(owner.group != group for owner in self._owners[shard])

    def move(self, shard: int, source: Member | None, to: Member) -> bool:
        """Gives ``to`` a shard: one without a place (``source`` None) or one of ``source``, which need not be a member.

        Returns whether it could be done.
        """
        if to.owns(shard) or not self.can_move(shard, source, to.group):
            return False
        origin = ""
        if source is not None:
            given = source.give(shard, self._cutoff_ns)
            if given is None:
                return False
            origin = given
            self._owners[shard].discard(source)
        if shard in to.shards:
            # It was leaving from there and simply stays.
            to.shards[shard] = Shard(shard, ShardState.AVAILABLE)
            for owner in self._owners[shard]:
                owner.forget_source(shard, to.id)
        else:
            to.new[shard] = origin
        to.load += 1
        self._owners[shard].add(to)
        return True

    def place_new(self) -> None:
        """Puts every shard once on the members. Raises ``NotEnoughGroupsError``."""
        self._place(range(self.num_shards), None, self.members.values())

    def place_from(self, source: Member, candidates: Iterable[Member]) -> None:
        """Puts all shards that stay on ``source`` on the candidates. What ``source`` has not taken over yet goes back where it is, if
        possible. Raises ``NotEnoughGroupsError``; what was moved until then stays moved."""
        candidates = list(candidates)
        self.give_back(source, candidates)
        self._place(source.staying(), source, candidates)

    def _place(self, shards: Iterable[int], source: Member | None, candidates: Iterable[Member]) -> None:
        """Puts each shard, in random order, on the first candidate that may take it.

        The order is random because with several replicas and unequal weights ascending order deviates further from the targets.
        """
        # A shard is refused by a whole isolation group or by none of it: one heap per group, and only their tops are compared.
        heaps: dict[str, list[tuple[_Rank, Member]]] = defaultdict(list)
        for member in candidates:
            if not member.is_leaving:
                heaps[member.group].append((self._rank(member, stealing=False), member))
        for heap in heaps.values():
            heapq.heapify(heap)
        order = list(shards)
        self._rng.shuffle(order)
        for shard in order:
            tried = [
                heap
                for group, heap in heaps.items()
                if self.can_move(shard, source, group) and not all(m.owns(shard) for _, m in heap)
            ]
            if not tried:
                raise NotEnoughGroupsError
            # Only in the source's own group can somebody own it already, and then only if it was there twice before.
            heap = min(tried, key=operator.itemgetter(0))
            owning = []
            while heap[0][1].owns(shard):
                owning.append(heapq.heappop(heap))
            to = heap[0][1]
            self.move(shard, source, to)
            heapq.heapreplace(heap, (self._rank(to, stealing=False), to))
            for entry in owning:
                heapq.heappush(heap, entry)

    def give_back(self, member: Member, candidates: Iterable[Member]) -> int:
        """Returns the shards that a member has not taken over yet to their sources, if these are candidates and do not leave altogether.

        Answers how many shards that were.
        """
        by_id = {m.id: m for m in candidates}
        moved = 0
        for shard in member.in_state(ShardState.INITIALIZING):
            source = by_id.get(member.shards[shard].source_id)
            if source is not None and not source.is_leaving:
                moved += self.move(shard, member, source)
        return moved

    def reclaim(self, to: Member) -> int:
        """Takes back every shard that others were about to take over from a member; answers how many shards that were."""
        moved = 0
        if not to.in_state(ShardState.LEAVING):
            return moved
        for member in self.members.values():
            for shard in member.in_state(ShardState.INITIALIZING):
                if member.shards[shard].source_id == to.id:
                    moved += self.move(shard, member, to)
        return moved

    def optimize(self, *, served: bool) -> None:
        """Evens out by moving shards to members short of their target: those placed in this operation, or also those in service."""
        done: set[str] = set()
        while True:
            # As in M3 also members that have lost all their shards in this operation.
            short = [m for m in self.members.values() if m.left > 0]
            if not short or all(m.left >= 0 for m in self.members.values()):
                return
            member = min(short, key=lambda m: (-m.left, m.id))
            if member.id in done:
                return
            done.add(member.id)
            self.fill(member, served=served)

    def fill(self, to: Member, *, served: bool = True) -> None:
        """Takes shards from the others until ``to`` has reached its target; as in M3, what is leaving from it counts as well."""
        heap = [(self._rank(m, stealing=True), m) for m in self.members.values() if m is not to and not m.is_leaving]
        heapq.heapify(heap)
        while heap and to.held < to.target:
            source = heapq.heappop(heap)[1]
            if any(self.move(shard, source, to) for shard in source.movable(served=served)):
                heapq.heappush(heap, (self._rank(source, stealing=True), source))

    def placement(self, *back: Member) -> Placement:
        """The placement as it is now, without instances that have no shards; ``back``: members that were taken out before."""
        cutover_ns = self._options.times.shard_cutover_ns
        instances = [m.finished(cutover_ns) for m in (*self.members.values(), *back) if m.held]
        return Placement(
            instances=tuple(sorted(instances, key=lambda i: i.id)),
            num_shards=self.num_shards,
            replica_factor=self.replica_factor,
            is_sharded=True,
            is_mirrored=self._options.is_mirrored,
            cutover_time_ns=self._options.times.placement_ns,
            max_shard_set_id=max([self._max_shard_set_id, *(i.shard_set_id for i in instances)]),
        )

"""Which worker flushes what, and how: the flush manager of M3 as a pure state machine (docs/m3/aggregation.md, flush schedule).

As **leader** the schedule says when a list is due; every worker that has it gets ``Flush(emit=True)`` with the bounds of its shards. Before
the first such command for a shard a worker gets ``Flush(emit=False)`` up to what is known to be emitted already (by the leader before us,
or by a worker before this one), so that nothing is emitted twice; before that, where the worker has had the list in an earlier term, it
gets ``Reopen``: what that term flushed without its delivery getting into the KV is emitted again. Of what is known to be delivered, though
flush times do not cover it yet, only forwarded metrics go out again: a replica may lack them. As **follower** the times that the leader
keeps in the KV are discarded up to.
Otherwise (**idle**: resigned, or no placement yet) nothing is flushed.

A leader flushes every list that it or the KV knows, on all of its workers: where nobody feeds a list any more (its rule, or its host, is
gone) the flush puts nothing out and its time goes on, so that nobody waits for windows that will never come.

A worker has at most ``_MOST_IN_HAND`` flushes of a list in hand that emit, so that what it has known for long is not late where output
takes longer than a window (``aggregator.engine.flush.run``); a tick that comes while there are so many is remembered, and runs afterwards
at the target of that moment. Methods return the commands to send; the shell (``serving``) sends them, reports what comes back, and writes
``message()`` into the KV.
"""

import enum
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from aggregator.ipc import Command, Commit, Flush, Flushed, Grace, NewList, OwnedShard, Reopen, ShardBounds
from aggregator.lists import ListId
from aggregator.supervisor.flushing.flush_times import FlushTimes
from aggregator.supervisor.flushing.holding import EVERYTHING, Holding, first_unflushed
from aggregator.supervisor.flushing.recovery import PATIENCE_NS, Recovery
from aggregator.supervisor.flushing.schedule import Schedule, ScheduleOptions
from m3cluster.flush_times import ShardSetFlushTimes
from m3cluster.placement.model import NEVER_NS

__all__ = ["LONGEST_AWAITED_NS", "FlushRole", "Flushing", "Send"]

REPEAT_NS = 30 * 1_000_000_000
"""Unchanged flush times are written again this often, so that followers do not take silence for the leader's end."""
LONGEST_AWAITED_NS = 120 * 1_000_000_000
"""Of lists with longer windows it is not looked at who holds them (docs/architecture.md §4): they would keep an instance cold for hours."""
RECONNECT_NS = 3 * 1_000_000_000
"""So long after a new front was started its producers are given to send what they kept."""

_MOST_IN_HAND = 8
HELD_NS = 50_000_000
"""A list of rollups that waits for what feeds it is looked at again after this time."""


class FlushRole(enum.Enum):
    """What this instance does with windows that are due."""

    IDLE = "idle"
    FOLLOWER = "follower"
    LEADER = "leader"


class Send(NamedTuple):
    """A command for one worker incarnation."""

    worker: int
    epoch: int
    command: Command


@dataclass(slots=True)
class _Worker:
    epoch: int
    owned: dict[int, OwnedShard]
    lists: dict[ListId, set[int]] = field(default_factory=dict)
    seeded: dict[ListId, set[int]] = field(default_factory=dict)
    """The shards of which it knows, in this term, up to where they had been emitted before."""
    busy: dict[ListId, set[int]] = field(default_factory=dict)
    """Flushes that emit, by list."""
    postponed: set[ListId] = field(default_factory=set)
    given: dict[int, Flush | Reopen] = field(default_factory=dict)
    """Flushes whose last part has not come, and what they need done before them."""
    older: set[ListId] = field(default_factory=set)
    """Lists from before this term: they are reopened with their first flush in it."""
    replays: bool = False
    """It applies its journal: what it will have is not known yet."""
    journaled: bool = False
    """Whatever it has, its successor will have again."""

    def has_ended(self, list_id: ListId, flush_id: int) -> None:
        """A flush is not in hand any more."""
        in_hand = self.busy.get(list_id, set())
        in_hand.discard(flush_id)
        if not in_hand:
            self.busy.pop(list_id, None)


class Flushing:
    """The flushes of one instance."""

    def __init__(self, options: ScheduleOptions, shard_set: int = 0) -> None:
        self.role = FlushRole.IDLE
        self.schedule = Schedule(options, shard_set)
        self.times = FlushTimes()
        self.recovery = Recovery()
        self.saved_ns = 0
        self.on_unsaved: Callable[[], None] = lambda: None
        """Called when ``save_due`` has become true other than by time; may be set later."""
        self._holding = EVERYTHING
        self._until: Mapping[ListId, int] = {}
        """As the last tick said."""
        self._unfed: dict[tuple[ListId, int], int] = {}
        """Lists of the flush times that no worker has, or had when it was looked: since when, in this term."""
        self._unsaved = False
        self._saving = False
        """``message`` is being written."""
        self._kv = ShardSetFlushTimes()
        self._delivered = FlushTimes()
        """What was delivered when the term began."""
        self._forwarding: set[int] = set()
        """Flushes whose final output is thrown away."""
        self._committed: dict[tuple[int, ListId, int], int] = {}
        self._workers: dict[int, _Worker] = {}
        self._ids = itertools.count(1)

    # --- workers and lists

    def worker_up(self, worker: int, epoch: int, owned: Iterable[OwnedShard], *, replays: bool = False) -> None:
        """A worker incarnation runs, without any list. ``replays``: nothing is flushed there before ``worker_ready``."""
        self._workers[worker] = _Worker(epoch, {shard.id: shard for shard in owned}, replays=replays, journaled=replays)
        if replays:
            self.recovery.replays(worker)

    def worker_ready(self, worker: int, lists: Iterable[NewList], now_ns: int) -> list[Send]:
        """A worker has replayed its journal and has these lists: what was flushed there, and is not known to have arrived, comes again."""
        state = self._workers.get(worker)
        if state is None or not state.replays:
            return []
        state.replays = False
        sends = self.new_lists(worker, lists, now_ns)
        state.older |= set(state.lists)
        self.recovery.begin(worker, set(state.lists), now_ns)
        if self.role is FlushRole.FOLLOWER:
            return sends + self._grace(NEVER_NS)
        if self.role is not FlushRole.LEADER or not state.lists:
            return sends
        for list_id in self.schedule.lists():
            self.schedule.also_at(list_id, now_ns)
        return sends + self._grace(now_ns + PATIENCE_NS)

    def _grace(self, until_ns: int) -> list[Send]:
        """Until then a rollup's source is not too late for a window that is not flushed: rollups of a leader wait for their sources, and
        those of a follower for the leader's flush."""
        return [
            Send(worker, state.epoch, Grace(until_ns)) for worker, state in self._workers.items() if not state.replays
        ]

    def worker_down(self, worker: int) -> None:
        """It is gone: what it had not handed out completely is not flushed."""
        gone = self._workers.pop(worker, None)
        self.recovery.gone(worker)
        if gone is not None and gone.journaled:
            self.recovery.replays(worker)
        for flush_id in gone.given if gone is not None else ():
            self.times.last(flush_id, whole=False)
        for key in [key for key in self._committed if key[0] == worker]:
            del self._committed[key]

    def assign(self, worker: int, owned: Iterable[OwnedShard]) -> None:
        """The shards of a worker changed with the placement."""
        state = self._workers.get(worker)
        if state is None:
            return
        state.owned = {shard.id: shard for shard in owned}
        for seeded in state.seeded.values():
            seeded.intersection_update(state.owned)

    def new_lists(self, worker: int, lists: Iterable[NewList], now_ns: int) -> list[Send]:
        """Lists that a worker has made."""
        state = self._workers.get(worker)
        if state is None:
            return []
        created: dict[ListId, int] = {}
        for new in lists:
            state.lists.setdefault(new.list_id, set()).add(new.shard)
            created[new.list_id] = min(created.get(new.list_id, new.now_ns), new.now_ns)
            if self.role is FlushRole.LEADER and self.times.add_list(new.list_id, [new.shard]):
                self._save()
        for list_id, created_ns in created.items():
            self.schedule.join(list_id, created_ns, now_ns)
        return self._discard(worker, state, created) if self.role is FlushRole.FOLLOWER else []

    # --- roles

    def lead(self, kv: ShardSetFlushTimes, now_ns: int, delivered: ShardSetFlushTimes | None = None) -> list[Send]:
        """A term begins; ``kv`` are the flush times as read from the KV in this term, ``delivered`` up to where final output was
        delivered, if that is further."""
        self.role = FlushRole.LEADER
        self._kv = kv
        self._delivered = FlushTimes(delivered or ShardSetFlushTimes())
        self._forwarding.clear()
        self.times = FlushTimes(kv, FlushTimes(delivered or ShardSetFlushTimes()))
        self._unfed = dict.fromkeys(self.times.lists(), now_ns)
        self.schedule.restart(now_ns)
        for list_id in {list_id for list_id, _ in self.times.lists()} - set(self.schedule.lists()):
            self.schedule.join(list_id, now_ns, now_ns)
        self.saved_ns, self._unsaved, self._saving = now_ns, False, False
        for state in self._workers.values():
            state.seeded.clear()
            state.busy.clear()
            state.postponed.clear()
            state.given.clear()
            state.older = set(state.lists)
            for list_id, shards in state.lists.items():
                if self.times.add_list(list_id, shards):
                    self._save()
        lists = [
            (worker, list_id)
            for worker, state in self._workers.items()
            for list_id, shards in state.lists.items()
            if shards & state.owned.keys()
        ]
        for list_id in self.recovery.lead(lists, now_ns):
            self.schedule.also_at(list_id, now_ns)
        return self._grace(now_ns + PATIENCE_NS)

    def follow(self) -> list[Send]:
        """Somebody else leads, or nobody: discard what the KV says is flushed."""
        self._leave()
        self.role = FlushRole.FOLLOWER
        discards = [
            send for worker, state in self._workers.items() for send in self._discard(worker, state, state.lists)
        ]
        return discards + self._grace(NEVER_NS)

    def rest(self) -> None:
        """Neither leader nor follower: nothing is flushed."""
        self._leave()
        self.role = FlushRole.IDLE

    def _leave(self) -> None:
        self.times = FlushTimes()
        self._forwarding.clear()
        self._unsaved = False
        for state in self._workers.values():
            state.busy.clear()
            state.postponed.clear()
            state.given.clear()

    def kv_changed(self, message: ShardSetFlushTimes) -> list[Send]:
        """The flush times in the KV changed."""
        known, self._kv = self._kv is message, message
        if self.role is FlushRole.LEADER:
            if not known:
                self.times.learn(message)
            return []
        if self.role is not FlushRole.FOLLOWER:
            return []
        return [send for worker, state in self._workers.items() for send in self._discard(worker, state, state.lists)]

    def give_up(self, before_ns: int, workers: Iterable[int]) -> list[Send]:
        """As follower: throws away what these workers hold of windows up to ``before_ns``, though the KV does not say that it is flushed.

        For a cluster that has had no leader for long, when memory is short (M3's forced flush; docs/m3/aggregation.md, followers).
        """
        if self.role is not FlushRole.FOLLOWER:
            return []
        return [
            send
            for worker in workers
            if (state := self._workers.get(worker)) is not None
            for list_id in state.lists
            for send in self._throw_away(worker, state, list_id, dict.fromkeys(state.owned, before_ns))
        ]

    # --- flushing

    def tick(
        self, now_ns: int, holding: Holding = EVERYTHING, until: Mapping[ListId, int] = MappingProxyType({})
    ) -> list[Send]:
        """Gives the flushes that are due; ``holding``: what this instance holds, ``until``: by list, from which window on they wait."""
        if self.role is not FlushRole.LEADER:
            return []
        self._holding, self._until = holding, until
        sends: list[Send] = []
        for list_id, target_ns in self.schedule.due(now_ns):
            if self.recovery.holds(list_id, now_ns):
                self.schedule.also_at(list_id, now_ns + HELD_NS)
                continue
            for worker, state in self._workers.items():
                if not state.replays and self._flushed_shards(state, list_id):
                    sends += self._emit(worker, state, list_id, target_ns)
        return sends

    def _flushed_shards(self, state: _Worker, list_id: ListId) -> set[int]:
        """The shards whose times a flush of that list moves on: those on which the worker has it, and those on which nobody feeds it.

        Of the latter with long windows only where we would know: another instance may hold what is not flushed.
        """
        fed = state.lists.get(list_id, set()) & state.owned.keys()
        unfed = self.times.shards(list_id, state.owned.keys() - fed)
        if list_id.resolution_ns > LONGEST_AWAITED_NS:
            whole_from_ns = max(end for _, end in self._holding.lacking(list_id))
            unfed = {s for s in unfed if first_unflushed(list_id, self.times.time(list_id, s)) >= whole_from_ns}
        return fed | unfed

    def _emit(self, worker: int, state: _Worker, list_id: ListId, target_ns: int) -> list[Send]:
        seeded = state.seeded.setdefault(list_id, set())
        fresh = state.owned.keys() - seeded
        in_hand = state.busy.get(list_id, ())
        # What is emitted of a shard is known when no flush is in hand.
        if in_hand and (fresh or len(in_hand) >= _MOST_IN_HAND):
            state.postponed.add(list_id)
            return []
        sends: list[Send] = []
        target_ns = min(target_ns, self._until.get(list_id, target_ns))
        if fresh:
            seeded |= fresh
            covered = {shard: self.times.emitted(list_id, shard) for shard in fresh}
            if list_id in state.older:
                state.older.discard(list_id)
                reopen = Reopen(next(self._ids), list_id, since_ns=min(covered.values(), default=0))
                state.given[reopen.id] = reopen
                sends.append(Send(worker, state.epoch, reopen))
            sends += self._flush(worker, state, list_id, _by_target(covered), emit=False)
            sends += self._forward_again(worker, state, list_id, covered, target_ns)
        groups: dict[tuple[int, int], list[int]] = {}
        for shard in state.owned.values():
            groups.setdefault((shard.cutover_ns, shard.cutoff_ns), []).append(shard.id)
        bounds = [
            ShardBounds([] if len(groups) == 1 else shards, target_ns, cutover_ns, cutoff_ns)
            for (cutover_ns, cutoff_ns), shards in groups.items()
        ]
        given = self._flush(worker, state, list_id, bounds, emit=True)
        for send in given:
            assert isinstance(send.command, Flush)
            state.busy.setdefault(list_id, set()).add(send.command.id)
            self.recovery.given(worker, list_id, send.command.id)
            owned = (state.owned[shard] for shard in self._flushed_shards(state, list_id))
            reach_ns = self.schedule.options.reach_ns
            targets = {shard.id: reach_ns(target_ns, shard.cutover_ns, shard.cutoff_ns) for shard in owned}
            self.times.begin(send.command.id, worker, list_id, targets, counts=True)
        return sends + given

    def _forward_again(
        self, worker: int, state: _Worker, list_id: ListId, covered: Mapping[int, int], target_ns: int
    ) -> list[Send]:
        """Of what was delivered, but is not covered, forwarded metrics; nothing else, as another instance may have had more samples."""
        ahead = {shard: min(self._delivered.time(list_id, shard), target_ns) for shard in covered}
        targets = {shard: at for shard, at in ahead.items() if at > covered[shard]}
        bounds = [
            ShardBounds([shard], at, state.owned[shard].cutover_ns, state.owned[shard].cutoff_ns)
            for shard, at in sorted(targets.items())
        ]
        sends = self._flush(worker, state, list_id, bounds, emit=True)
        for send in sends:
            assert isinstance(send.command, Flush)
            self._forwarding.add(send.command.id)
            self.recovery.given(worker, list_id, send.command.id)
            self.times.begin(send.command.id, worker, list_id, targets, counts=True)
        return sends

    def _flush(
        self, worker: int, state: _Worker, list_id: ListId, bounds: list[ShardBounds], *, emit: bool
    ) -> list[Send]:
        if not bounds:
            return []
        command = Flush(next(self._ids), list_id, emit=emit, bounds=bounds)
        state.given[command.id] = command
        return [Send(worker, state.epoch, command)]

    def _discard(self, worker: int, state: _Worker, lists: Iterable[ListId]) -> list[Send]:
        sends: list[Send] = []
        known = FlushTimes(self._kv)
        for list_id in lists:
            sends += self._throw_away(worker, state, list_id, known.times(list_id, state.owned))
        return sends

    def _throw_away(self, worker: int, state: _Worker, list_id: ListId, through: Mapping[int, int]) -> list[Send]:
        """Nothing is emitted of that list up to those times, by shard, nor kept."""
        fresh = self._commit(worker, list_id, through)
        given = self._flush(worker, state, list_id, _by_target(fresh), emit=False)
        return given + _commits(worker, state.epoch, list_id, fresh)

    def _commit(self, worker: int, list_id: ListId, through: Mapping[int, int]) -> dict[int, int]:
        """Notes up to where a worker need not keep that list, by shard; returns what it has not been told."""
        fresh = {}
        for shard, at in through.items():
            if at > self._committed.get((worker, list_id, shard), 0):
                self._committed[worker, list_id, shard] = fresh[shard] = at
        return fresh

    # --- answers

    @property
    def in_hand(self) -> bool:
        """Whether output of some flush is still to come."""
        return any(state.busy for state in self._workers.values())

    @property
    def settled(self) -> bool:
        """Whether all that was flushed in this term has arrived, and the flush times that say so are written."""
        return not (self.times.awaits or self._unsaved or self._saving)

    def part(self, worker: int, answer: Flushed) -> int:
        """Output of a flush came, with values: a number for ``done``; 0: nobody waits for it (its term is over, or it was delivered
        before), throw it away."""
        if answer.id in self._forwarding and not answer.forwarded:
            return 0
        state = self._workers.get(worker)
        number = self.times.part(answer.id) if state is not None and answer.id in state.given else 0
        if answer.forwarded and number:
            self.recovery.part(answer.id, number)
        return number

    def last(self, worker: int, flush_id: int, now_ns: int) -> list[Send]:
        """The last part of a flush came."""
        state = self._workers.get(worker)
        if state is None or flush_id not in state.given:
            return []
        command = state.given.pop(flush_id)
        list_id = command.list_id
        for reopen in [c for c in state.given.values() if isinstance(c, Reopen) and c.list_id == list_id]:
            del state.given[reopen.id]
        if isinstance(command, Reopen) or not command.emit:
            return []
        self._note(self.times.last(flush_id))
        self.recovery.last(flush_id)
        state.has_ended(list_id, flush_id)
        if list_id in state.postponed and self.role is FlushRole.LEADER:
            state.postponed.discard(list_id)
            return self._emit(worker, state, list_id, now_ns - self.schedule.options.delay_ns(list_id))
        return []

    def refused(self, worker: int, flush_id: int) -> None:
        """A flush was not done; the next tick of its list covers what it would have covered."""
        state = self._workers.get(worker)
        command = state.given.pop(flush_id, None) if state is not None else None
        if state is None or command is None:
            return
        list_id = command.list_id
        if isinstance(command, Reopen):
            state.older.add(list_id)
            state.seeded.pop(list_id, None)
            return
        if not command.emit:
            state.seeded.pop(list_id, None)
            for shard in state.owned if self.role is FlushRole.FOLLOWER else ():
                self._committed.pop((worker, list_id, shard), None)
            return
        self._note(self.times.last(flush_id, whole=False))
        self.recovery.refused(flush_id)
        state.has_ended(list_id, flush_id)
        state.postponed.discard(list_id)

    def done(
        self, flush_id: int, part: int, awaited: frozenset[int] = frozenset(), owed: frozenset[int] = frozenset()
    ) -> None:
        """The messages of one part are done, but for those of the ``awaited`` shards; some replica lacks those of the ``owed`` ones, so
        that their flush times wait for it."""
        self._note(self.times.done(flush_id, part, awaited, owed))
        if not awaited:
            self.recovery.done(flush_id, part)

    def again(self, worker: int, now_ns: int) -> list[Send]:
        """The way to a worker was broken (a new front runs): what it has not answered is given once more, under the same ids.

        So are the newest commits, which are never answered; a second time they do nothing. What emits is not: the front may have died
        before it had read the samples that belong in those windows. It is done when producers have connected again, whether or not the
        worker has done it already.
        """
        state = self._workers.get(worker)
        if state is None:
            return []
        for command in list(state.given.values()):
            if isinstance(command, Reopen) or command.emit:
                list_id = command.list_id
                self.refused(worker, command.id)
                state.older.add(list_id)
                state.seeded.pop(list_id, None)
                self.schedule.also_at(list_id, now_ns + RECONNECT_NS)
        sends = [Send(worker, state.epoch, command) for command in state.given.values()]
        committed: dict[ListId, dict[int, int]] = {}
        for (owner, list_id, shard), through in self._committed.items():
            if owner == worker:
                committed.setdefault(list_id, {})[shard] = through
        for list_id, fresh in committed.items():
            sends += _commits(worker, state.epoch, list_id, fresh)
        return sends

    def _note(self, advanced: Mapping[tuple[ListId, int], int]) -> None:
        if advanced and self.role is FlushRole.LEADER:
            self._save()

    def _save(self) -> None:
        self._unsaved = True
        self.on_unsaved()

    # --- the KV

    def save_due(self, now_ns: int) -> bool:
        """Whether ``message`` should be written now."""
        if self.role is not FlushRole.LEADER:
            return False
        return self._unsaved or (now_ns - self.saved_ns >= REPEAT_NS and any(o.lists for o in self._workers.values()))

    def message(self, owned: Iterable[int], redirects: Mapping[int, int] | None = None) -> ShardSetFlushTimes:
        """The flush times to write; a change after this call makes a save due again.

        ``owned``: the shards that the placement gives to this instance, whether or not a worker runs for them just now.
        """
        self._unsaved, self._saving = False, True
        return self.times.message(owned, redirects)

    def delivered(self, owned: Iterable[int]) -> ShardSetFlushTimes | None:
        """Up to where final output is delivered, to be written before ``message``; None: that says it all."""
        if not self.times.owes:
            return None
        assert self.times.delivered is not None
        return self.times.delivered.message(owned)

    def forget_unused(self, now_ns: int) -> None:
        """Leaves out of the message what no worker has had for long: lists of rules that are gone, of hosts that are gone."""
        have = {
            (list_id, shard)
            for state in self._workers.values()
            for list_id, shards in state.lists.items()
            for shard in shards
        }
        for key in self.times.lists():
            list_id, shard = key
            if key in have:
                self._unfed.pop(key, None)
            elif now_ns - self._unfed.setdefault(key, now_ns) > max(
                self.schedule.options.max_buffer_ns, 2 * list_id.resolution_ns
            ):
                self.times.forget(list_id, shard)
                del self._unfed[key]

    def not_saved(self) -> None:
        """The write failed and is to be tried again."""
        self._saving = False
        if self.role is FlushRole.LEADER:
            self._save()

    def saved(self, message: ShardSetFlushTimes, now_ns: int) -> list[Send]:
        """The KV holds ``message``: what was kept to emit it again may go."""
        self.saved_ns, self._saving = now_ns, False
        if self.role is not FlushRole.LEADER:
            return []
        self._kv = message
        known = FlushTimes(message)
        sends = []
        for worker, state in self._workers.items():
            for list_id, shards in state.lists.items():
                fresh = self._commit(worker, list_id, known.times(list_id, shards & state.owned.keys()))
                sends += _commits(worker, state.epoch, list_id, fresh)
        return sends


def _by_target(targets: Mapping[int, int]) -> list[ShardBounds]:
    """Bounds that reach up to each shard's target, whatever its cutover; shards without one are left out."""
    groups: dict[int, list[int]] = {}
    for shard, target in targets.items():
        if target > 0:
            groups.setdefault(target, []).append(shard)
    return [ShardBounds(shards, target, 0, NEVER_NS) for target, shards in sorted(groups.items())]


def _commits(worker: int, epoch: int, list_id: ListId, through: Mapping[int, int]) -> list[Send]:
    groups: dict[int, list[int]] = {}
    for shard, at in through.items():
        groups.setdefault(at, []).append(shard)
    return [Send(worker, epoch, Commit(list_id, sorted(shards), at)) for at, shards in sorted(groups.items())]

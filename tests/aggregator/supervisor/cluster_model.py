"""A cluster in one process and in virtual time, for thousands of orders of events.

Real are the state machines and their shells (election, flushing, flush times, placement, ``ShardSet``, ``Elector``, ``Election``) and the
KV's rules. Models are what surrounds them:

``ModelKV``   a memory KV that can refuse, hang, lose answers, cut one client off, and restart (leases then last their whole time again)
``Worker``    windows of two seconds of every shard, flushed by the rules of the engine (its ``shard_bounds`` and ``Bounds``); with a
              journal the next process of its node goes on with what it was
``Node``      an instance: one worker, a producer that asks ``may_write`` before every write, a downstream that acks (or, for some of the
              shards, is away)
``Cluster``   nodes on one KV, and what arrived downstream
"""

import asyncio
import contextlib
import functools
import itertools
import random
import tempfile
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.config import ServiceConfig, kv_keys, load_config
from aggregator.engine.flush.plan import shard_bounds
from aggregator.engine.tables.layout import ACTION_EMIT
from aggregator.ipc import Commit, Flush, Flushed, Grace, NewList, Reopen
from aggregator.lists import KIND_STANDARD, ListId
from aggregator.supervisor.flushing.commands import Flushing, Send
from aggregator.supervisor.flushing.flush_times import FlushTimes
from aggregator.supervisor.flushing.holding import Gap, Holding
from aggregator.supervisor.flushing.timing import schedule_options
from aggregator.supervisor.placement import View, view
from aggregator.supervisor.shard_set import ShardSet
from m3cluster.flush_times import decode_flush_times
from m3cluster.following import follow
from m3cluster.kv import KeyNotFoundError, KVError, MemoryServer
from m3cluster.kv.sqlite.store import SQLiteLease, SQLiteStore
from m3cluster.placement.codec import encode_staged_placement
from m3cluster.placement.model import NEVER_NS, Instance, Placement, Shard, ShardState
from m3cluster.topology import staged_placement_of
from m3x.clock import boot_ns, wall_ns
from m3x.instrument import Registry

S = 10**9
RESOLUTION = 2 * S
LIST = ListId(KIND_STANDARD, RESOLUTION)
NUM_SHARDS = 2
MAX_BUFFER = 300 * S
TTL_S = 4
_READS = ("get", "keys", "changes")
ROOT = Path(__file__).resolve().parents[3]
_TTL = f"aggregator: {{electionManager: {{election: {{ttlSeconds: {TTL_S}}}}}}}\n"


@functools.cache
def _config() -> ServiceConfig:
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as overlay:
        overlay.write(_TTL)
        overlay.flush()
        return load_config([ROOT / "configs/local/m3aggregator.yml", Path(overlay.name)], {}).value


class ModelKV:
    """The server; ``client`` gives stores that suffer with it."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.mode = "up"
        self.changed = asyncio.Condition()
        self.server = MemoryServer()
        self.numbers = itertools.count()

    async def turn(self, mode: str) -> None:
        """``up``, ``refuse`` (connection refused), ``hang`` (no answer), ``lossy`` (of writes, or of their answers)."""
        if self.mode in ("refuse", "hang") and mode in ("up", "lossy") and self.chance.random() < 0.5:
            # A restarted server gives every lease its whole time again.
            tables = self.server._tables
            tables._db.execute("UPDATE lease SET deadline_ns = ? + ttl_ns WHERE deadline_ns > 0", (boot_ns(),))
        self.mode = mode
        async with self.changed:
            self.changed.notify_all()

    def client(self) -> "ModelStore":
        return ModelStore(self)


class ModelStore(SQLiteStore):
    """A client that waits a little for every answer; ``cut``: the network swallows what it sends; ``dead``: its process is gone."""

    def __init__(self, kv: ModelKV) -> None:
        self._number = next(kv.numbers)
        super().__init__(kv.server._tables, None, kv.server._clients, "model")
        self._kv = kv
        self.cut = False
        self.dead = False

    def __hash__(self) -> int:
        """Stores in a set are told of changes in the same order each time."""
        return self._number

    async def _run(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        chance = self._kv.chance
        await asyncio.sleep(chance.choice((0.0005, 0.002, 0.03)))
        while self.cut or self._kv.mode == "hang":
            async with self._kv.changed:
                # Not ``wait_for``: before Python 3.12 it swallows a cancellation that comes together with what is waited for.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self._kv.changed.wait()
            if self.cut or self._kv.mode == "hang" or chance.random() < 0.5:
                raise KVError("no answer")
        if self.dead or self._kv.mode == "refuse":
            raise KVError("connection refused")
        if self._kv.mode == "lossy" and operation.__name__ not in _READS and chance.random() < 0.15:
            raise KVError("the request was lost")
        result = await super()._run(operation, *arguments)
        if self._kv.mode == "lossy" and operation.__name__ not in _READS and chance.random() < 0.3:
            raise KVError("the answer was lost")
        await asyncio.sleep(chance.choice((0.0005, 0.002)))
        return result

    async def grant(self, ttl_s: int) -> SQLiteLease:
        """A lease of whose end a busy process learns late, if it learns of it only by being told."""
        lease = await super().grant(ttl_s)
        told, late_s = lease.lost, self._kv.chance.choice((0, 0, 2, 5))

        async def lost() -> None:
            await told()
            await asyncio.sleep(late_s)

        lease.lost = lost
        return lease


def placement_with(cutovers: dict[int, int], names: Iterable[str]) -> Placement:
    """Mirrored instances that hold these shards: shard → cutover; 0: they have always held it."""
    shards = tuple(
        Shard(shard, ShardState.INITIALIZING if cutover else ShardState.AVAILABLE, cutover_ns=cutover)
        for shard, cutover in cutovers.items()
    )
    return Placement(tuple(Instance(id=name, shards=shards, shard_set_id=1) for name in names), num_shards=NUM_SHARDS)


class Worker:
    """Windows of one process since it started; all of them have a value in every shard."""

    def __init__(self) -> None:
        self.started_ns = wall_ns()
        self.emitted = np.zeros(NUM_SHARDS, np.int64)
        self.emitted[:] = self.started_ns // RESOLUTION * RESOLUTION
        self.committed = np.zeros(NUM_SHARDS, np.int64)
        self.lists: set[int] = set()
        """Shards that have samples."""
        self.gaps: list[tuple[int, int]] = []
        """Times whose samples came at the end of them; that of the last one may be still to come."""

    def whole(self, end_ns: int) -> bool:
        """Whether it has all samples of that window, and none of another one."""
        start_ns = end_ns - RESOLUTION
        return start_ns >= self.started_ns and not any(
            begin < start_ns < end or begin < end_ns < end for begin, end in self.gaps
        )

    @property
    def holding(self) -> Holding:
        """What it would say of itself."""
        found = Holding(self.started_ns)
        for begin, end in self.gaps:
            found = found.with_gap(Gap(begin, end))
        return found

    def flush(self, command: Flush) -> list[tuple[int, int]]:
        """What a flush emits: shard and end of the window."""
        bounds = shard_bounds(command, np.array(sorted(self.lists)), NUM_SHARDS, MAX_BUFFER)
        flushed, reach = self.emitted.copy(), bounds.reach()
        self.emitted = np.maximum(flushed, reach)
        if not command.emit:
            return []
        first = max(int(flushed[sorted(self.lists)].min()), self.started_ns) // RESOLUTION * RESOLUTION + RESOLUTION
        out = []
        for end in range(first, int(reach.max()) + 1, RESOLUTION):
            actions = bounds.actions(end, flushed, late=False)
            out += [(shard, end) for shard in range(NUM_SHARDS) if actions[shard] == ACTION_EMIT]
        for shard, end in out:
            assert end > self.committed[shard], "a window that was released is asked for"
        return out

    def do(self, command: Reopen | Commit) -> None:
        if isinstance(command, Reopen):
            self.emitted = np.minimum(self.emitted, command.since_ns)
        else:
            for shard in command.shards:
                self.committed[shard] = max(self.committed[shard], command.through_ns)


@dataclass(slots=True)
class Delivery:
    """A window that arrived downstream."""

    at_ns: int
    node: str
    term: int
    shard: int
    end_ns: int
    whole: bool


@dataclass(slots=True)
class Cluster:
    """What all nodes share."""

    chance: random.Random
    kv: ModelKV
    deliveries: list[Delivery] = field(default_factory=list)
    nodes: dict[str, "Node"] = field(default_factory=dict)
    accepting: bool = True
    """Whether downstream takes messages."""
    away: set[int] = field(default_factory=set)
    """Shards whose consumer is away."""
    say: Callable[[str], None] = lambda _: None
    arrived: Callable[[Delivery], None] = lambda _: None
    """Told of every delivery."""
    known: dict[tuple[str, int], dict[int, int]] = field(default_factory=dict)
    """(node, term) → shard → what the KV covered when that term first emitted."""

    def covered(self) -> dict[int, int]:
        """Shard → up to where the KV says that it is flushed, whatever state the KV is in."""
        try:
            value = self.kv.server._tables.get(kv_keys(_config()).flush_times(1))
        except KeyNotFoundError:
            return {}
        times = FlushTimes(decode_flush_times(value.data))
        return {shard: times.time(LIST, shard) for shard in range(NUM_SHARDS)}

    def in_line(self, node: "Node") -> bool:
        """Whether a node is a candidate that the KV answers."""
        keys = self.kv.server._tables.keys(node.keys.election(1) + "/")
        return self.kv.mode == "up" and not node.store.cut and any(v.data.decode() == node.name for _, v in keys)

    def leaders(self) -> list[str]:
        return [name for name, node in self.nodes.items() if node.may_write()]


class Node:
    """One instance; ``start`` begins a process of it, ``kill`` ends it as ``kill -9`` does, ``stop`` as SIGTERM does."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self.config = _config()
        self.keys = kv_keys(self.config)
        self._cluster = cluster
        self._task: asyncio.Task[None] | None = None
        self.member: ShardSet | None = None
        self.worker: Worker
        self._ended_ns = 0
        """When the last process did."""
        cluster.nodes[name] = self

    @property
    def alive(self) -> bool:
        return self._task is not None

    def may_write(self) -> bool:
        return self.alive and self.member is not None and self.member.may_write()

    def start(self, *, journal: bool = False) -> None:
        """Begins a process; with a ``journal`` it goes on with what the one before had."""
        self._replays = journal and self._ended_ns > 0
        if self._replays:
            if not self.worker.gaps or self.worker.gaps[-1][1] < NEVER_NS:
                self.worker.gaps.append((self._ended_ns, NEVER_NS))
        else:
            self.worker = Worker()
        self.flushing = Flushing(schedule_options(self.config), 1)
        self.store = self._cluster.kv.client()
        self.member = None
        self._view: View | None = None
        self._placed_at_last, self._restored = asyncio.Event(), asyncio.Event()
        self._commands: asyncio.Queue[Send | frozenset[int]] = asyncio.Queue()
        self._parts: list[tuple[int, int, list[tuple[int, int, bool]]]] = []
        """Flush, number of the part, and its windows."""
        self._kept: list[tuple[int, int, list[tuple[int, int, bool]]]] = []
        """The same of what consumers that are away will get."""
        self._task = asyncio.create_task(self._run(), name=f"node {self.name}")

    async def kill(self) -> None:
        """Nothing is said to anybody any more."""
        self.store.dead = True
        await self._end()

    async def stop(self) -> None:
        """Resigns on its way."""
        await self._end()

    def lose_worker(self) -> None:
        """The worker dies and another one is there at once: it holds nothing."""
        assert self._view is not None
        assert self.member is not None
        self.worker = Worker()
        while not self._commands.empty():
            self._commands.get_nowait()
        self.flushing.worker_down(0)
        self.flushing.worker_up(0, 1, self._view.owned.values())
        self._make_lists()
        self.member.look()

    async def _end(self) -> None:
        task, self._task = self._task, None
        assert task is not None
        self._ended_ns = wall_ns()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await self.store.abandon()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            loops: list[Coroutine[Any, Any, None]] = [
                follow(self.store, self.keys.placement, staged_placement_of, self._placed),
                self._work(),
                self._flush_loop(),
                self._produce(),
                self._replay(),
            ]
            for loop in loops:
                group.create_task(loop)
            while self._view is None:  # noqa: ASYNC110 - the placement comes by a callback
                await asyncio.sleep(0.05)
            self.flushing.worker_up(0, 1, self._view.owned.values(), replays=self._replays)
            self._placed_at_last.set()
            if not self._replays:
                self._restored.set()
                self._make_lists()
            self.member = ShardSet(
                1,
                config=self.config,
                keys=self.keys,
                store=self.store,
                flushing=self.flushing,
                instance_id=self.name,
                view=lambda: self._view,
                relay=self._relay,
                lost=self._drop,
                began=lambda: None,
                holds=lambda: self.worker.holding,
                restored=self._restored,
                crowded=list,
                scope=Registry().scope(),
            )
            await self.member.run()

    async def _replay(self) -> None:
        """The worker has its journal again, then the producers come back with what they kept."""
        if not self._replays:
            return
        chance = self._cluster.chance
        worker = self.worker
        await self._placed_at_last.wait()
        await asyncio.sleep(chance.choice((0.05, 0.3, 2)))
        now = wall_ns()
        self._relay(self.flushing.worker_ready(0, [NewList(s, LIST, now) for s in sorted(worker.lists)], now))
        self._restored.set()
        self._make_lists()
        await asyncio.sleep(chance.choice((0.1, 1, 4)))
        self._cluster.say(f"{self.name} has what producers kept")
        worker.gaps[-1] = (worker.gaps[-1][0], wall_ns())
        if self.member is not None:
            self.member.look()

    def _drop(self) -> None:
        self._parts.clear()
        self._kept.clear()

    def _placed(self, placement: Placement | None) -> None:
        if placement is None:
            return
        before, self._view = self._view, view(placement, self.name)
        self.flushing.assign(0, self._view.owned.values())
        if before is not None:
            self._make_lists()

    def _make_lists(self) -> None:
        """The worker learns its shards behind the commands before; then samples arrive for them."""
        assert self._view is not None
        self._commands.put_nowait(frozenset(self._view.owned))

    def _new_lists(self, shards: frozenset[int]) -> None:
        self.worker.lists |= shards
        lists = [NewList(shard, LIST, wall_ns()) for shard in sorted(shards)]
        self._relay(self.flushing.new_lists(0, lists, wall_ns()))

    def _relay(self, sends: Iterable[Send]) -> None:
        for send in sends:
            self._commands.put_nowait(send)

    async def _work(self) -> None:
        """The worker's process: one command after the other."""
        chance = self._cluster.chance
        while True:
            told = await self._commands.get()
            worker = self.worker
            await asyncio.sleep(chance.choice((0.001, 0.02, 0.3)))
            if worker is not self.worker:
                continue
            if isinstance(told, frozenset):
                self._new_lists(told)
                continue
            command = told.command
            if isinstance(command, Grace):
                continue
            if not isinstance(command, Flush):
                assert isinstance(command, Reopen | Commit)
                self.worker.do(command)
                if isinstance(command, Reopen):
                    self._relay(self.flushing.last(0, command.id, wall_ns()))
                continue
            out = [(shard, end, worker.whole(end)) for shard, end in worker.flush(command)]
            cut = chance.randrange(len(out) + 1)
            for part in (out[:cut], out[cut:]):
                if part and (number := self.flushing.part(0, Flushed(command.id, False, len(part), False, []))):
                    self._parts.append((command.id, number, part))
                await asyncio.sleep(chance.choice((0.0, 0.05)))
            self._relay(self.flushing.last(0, command.id, wall_ns()))

    async def _flush_loop(self) -> None:
        while True:
            if self.member is not None and self.member.may_flush():
                self._relay(self.flushing.tick(wall_ns(), self.member.holding, self.member.flush_until()))
            await asyncio.sleep(0.1)

    async def _produce(self) -> None:
        """Writes part after part; asks before each whether it still may."""
        cluster = self._cluster
        acks: set[asyncio.Task[None]] = set()
        while True:
            self._deliver_kept()
            if not self._parts or not cluster.accepting:
                await asyncio.sleep(0.1)
                continue
            await asyncio.sleep(cluster.chance.choice((0.005, 0.05)))
            if not self._parts:
                continue
            if not self.may_write():
                self._drop()
                assert self.member is not None
                self.member.elector.lease_lost()
                continue
            flush_id, number, windows = self._parts.pop(0)
            kept = [window for window in windows if window[0] in cluster.away]
            await self._write([window for window in windows if window not in kept])
            if kept:
                self._kept.append((flush_id, number, kept))
            awaited = frozenset(shard for shard, *_ in kept)
            ack = asyncio.create_task(self._acked(flush_id, number, awaited))
            acks.add(ack)
            ack.add_done_callback(acks.discard)

    async def _write(self, windows: list[tuple[int, int, bool]]) -> None:
        assert self.member is not None
        term = self.member.elector.election.revision
        leaders = self._cluster.leaders()
        assert leaders == [self.name], f"{self.name} writes while {leaders} may"
        if (self.name, term) not in self._cluster.known:
            self._cluster.known[self.name, term] = self.started_from()
            self._cluster.say(f"{self.name} emits in term {term}, from {self.started_from()}")
        self._cluster.say(f"{self.name} emits {windows}")
        for shard, end, whole in windows:
            one = Delivery(wall_ns(), self.name, term, shard, end, whole)
            self._cluster.deliveries.append(one)
            self._cluster.arrived(one)

    def started_from(self) -> dict[int, int]:
        """What the term's first reading of the KV covered."""
        base = FlushTimes(self.flushing.times.base)
        return {shard: base.time(LIST, shard) for shard in range(NUM_SHARDS)}

    def _deliver_kept(self) -> None:
        """A consumer that is back gets its backlog."""
        kept, self._kept = self._kept, []
        for flush_id, number, windows in kept:
            if any(shard in self._cluster.away for shard, *_ in windows):
                self._kept.append((flush_id, number, windows))
            else:
                self._parts.insert(0, (flush_id, number, windows))

    async def _acked(self, flush_id: int, number: int, awaited: frozenset[int]) -> None:
        await asyncio.sleep(self._cluster.chance.choice((0.005, 0.05, 0.8)))
        if self.alive:
            self.flushing.done(flush_id, number, awaited)


def put_placement(kv: ModelKV, key: str, placement: Placement) -> None:
    """As the coordinator's admin API would, whatever state the KV is in for the instances."""
    kv.server._tables.set(key, encode_staged_placement(placement))
    for client in kv.server._clients:
        client.wake()

"""An instance that serves: everything wired together (docs/architecture.md §2, §4).

    KV ──view──> Serving ──spawns──> front, workers               elector ──role──> flushing ──commands──> front ──> workers
     └──flush times, leases                                       workers ──output──> forwarder ──> producers ──done──> flushing ──> KV

The decisions are in the pure machines (``election``, ``flushing``, ``schedule``, ``flush_times``); here is only what carries events to them
and their actions out. All of it runs in one event loop; nothing in it blocks.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import zmq

from aggregator import ipc
from aggregator.config import (
    KVKeys,
    ServiceConfig,
    buffer_past_ns,
    engine_options,
    entry_check_interval_ns,
    instance_memory,
    retained_bytes,
)
from aggregator.front.options import FrontOptions
from aggregator.supervisor.clock_faults import ClockFaults
from aggregator.supervisor.election.completeness import Completeness
from aggregator.supervisor.ending import end, until_the_end
from aggregator.supervisor.flushing.commands import Flushing, FlushRole, Send
from aggregator.supervisor.flushing.figures import FlushFigures
from aggregator.supervisor.flushing.flush_times import newest
from aggregator.supervisor.flushing.timing import schedule_options
from aggregator.supervisor.front import front_options
from aggregator.supervisor.limits import Limits, limit_of
from aggregator.supervisor.memory import MemoryWatch
from aggregator.supervisor.output.forwarder import Forwarder, Part, batch_of
from aggregator.supervisor.output.passing import Passing, passes
from aggregator.supervisor.output.sinks import Sinks
from aggregator.supervisor.placement import View, assign
from aggregator.supervisor.problems import PartOfProblems, Problems
from aggregator.supervisor.processes.fleet import Fleet, Routing
from aggregator.supervisor.processes.journals import Journals
from aggregator.supervisor.set_up import try_endpoint
from aggregator.supervisor.shard_set import ShardSet
from aggregator.supervisor.shown import count_shard_check, show_serving
from aggregator.worker.options import WorkerOptions
from m3cluster.flush_times import ShardSetFlushTimes
from m3cluster.following import follow
from m3cluster.kv import KVError, Store, get_uncached
from m3x.beats import beat
from m3x.clock import boot_ns, monotonic_ns, wall_ns
from m3x.instrument import Histograms, Registry
from m3x.log import logger
from m3x.process import boot_id
from m3x.processes import FIRST_FILE, Zygote

__all__ = ["Serving"]

log = logger(__name__)

_PUMP_S = 0.02
_LOOK_S = 1.0
"""Between two looks at what time alone changes, or a clock that was set."""
_HELD_S = 0.25
"""The same while a leader may not flush."""
_AGAIN_S = 0.1
_GATHER_NS = 2_000_000_000
"""So long after a front began to listen its producer has connected, and sent what it kept."""
_LIMITS_S = 1.0
_EXPIRE_S = 60.0
"""Entries are looked for that have expired so often while new ones are refused."""
_REFUSED_NS = 1_500_000_000
"""A flush that the front did not pass on (it was stopped, and has to read first) is tried again after this time."""


class Serving:
    """See the module. ``seen`` names us; ``workers``: at most so many. ``run`` returns when everything has ended."""

    def __init__(
        self,
        config: ServiceConfig,
        keys: KVKeys,
        store: Store,
        seen: View,
        topic_shards: int,
        *,
        workers: int,
        zygote: Zygote,
        listeners: Sequence[socket.socket],
        run_dir: Path,
        journal: Path | None,
        registry: Registry,
        problems: Problems,
        front_epoch: int = 1,
    ) -> None:
        self.config = config
        self.view = seen
        self._keys = keys
        self._store = store
        self._run_dir = run_dir
        self.replaying: dict[int, ipc.Replaying] = {}
        """Workers that are not up yet, and how far they are."""
        self._registry = registry
        self._problems = PartOfProblems(problems)
        self._prefix = ".".join(filter(None, (config.metrics.scope.prefix, "aggregator")))
        self._scope = registry.scope(self._prefix).tagged(**config.metrics.scope.tags)
        self._wake = asyncio.Event()
        """Flushes may be due."""
        self._placed = asyncio.Event()
        """The placement has changed."""
        self._listens_ns = 0
        """Since when the front listens (boot clock)."""
        self.ending = False
        """No more flushes begin."""
        self._flushes = False
        """Whether we might flush when it was last looked."""
        self.rolls_up = False
        """Whether a forwarded metric ever came out of a worker."""
        self.worker_stats: dict[int, ipc.WorkerStats] = {}
        self.front_gauges: dict[str, float] = {}
        """As the front has told them last."""
        self._clocks = ClockFaults()
        self._looked_at: ShardSetFlushTimes | None = None
        """Flush times of which ``_newest_ns`` is the latest."""
        self._newest_ns = 0
        self.flushing = Flushing(schedule_options(config))
        self._limits = Limits(config, self._limits_changed)
        self._memory = MemoryWatch(instance_memory(config), self._problems)
        scope, done, fenced = self._scope.sub("forwarder"), self.flushing.done, self._lease_lost
        self.output = Forwarder(done, fenced, partial(self._credit, forwarded=False), scope, "final")
        client = self._scope.sub("client")
        self.rollups = Forwarder(done, fenced, partial(self._credit, forwarded=True), scope, "forwarded", client)
        self._passing = Passing(
            self.output, self._scope, lambda: self.shard_set.leads, enabled=passes(config), problems=problems
        )
        self._figures = FlushFigures(self._scope, int(config.aggregator.buffer_duration_after_shard_cutoff))
        self._registry.looks.append(self._look_at_figures)
        self.sinks = Sinks(
            config, store, self.output, self.rollups, self.may_write, self._scope,
            local=self._endpoints, unroutable=self._unroutable,
        )  # fmt: skip
        workers = max(min(workers, len(seen.owned)), 1)
        self._journals = None if journal is None else Journals(journal, config.instance.journal_sync, workers)
        """None: workers have no journals."""
        self.completeness = Completeness(
            self._holds_else,
            past_ns=buffer_past_ns(config),
            workers=workers,
            remembered=None if self._journals is None else self._journals.remembered,
            boot_id=boot_id(),
            synced=config.instance.journal_sync == "always",
        )
        self.whole = asyncio.Event()
        """All workers have been up, and their journals have all that was acknowledged."""
        self._restored = asyncio.Event()
        """It is known what the journals have kept."""
        self.routing = _routing(seen, topic_shards, workers, {} if self._journals is None else self._journals.owners)
        self._keep_routing()
        self.fleet = Fleet(
            zygote=zygote,
            listeners=listeners,
            run_dir=run_dir,
            workers=workers,
            routing=self.routing,
            owner=self,
            front_options=self._front_options,
            worker_options=self._worker_options,
            front_epoch=front_epoch,
        )
        self.shard_set = self._membership(joined_ns=0)
        self._remember()

    # --- life

    async def run(self, stopping: asyncio.Event, changes: Callable[[], Awaitable[None]]) -> None:
        """Serves until ``stopping`` is set, or ``changes`` returns, as other processes are to go on; ends then without a loss."""
        workers, seen = len(self.fleet.workers), self.view
        await self._first_limits()
        log.info("starting processes", workers=workers, shards=len(seen.owned), shard_set=seen.shard_set)
        async with asyncio.TaskGroup() as group:
            producers = group.create_task(self.sinks.run(), name="producers")
            fleet = group.create_task(self.fleet.run(), name="processes")
            tasks = [
                group.create_task(self._flush_loop(), name="flush"),
                group.create_task(self._pump_loop(self.output), name="pump"),
                group.create_task(self._pump_loop(self.rollups), name="pump rollups"),
                group.create_task(self._look_loop(), name="look"),
                group.create_task(self._expire_loop(), name="expire"),
                group.create_task(try_endpoint(lambda: self.view, lambda: self.fleet.listening, self._unreached)),
                group.create_task(follow(self._store, self._keys.values_limit, limit_of, self._limits.values_changed)),
                group.create_task(follow(self._store, self._keys.new_metrics_limit, limit_of, self._limits.new_changed)),
            ]  # fmt: skip
            member = group.create_task(self._shard_set_loop(), name="shard set")
            goes_on = await until_the_end(self, stopping, changes)
            await end(self, member, goes_on=goes_on)
            for task in tasks:
                task.cancel()
            await self.fleet.stop(5.0)
            await self.sinks.close()
            producers.cancel()
            await asyncio.wait([fleet, producers])
        self._registry.looks.remove(self._look_at_figures)
        self._registry.forget("front")
        self._problems.clear()

    # --- options of the processes

    def _front_options(self, epoch: int) -> FrontOptions:
        return front_options(
            self.config, run_dir=str(self._run_dir), epoch=epoch, parent_pid=os.getpid(), listener=FIRST_FILE,
            workers=len(self.fleet.workers),
        )  # fmt: skip

    def _worker_options(self, worker: int, epoch: int, front_epoch: int) -> WorkerOptions:
        placement = self.view.placement
        return WorkerOptions(
            index=worker,
            epoch=epoch,
            front_epoch=front_epoch,
            run_dir=str(self._run_dir),
            parent_pid=os.getpid(),
            engine=engine_options(
                self.config,
                num_shards=placement.num_shards,
                topic_shards=self.routing.topic_shards,
                replica_factor=placement.replica_factor,
                workers=len(self.fleet.workers),
            ),
            journal=None if self._journals is None else self._journals.options(worker, self.routing.shards(worker)),
            log_level=self.config.logging.level,
        )

    def _keep_routing(self) -> None:
        if self._journals is not None:
            self._journals.assign(self.routing.owners)

    # --- what the KV says

    def update(self, seen: View, topic_shards: int) -> None:
        """The placement or the output topic changed; ``topic_shards``: shards of the latter."""
        self.view = seen
        self.routing = _routing(seen, topic_shards, len(self.fleet.workers), self.routing.owners)
        self._keep_routing()
        for worker in range(len(self.fleet.workers)):
            self.flushing.assign(worker, self.routing.of(worker))
        self.fleet.reroute(self.routing)
        self._placed.set()
        self._wake.set()

    def _unreached(self, text: str | None) -> None:
        self._problems.set("endpoint", text, serious=False)

    async def _first_limits(self) -> None:
        """So that no worker begins with those of the configuration where the KV has others; they are followed from then on."""
        told = (
            (self._keys.values_limit, self._limits.values_changed),
            (self._keys.new_metrics_limit, self._limits.new_changed),
        )
        try:
            async with asyncio.timeout(_LIMITS_S):
                for key, changed in told:
                    if (found := await get_uncached(self._store, key)) is not None:
                        changed(limit_of(found))
        except (TimeoutError, KVError, ValueError) as error:
            log.warning("limits cannot be read; beginning with those of the configuration", error=str(error))

    def _limits_changed(self) -> None:
        self.fleet.broadcast(self._runtime_options())

    def take(self, config: ServiceConfig) -> None:
        """The configuration has changed, in keys that are looked at while it runs (``running``: ``parts``)."""
        self.config = config
        self._limits.configure(config)

    def _runtime_options(self) -> ipc.RuntimeOptions:
        return self._limits.options(self.view.placement)

    # --- what the processes say

    def worker_started(self, worker: int, epoch: int) -> None:
        """``FleetOwner``."""
        self.flushing.worker_up(worker, epoch, self.routing.of(worker), replays=True)
        self.fleet.relay(Send(worker, epoch, self._runtime_options()))

    def worker_gone(self, worker: int, epoch: int) -> None:
        """``FleetOwner``."""
        self.flushing.worker_down(worker)
        self.replaying.pop(worker, None)
        self.completeness.worker_gone(worker)
        if self._journals is None:
            self.completeness.lost()
        self.worker_stats.pop(worker, None)
        self._memory.gone(worker)
        self._registry.forget(f"worker {worker}")

    def front_gone(self) -> None:
        """``FleetOwner``."""
        self.completeness.front_gone()

    def front_replaced(self) -> None:
        """``FleetOwner``."""
        self._registry.forget("front")
        self.front_gauges = {}
        for worker in range(len(self.fleet.workers)):
            self._relay(self.flushing.again(worker, wall_ns()))
        self.fleet.broadcast(self._runtime_options())

    def from_front(self, message: ipc.FromFront) -> None:
        """``FleetOwner``."""
        match message:
            case ipc.Listening():
                log.info("accepting metrics", address=message.address)
                self._listens_ns = boot_ns()
                self.completeness.listening()
            case ipc.FrontStats():
                peers = ((peer.host, peer.connections, peer.used) for peer in message.peers)
                self.completeness.connections(peers, message.through_ns)
                self._remember()
                self.front_gauges = message.gauges
                # M3 keeps the server's figures outside of the aggregator's scope.
                self._merge("front", message.counters, message.gauges, self.config.metrics.scope.prefix)
            case ipc.Stale():
                self._undelivered(message)
            case ipc.Stalled():
                log.warning("the front was stopped: open windows may be incomplete", seconds=round(message.seconds, 1))
                self.completeness.stopped(message.seconds)

    def _undelivered(self, message: ipc.Stale) -> None:
        child, later = self.fleet.workers[message.worker], partial(asyncio.get_running_loop().call_later, _AGAIN_S)
        if child.epoch != message.epoch or not child.pid:
            return
        match message.command:
            case ipc.Flush() | ipc.Reopen():
                self.flushing.refused(message.worker, message.command.id)
                self.flushing.schedule.also_at(message.command.list_id, wall_ns() + _REFUSED_NS)
            case ipc.Shards():
                later(self.fleet.tell_shards, message.worker)
            case ipc.RuntimeOptions():
                later(self.fleet.relay, Send(message.worker, message.epoch, self._runtime_options()))
            case _:
                later(self.fleet.relay, Send(message.worker, message.epoch, message.command))

    def from_worker(self, worker: int, epoch: int, message: ipc.FromWorker, frames: Sequence[zmq.Frame]) -> None:
        """``FleetOwner``."""
        match message:
            case ipc.Replaying():
                self.replaying[worker] = message
            case ipc.Ready():
                self._ready(worker, message)
            case ipc.Lists():
                self._relay(self.flushing.new_lists(worker, message.lists, wall_ns()))
                self._wake.set()
            case ipc.Flushed():
                self._flushed(worker, epoch, message, frames)
            case ipc.Passed():
                self._passing.take(worker, epoch, message, frames)
            case ipc.Refused():
                self.flushing.refused(worker, message.id)
            case ipc.WorkerStats():
                self.worker_stats[worker] = message
                self.completeness.refused(worker, message.late)
                self._memory.told(worker, message.counters)
                self._merge(f"worker {worker}", message.counters, message.gauges, self._prefix, message.histograms)

    def _ready(self, worker: int, message: ipc.Ready) -> None:
        self.replaying.pop(worker, None)
        log.info("worker is ready", worker=worker, pid=message.pid, replayed=message.samples)
        self._problems.set(
            f"journal of worker {worker}",
            f"worker {worker} runs without a journal: {message.journal}" if message.journal else None,
            serious=False,
        )
        if self._journals is None or message.journal or message.lost:
            self.completeness.lost()
        self.completeness.replayed(worker, message.through_ns, message.late)
        if self._journals is not None:
            (self._journals.lost if message.journal else self._journals.ready)(worker)
            self._look_at_journals(self._journals)
        self._relay(self.flushing.worker_ready(worker, message.lists, wall_ns()))
        self._wake.set()

    def _merge(
        self,
        source: str,
        counters: Mapping[str, int],
        gauges: Mapping[str, float],
        prefix: str,
        histograms: Histograms = (),
    ) -> None:
        tags = self.config.metrics.scope.tags
        more = tuple(tags.items())
        tagged = [((name, (*labels, *more)), counts, total) for (name, labels), counts, total in histograms]
        self._registry.merge(source, _tagged(counters, tags), _tagged(gauges, tags), prefix=prefix, histograms=tagged)

    def _look_at_figures(self) -> None:
        """Before the page of metrics is shown."""
        show_serving(self, self._scope)

    def _flushed(self, worker: int, epoch: int, message: ipc.Flushed, frames: Sequence[zmq.Frame]) -> None:
        self._figures.answered(worker, message, monotonic_ns())
        if message.values:
            batch = batch_of(message, frames)
            forwarder = self.rollups if message.forwarded else self.output
            self.rolls_up = self.rolls_up or message.forwarded
            if part := self.flushing.part(worker, message):
                forwarder.offer(Part(worker, epoch, message.id, part, batch))
            else:
                output = "forwarded" if message.forwarded else "final"
                self._scope.sub("forwarder").tagged(output=output).count("out-of-term", len(batch))
                forwarder.refuse(worker, epoch, batch.size_bytes)
        if message.last:
            self._relay(self.flushing.last(worker, message.id, wall_ns()))

    # --- output

    def may_write(self) -> bool:
        """Asked by the producers before every write."""
        return self.shard_set.may_write()

    def _lease_lost(self) -> None:
        """What was not sent is not flushed: the term is over, whoever leads next emits it."""
        self.shard_set.elector.lease_lost()

    def _credit(self, worker: int, epoch: int, nbytes: int, *, forwarded: bool) -> None:
        self.fleet.credit(worker, epoch, nbytes, forwarded=forwarded)

    def _endpoints(self) -> frozenset[str]:
        """Where other instances reach us."""
        own = self.view.instance
        return frozenset([own.endpoint]) if own is not None else frozenset()

    def _unroutable(self) -> None:
        self._problems.set(
            "rollups",
            "rollups are dropped: aggregator.client.m3msg.producer is not configured, so nothing reaches the instances that own them; "
            "add it as in configs/m3aggregator.yml (type: m3msg) and restart",
        )

    def _relay(self, sends: Iterable[Send]) -> None:
        sends = list(sends)
        self._figures.given(sends, len(self.view.owned), wall_ns(), monotonic_ns())
        for send in sends:
            self.fleet.relay(send)

    def _out_of_term(self) -> None:
        self.output.drop()
        self.rollups.drop()
        self.sinks.drop()

    # --- the shard set

    async def _shard_set_loop(self) -> None:
        """One membership at a time; a placement that moves us to another shard set ends it and begins the next."""
        while True:
            member = asyncio.create_task(self.shard_set.run(), name=f"shard set {self.shard_set.number}")
            moved = asyncio.create_task(self._moved_from(self.shard_set.number))
            try:
                await asyncio.wait([member, moved], return_when=asyncio.FIRST_COMPLETED)
                if member.done():
                    member.result()
            finally:
                for task in (member, moved):
                    task.cancel()
                await asyncio.wait([member, moved])
            # What the next one was sent before is not here.
            self.shard_set = self._membership(joined_ns=wall_ns())

    async def _moved_from(self, number: int) -> None:
        while self.view.shard_set == number:
            self._placed.clear()
            await self._placed.wait()

    def _membership(self, joined_ns: int) -> ShardSet:
        self.flushing.schedule.shard_set = self.view.shard_set
        return ShardSet(
            self.view.shard_set,
            config=self.config,
            keys=self._keys,
            store=self._store,
            flushing=self.flushing,
            instance_id=self.view.instance_id,
            view=lambda: self.view,
            relay=self._relay,
            lost=self._out_of_term,
            began=self._wake.set,
            holds=lambda: self.completeness.holding.from_then_on(joined_ns),
            restored=self._restored,
            crowded=self._crowded,
            scope=self._scope,
        )

    def _holds_else(self) -> None:
        """What this instance holds has changed."""
        self._remember()
        self.shard_set.look()

    def _remember(self) -> None:
        if not self.completeness.replaying:
            self._restored.set()
        if self._journals is not None:
            self._journals.remember(self.completeness.remembered())
            self._look_at_journals(self._journals)

    def _look_at_journals(self, journals: Journals) -> None:
        (self.whole.set if journals.whole else self.whole.clear)()

    def _crowded(self) -> list[int]:
        """Workers whose windows take more memory than is to be kept for an absent leader."""
        limit = retained_bytes(self.config, len(self.worker_stats))
        return [n for n, stats in self.worker_stats.items() if stats.gauges.get("engine.window-bytes", 0.0) > limit]

    # --- loops

    async def _flush_loop(self) -> None:
        while True:
            wait_s: float | None = None
            leads = self.shard_set.leads and not self.ending
            if leads:
                wait_s = self._flush(woken=self._wake.is_set())
            self._wake.clear()
            if not leads:
                # A term that begins says so.
                await self._wake.wait()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await beat(self._wake, _LOOK_S)

    def _flush(self, *, woken: bool) -> float | None:
        """Gives the flushes that are due, if we may flush; when to look again at the latest. Not ``woken``, it is only time that has
        passed."""
        if (
            not woken
            and self._flushes
            and not self.flushing.in_hand
            and (wait_s := self._until_due_s()) is not None
            and wait_s > 0
        ):
            return wait_s
        self._flushes = False
        if (
            self.flushing.role is not FlushRole.LEADER
            or (until := self.shard_set.flush_until()) is None
            or self._gathers()
        ):
            return _HELD_S
        self._flushes = True
        self._relay(self.flushing.tick(wall_ns(), self.shard_set.holding, until))
        wait_s = self._until_due_s()
        return None if wait_s is None else max(wait_s, 0.001)

    def _until_due_s(self) -> float | None:
        """Until the next flush; None: there is no list."""
        next_ns = self.flushing.schedule.next_ns()
        return None if next_ns is None else (next_ns - wall_ns()) / 1e9

    def _gathers(self) -> bool:
        """Whether samples that were judged before a front was there may still be on their way: their windows wait for them."""
        if not self.config.instance.transit_time:
            return False
        return not self.fleet.listening or boot_ns() - self._listens_ns < _GATHER_NS

    async def _pump_loop(self, forwarder: Forwarder) -> None:
        """Sinks do not tell when they have room again."""
        while True:
            await forwarder.held_up.wait()
            await asyncio.sleep(_PUMP_S)
            forwarder.pump()

    async def _look_loop(self) -> None:
        """Things that time alone changes."""
        cut_over: int | None = None
        aside: dict[str, str] = {}
        while True:
            await beat(every_s=_LOOK_S)
            self._look_at_clocks()
            # The example may be another one each time; what was said first stays.
            now = self.sinks.left_aside()
            for subject in now.keys() ^ aside.keys():
                self._problems.set(subject, now.get(subject), serious=False)
            aside = now
            seen = self.view
            if seen.instance is None or cut_over == seen.placement.version:
                continue
            if seen.cutover_left_ns(wall_ns()) == 0:
                cut_over = seen.placement.version
                log.info("all shards are cut over", version=cut_over, shards=len(seen.owned))

    def _look_at_clocks(self) -> None:
        now_ns, member = wall_ns(), self.shard_set
        self._problems.set("clock", self._clocks.went_back(now_ns))
        if member.times is not self._looked_at:
            self._looked_at = member.times
            self._newest_ns = 0 if member.times is None else newest(member.times)
        keys = [self._keys.flush_times(member.number), self._keys.delivered(member.number)]
        self._problems.set("flush times", self._clocks.flushed_ahead(now_ns, self._newest_ns, keys))

    async def _expire_loop(self) -> None:
        interval_s = entry_check_interval_ns(self.config) / 1e9
        waited_s = 0.0
        while True:
            await asyncio.sleep(min(interval_s, _EXPIRE_S))
            waited_s += min(interval_s, _EXPIRE_S)
            if waited_s >= interval_s or self._memory.refuses_new:
                waited_s = 0.0
                count_shard_check(self._scope.sub("tick.shard-check"), self.shard_set.times, self.view.owned)
                self.fleet.broadcast(ipc.Expire())


def _routing(seen: View, topic_shards: int, workers: int, owners: Mapping[int, int]) -> Routing:
    """``owners``: shard → worker until now."""
    owned = seen.owned
    return Routing(seen.placement.num_shards, topic_shards, owned, assign(list(owned), workers, owners))


def _tagged(figures: Mapping[str, float], tags: Mapping[str, str]) -> Mapping[str, float]:
    """Figures with the configured tags added to their names, ``name{k=v}``."""
    if not tags:
        return figures
    more = ",".join(f"{key}={value}" for key, value in tags.items())
    return {
        f"{name[:-1]},{more}}}" if name.endswith("}") else f"{name}{{{more}}}": value for name, value in figures.items()
    }

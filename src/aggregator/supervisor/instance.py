"""One aggregator instance: everything wired together (docs/architecture.md §2, §4).

    KV ──placement──> Instance ──spawns──> front, workers          elector ──role──> flushing ──commands──> front ──> workers
     └──flush times, leases                                        workers ──output──> forwarder ──> producers ──done──> flushing ──> KV

The decisions are in the pure machines (``election``, ``flushing``, ``schedule``, ``flush_times``); here is only what carries events to them
and their actions out. All of it runs in one event loop; nothing in it blocks.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import zmq

from aggregator import ipc
from aggregator.config import KVKeys, ServiceConfig, engine_options, entry_check_interval_ns, kv_keys, retained_bytes
from aggregator.front.figures import OPEN_CONNECTIONS
from aggregator.front.options import FrontOptions
from aggregator.supervisor.election.completeness import Completeness
from aggregator.supervisor.ending import end
from aggregator.supervisor.flushing.commands import Flushing, Send
from aggregator.supervisor.flushing.timing import schedule_options
from aggregator.supervisor.limits import Limits, limit_of
from aggregator.supervisor.output.forwarder import Forwarder, Part, batch_of
from aggregator.supervisor.output.sinks import Sinks
from aggregator.supervisor.placement import View, assign, view
from aggregator.supervisor.problems import Problems
from aggregator.supervisor.processes.fleet import Fleet, Routing
from aggregator.supervisor.set_up import (
    host_id_fault,
    ingest_topic_warning,
    no_placement_fault,
    output_topic_fault,
    replicas_warning,
    shard_counts_fault,
    try_endpoint,
)
from aggregator.supervisor.shard_set import ShardSet
from aggregator.worker.options import WorkerOptions
from m3cluster.following import follow
from m3cluster.kv import Store
from m3cluster.placement.model import Placement
from m3cluster.topic import Topic
from m3cluster.topology import staged_placement_of, topic_of
from m3msg.producer import warm as load_producer_kernels
from m3x.clock import wall_ns
from m3x.instrument import Registry
from m3x.log import logger

__all__ = ["Instance"]

log = logger(__name__)

_PUMP_S = 0.02
_LOOK_S = 0.25
_AGAIN_S = 0.1
_REFUSED_NS = 1_500_000_000
"""A flush that the front did not pass on (it was stopped, and has to read first) is tried again after this time."""
_MISSING_S = 1.0
"""How long a key may take to be read before it counts as missing."""


class Instance:
    """See the module. ``run`` returns after ``stop`` when everything has ended."""

    def __init__(
        self, config: ServiceConfig, store: Store, instance_id: str, *, workers: int, run_dir: Path, registry: Registry
    ) -> None:
        self.config = config
        self.instance_id = instance_id
        self.keys: KVKeys = kv_keys(config)
        self.problems = Problems()
        self.registry = registry
        self._prefix = ".".join(filter(None, (config.metrics.scope.prefix, "aggregator")))
        self.scope = registry.scope(self._prefix).tagged(**config.metrics.scope.tags)
        self.view: View | None = None
        self.fleet: Fleet | None = None
        self.shard_set: ShardSet | None = None
        self.flushing = Flushing(schedule_options(config))
        self.worker_stats: dict[int, ipc.WorkerStats] = {}
        self.owners: dict[int, int] = {}
        self.output_topic: Topic | None = None
        self.ingest_topic: Topic | None = None
        self._ingest_known = False
        """The topic was read, or there was time enough to read it."""
        self.completeness = Completeness(self._look)
        scope = self.scope.sub("forwarder")
        done, fenced = self.flushing.done, self._lease_lost
        self.output = Forwarder(done, fenced, partial(self._credit, forwarded=False), scope, "final")
        self.rollups = Forwarder(done, fenced, partial(self._credit, forwarded=True), scope, "forwarded")
        self.rolls_up = False
        """Whether a forwarded metric ever came out of a worker."""
        self.sinks = Sinks(
            config,
            store,
            self.output,
            self.rollups,
            self.may_write,
            self.scope,
            local=self._endpoints,
            unroutable=self._unroutable,
        )
        self._store = store
        self._max_workers = workers
        self._run_dir = run_dir
        self._serving = asyncio.Event()
        self._stopping = asyncio.Event()
        self._placed = asyncio.Event()
        self._wake = asyncio.Event()
        self.ending = False
        """No more flushes begin."""
        self._limits = Limits(config, self._limits_changed)

    # --- life

    def stop(self) -> None:
        """Begins the end: hand over the lead, deliver what was emitted, end all processes."""
        self._stopping.set()

    async def run(self) -> None:
        """Serves until ``stop``."""
        async with asyncio.TaskGroup() as group:
            watches = [
                group.create_task(follow(self._store, self.keys.placement, staged_placement_of, self._placement)),
                *(
                    group.create_task(follow(self._store, key, topic_of, self._topic_changed(name)))
                    for name, key in self._topic_keys().items()
                ),
            ]
            watches.append(group.create_task(self._say_what_is_missing()))
            placed = group.create_task(self._placed.wait())
            stopping = group.create_task(self._stopping.wait())
            await asyncio.wait([placed, stopping], return_when=asyncio.FIRST_COMPLETED)
            placed.cancel()
            if not self._stopping.is_set():
                await self._serve(group)
            stopping.cancel()
            for task in watches:
                task.cancel()

    async def _serve(self, group: asyncio.TaskGroup) -> None:
        assert self.view is not None
        workers = max(min(self._max_workers, len(self.view.owned)), 1)
        routing = self._route(workers)
        self.fleet = Fleet(
            run_dir=self._run_dir,
            workers=workers,
            routing=routing,
            owner=self,
            front_options=self._front_options,
            worker_options=self._worker_options,
        )
        self._check_ingest()
        log.info("starting processes", workers=workers, shards=len(routing.owned), shard_set=self.view.shard_set)
        producers = group.create_task(self.sinks.run(), name="producers")
        fleet = group.create_task(self.fleet.run(), name="processes")
        tasks = [
            group.create_task(self._flush_loop(), name="flush"),
            group.create_task(self._pump_loop(self.output), name="pump"),
            group.create_task(self._pump_loop(self.rollups), name="pump rollups"),
            group.create_task(self._look_loop(), name="look"),
            group.create_task(self._expire_loop(), name="expire"),
            group.create_task(try_endpoint(lambda: self.view, self._listening, self._unreached), name="endpoint"),
            group.create_task(follow(self._store, self.keys.values_limit, limit_of, self._limits.values_changed)),
            group.create_task(follow(self._store, self.keys.new_metrics_limit, limit_of, self._limits.new_changed)),
        ]  # fmt: skip
        # Loading them with the first output would hold up a takeover by a second or two.
        await asyncio.to_thread(load_producer_kernels)
        shard_set = group.create_task(self._shard_set_loop(), name="shard set")
        await self._stopping.wait()
        wait_s = self.config.aggregator.shutdown_wait_timeout.seconds
        if wait_s:
            log.info("serving on before the end", seconds=wait_s)
            await asyncio.sleep(wait_s)
        await end(self, shard_set)
        for task in tasks:
            task.cancel()
        await self.fleet.stop(5.0)
        await self.sinks.close()
        producers.cancel()
        await asyncio.wait([fleet, producers])

    # --- options of the processes

    def _front_options(self, epoch: int) -> FrontOptions:
        server, consumer = self.config.server.server, self.config.server.consumer
        return FrontOptions(
            listen_address=server.listen_address,
            run_dir=str(self._run_dir),
            epoch=epoch,
            parent_pid=os.getpid(),
            log_level=self.config.logging.level,
            max_frame_bytes=consumer.decoder.max_message_size,
            keep_alive=server.keep_alive_enabled,
            keep_alive_period_ns=int(server.keep_alive_period),
        )

    def _worker_options(self, worker: int, epoch: int, front_epoch: int) -> WorkerOptions:
        assert self.view is not None
        assert self.fleet is not None
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
                topic_shards=self._topic_shards(),
                replica_factor=placement.replica_factor,
                workers=len(self.fleet.workers),
            ),
            log_level=self.config.logging.level,
        )

    # --- what the KV says

    def _topic_keys(self) -> dict[str, str]:
        """The topics that this instance reads from and writes to, by role."""
        section, default = self.config.aggregator, self.config.kv_client.environment
        writers = {}
        for handler in section.flush.handlers:
            if handler.dynamic_backend is not None:
                writers["output"] = handler.dynamic_backend.producer.writer
                break
        if section.client.m3msg is not None:
            writers["ingest"] = section.client.m3msg.producer.writer
        return {name: writer.topic_key(default) for name, writer in writers.items()}

    def _placement(self, placement: Placement | None) -> None:
        if placement is None:
            # As M3: a deleted placement changes nothing for those who run.
            log.warning("the placement was deleted; going on with the last one", key=self.keys.placement)
            return
        self.view = seen = view(placement, self.instance_id)
        if seen.instance is None:
            self.problems.set("placement", host_id_fault(seen))
        else:
            self.problems.set("placement", None)
            self.problems.set("replicas", replicas_warning(seen), serious=False)
            left_s = seen.cutover_left_ns(wall_ns()) / 1e9
            if left_s > 0:
                log.info("the placement is not cut over yet", seconds_left=round(left_s, 1))
        log.info("placement", version=placement.version, shards=len(seen.owned), num_shards=placement.num_shards)
        if self.fleet is not None:
            self._reroute()
        elif seen.instance is not None:
            self._placed.set()

    async def _say_what_is_missing(self) -> None:
        """Keys that do not exist are only known as such while the store answers; until then it says itself what is wrong."""
        output = self._topic_keys().get("output")
        while self.view is None or not self._ingest_known or (output is not None and self.output_topic is None):
            await asyncio.sleep(_MISSING_S)
            if self.store_trouble() is not None:
                continue
            if self.view is None:
                self.problems.set("placement", no_placement_fault(self.keys.placement))
            if output is not None and self.output_topic is None:
                self._topic_problem(output, None)
            self._ingest_known = True
            self._check_ingest()

    def store_trouble(self) -> str | None:
        """Why the store does not answer; None: it does."""
        return self._store.trouble()

    def _reroute(self) -> None:
        assert self.fleet is not None
        routing = self._route(len(self.fleet.workers))
        for worker in range(len(self.fleet.workers)):
            self.flushing.assign(worker, routing.of(worker))
        self.fleet.reroute(routing)
        self._check_ingest()
        self._wake.set()

    def _route(self, workers: int) -> Routing:
        assert self.view is not None
        owned = self.view.owned
        self.owners = assign(list(owned), workers, self.owners)
        return Routing(self.view.placement.num_shards, self._topic_shards(), owned, self.owners)

    def _topic_shards(self) -> int:
        """Shards of the output topic; until it exists, as many as the placement has."""
        assert self.view is not None
        return self.output_topic.number_of_shards if self.output_topic is not None else self.view.placement.num_shards

    def _topic_changed(self, role: str) -> Callable[[Topic | None], None]:
        key = self._topic_keys()[role]

        def changed(topic: Topic | None) -> None:
            if role == "ingest":
                self.ingest_topic, self._ingest_known = topic, True
                self._check_ingest()
                return
            self._topic_problem(key, topic)
            before, self.output_topic = self.output_topic, topic or self.output_topic
            if self.fleet is not None and before != self.output_topic:
                self._reroute()

        return changed

    def _topic_problem(self, key: str, topic: Topic | None) -> None:
        self.problems.set("output topic", output_topic_fault(key.rsplit("/", 1)[-1], topic))

    def _check_ingest(self) -> None:
        """What the topic and the placement of our input say together."""
        self.problems.set("shard counts", shard_counts_fault(self.ingest_topic, self.view))
        key = self._topic_keys().get("ingest")
        if key is not None and self._ingest_known:
            name, service = key.rsplit("/", 1)[-1], self.keys.placement.rsplit("/", 1)[-1]
            self.problems.set("ingest topic", ingest_topic_warning(name, self.ingest_topic, service), serious=False)

    def _listening(self) -> str:
        return self.fleet.listening if self.fleet is not None else ""

    def _unreached(self, text: str | None) -> None:
        self.problems.set("endpoint", text, serious=False)

    def _limits_changed(self) -> None:
        if self.fleet is not None:
            self.fleet.broadcast(self._runtime_options())

    def _runtime_options(self) -> ipc.RuntimeOptions:
        assert self.view is not None
        return self._limits.options(self.view.placement)

    # --- what the processes say

    def worker_started(self, worker: int, epoch: int) -> None:
        """``FleetOwner``."""
        assert self.view is not None
        owned = [shard for number, shard in self.view.owned.items() if self.owners[number] == worker]
        self.flushing.worker_up(worker, epoch, owned)
        if self.fleet is not None:
            self.fleet.relay(Send(worker, epoch, self._runtime_options()))

    def worker_gone(self, worker: int, epoch: int) -> None:
        """``FleetOwner``."""
        self.flushing.worker_down(worker)
        self.completeness.missed()
        self.worker_stats.pop(worker, None)
        self.registry.forget(f"worker {worker}")

    def front_gone(self) -> None:
        """``FleetOwner``."""
        self.completeness.missed()

    def front_replaced(self) -> None:
        """``FleetOwner``."""
        assert self.fleet is not None
        self.registry.forget("front")
        for worker in range(len(self.fleet.workers)):
            self._relay(self.flushing.again(worker, wall_ns()))
        self.fleet.broadcast(self._runtime_options())

    def from_front(self, message: ipc.FromFront) -> None:
        """``FleetOwner``."""
        assert self.fleet is not None
        match message:
            case ipc.Listening():
                log.info("accepting metrics", address=message.address)
                self.completeness.listening()
            case ipc.FrontStats():
                self.completeness.connections(message.gauges.get(OPEN_CONNECTIONS, 0.0))
                # M3 keeps the server's figures outside of the aggregator's scope.
                self._merge("front", message.counters, message.gauges, self.config.metrics.scope.prefix)
            case ipc.Stale():
                self._undelivered(message)
            case ipc.Stalled():
                log.warning("the front was stopped: open windows may be incomplete", seconds=round(message.seconds, 1))
                self.completeness.missed()

    def _undelivered(self, message: ipc.Stale) -> None:
        assert self.fleet is not None
        child = self.fleet.workers[message.worker]
        if child.epoch != message.epoch or not child.pid:
            return
        if isinstance(message.command, ipc.Flush | ipc.Reopen):
            self.flushing.refused(message.worker, message.command.id)
            self.flushing.schedule.also_at(message.command.list_id, wall_ns() + _REFUSED_NS)
        elif isinstance(message.command, ipc.Shards):
            asyncio.get_running_loop().call_later(_AGAIN_S, self.fleet.tell_shards, message.worker)
        else:
            command = self._runtime_options() if isinstance(message.command, ipc.RuntimeOptions) else message.command
            asyncio.get_running_loop().call_later(
                _AGAIN_S, self.fleet.relay, Send(message.worker, message.epoch, command)
            )

    def from_worker(self, worker: int, epoch: int, message: ipc.FromWorker, frames: Sequence[zmq.Frame]) -> None:
        """``FleetOwner``."""
        match message:
            case ipc.Ready():
                self.completeness.missed()
                log.info("worker is ready", worker=worker, epoch=epoch, pid=message.pid)
            case ipc.Lists():
                self._relay(self.flushing.new_lists(worker, message.lists, wall_ns()))
                self._wake.set()
            case ipc.Flushed():
                self._flushed(worker, epoch, message, frames)
            case ipc.Refused():
                self.flushing.refused(worker, message.id)
            case ipc.WorkerStats():
                self.worker_stats[worker] = message
                self._merge(f"worker {worker}", message.counters, message.gauges, self._prefix)

    def _look(self) -> None:
        if self.shard_set is not None:
            self.shard_set.look()

    def _merge(self, source: str, counters: Mapping[str, int], gauges: Mapping[str, float], prefix: str) -> None:
        tags = self.config.metrics.scope.tags
        self.registry.merge(source, _tagged(counters, tags), _tagged(gauges, tags), prefix=prefix)

    def _flushed(self, worker: int, epoch: int, message: ipc.Flushed, frames: Sequence[zmq.Frame]) -> None:
        if message.values:
            batch = batch_of(message, frames)
            forwarder = self.rollups if message.forwarded else self.output
            self.rolls_up = self.rolls_up or message.forwarded
            if part := self.flushing.part(worker, message):
                forwarder.offer(Part(worker, epoch, message.id, part, batch))
            else:
                self.scope.sub("forwarder").count("out-of-term", len(batch))
                forwarder.refuse(worker, epoch, batch.size_bytes)
        if message.last:
            self._relay(self.flushing.last(worker, message.id, wall_ns()))

    # --- output

    def may_write(self) -> bool:
        """Asked by the producers before every write."""
        return self.shard_set is not None and self.shard_set.may_write()

    def _lease_lost(self) -> None:
        """What was not sent is not flushed: the term is over, whoever leads next emits it."""
        if self.shard_set is not None:
            self.shard_set.elector.lease_lost()

    def _credit(self, worker: int, epoch: int, nbytes: int, *, forwarded: bool) -> None:
        if self.fleet is not None:
            self.fleet.credit(worker, epoch, nbytes, forwarded=forwarded)

    def _endpoints(self) -> frozenset[str]:
        """Where other instances reach us."""
        own = self.view.instance if self.view is not None else None
        return frozenset([own.endpoint]) if own is not None else frozenset()

    def _unroutable(self) -> None:
        self.problems.set(
            "rollups",
            "rollups are dropped: aggregator.client.m3msg.producer is not configured, so nothing reaches the instances that own them; "
            "add it as in configs/m3aggregator.yml (type: m3msg) and restart",
        )

    def _relay(self, sends: Iterable[Send]) -> None:
        if self.fleet is not None:
            for send in sends:
                self.fleet.relay(send)

    def _out_of_term(self) -> None:
        self.output.drop()
        self.rollups.drop()
        self.sinks.drop()

    # --- loops

    async def _shard_set_loop(self) -> None:
        """One membership at a time; a placement that moves us to another shard set ends it and begins the next."""
        joined_ns = 0
        while True:
            assert self.view is not None
            number = self.view.shard_set
            self.flushing.schedule.shard_set = number
            self.shard_set = ShardSet(
                number,
                config=self.config,
                keys=self.keys,
                store=self._store,
                flushing=self.flushing,
                instance_id=self.instance_id,
                view=self._current_view,
                relay=self._relay,
                lost=self._out_of_term,
                opened_ns=partial(self._complete_since, joined_ns),
                crowded=self._crowded,
                scope=self.scope,
            )
            member = asyncio.create_task(self.shard_set.run(), name=f"shard set {number}")
            try:
                while self.view.shard_set == number:
                    done, _ = await asyncio.wait([member], timeout=_LOOK_S)
                    for ended in done:
                        ended.result()
            finally:
                member.cancel()
                await asyncio.wait([member])
            # What that shard set was sent before is not here.
            joined_ns = wall_ns()

    def _complete_since(self, joined_ns: int) -> int:
        return max(self.completeness.since_ns, joined_ns)

    def _crowded(self) -> list[int]:
        """Workers whose windows take more memory than is to be kept for an absent leader."""
        limit = retained_bytes(self.config, len(self.worker_stats))
        return [n for n, stats in self.worker_stats.items() if stats.gauges.get("engine.window-bytes", 0.0) > limit]

    def _current_view(self) -> View:
        assert self.view is not None
        return self.view

    async def _flush_loop(self) -> None:
        while True:
            now_ns = wall_ns()
            if self.shard_set is not None and self.shard_set.may_flush() and not self.ending:
                self._relay(self.flushing.tick(now_ns, self.shard_set.complete_since_ns()))
            next_ns = self.flushing.schedule.next_ns()
            wait_s = _LOOK_S if next_ns is None else min(max((next_ns - wall_ns()) / 1e9, 0.001), _LOOK_S)
            self._wake.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

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
            await asyncio.sleep(_LOOK_S)
            # The example may be another one each time; what was said first stays.
            now = self.sinks.left_aside()
            for subject in now.keys() ^ aside.keys():
                self.problems.set(subject, now.get(subject), serious=False)
            aside = now
            seen = self.view
            if seen is None or seen.instance is None or cut_over == seen.placement.version:
                continue
            if seen.cutover_left_ns(wall_ns()) == 0:
                cut_over = seen.placement.version
                log.info("all shards are cut over", version=cut_over, shards=len(seen.owned))

    async def _expire_loop(self) -> None:
        interval_s = entry_check_interval_ns(self.config) / 1e9
        while True:
            await asyncio.sleep(interval_s)
            if self.fleet is not None:
                self.fleet.broadcast(ipc.Expire())


def _tagged(figures: Mapping[str, float], tags: Mapping[str, str]) -> Mapping[str, float]:
    """Figures with the configured tags added to their names, ``name{k=v}``."""
    if not tags:
        return figures
    more = ",".join(f"{key}={value}" for key, value in tags.items())
    return {
        f"{name[:-1]},{more}}}" if name.endswith("}") else f"{name}{{{more}}}": value for name, value in figures.items()
    }

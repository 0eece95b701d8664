"""The producer as a service uses it: the core, its connections, its watches and its clock on one asyncio loop."""

import asyncio
import contextlib
import math
import secrets
from collections.abc import Callable, Mapping, Sequence

from m3cluster.kv import Store
from m3cluster.topic import ServiceID
from m3msg.batch import MessageBatch
from m3msg.producer.block import Awaited, Done, Mark, Moment, Secured
from m3msg.producer.connection import Connection
from m3msg.producer.core import ProducerCore
from m3msg.producer.filters import Filter
from m3msg.producer.lane import Lane
from m3msg.producer.link import Link
from m3msg.producer.options import ProducerOptions, WriterOptions
from m3msg.producer.set_up import SetUp
from m3msg.producer.status import Overtaken, ProducerStatus, overtaken, service_status
from m3x.beats import beat
from m3x.clock import monotonic_ns, wall_ns
from m3x.instrument import Registry, Scope
from m3x.log import logger
from m3x.tls import ClientTLS

__all__ = ["Producer", "ProducerClosedError"]

log = logger(__name__)

_TICK_S = 0.1
_REPORT_S = 1.0
"""Between two reports of figures; and between two ticks while nothing is in hand."""
_REST_S = 5.0
"""Between two ticks while besides everybody is connected, and all figures are reported."""
_LAST_IDS = 1 << 27
"""Ids begin anywhere below that, where M3's begin with 1: an aggregator that asks whether it has a message does not take those of a process
for those of the one before. They still have four bytes."""
_LOOK_AGAIN_S = 0.1
"""How often the end looks who can still be waited for."""
_LINGER_S = 0.003
"""How long small batches wait for others to be joined with."""


class ProducerClosedError(RuntimeError):
    """The producer takes nothing any more."""


class _Host:
    """The core's connections on the loop, and what they ask and say (``connection.Host``). ``tell`` is called after every change."""

    def __init__(
        self, core: ProducerCore, writer: WriterOptions, may_write: Callable[[], bool] | None, tell: Callable[[], None]
    ) -> None:
        self.group: asyncio.TaskGroup | None = None
        """Runs the connections; None: not started, or ended."""
        self.connections: dict[Link, tuple[Connection, asyncio.Task[None]]] = {}
        self._core = core
        self._writer = writer
        self._may_write = may_write
        self._tell = tell
        tls = writer.connection.tls
        self._tls = ClientTLS(tls) if tls.enabled else None
        self._endpoints: dict[tuple[str, str], bool] = {}
        self._scheduled = False

    def now(self) -> Moment:
        """Both clocks."""
        return Moment(wall_ns(), monotonic_ns())

    def may_write(self) -> bool:
        """Whether leader output may be written at this instant."""
        return self._may_write is None or self._may_write()

    def drop_unsent_fenced(self) -> None:
        """See ``Producer.drop_unsent_fenced``."""
        self._core.drop_unsent_fenced()
        self.changed()

    def reached(self, link: Link) -> None:
        """Says once what an endpoint's state has become."""
        lane, topic = link.lane, self._writer.topic_name
        key = (lane.endpoint, lane.instance)
        if lane.reachable:
            if self._endpoints.get(key) is not True:
                self._endpoints[key] = True
                log.info("connected", topic=topic, consumer=lane.instance, endpoint=lane.endpoint)
        elif link.last_error and not link.closed and self._endpoints.get(key) is not False:
            self._endpoints[key] = False
            log.warning(
                "consumer not connected; its messages wait in its buffer",
                topic=topic, consumer=lane.instance, endpoint=lane.endpoint, reason=link.last_error,
            )  # fmt: skip

    def changed(self) -> None:
        """Something happened in the core: tells events now, and writes in the next round of the loop."""
        if self._core.unsettled:
            self._core.react(self.now())
        self._tell()
        if not self._scheduled and self.group is not None and self._core.dirty:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._scheduled = False
        dirty = list(self._core.dirty)
        self._core.dirty.clear()
        for link in dirty:
            entry = self.connections.get(link)
            if entry is not None and entry[0].pump():
                self._core.dirty.add(link)
        if self._core.dirty or self._core.events:
            self.changed()

    def reconcile(self) -> None:
        """Brings connections in line with the core."""
        assert self.group is not None
        wanted = self._core.links()
        for link in wanted:
            if link not in self.connections:
                connection = Connection(link, self, self._writer.connection, self._tls)
                self.connections[link] = (connection, self.group.create_task(connection.run()))
        for link in set(self.connections) - set(wanted):
            self.connections.pop(link)[1].cancel()
        self.changed()


class Producer:
    """Sends batches to every consumer service of a topic, at least once.

    ``store`` is the KV with topic and placements; ``environment`` is used where neither the options nor the topic name one.
    ``may_write`` is asked directly before every socket write of batches that were produced with ``fenced``; once it says no, they
    leave the producer at once. ``on_done`` hears how every batch ended, ``on_secured`` of batches with a token that take long because
    of single replicas. ``static_filters`` apply to services whose topic entry has
    none. ``local`` are endpoints of this very service: forwarded messages to them are never held back. Use ``start`` and ``close``;
    ``wait`` returns, or raises, when the producer has ended. Raises ``TLSError``.
    """

    def __init__(
        self,
        options: ProducerOptions,
        store: Store,
        *,
        may_write: Callable[[], bool] | None = None,
        scope: Scope | None = None,
        on_done: Callable[[Done], None] | None = None,
        environment: str = "default_env",
        static_filters: Mapping[ServiceID, Sequence[Filter]] | None = None,
        local: frozenset[str] = frozenset(),
        on_secured: Callable[[Secured], None] | None = None,
    ) -> None:
        self.core = ProducerCore(
            options,
            static_filters=static_filters,
            local=local,
            tell_secured=on_secured is not None,
            last_id=secrets.randbelow(_LAST_IDS),
        )
        self._on_secured = on_secured
        self.on_done = on_done
        """May be set later, before ``produce``."""
        self.on_awaited: Callable[[Awaited], None] | None = None
        """Hears what is still awaited of batches with origins that take long."""
        self._options = options
        self._scope = scope if scope is not None else Registry().scope()
        self._runner: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._progress = asyncio.Event()
        self._produced = asyncio.Event()
        self._linger: asyncio.TimerHandle | None = None
        self._closed = False
        self._rests = False
        """The last report was made at rest: there is nothing new to report."""
        self._scopes: dict[tuple[str, str], Scope] = {}
        self._host = _Host(self.core, options.writer, may_write, self._tell)
        self._set_up = SetUp(
            self.core, options.writer, store, environment,
            now=self._host.now, reconcile=self._host.reconcile, scope=self._scope, service_scope=self._service_scope,
        )  # fmt: skip
        self.topology = self._set_up.topology
        """Followed from ``start`` to ``close``."""

    # --- life ---

    async def start(self) -> bool:
        """Starts watching and connecting; waits for the topic and the placements of its services, at most ``topicWatchInitTimeout`` and
        ``placementWatchInitTimeout``. False: they are not there yet (``status`` says what is missing); the producer goes on waiting."""
        started = asyncio.get_running_loop().create_future()
        self._runner = asyncio.create_task(self._run(started), name=f"producer {self._options.writer.topic_name}")
        await started
        writer = self._options.writer
        seen = await self._wait_for(lambda: self.core.num_shards > 0, writer.topic_watch_init_timeout.seconds)
        seen = seen and await self._wait_for(self._set_up.placed, writer.placement_watch_init_timeout.seconds)
        for problem in self.problems():
            log.warning("the producer waits", topic=writer.topic_name, problem=problem)
        return seen

    async def _wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._set_up.news.clear()
                    await self._set_up.news.wait()
        except TimeoutError:
            return False
        return True

    async def wait(self) -> None:
        """Returns after ``close``; raises what ended the producer otherwise."""
        if self._runner is not None:
            await asyncio.shield(self._runner)

    async def close(self, timeout_s: float = 5.0, away_s: float = math.inf) -> None:
        """Takes no more batches, waits up to ``timeout_s`` for acks of what is left, then gives the rest up and disconnects.

        An instance that has had no connection for ``away_s`` is not waited for, one that lost it later may come back.
        """
        if self._closed:
            return
        self._closed = True
        self.core.flush(self._host.now())
        self._host.changed()
        try:
            async with asyncio.timeout(timeout_s):
                while self._is_awaited(away_s) and self._runner is not None and not self._runner.done():
                    self._progress.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_AGAIN_S):
                            await self._progress.wait()
        except TimeoutError:
            pass
        if self.core.pending:
            log.warning(
                "closed with messages unacked",
                topic=self._options.writer.topic_name, messages=self.core.pending, away=self._away(),
            )  # fmt: skip
        self._stop.set()
        if self._linger is not None:
            self._linger.cancel()
        if self._runner is not None:
            await self._runner
        self._tell()

    def _is_awaited(self, away_s: float) -> bool:
        """Whether somebody owes acks who may still give them."""
        steady_ns = self._host.now().steady_ns
        return any(lane.pending and lane.gone_s(steady_ns) < away_s for lane in self.core.lanes())

    def _away(self) -> dict[str, float]:
        """The instances that owe acks and have no connection, and for how many seconds."""
        steady_ns = self._host.now().steady_ns
        return {
            lane.instance: round(lane.gone_s(steady_ns), 1)
            for lane in self.core.lanes()
            if lane.pending and not lane.reachable
        }

    async def _run(self, started: asyncio.Future[None]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._host.group = group
                tasks = [group.create_task(self._set_up.run()), group.create_task(self._ticks())]
                started.set_result(None)
                await self._stop.wait()
                self.core.close()
                for task in (*tasks, *(task for _, task in self._host.connections.values())):
                    task.cancel()
        finally:
            self._host.group = None
            self._report()
            self._progress.set()

    # --- batches ---

    @property
    def num_shards(self) -> int:
        """Shards of the topic; 0 while it is not known."""
        return self.core.num_shards

    def produce(self, batch: MessageBatch, *, fenced: bool = False, forwarded: bool = False) -> bool:
        """Takes a batch as a whole or not at all, and never blocks; its arrays must not change afterwards. See ``ProducerCore.produce``
        for when it says False."""
        if self._closed or not self.core.produce(batch, self._host.now(), fenced=fenced, forwarded=forwarded):
            return False
        self._rests = False
        self._produced.set()
        if self.core.has_unsealed and self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(_LINGER_S, self._flush)
        self._host.changed()
        return True

    def _flush(self) -> None:
        self._linger = None
        self.core.flush(self._host.now())
        self._host.changed()

    @property
    def away(self) -> bool:
        """Whether no consumer can be reached, for longer than a reconnect takes, or none is known."""
        return self.core.away

    @property
    def saturated(self) -> bool:
        """Whether every consumer instance that can be reached has enough to do for now."""
        return self.core.saturated(self._host.now())

    def room(self, *, forwarded: bool = False) -> int:
        """Payload bytes that can be produced before some shard has no replica with free buffer; 0 while the topic is not known."""
        return 0 if self._closed else self.core.room(forwarded)

    @property
    def full(self) -> float:
        """Which part of the buffer is taken where there is least room; 0 while the topic is not known."""
        if self._closed or not self.core.num_shards:
            return 0.0
        return 1 - self.core.room() / self._options.buffer.max_buffer_size

    async def wait_room(self, nbytes: int = 1, *, forwarded: bool = False) -> None:
        """Returns as soon as ``room`` is at least ``nbytes``. Raises ``ProducerClosedError`` where that cannot come any more."""
        while self.room(forwarded=forwarded) < nbytes:
            if self._closed or self._runner is None or self._runner.done():
                raise ProducerClosedError(f"the producer of topic {self._options.writer.topic_name!r} is closed")
            self._progress.clear()
            await self._progress.wait()

    def mark(self) -> Mark:
        """Stands for everything that was produced so far and is ``Done``."""
        return self.core.mark(self._host.now())

    def have(self, mark: Mark) -> bool:
        """Whether every replica has the forwarded messages behind a mark; see ``ProducerCore.have``."""
        return self.core.have(mark, self._host.now())

    def drop_unsent_fenced(self) -> None:
        """The right to write is lost: all unsent and unacked fenced messages are gone when this returns."""
        self._host.drop_unsent_fenced()

    def _tell(self) -> None:
        while self.core.events:
            event = self.core.events.popleft()
            if isinstance(event, Awaited):
                if self.on_awaited is not None:
                    self.on_awaited(event)
            elif isinstance(event, Secured):
                if self._on_secured is not None:
                    self._on_secured(event)
            elif self.on_done is not None:
                self.on_done(event)
        if self._rests and not self._at_rest:
            self._rests = False
            self._produced.set()
        self._progress.set()

    # --- time and figures ---

    async def _ticks(self) -> None:
        report_ns = self._host.now().steady_ns
        while True:
            await self._pause()
            now = self._host.now()
            if self.core.holds_fenced and not self._host.may_write():
                self.drop_unsent_fenced()
            self.core.tick(now)
            self._scanned(self._host.now().steady_ns - now.steady_ns)
            for connection, _ in self._host.connections.values():
                connection.tick(now)
            self._host.changed()
            if now.steady_ns - report_ns >= _REPORT_S * 1e9:
                report_ns = now.steady_ns
                self._report()
                self._rests = self._at_rest

    def _scanned(self, took_ns: int) -> None:
        """A tick looks through all that is queued, as M3's scans of its buffer and of its queues do."""
        self._scope.record("buffer-scan-batch", took_ns / 1e9)
        for service, writer in self.core.services.items():
            self._service_scope(service).record("scan-total-latency", writer.scan_ns / 1e9)

    async def _pause(self) -> None:
        """Until the next tick; where nothing is in hand, time alone changes little."""
        if self.core.pending or self.core.has_unsealed:
            await asyncio.sleep(_TICK_S)
            return
        self._produced.clear()
        await beat(self._produced, _REST_S if self._rests and self._at_rest else _REPORT_S)

    @property
    def _at_rest(self) -> bool:
        """Whether nothing changes by time alone."""
        core = self.core
        return not core.has_unsealed and all(lane.reachable and not lane.pending for lane in core.lanes())

    def _service_scope(self, service: ServiceID, tag: str = "") -> Scope:
        key = (str(service), tag)
        scope = self._scopes.get(key)
        if scope is None:
            tags = {
                "consumer-service-name": service.name,
                "consumer-service-zone": service.zone,
                "consumer-service-env": service.environment,
            }
            name, _, value = tag.partition("=")
            scope = self._scope.tagged(**tags, **({name: value} if tag else {}))
            self._scopes[key] = scope
        return scope

    def _report(self) -> None:
        """Moves the figures of the core into the registry, under M3's names (docs/m3/m3msg.md, metric names)."""
        for (name, tag), n in self.core.figures.items():
            key, _, value = tag.partition("=")
            (self._scope.tagged(**{key: value}) if tag else self._scope).count(name, n)
        self.core.figures.clear()
        held = pending = 0
        for service, writer in self.core.services.items():
            for (name, tag), n in writer.figures.items():
                self._service_scope(service, tag).count(name, n)
            writer.figures.clear()
            lanes, scope = writer.all_lanes(), self._service_scope(service)
            for waited_ms, messages in writer.waits.acked.items():
                scope.record("message-consume-latency", waited_ms / 1e3, messages)
            for waited_ms, messages in writer.waits.written.items():
                scope.observe("message-write-delay", waited_ms / 1e3, messages)
            writer.waits.acked.clear()
            writer.waits.written.clear()
            waiting = sum(lane.pending for lane in lanes)
            scope.gauge("queue-size", waiting)
            scope.gauge("queue-age-seconds", max((self._age_s(lane) for lane in lanes), default=0.0))
            pending += waiting
            held += sum(sum(lane.held) for lane in lanes)
        self._scope.gauge("message-buffered", pending)
        self._scope.gauge("byte-buffered", held)

    def _age_s(self, lane: Lane) -> float:
        """How old the oldest message of a queue is; 0 without one."""
        return 0.0 if lane.oldest is None else (self._host.now().steady_ns - lane.oldest.block.created_ns) / 1e9

    def problems(self) -> list[str]:
        """What is wrong with the set-up, and what to do about it."""
        return self._set_up.problems()

    def status(self) -> ProducerStatus:
        """For ``/status`` and ``/ready``."""
        return ProducerStatus(
            self._options.writer.topic_name,
            self.core.num_shards,
            self.problems(),
            [service_status(writer) for writer in self.core.services.values()],
        )

    def overtaken(self) -> list[Overtaken]:
        """What consumer instances leave unacked, though they ack what was sent after it."""
        return [
            aside for writer in self.core.services.values() for aside in overtaken(writer, self.core.policies.names)
        ]

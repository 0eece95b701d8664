"""The loop of the front process: sockets of producers on one side, workers and supervisor over ZeroMQ on the other.

One turn: wait for descriptors; commands of the supervisor; acks of the workers; one read from each connection that has data; then cut
batches, write acks, report. Connections that were hung up are read to their ends before all others: what comes again over a new one is
known as such only then. ZeroMQ descriptors signal edges, so each of its sockets is read until it is empty whenever it is looked
at, and the supervisor's, on which we also send, is asked once more before the loop waits again.

While rounds of reading bring little, the next one waits, and messages share it with others: for ``read_interval_ns`` at least, and for
``steady_interval_ns`` on the average of ``_BURST_ROUNDS`` of them. So what comes now and then is read at once, and a trickle that lasts
costs no more than its rounds, in however many writes it comes.

A round that brought much is followed by the next one at once, where sockets have more than is read of them or much more is about to come.
Elsewhere that one would bring next to nothing: it is made when so much has come as is worth a turn and a batch (``_GATHERED_BYTES``), by
how fast it has come of late (``_RATE_NS``; a single round says nothing, as senders do not send evenly). Where that would take longer than
``_LONGEST_GATHER_NS`` the next one is made as soon as something has come: rounds are full then because senders send so much at once.
"""

import os
import secrets
import select
import signal
from collections.abc import Container
from types import FrameType

import zmq

from aggregator import ipc
from aggregator.front import figures as names
from aggregator.front import kernels, links, records
from aggregator.front.clients import Clients
from aggregator.front.figures import Figures
from aggregator.front.flow import Batch, Flow, WorkerStream
from aggregator.front.intake import Intake
from aggregator.front.options import FrontOptions
from m3x import log, process
from m3x.beats import next_beat_ns
from m3x.clock import boot_ns, monotonic_ns, wall_ns

_log = log.logger(__name__)

_IDLE_NS = 150_000_000
_LOOK_NS = 5_000_000
"""While connections wait for others to become quiet."""
_SWEEP_NS = 250_000_000
_STATS_NS = 1_000_000_000
"""On the beats of the supervisor (``m3x.beats``)."""
_CONNECTIONS_PER_ROUND = 256
_LONG_PAUSE_NS = 200_000_000
"""If nothing was read for longer than this, what is read next may have waited as long; a loop that is idle looks more often."""
_FULL_ROUND_BYTES = 65536
"""A round that brings this much is followed by the next one at once."""
_SMALL_ROUND_BYTES = 49152
"""One that brings more than this waits for less than ``steady_interval_ns``."""
_BURST_ROUNDS = 10
_GATHERED_BYTES = 393216
"""A round that brought much, and left nothing behind, is followed by one that most likely brings so much, unless that is soon, …"""
_LONGEST_GATHER_NS = 10_000_000
"""… or takes longer than this."""
_RATE_NS = 50_000_000
"""Over so long it is seen how fast something comes."""
_FAREWELL_MS = 1000
_REFUSE_NS = 1_000_000_000
"""For so long after it was stopped a front takes no flushes that emit: the supervisor has to know first."""


class Stops:
    """When this process was stopped, for longer than ``longest_ns``; ``look`` is called in every turn."""

    def __init__(self, longest_ns: int) -> None:
        self._longest_ns = longest_ns
        self._turned_ns = boot_ns()
        self._refuse_until_ns = 0

    def look(self) -> float:
        """For how many seconds it has just been stopped; 0: it was not."""
        before_ns, self._turned_ns = self._turned_ns, boot_ns()
        if self._turned_ns - before_ns <= self._longest_ns:
            return 0.0
        self._refuse_until_ns = self._turned_ns + _REFUSE_NS
        return (self._turned_ns - before_ns) / 1e9

    def refuses(self, command: ipc.Command) -> bool:
        """Whether a window would be emitted before what lay about meanwhile is read; the supervisor decides anew."""
        emits = isinstance(command, ipc.Reopen) or (isinstance(command, ipc.Flush) and command.emit)
        return emits and self._turned_ns < self._refuse_until_ns


class Reading:
    """When connections are read: ``readers``, an epoll set, is looked at in ``poll``, or a round is made when a pause is over."""

    def __init__(self, poll: select.epoll, readers: select.epoll, interval_ns: int, steady_ns: int) -> None:
        self._poll = poll
        self._fd = readers.fileno()
        self._interval_ns = interval_ns
        self._steady_ns = steady_ns
        self._wanted = False
        self._on = False
        self._pausing = False
        """After a round that brought little: the next one is made at ``_next_ns``, whether or not something is there then."""
        self._next_ns = 0
        self._paid_ns = 0
        """When all rounds so far would have ended at the steady pace (monotonic)."""
        self._seen_ns = 0
        self._seen_bytes = 0
        """What has come since then."""
        self._batch_ns = 0
        """In how long as much came as is worth a batch."""
        self.loaded = False
        """Whether the last round brought much, and is not followed by a pause."""
        poll.register(self._fd, 0)

    @property
    def on(self) -> bool:
        """Whether connections were looked at when the loop waited last."""
        return self._on

    @property
    def next_ns(self) -> int:
        """When a round is to be made, whatever the descriptors say (monotonic); 0: they say it."""
        return self._next_ns if self._pausing and self._wanted else 0

    def due(self, ready: Container[int], mono: int) -> bool:
        """Whether a round is to be made, by the descriptors that have something and the time."""
        return 0 < self.next_ns <= mono if self._pausing else self._fd in ready

    def round_ended(self, nbytes: int, mono: int, *, emptied: bool = False) -> None:
        """A round has brought so much; ``emptied``: nothing was left behind."""
        self._seen_bytes += nbytes
        if mono - self._seen_ns >= _RATE_NS:
            self._batch_ns = (mono - self._seen_ns) * _GATHERED_BYTES // max(self._seen_bytes, 1)
            self._seen_ns, self._seen_bytes = mono, 0
        full = nbytes >= _FULL_ROUND_BYTES
        gathers = full and emptied and self._interval_ns < self._batch_ns <= _LONGEST_GATHER_NS
        self.loaded = full and not gathers
        self._pausing = gathers or 0 < nbytes < _FULL_ROUND_BYTES
        if gathers:
            self._paid_ns, self._next_ns = 0, mono + self._batch_ns
        elif self._pausing:
            price_ns = self._steady_ns * _SMALL_ROUND_BYTES // max(nbytes, _SMALL_ROUND_BYTES)
            self._paid_ns = max(self._paid_ns, mono - _BURST_ROUNDS * self._steady_ns) + price_ns
            self._next_ns = max(mono + self._interval_ns, self._paid_ns)
        elif self.loaded:
            # No trickle: the small rounds between full ones must not make their messages wait.
            self._paid_ns = 0

    def allow(self, wanted: bool) -> None:
        """Whether there may be rounds from now on."""
        self._wanted = wanted
        on = wanted and not self._pausing
        if on != self._on:
            self._on = on
            self._poll.modify(self._fd, select.EPOLLIN if on else 0)


class Front:
    """State and loop of a front process."""

    def __init__(self, options: FrontOptions) -> None:
        self._options = options
        self._context: zmq.Context[zmq.Socket[bytes]] = links.context()
        self._supervisor = links.SupervisorLink(self._context, options.run_dir, options.epoch)
        self._figures = Figures()
        self._cpu = process.CpuShare()
        self._flow = Flow(options.credit_of_worker, options.waiting_bytes, options.stall_ns, secrets.randbits(62))
        self._clients = Clients(options, self._figures)
        self._intake = Intake(options, self._flow, self._clients, self._figures, self.stamp)
        self._links: dict[int, links.WorkerLink] = {}
        self._stamp_ns = 0
        self._routed = False
        self._listening = False
        self._newcomers = False
        """Whether connections wait for others to become quiet."""
        self._looked_ns = monotonic_ns()
        """When it was last looked who can be read."""
        self._sweep_at_ns = 0
        self._stats_at_ns = 0
        self._drain_until_ns = 0
        self._drained = False
        self._stops = Stops(options.stopped_ns)
        self._poll = select.epoll()
        self._poll.register(self._supervisor.fd, select.EPOLLIN)
        self._reading = Reading(self._poll, self._clients.readers, options.read_interval_ns, options.steady_interval_ns)
        self._poll.register(self._clients.writers.fileno(), select.EPOLLIN)

    def stamp(self) -> int:
        """The wall clock, made non-decreasing."""
        self._stamp_ns = max(self._stamp_ns, wall_ns())
        return self._stamp_ns

    def run(self) -> int:
        """Turns until drained; returns the exit code."""
        signal.signal(signal.SIGTERM, self._on_terminate)
        # Ctrl-C reaches the whole process group; the supervisor decides what it means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while not self._drained:
            self._turn()
        self._end()
        return 0

    def _on_terminate(self, _number: int, _frame: FrameType | None) -> None:
        self._drain(self._options.drain_timeout_ns)

    # --- the loop

    def _turn(self) -> None:
        ready = dict(self._poll.poll(self._timeout_ns(monotonic_ns()) / 1e9))
        mono = monotonic_ns()
        self._look_for_stall()
        if self._supervisor.stirred or self._supervisor.fd in ready:
            for message in self._supervisor.receive():
                self._command(message, mono)
        if ready:
            self._work_off(ready, mono)
        self._newcomers = self._clients.admit(mono)
        due = self._reading.due(ready, mono)
        if due or self._reading.on:
            if mono - self._looked_ns > _LONG_PAUSE_NS:
                self._clients.fell_behind(self._looked_ns)
            self._looked_ns = mono
        if due:
            self._read_round(mono)
        self._flow.step(mono)
        self._intake.cut_due(mono, self._reading.loaded)
        self._clients.flush(mono)
        self._reading.allow(not self._flow.paused() and not self._drain_until_ns)
        if mono >= self._sweep_at_ns:
            self._sweep_at_ns = mono + _SWEEP_NS
            self._clients.sweep(mono)
            self._settle(mono)
            for door in self._clients.doors if self._listening else ():
                self._poll.modify(door.fd, select.EPOLLIN)
        if mono >= self._stats_at_ns:
            self._stats_at_ns = next_beat_ns(mono, _STATS_NS)
            self._report()
        self._supervisor.flush()
        if self._drain_until_ns:
            self._check_drained(mono)

    def _work_off(self, ready: Container[int], mono: int) -> None:
        """What descriptors tell, but for the supervisor's commands and what there is to read."""
        for worker, link in list(self._links.items()):
            if link.data_fd in ready:
                link.settle()
            if link.acks_fd in ready:
                self._take_acks(self._flow.streams[worker], link, mono)
        for door in self._clients.doors if self._listening else ():
            if door.fd in ready and not self._clients.accept(door):
                self._poll.modify(door.fd, 0)
        if self._clients.writers.fileno() in ready:
            self._clients.writable(mono)

    def _look_for_stall(self) -> None:
        """Says before anything else is done that this process was stopped: what is read from here on lay about."""
        if (seconds := self._stops.look()) > 0:
            _log.warning("this process did not run for a while; samples of that time are stamped late", seconds=seconds)
            self._supervisor.send(ipc.Stalled(seconds))

    def _timeout_ns(self, mono: int) -> int:
        if self._supervisor.stirred and self._supervisor.readable():
            return 0
        until = min(mono + _IDLE_NS, self._stats_at_ns)
        if self._intake.staged():
            until = min(until, mono + self._options.batch_delay_ns)
        if self._reading.next_ns:
            until = min(until, self._reading.next_ns)
        if self._newcomers:
            until = min(until, mono + _LOOK_NS)
        flush_due = self._clients.flush_due_ns()
        if flush_due is not None:
            until = min(until, flush_due)
        return max(until - mono, 0)

    def _read_round(self, mono: int) -> None:
        now = self.stamp()
        filled = self._intake.filled_reads
        total = self._read_ends(now, mono)
        self._tell_cut(mono)
        emptied = False
        if not self._flow.paused():
            readable = self._clients.readable(_CONNECTIONS_PER_ROUND)
            for connection in readable:
                if connection.reading:
                    total += self._intake.read(connection, now, mono)
                if self._flow.paused():
                    break
            else:
                # Where as many were readable as are asked for there may be others.
                emptied = len(readable) < _CONNECTIONS_PER_ROUND and self._intake.filled_reads == filled
        self._reading.round_ended(total, mono, emptied=emptied)

    def _read_ends(self, now: int, mono: int) -> int:
        """Reads to their ends what was hung up; returns the number of bytes."""
        total = 0
        for connection in self._clients.hung_up():
            while not (connection.finish_at_ns or self._flow.paused()):
                if (nbytes := self._intake.read(connection, now, mono)) <= 0:
                    break
                total += nbytes
        return total

    def _take_acks(self, stream: WorkerStream, link: links.WorkerLink, mono: int) -> None:
        for acked in link.acks():
            batch = stream.acked(acked.seq, mono)
            if batch is None:
                continue
            self._intake.pool.give(batch.buffer)
            if len(acked.sizes) != len(batch.connections) or sum(acked.sizes) != len(acked.frames):
                _log.error_limited("acks do not fit their batch; dropped", worker=stream.worker, seq=acked.seq)
                self._release(batch)
                continue
            at = 0
            for number, size, count in zip(batch.connections, acked.sizes, batch.counts, strict=True):
                connection = self._clients.get(number)
                if connection is None:
                    self._figures.counters[names.ACK_UNDELIVERED] += count
                else:
                    if size:
                        self._clients.ack(connection, acked.frames[at : at + size], mono)
                    if not connection.door.raw:
                        self._figures.counters[names.ACK_SENT] += count
                    self._clients.release(number)
                at += size

    def _settle(self, mono: int) -> None:
        """Sees what producers have got of their acks."""
        self._clients.look(mono)
        self._tell_cut(mono)
        for stream in self._flow.streams:
            stream.settle(self._clients.delivered)

    def _tell_cut(self, mono: int) -> None:
        """Tells the workers who may lack acks, behind all that they have sent."""
        if cut := self._clients.take_cut():
            for stream in self._flow.streams:
                self._intake.cut(stream.worker, mono)
                stream.cut(cut)

    def _release(self, batch: Batch) -> None:
        for number in batch.connections:
            self._clients.release(number)

    # --- the supervisor's commands

    def _command(self, message: ipc.ToFront, mono: int) -> None:
        match message:
            case ipc.Relay():
                if self._stops.refuses(message.command):
                    self._stale(message.worker, message.epoch, message.command)
                    return
                self._intake.cut(message.worker, mono)
                stream = self._flow.stream(message.worker)
                if not stream.order(message.command, message.epoch, self.stamp(), mono):
                    self._stale(message.worker, message.epoch, message.command)
            case ipc.WorkerUp():
                self._worker_up(message, mono)
            case ipc.WorkerDown():
                if self._flow.stream(message.worker).epoch == message.epoch:
                    self._detach(message.worker, mono)
            case ipc.Route():
                self._intake.route(message.owners, mono)
                self._routed = True
                self._listen()
            case ipc.Drain():
                self._drain(message.timeout_ns)

    def _worker_up(self, message: ipc.WorkerUp, mono: int) -> None:
        stream = self._flow.stream(message.worker)
        if message.epoch <= stream.epoch:
            return
        self._detach(message.worker, mono)
        options = self._options
        link = links.WorkerLink(self._context, options.run_dir, message.worker, options.epoch, message.epoch)
        for fd in (link.data_fd, link.acks_fd):
            self._poll.register(fd, select.EPOLLIN)
        self._links[message.worker] = link
        stream.attach(link, message.epoch)
        self._listen()

    def _detach(self, worker: int, mono: int) -> None:
        link = self._links.pop(worker, None)
        if link is None:
            return
        self._take_acks(self._flow.streams[worker], link, mono)
        for fd in (link.data_fd, link.acks_fd):
            self._poll.unregister(fd)
        stream = self._flow.streams[worker]
        dropped = stream.detach()
        for batch in dropped.batches:
            # Its buffer is not used again: ZeroMQ may still be reading it.
            self._figures.counters[f"{names.DROPPED_UNACKED}{{worker={worker}}}"] += sum(batch.counts)
            self._release(batch)
        for command in dropped.commands:
            self._stale(worker, stream.epoch, command)

    def _stale(self, worker: int, epoch: int, command: ipc.Command) -> None:
        self._figures.counters[names.STALE_COMMANDS] += 1
        self._supervisor.send(ipc.Stale(worker, epoch, command))

    def _listen(self) -> None:
        if self._listening or not self._routed or not self._links or self._drain_until_ns:
            return
        addresses = {door.protocol: door.open() for door in self._clients.doors}
        self._listening = True
        for door in self._clients.doors:
            self._poll.register(door.fd, select.EPOLLIN if self._clients.accept(door) else 0)
        self._supervisor.send(ipc.Listening(next(iter(addresses.values())), os.getpid()))
        _log.info("listening", **addresses)

    def _report(self) -> None:
        counters, gauges = self._figures.counters, self._figures.gauges
        for worker, count in enumerate(self._intake.discarded()):
            counters[f"front.discarded-unacked{{worker={worker}}}"] = count
        for stream in self._flow.streams:
            gauges[f"front.unacked-bytes{{worker={stream.worker}}}"] = stream.unacked_bytes
            gauges[f"front.waiting-bytes{{worker={stream.worker}}}"] = stream.waiting_bytes
            gauges[f"front.lagging{{worker={stream.worker}}}"] = float(stream.lagging)
            counters[f"front.batches-acked{{worker={stream.worker}}}"] = stream.acked_batches
        gauges["front.paused"] = float(self._flow.paused())
        gauges["front.cpu-share"] = self._cpu.since_last()
        gauges["front.resident-bytes"] = process.resident_bytes()
        for door in self._clients.doors:
            gauges[names.open_connections(door.protocol)] = self._clients.count_of(door)
        peers = self._clients.peers()
        self._supervisor.send(ipc.FrontStats(dict(counters), dict(gauges), peers, self._through_ns()))

    def _through_ns(self) -> int:
        """What was read before is acked by the workers."""
        oldest = [stream.oldest_ns for stream in self._flow.streams] + [self._intake.oldest_ns()]
        return min((stamp for stamp in oldest if stamp is not None), default=self.stamp())

    # --- the end

    def _drain(self, timeout_ns: int) -> None:
        if not self._drain_until_ns:
            _log.info("draining", connections=self._clients.count)
            self._drain_until_ns = monotonic_ns() + max(timeout_ns, 1)

    def _check_drained(self, mono: int) -> None:
        if self._listening:
            for door in self._clients.doors:
                self._poll.unregister(door.fd)
            self._clients.stop_listening()
            self._listening = False
        for worker in range(len(self._flow.streams)):
            self._intake.cut(worker, mono)
        self._clients.flush(mono, now=True)
        served = all(stream.idle for stream in self._flow.streams if stream.attached)
        self._drained = mono >= self._drain_until_ns or (served and not self._clients.unwritten)

    def _end(self) -> None:
        left = sum(stream.inflight for stream in self._flow.streams)
        for worker, link in self._links.items():
            stream = self._flow.streams[worker]
            link.linger_ms = _FAREWELL_MS
            stream.goodbye()
            for command in stream.detach().commands:
                self._stale(worker, stream.epoch, command)
        self._clients.close_all()
        self._report()
        self._supervisor.close(_FAREWELL_MS)
        self._poll.close()
        self._context.term()
        _log.info("drained", unacked_batches=left)


def run(options: FrontOptions) -> int:
    """Runs a front process until it is drained; returns its exit code."""
    process.die_with_parent(options.parent_pid)
    log.configure(options.log_level, process="front")
    try:
        kernels.warm()
        records.warm()
        return Front(options).run()
    except Exception as error:
        _log.error("the front failed", exception=error)
        return 1

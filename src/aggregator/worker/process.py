"""The loop of a worker process: a thin shell around the engine.

Everything that changes samples comes in one ordered stream from the front and is handled in that order: batches are applied, journaled and
acked, commands take effect in their place. A flush starts in its place; its output is made part by part in between, never holding up
the data. Time comes with the stream; the worker asks the wall clock only how long something took.

It waits for the descriptors of its two sockets, for as long as nothing is due. ZeroMQ's signal edges, and sending may swallow one: a socket
that has been used is asked once more before the loop waits (``stirred``).
"""

import os
import select
import signal
from collections import deque
from collections.abc import Container
from types import FrameType

import numpy as np
import zmq
from numpy.typing import NDArray

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.engine.reasons import CATEGORIES
from aggregator.journal import carry_out
from aggregator.lists import KINDS
from aggregator.worker.acks import acks_of
from aggregator.worker.durable import Durable, Stopped
from aggregator.worker.flushes import Flushes
from aggregator.worker.links import Context, FrontLink, SupervisorLink
from aggregator.worker.options import WorkerOptions
from m3x import log, process
from m3x.beats import next_beat_ns
from m3x.clock import monotonic_ns, wall_ns
from m3x.instrument import Registry

_log = log.logger(__name__)

_OWING_S = 0.002
"""While acks wait for the disk."""
_LEAVING_S = 0.2
"""While the last flushes wait for credit."""
_STATS_NS = 1_000_000_000
"""On the beats of the supervisor (``m3x.beats``)."""
_MESSAGES_PER_TURN = 16
_FAREWELL_MS = 2000
_REMEMBERED_COMMANDS = 4096
_LATENCIES = tuple(f"{category}.success-latency" for category in CATEGORIES)


class Worker:
    """State and loop of a worker process."""

    def __init__(self, options: WorkerOptions, engine: Engine) -> None:
        self._options = options
        self._engine = engine
        self._context: Context = zmq.Context(io_threads=1)
        self._supervisor = SupervisorLink(self._context, options)
        self._poll = select.epoll()
        self._poll.register(self._supervisor.fd, select.EPOLLIN)
        self._reads = False
        """Whether the front's stream is waited for."""
        self._front_epoch = options.front_epoch
        self._front: FrontLink
        """There is none before the journal is replayed: until then samples wait in the front."""
        self._begun = False
        self._durable = Durable(options.journal, engine, self._supervisor.send, self._is_stopped)
        self._flushes = Flushes(options.output_window_bytes)
        self._taken: deque[int] = deque(maxlen=_REMEMBERED_COMMANDS)
        """Ids of commands that were carried out; after the end of a front they may come a second time."""
        self._now_ns = 0
        """Stamp of the newest message; never decreases, over fronts as well."""
        self._has_shards = False
        self._stop = False
        self._goodbye_until_ns = 0
        self._stats_at_ns = 0
        self._figures = Registry()
        self._durations = self._figures.scope()
        self._cpu = process.CpuShare()
        self._batches = 0
        self._messages = 0

    def run(self) -> int:
        """Turns until stopped; returns the exit code."""
        signal.signal(signal.SIGTERM, self._on_terminate)
        # Ctrl-C reaches the whole process group; the supervisor decides what it means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._begin()
        except Stopped:
            self._end()
            return 0
        while not self._stop:
            self._turn()
        self._front.close(_FAREWELL_MS)
        self._end()
        return 0

    def _begin(self) -> None:
        """Takes over what the journal says, then connects to the front."""
        replay, problem = self._durable.begin()
        self._now_ns = replay.now_ns
        self._connect()
        self._begun = True
        lists, lost = self._engine.new_lists(), replay.lost + replay.unknown
        late = self._engine.late_values()
        through_ns = 0 if problem else replay.through_ns
        self._supervisor.send(
            ipc.Ready(self._options.index, os.getpid(), lists, replay.samples, lost, problem, through_ns, late)
        )

    def _connect(self) -> None:
        """To the front of ``_front_epoch``."""
        self._front = FrontLink(self._context, self._options, self._front_epoch)
        self._poll.register(self._front.fd, select.EPOLLIN)
        self._reads = True

    def _end(self) -> None:
        self._durable.close()
        self._poll.close()
        self._supervisor.close(_FAREWELL_MS)
        self._context.term()

    def _is_stopped(self) -> bool:
        """Hears the supervisor while the journal is replayed."""
        while (direct := self._supervisor.receive()) is not None:
            self._direct(direct)
        return self._stop

    def _on_terminate(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = self._stop or os.getppid() != self._options.parent_pid

    def _turn(self) -> None:
        ready = self._wait()
        if self._supervisor.stirred or self._supervisor.fd in ready:
            while (direct := self._supervisor.receive()) is not None:
                self._direct(direct)
        self._durable.step()
        if self._front.stirred or self._front.fd in ready:
            for _ in range(1 if self._flushes.ready else _MESSAGES_PER_TURN):
                message = None if self._stop or self._durable.blocked else self._front.receive()
                if message is None:
                    break
                self._handle(*message)
        if self._flushes.ready:
            header, part = self._flushes.take()
            self._supervisor.send(header, None if part is None else part.batch)
        self._pass_on()
        self._front.flush()
        self._supervisor.flush()
        mono = monotonic_ns()
        if mono >= self._stats_at_ns:
            self._stats_at_ns = next_beat_ns(mono, _STATS_NS)
            self._report()
        if self._goodbye_until_ns:
            waiting = self._flushes or self._engine.passes_on or self._front.unsent or self._supervisor.unsent
            answered = not (waiting or self._durable.owes)
            self._stop = self._stop or answered or mono >= self._goodbye_until_ns

    def _wait(self) -> Container[int]:
        """Returns when a message has arrived, or something is to be done anyway: the descriptors that say so."""
        reads = not self._durable.blocked
        if reads != self._reads:
            self._reads = reads
            self._poll.modify(self._front.fd, select.EPOLLIN if reads else 0)
        if self._flushes.ready or self._supervisor.stirred or (reads and self._front.stirred):
            wait_s = 0.0
        elif self._durable.owes:
            wait_s = _OWING_S
        else:
            until_s = max(self._stats_at_ns - monotonic_ns(), 0) / 1e9
            wait_s = min(until_s, _LEAVING_S) if self._goodbye_until_ns else until_s
        return dict(self._poll.poll(wait_s))

    # --- the ordered stream

    def _handle(self, message: ipc.ToWorker, payload: NDArray[np.uint8]) -> None:
        match message:
            case ipc.Batch():
                self._now_ns = max(self._now_ns, message.now_ns)
                self._apply(message, payload)
            case ipc.Order():
                self._now_ns = max(self._now_ns, message.now_ns)
                self._command(message.command)
            case ipc.Cut():
                self._durable.expect(self._now_ns, message.connections)
            case ipc.Goodbye():
                self._goodbye_until_ns = monotonic_ns() + self._options.goodbye_timeout_ns

    def _apply(self, batch: ipc.Batch, payload: NDArray[np.uint8]) -> None:
        sizes = np.array(batch.sizes, np.int64)
        if self._durable.has(batch):
            acks, ack_sizes = acks_of(payload, sizes)
            self._front.ack(ipc.Acked(batch.seq, len(payload), ack_sizes.tolist(), acks.data))
            return
        again = self._durable.look_for_late(batch, self._now_ns)
        before = self._engine.successes()
        result = self._engine.ingest(
            payload, sizes, self._now_ns, hosts=batch.hosts, connections=batch.connections, journaled=self._durable.on,
            again=again, comes_again=lambda connection: self._durable.comes_again(connection, batch.seq, self._now_ns),
        )  # fmt: skip
        self._batches += 1
        self._messages += result.messages
        front = self._front
        taken = [after - n for after, n in zip(self._engine.successes(), before, strict=True)]

        def ack() -> None:
            self._took(taken, batch.now_ns)
            front.ack(ipc.Acked(batch.seq, len(payload), result.ack_sizes.tolist(), result.acks.data))

        self._durable.batch(batch, self._now_ns, result.rows, ack, expected=result.expected)
        lists = self._engine.new_lists()
        if lists:
            self._supervisor.send(ipc.Lists(lists))
        self._log_errors()

    def _took(self, taken: list[int], now_ns: int) -> None:
        """So many metrics of each category are applied, and written if there is a journal, which were read at ``now_ns``."""
        seconds = max(wall_ns() - now_ns, 0) / 1e9
        for name, number in zip(_LATENCIES, taken, strict=False):
            if number:
                self._durations.record(name, seconds, number)

    def _command(self, command: ipc.Command) -> None:
        match command:
            case ipc.Flush() | ipc.Reopen() if command.id in self._taken:
                _log.info_limited("command came again, already carried out", id=command.id)
            case ipc.Flush() if reason := self._reason_against(command):
                _log.warning_limited("flush refused", reason=reason, id=command.id)
                self._supervisor.send(ipc.Refused(command.id, reason))
            case _:
                self._durable.order(self._now_ns, command, lambda: self._carry_out(command))

    def _carry_out(self, command: ipc.Command) -> None:
        match command:
            case ipc.Flush():
                self._taken.append(command.id)
                self._flushes.start(command, self._engine.flush(command, self._now_ns))
            case ipc.Reopen():
                self._taken.append(command.id)
                # It begins a term: flushes of an earlier one would put out what the flush after it has to.
                self._flushes.give_up(command.list_id)
                self._engine.reopen(command)
            case ipc.Shards():
                self._engine.set_shards(command, self._now_ns)
                self._has_shards = True
            case _:
                begun_ns = monotonic_ns()
                carry_out(self._engine, command, self._now_ns)
                if isinstance(command, ipc.Expire):
                    self._durations.record("tick.duration", (monotonic_ns() - begun_ns) / 1e9)

    def _reason_against(self, command: ipc.Flush) -> str:
        """Why a flush cannot be done; empty: it can."""
        if not self._has_shards:
            return "this worker has not been told its shards"
        if command.list_id.kind not in KINDS:
            return f"unknown list kind {command.list_id.kind}; expected one of {KINDS}"
        return f"{len(self._flushes)} flushes wait for output credit" if self._flushes.full else ""

    def _pass_on(self) -> None:
        """Gives the supervisor the passthrough metrics that wait, if it takes more output."""
        if self._flushes.final_credit_bytes > 0 and (batch := self._engine.take_passthrough()) is not None:
            self._flushes.credit(-batch.size_bytes, forwarded=False)
            self._supervisor.send(ipc.Passed(len(batch), list(batch.policy_names)), batch)

    # --- the supervisor's own messages

    def _direct(self, message: ipc.ToWorkerDirect) -> None:
        match message:
            case ipc.OutputCredit():
                self._flushes.credit(message.nbytes, forwarded=message.forwarded)
            case ipc.Stop():
                self._stop = True
            case ipc.Attach():
                self._front_epoch = message.front_epoch
                if self._begun:
                    self._poll.unregister(self._front.fd)
                    self._front.close(0)
                    self._connect()
                    self._durable.expect(self._now_ns)
                    self._durable.new_connections()
                    _log.info("attached to a new front", front_epoch=message.front_epoch)

    def _log_errors(self) -> None:
        errors = self._engine.recent_errors
        if errors:
            for reason, text in errors:
                _log.warning_limited(f"sample refused: {reason}", detail=text)
            errors.clear()

    def _report(self) -> None:
        if self._supervisor.unsent:
            return
        counters, gauges, shards = self._engine.stats()
        snapshots, pause_s = self._durable.snapshots
        more = {"worker.batches": self._batches, "worker.messages": self._messages, "worker.snapshots": snapshots}
        counters = {**counters, **more}
        tag = f"{{worker={self._options.index}}}"
        gauges = {
            **gauges,
            f"worker.memory-bytes{tag}": float(self._engine.memory_bytes()),
            f"worker.resident-bytes{tag}": float(process.resident_bytes()),
            f"worker.cpu-share{tag}": self._cpu.since_last(),
            f"worker.flushes-running{tag}": float(len(self._flushes)),
            f"worker.log-lines-left-out{tag}": float(log.left_out()),
            f"worker.journal-bytes{tag}": float(self._durable.size_bytes),
            f"worker.snapshot-pause-seconds{tag}": pause_s,
            f"worker.output-credit-bytes{{output=final,{tag[1:]}": float(self._flushes.final_credit_bytes),
            f"worker.output-credit-bytes{{output=forwarded,{tag[1:]}": float(self._flushes.forwarded_credit_bytes),
        }
        late, growth, durations = self._engine.late_values(), self._engine.growth(), self._figures.report().histograms
        trouble, traffic = self._durable.trouble, self._engine.traffic()
        self._supervisor.send(ipc.WorkerStats(counters, gauges, shards, trouble, late, growth, durations, traffic))


def run(options: WorkerOptions, engine: Engine) -> int:
    """Runs a worker process until it is stopped; returns its exit code. An unexpected error is logged and ends it with 1."""
    try:
        return Worker(options, engine).run()
    except Exception as error:
        _log.error("the worker failed", exception=error)
        return 1

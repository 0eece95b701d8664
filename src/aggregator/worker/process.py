"""The loop of a worker process: a thin shell around the engine.

Everything that changes samples comes in one ordered stream from the front and is handled in that order: batches are applied and
acked, commands take effect in their place. A flush starts in its place; its output is made part by part in between, never holding up
the data. Time comes with the stream; the worker asks no wall clock.
"""

import os
import signal
from collections import deque
from types import FrameType

import numpy as np
import zmq
from numpy.typing import NDArray

from aggregator import ipc
from aggregator.engine import Engine, IngestResult
from aggregator.lists import KINDS
from aggregator.worker.flushes import Flushes
from aggregator.worker.links import Context, FrontLink, SupervisorLink
from aggregator.worker.options import WorkerOptions
from m3x import log, process
from m3x.clock import monotonic_ns

_log = log.logger(__name__)

_IDLE_MS = 200
_STATS_NS = 1_000_000_000
_MESSAGES_PER_TURN = 16
_FAREWELL_MS = 2000
_REMEMBERED_COMMANDS = 4096


class Worker:
    """State and loop of a worker process."""

    def __init__(self, options: WorkerOptions, engine: Engine) -> None:
        self._options = options
        self._engine = engine
        self._context: Context = zmq.Context(io_threads=1)
        self._supervisor = SupervisorLink(self._context, options)
        self._front = FrontLink(self._context, options, options.front_epoch)
        self._flushes = Flushes(options.output_window_bytes)
        self._taken: deque[int] = deque(maxlen=_REMEMBERED_COMMANDS)
        """Ids of commands that were carried out; after the end of a front they may come a second time."""
        self._now_ns = 0
        """Stamp of the newest message; never decreases, over fronts as well."""
        self._has_shards = False
        self._stop = False
        self._goodbye_until_ns = 0
        self._stats_at_ns = 0
        self._batches = 0
        self._messages = 0

    def run(self) -> int:
        """Turns until stopped; returns the exit code."""
        signal.signal(signal.SIGTERM, self._on_terminate)
        # Ctrl-C reaches the whole process group; the supervisor decides what it means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._supervisor.send(ipc.Ready(self._options.index, os.getpid()))
        while not self._stop:
            self._turn()
        self._front.close(_FAREWELL_MS)
        self._supervisor.close(_FAREWELL_MS)
        self._context.term()
        return 0

    def _on_terminate(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = self._stop or os.getppid() != self._options.parent_pid

    def _turn(self) -> None:
        self._wait()
        while (direct := self._supervisor.receive()) is not None:
            self._direct(direct)
        for _ in range(1 if self._flushes.ready else _MESSAGES_PER_TURN):
            message = None if self._stop else self._front.receive()
            if message is None:
                break
            self._handle(*message)
        if self._flushes.ready:
            header, part = self._flushes.take()
            self._supervisor.send(header, None if part is None else part.batch)
        self._front.flush()
        self._supervisor.flush()
        mono = monotonic_ns()
        if mono >= self._stats_at_ns:
            self._stats_at_ns = mono + _STATS_NS
            self._report()
        if self._goodbye_until_ns:
            answered = not self._flushes and not self._front.unsent and not self._supervisor.unsent
            self._stop = self._stop or answered or mono >= self._goodbye_until_ns

    def _wait(self) -> None:
        """Returns when a message has arrived, or something is to be done anyway."""
        poller = zmq.Poller()
        poller.register(self._supervisor.socket, zmq.POLLIN | (zmq.POLLOUT if self._supervisor.unsent else 0))
        poller.register(self._front.data, zmq.POLLIN)
        poller.poll(0 if self._flushes.ready else _IDLE_MS)

    # --- the ordered stream

    def _handle(self, message: ipc.ToWorker, payload: NDArray[np.uint8]) -> None:
        match message:
            case ipc.Batch():
                self._now_ns = max(self._now_ns, message.now_ns)
                self._apply(message, payload)
            case ipc.Order():
                self._now_ns = max(self._now_ns, message.now_ns)
                self._command(message.command)
            case ipc.Goodbye():
                self._goodbye_until_ns = monotonic_ns() + self._options.goodbye_timeout_ns

    def _apply(self, batch: ipc.Batch, payload: NDArray[np.uint8]) -> None:
        result = self._engine.ingest(payload, np.array(batch.sizes, np.int64), self._now_ns)
        self._batches += 1
        self._messages += result.messages
        self._make_durable(batch, payload)
        self._ack(batch, payload, result)
        lists = self._engine.new_lists()
        if lists:
            self._supervisor.send(ipc.Lists(lists))
        self._log_errors()

    def _make_durable(self, batch: ipc.Batch, payload: NDArray[np.uint8]) -> None:
        """Where an applied batch is journaled before it is acked. Until there is a journal, applied is enough."""

    def _ack(self, batch: ipc.Batch, payload: NDArray[np.uint8], result: IngestResult) -> None:
        self._front.ack(ipc.Acked(batch.seq, len(payload), result.ack_sizes.tolist()), result.acks)

    def _command(self, command: ipc.Command) -> None:
        match command:
            case ipc.Flush() | ipc.Reopen() if command.id in self._taken:
                _log.info_limited("command came again, already carried out", id=command.id)
            case ipc.Flush():
                self._flush(command)
            case ipc.Reopen():
                self._taken.append(command.id)
                # It begins a term: flushes of an earlier one would put out what the flush after it has to.
                self._flushes.give_up(command.list_id)
                self._engine.reopen(command)
            case ipc.Commit():
                self._engine.commit(command)
            case ipc.Shards():
                self._engine.set_shards(command, self._now_ns)
                self._has_shards = True
            case ipc.RuntimeOptions():
                self._engine.set_runtime(command)
            case ipc.Expire():
                self._engine.expire(self._now_ns)

    def _flush(self, command: ipc.Flush) -> None:
        if not self._has_shards:
            self._refuse(command, "this worker has not been told its shards")
        elif command.list_id.kind not in KINDS:
            self._refuse(command, f"unknown list kind {command.list_id.kind}; expected one of {KINDS}")
        elif self._flushes.full:
            self._refuse(command, f"{len(self._flushes)} flushes wait for output credit")
        else:
            self._taken.append(command.id)
            self._flushes.start(command, self._engine.flush(command, self._now_ns))

    def _refuse(self, command: ipc.Flush, reason: str) -> None:
        _log.warning_limited("flush refused", reason=reason, id=command.id)
        self._supervisor.send(ipc.Refused(command.id, reason))

    # --- the supervisor's own messages

    def _direct(self, message: ipc.ToWorkerDirect) -> None:
        match message:
            case ipc.OutputCredit():
                self._flushes.credit(message.nbytes, forwarded=message.forwarded)
            case ipc.Stop():
                self._stop = True
            case ipc.Attach():
                self._front.close(0)
                self._front = FrontLink(self._context, self._options, message.front_epoch)
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
        counters = {**counters, "worker.batches": self._batches, "worker.messages": self._messages}
        tag = f"{{worker={self._options.index}}}"
        gauges = {
            **gauges,
            f"worker.memory-bytes{tag}": float(self._engine.memory_bytes()),
            f"worker.resident-bytes{tag}": float(process.resident_bytes()),
            f"worker.flushes-running{tag}": float(len(self._flushes)),
            f"worker.output-credit-bytes{{output=final,{tag[1:]}": float(self._flushes.final_credit_bytes),
            f"worker.output-credit-bytes{{output=forwarded,{tag[1:]}": float(self._flushes.forwarded_credit_bytes),
        }
        self._supervisor.send(ipc.WorkerStats(counters, gauges, shards))


def run(options: WorkerOptions, engine: Engine) -> int:
    """Runs a worker process until it is stopped; returns its exit code. An unexpected error is logged and ends it with 1."""
    try:
        return Worker(options, engine).run()
    except Exception as error:
        _log.error("the worker failed", exception=error)
        return 1

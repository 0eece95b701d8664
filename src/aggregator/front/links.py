"""The ZeroMQ ends of the front: a socket pair per worker incarnation, one socket to the supervisor."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import zmq

from aggregator import ipc
from aggregator.front.flow import Payload
from aggregator.sockets import MORE, NOW, has_message
from m3x import log

_log = log.logger(__name__)

_COPY_BELOW = 65536
"""Smaller payloads are copied into the message: cheaper than handing over their memory."""
_BATCHES = 16384
"""High-water mark in batches: only a backstop, byte credits act long before."""
_SUPERVISOR_MESSAGES = 10000
"""In each direction; beyond it in ours, the supervisor's commands are not taken."""


class WorkerLink:
    """Socket pair of one worker incarnation: its ordered stream out, its acks in."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], run_dir: str, worker: int, front: int, epoch: int
    ) -> None:
        self._data = context.socket(zmq.PUSH)
        self._data.setsockopt(zmq.SNDHWM, _BATCHES)
        self._data.bind(ipc.data_address(run_dir, worker, front, epoch))
        self._acks = context.socket(zmq.PULL)
        self._acks.setsockopt(zmq.RCVHWM, _BATCHES)
        self._acks.bind(ipc.acks_address(run_dir, worker, front, epoch))
        self.linger_ms = 0
        self.data_fd, self.acks_fd = self._data.fileno(), self._acks.fileno()

    def send(self, header: ipc.ToWorker, payload: Payload | None) -> bool:
        """``Link.send``."""
        try:
            if payload is None:
                self._data.send(ipc.encode(header), NOW)
            else:
                self._data.send(ipc.encode(header), MORE)
                view = payload if isinstance(payload, bytes) else payload.data
                self._data.send(view, NOW, copy=len(payload) < _COPY_BELOW)
        except zmq.Again:
            return False
        return True

    def settle(self) -> None:
        """Lets the data socket work off what its descriptor signals: a worker that has connected, or has room again."""
        has_message(self._data)

    def acks(self) -> Iterator[ipc.Acked]:
        """All acks that have arrived."""
        while has_message(self._acks):
            yield ipc.decode_acked(self._acks.recv(NOW))

    def close(self) -> None:
        """``Link.close``; ``linger_ms`` says how long to try to deliver what is left."""
        self._data.close(linger=self.linger_ms)
        self._acks.close(linger=0)


class SupervisorLink:
    """The front's end of the pair to the supervisor.

    While the supervisor does not read, only the newest figures are kept. Nothing else is given up: a command that neither goes to its
    worker nor comes back would be waited for without end. What waits is bounded all the same: each message answers a command, and beyond
    ``_SUPERVISOR_MESSAGES`` no more commands are taken, until the supervisor reads or finds the front stuck and starts a new one. (The
    commands of a stream that ends still come back then: at most ``flow.MAX_QUEUED_COMMANDS`` per worker more.)
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], run_dir: str, epoch: int) -> None:
        self._socket = context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.RCVHWM, _SUPERVISOR_MESSAGES)
        self._socket.setsockopt(zmq.SNDHWM, _SUPERVISOR_MESSAGES)
        self._socket.connect(ipc.front_address(run_dir, epoch))
        self._outbox: deque[bytes] = deque()
        self._stats: bytes | None = None
        self.fd = self._socket.fileno()
        self.stirred = True
        """Whether the socket has been used since it was last found empty: what arrived meanwhile need not be signalled any more."""

    def receive(self) -> Iterator[ipc.ToFront]:
        """All commands that have arrived, as long as there is room for what they may be answered with."""
        while self.readable():
            yield ipc.decode_to_front(self._socket.recv(NOW))

    def readable(self) -> bool:
        """Whether a command can be taken; must be asked while ``stirred``, as sending may swallow the descriptor's signal."""
        if len(self._outbox) >= _SUPERVISOR_MESSAGES:
            _log.warning_limited("the supervisor does not read: its commands are not taken", messages=len(self._outbox))
            return False
        self.stirred = has_message(self._socket)
        return self.stirred

    def send(self, message: ipc.FromFront) -> None:
        """Sends now, or as soon as the supervisor reads again; of figures that could not be sent yet, only the newest."""
        if isinstance(message, ipc.FrontStats):
            self._stats = ipc.encode(message)
        else:
            self._outbox.append(ipc.encode(message))
        self.flush()

    def flush(self) -> None:
        """Sends what is left."""
        if not self._outbox and self._stats is None:
            return
        self.stirred = True
        try:
            while self._outbox:
                self._socket.send(self._outbox[0], NOW)
                self._outbox.popleft()
            if self._stats is not None:
                self._socket.send(self._stats, NOW)
                self._stats = None
        except zmq.Again:
            return

    def close(self, linger_ms: int) -> None:
        """Closes after having tried for ``linger_ms`` to deliver."""
        self._socket.close(linger=linger_ms)


def context() -> Any:
    """A ZeroMQ context with one I/O thread."""
    return zmq.Context(io_threads=1)

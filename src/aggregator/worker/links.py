"""The ZeroMQ ends of a worker."""

from collections import deque

import numpy as np
import zmq
from numpy.typing import NDArray

from aggregator import ipc
from aggregator.sockets import MORE, NOW, has_message, state_of
from aggregator.worker.options import WorkerOptions
from m3msg.batch import MessageBatch
from m3x.log import logger

_log = logger(__name__)

_COPY_BELOW = 65536
_CONNECT_AGAIN_MS = 5
"""A worker is often there before the front that it is to connect to."""
_NO_POLICIES = np.zeros(0, np.uint16)
_NO_ORIGINS = np.zeros(0, np.uint32)

Context = zmq.Context[zmq.Socket[bytes]]


class FrontLink:
    """Data in and acks out, for one incarnation of the front."""

    def __init__(self, context: Context, options: WorkerOptions, front_epoch: int) -> None:
        self._data = context.socket(zmq.PULL)
        self._data.setsockopt(zmq.RECONNECT_IVL, _CONNECT_AGAIN_MS)
        # Byte credits bound what is on the way.
        self._data.setsockopt(zmq.RCVHWM, 0)
        self._data.connect(ipc.data_address(options.run_dir, options.index, front_epoch, options.epoch))
        self.fd = self._data.fileno()
        self.stirred = True
        """Whether something more may have arrived than ``fd`` signals: it was not found empty yet."""
        self._acks = context.socket(zmq.PUSH)
        self._acks.setsockopt(zmq.RECONNECT_IVL, _CONNECT_AGAIN_MS)
        # Bounded as well: an ack is smaller than its message.
        self._acks.setsockopt(zmq.SNDHWM, 0)
        self._acks.connect(ipc.acks_address(options.run_dir, options.index, front_epoch, options.epoch))
        self._unsent: deque[bytes] = deque()
        self._payloads = ipc.Payloads(options.run_dir, front_epoch)

    @property
    def unsent(self) -> bool:
        """Whether acks wait."""
        return bool(self._unsent)

    def receive(self) -> tuple[ipc.ToWorker, NDArray[np.uint8]] | None:
        """The next message and its payload, if one has arrived."""
        self.stirred = has_message(self._data)
        if not self.stirred:
            return None
        message: ipc.ToWorker = ipc.decode_to_worker(self._data.recv(NOW))
        sent = isinstance(message, ipc.Batch) and message.at < 0
        frames = [self._data.recv(NOW, copy=False).buffer] if sent else []
        try:
            return message, self._payloads.of(message, frames)
        except OSError as error:
            # The front has ended, and its producers send again what was not acked.
            _log.warning_limited("a batch of a front that has ended is left out", error=str(error))
            return None

    def ack(self, acked: ipc.Acked) -> None:
        """Sends acks, or keeps them until there is room."""
        self._unsent.append(ipc.encode(acked))
        self.flush()

    def flush(self) -> None:
        """Sends what waits."""
        while self._unsent:
            try:
                self._acks.send(self._unsent[0], NOW)
            except zmq.Again:
                return
            self._unsent.popleft()

    def close(self, linger_ms: int) -> None:
        """Closes; data not yet read is lost, acks are tried to be delivered for ``linger_ms``."""
        self._data.close(linger=0)
        self._acks.close(linger=linger_ms)


class SupervisorLink:
    """The pair to the supervisor. What it does not take waits: output credit bounds it."""

    def __init__(self, context: Context, options: WorkerOptions) -> None:
        self._socket = context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.connect(ipc.worker_address(options.run_dir, options.index, options.front_epoch, options.epoch))
        self.fd = self._socket.fileno()
        self.stirred = True
        """Whether the socket has been used since it was last found empty: what arrived meanwhile need not be signalled any more."""
        self._unsent: deque[list[bytes | memoryview]] = deque()

    @property
    def unsent(self) -> bool:
        """Whether messages wait."""
        return bool(self._unsent)

    def receive(self) -> ipc.ToWorkerDirect | None:
        """The next message, if one has arrived."""
        self.stirred = has_message(self._socket)
        if not self.stirred:
            return None
        message: ipc.ToWorkerDirect = ipc.decode_to_worker_direct(self._socket.recv(NOW))
        return message

    def send(self, message: ipc.FromWorker, batch: MessageBatch | None = None) -> None:
        """Sends a message, with the arrays of ``batch``; the arrays must not change afterwards."""
        frames: list[bytes | memoryview] = [ipc.encode(message)]
        if batch is not None:
            policies = _NO_POLICIES if batch.policies is None else batch.policies
            origins = _NO_ORIGINS if batch.origins is None else batch.origins
            frames += [batch.payload[: batch.offsets[-1]].data, batch.offsets.data, batch.shards.data]
            frames += [policies.data, origins.data]
        self._unsent.append(frames)
        self.flush()

    def flush(self) -> None:
        """Sends what waits."""
        while self._unsent:
            self.stirred = True
            frames = self._unsent[0]
            try:
                self._socket.send(frames[0], MORE if len(frames) > 1 else NOW)
            except zmq.Again:
                self.stirred, room = state_of(self._socket)
                if room:
                    continue
                return
            for at, frame in enumerate(frames[1:], 2):
                more = MORE if at < len(frames) else NOW
                self._socket.send(frame, more, copy=memoryview(frame).nbytes < _COPY_BELOW)
            self._unsent.popleft()

    def close(self, linger_ms: int) -> None:
        """Closes after having tried for ``linger_ms`` to deliver."""
        self._socket.close(linger=linger_ms)

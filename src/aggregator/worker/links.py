"""The ZeroMQ ends of a worker."""

from collections import deque

import numpy as np
import zmq
from numpy.typing import NDArray

from aggregator import ipc
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
        self.data = context.socket(zmq.PULL)
        self.data.setsockopt(zmq.RECONNECT_IVL, _CONNECT_AGAIN_MS)
        # Byte credits bound what is on the way.
        self.data.setsockopt(zmq.RCVHWM, 0)
        self.data.connect(ipc.data_address(options.run_dir, options.index, front_epoch, options.epoch))
        self.fd = self.data.fileno()
        self.stirred = True
        """Whether something more may have arrived than ``fd`` signals: it was not found empty yet."""
        self._acks = context.socket(zmq.PUSH)
        self._acks.setsockopt(zmq.RECONNECT_IVL, _CONNECT_AGAIN_MS)
        # Bounded as well: an ack is smaller than its message.
        self._acks.setsockopt(zmq.SNDHWM, 0)
        self._acks.connect(ipc.acks_address(options.run_dir, options.index, front_epoch, options.epoch))
        self._unsent: deque[tuple[bytes, bytes]] = deque()
        self._payloads = ipc.Payloads(options.run_dir, front_epoch)

    @property
    def unsent(self) -> bool:
        """Whether acks wait."""
        return bool(self._unsent)

    def receive(self) -> tuple[ipc.ToWorker, NDArray[np.uint8]] | None:
        """The next message and its payload, if one has arrived."""
        self.stirred = bool(int(self.data.get(zmq.EVENTS)) & zmq.POLLIN)
        if not self.stirred:
            return None
        frames = self.data.recv_multipart(zmq.NOBLOCK, copy=False)
        message: ipc.ToWorker = ipc.decode_to_worker(frames[0].buffer)
        try:
            return message, self._payloads.of(message, [frame.buffer for frame in frames[1:]])
        except OSError as error:
            # The front has ended, and its producers send again what was not acked.
            _log.warning_limited("a batch of a front that has ended is left out", error=str(error))
            return None

    def ack(self, acked: ipc.Acked, frames: NDArray[np.uint8]) -> None:
        """Sends acks, or keeps them until there is room."""
        self._unsent.append((ipc.encode(acked), frames.tobytes()))
        self.flush()

    def flush(self) -> None:
        """Sends what waits."""
        while self._unsent:
            try:
                self._acks.send_multipart(self._unsent[0], zmq.NOBLOCK)
            except zmq.Again:
                return
            self._unsent.popleft()

    def close(self, linger_ms: int) -> None:
        """Closes; data not yet read is lost, acks are tried to be delivered for ``linger_ms``."""
        self.data.close(linger=0)
        self._acks.close(linger=linger_ms)


class SupervisorLink:
    """The pair to the supervisor. What it does not take waits: output credit bounds it."""

    def __init__(self, context: Context, options: WorkerOptions) -> None:
        self.socket = context.socket(zmq.PAIR)
        self.socket.setsockopt(zmq.RCVHWM, 0)
        self.socket.connect(ipc.worker_address(options.run_dir, options.index, options.front_epoch, options.epoch))
        self.fd = self.socket.fileno()
        self.stirred = True
        """Whether the socket has been used since it was last found empty: what arrived meanwhile need not be signalled any more."""
        self._unsent: deque[list[bytes | memoryview]] = deque()

    @property
    def unsent(self) -> bool:
        """Whether messages wait."""
        return bool(self._unsent)

    def receive(self) -> ipc.ToWorkerDirect | None:
        """The next message, if one has arrived."""
        self.stirred = bool(int(self.socket.get(zmq.EVENTS)) & zmq.POLLIN)
        if not self.stirred:
            return None
        message: ipc.ToWorkerDirect = ipc.decode_to_worker_direct(self.socket.recv(zmq.NOBLOCK))
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
                self.socket.send(frames[0], zmq.NOBLOCK | (zmq.SNDMORE if len(frames) > 1 else 0))
            except zmq.Again:
                return
            for at, frame in enumerate(frames[1:], 2):
                more = zmq.SNDMORE if at < len(frames) else 0
                self.socket.send(frame, zmq.NOBLOCK | more, copy=memoryview(frame).nbytes < _COPY_BELOW)
            self._unsent.popleft()

    def close(self, linger_ms: int) -> None:
        """Closes after having tried for ``linger_ms`` to deliver."""
        self.socket.close(linger=linger_ms)

"""The supervisor's end of a ZeroMQ pair: never blocks, hands every message to a callback inside the event loop.

ZeroMQ's descriptor signals edges only, and sending may swallow one; so the socket is looked at again after every send, and is read until
it is empty whenever it is looked at.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import zmq

from aggregator.sockets import NOW, frames_of, has_message

__all__ = ["Channel"]

_MAX_WAITING = 10_000
_PER_TURN = 200
_SENDS_HELD = 1_000

Frames = Sequence[zmq.Frame]


class Channel:
    """A bound PAIR socket. ``on_message`` gets the frames of each message; ``on_overflow`` is called once if the peer does not read."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        address: str,
        on_message: Callable[[Frames], None],
        on_overflow: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, _SENDS_HELD)
        self._socket.bind(address)
        self._fd = self._socket.fileno()
        self._waiting: deque[bytes] = deque()
        self._on_message = on_message
        self._on_overflow = on_overflow
        self._scheduled = False
        self._closed = False
        self._loop.add_reader(self._fd, self._look)

    @property
    def waiting(self) -> int:
        """Messages that the peer has not taken."""
        return len(self._waiting)

    def send(self, message: bytes) -> None:
        """Sends, or keeps for later; beyond a bound the peer counts as stuck and the message is not kept."""
        if self._closed:
            return
        if len(self._waiting) >= _MAX_WAITING:
            self._on_overflow()
            return
        self._waiting.append(message)
        self._flush()
        self._again()

    def close(self) -> None:
        """Closes; what was not sent is gone."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)
            self._socket.close(linger=0)

    def _flush(self) -> None:
        while self._waiting:
            try:
                self._socket.send(self._waiting[0], NOW)
            except zmq.Again:
                return
            self._waiting.popleft()

    def _again(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._scheduled = False
        for _ in range(_PER_TURN):
            if self._closed or not has_message(self._socket):
                break
            self._on_message(frames_of(self._socket))
        else:
            self._again()
        if not self._closed and self._waiting:
            waiting = len(self._waiting)
            self._flush()
            if len(self._waiting) < waiting:
                self._again()

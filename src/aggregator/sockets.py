"""ZeroMQ sockets, used without waiting: what is asked of them in every turn of a loop costs as little as pyzmq allows.

Its flags are enumerations, whose arithmetic costs more than the calls that take them: these are plain numbers.
"""

import zmq

__all__ = ["MORE", "NOW", "frames_of", "has_message", "state_of"]

NOW = int(zmq.NOBLOCK)
"""Do not wait."""
MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
"""Nor that, and further frames of the message follow."""
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)


def has_message(socket: "zmq.Socket[bytes]") -> bool:
    """Whether a message has arrived. After False, and only then, the descriptor of the socket signals the next one."""
    return bool(int(socket.get(_EVENTS)) & _POLLIN)


def state_of(socket: "zmq.Socket[bytes]") -> tuple[bool, bool]:
    """Whether a message has arrived, and whether one can be sent. After twice False, and only then, the descriptor signals either."""
    events = int(socket.get(_EVENTS))
    return bool(events & _POLLIN), bool(events & _POLLOUT)


def frames_of(socket: "zmq.Socket[bytes]") -> list[zmq.Frame]:
    """The frames of a message that has arrived (``has_message``)."""
    frame = socket.recv(NOW, copy=False)
    frames = [frame]
    while frame.more:
        frame = socket.recv(NOW, copy=False)
        frames.append(frame)
    return frames

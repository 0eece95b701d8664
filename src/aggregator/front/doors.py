"""The listening sockets of a front: one for m3msg, one for raw TCP; either may be missing.

They are the supervisor's, and are handed over: connections that come while there is no front wait in their backlogs.
"""

import socket
from collections.abc import Callable
from typing import Any

from aggregator.front.options import FrontOptions
from aggregator.front.secure import FrontTLS, Handshakes
from m3x.endpoints import name_of

__all__ = ["Door", "doors_of"]


class Door:
    """Where connections of one protocol come in. ``keep_alive_s``: 0: none; ``hold``: as for ``Handshakes``."""

    def __init__(
        self, listener: int, *, raw: bool, tls: FrontTLS | None, keep_alive_s: int, hold: Callable[[Any], None]
    ) -> None:
        self.raw = raw
        """Whether raw TCP is spoken, which has no acks."""
        self.protocol = "rawtcp" if raw else "m3msg"
        self.keep_alive_s = keep_alive_s
        self.handshakes = None if tls is None else Handshakes(tls.opened(), hold)
        self.backlog = True
        """Whether there may be connections that have waited for a while to be taken: for a front, or for room."""
        self._number = listener
        self._listener: socket.socket | None = None

    def open(self) -> str:
        """Takes connections from now on, those first that have waited; returns its address."""
        self._listener = socket.socket(fileno=self._number)
        self._listener.setblocking(False)
        return name_of(self._listener)

    def close(self) -> None:
        """Takes no more."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    @property
    def fd(self) -> int:
        """Of the listening socket, which is open."""
        return self._socket().fileno()

    def accept(self) -> tuple[socket.socket, object]:
        """The next connection and its address. Raises ``OSError``."""
        return self._socket().accept()

    def _socket(self) -> socket.socket:
        assert self._listener is not None, "the door is closed"
        return self._listener


def doors_of(options: FrontOptions, hold: Callable[[Any], None]) -> list[Door]:
    """The doors that a front has, m3msg's first; ``hold`` as for ``Handshakes``. Raises ``TLSError``."""
    doors = []
    if options.listener >= 0:
        seconds = _seconds(options.keep_alive, options.keep_alive_period_ns)
        doors.append(Door(options.listener, raw=False, tls=options.tls, keep_alive_s=seconds, hold=hold))
    if (raw := options.raw) is not None:
        seconds = _seconds(raw.keep_alive, raw.keep_alive_period_ns)
        doors.append(Door(raw.listener, raw=True, tls=raw.tls, keep_alive_s=seconds, hold=hold))
    return doors


def _seconds(wanted: bool, period_ns: int) -> int:
    return max(period_ns // 1_000_000_000, 1) if wanted else 0

"""A producer of m3msg as clients of an aggregator are: holds each message until it is acked, and sends it again over the next connection.

Its ids begin at 1, as those of every producer do. Each attempt is stamped anew. It can be *deaf*: for a while it sends and does not hear
acks, and then its connection is gone, so that what was applied and acked meanwhile comes again.
"""

import contextlib
import selectors
import socket
import struct
import time
from collections.abc import Callable

from lab.crash.samples import Sample
from m3msg.frames import Message, Metadata, decode_ack, encode_message, split

__all__ = ["Sender"]

_REDIAL_S = 0.1
_READ = 1 << 18


class Sender:
    """One connection at a time to ``address``. All happens in the thread that owns ``selector``; ``acked`` is told of each sample."""

    def __init__(
        self, address: tuple[str, int], selector: selectors.BaseSelector, acked: Callable[[Sample, int], None]
    ) -> None:
        self.address = address
        self.unacked: dict[int, tuple[Sample, int, bytes]] = {}
        """Sample, shard and value by message id, in the order of sending."""
        self.connected = False
        self.resent = 0
        self.acked_ns = 0
        """When the last ack came."""
        self._selector = selector
        self._acked = acked
        self._next = 1
        self._tried = 0
        """The highest id that was sent."""
        self._socket: socket.socket | None = None
        self._out = bytearray()
        self._rest = b""
        self._redial = 0.0
        self._deaf_until = 0.0

    def send(self, sample: Sample, shard: int, value: bytes) -> None:
        """Sends it now, or as soon as there is a connection."""
        self.unacked[self._next] = sample, shard, value
        if self.connected:
            self._put(self._next)
        self._next += 1

    def deafen(self, seconds: float) -> None:
        """Hears nothing for a while, and then loses its connection."""
        self._deaf_until = time.monotonic() + seconds

    def tend(self) -> None:
        """What is due: dialling, writing, the end of being deaf."""
        now = time.monotonic()
        if self._deaf_until and now >= self._deaf_until:
            self._deaf_until = 0.0
            self._hang_up(reset=True)
        if self._socket is None and now >= self._redial:
            self._dial()
        elif self._out:
            self._write()

    def serve(self, events: int) -> None:
        """The selector says that something can be done."""
        made = self._socket
        if made is None:
            return
        if not self.connected and not self._greet(made):
            return
        if events & selectors.EVENT_READ and not self._read(made):
            self._hang_up()
            return
        self._write()

    def close(self) -> None:
        """Ends; what is unacked is not sent any more."""
        self._hang_up()

    # --- the connection

    def _dial(self) -> None:
        made = socket.socket()
        made.setblocking(False)
        made.connect_ex(self.address)
        self._socket = made
        self._selector.register(made, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def _greet(self, made: socket.socket) -> bool:
        """The connection stands, or not: everything that is unacked goes first."""
        if made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._hang_up()
            return False
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connected = True
        self._rest, self._out = b"", bytearray()
        self.resent += sum(ident <= self._tried for ident in self.unacked)
        for ident in self.unacked:
            self._put(ident)
        return True

    def _put(self, ident: int) -> None:
        sample, shard, value = self.unacked[ident]
        now = time.time_ns()
        sample.sent_ns = sample.sent_ns or now
        self._tried = max(self._tried, ident)
        self._out += encode_message(Message(Metadata(shard, ident, now), value))

    def _read(self, made: socket.socket) -> bool:
        try:
            data = made.recv(_READ)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if data and not self._deaf_until:
            now = self.acked_ns = time.time_ns()
            payloads, self._rest = split(self._rest + data)
            for payload in payloads:
                for metadata in decode_ack(payload):
                    if (known := self.unacked.pop(metadata.id, None)) is not None:
                        self._acked(known[0], now)
        return bool(data)

    def _write(self) -> None:
        made = self._socket
        if made is None or not self.connected:
            return
        try:
            while self._out:
                del self._out[: made.send(memoryview(self._out)[:_READ].tobytes())]
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up()
            return
        self._selector.modify(made, selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0), self)

    def _hang_up(self, *, reset: bool = False) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                if reset:
                    self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._selector.unregister(self._socket)
            self._socket.close()
        self._socket, self.connected, self._deaf_until = None, False, 0.0
        self._redial = time.monotonic() + _REDIAL_S

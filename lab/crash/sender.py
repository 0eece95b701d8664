"""A producer of m3msg as clients of an aggregator are: holds each message until it is acked, and sends it again over the next connection.

Its ids begin at 1, as those of every producer do. Each attempt is stamped anew. It can be *deaf*: for a while it sends and does not hear
acks, and then its connection is gone, so that what was applied and acked meanwhile comes again.

An *impatient* one sends again over the same connection what is not acked for a while, unless it is deaf. One with a *standby* has a
second connection open, which says nothing, and goes on over that one at once when the first one is gone.
"""

import contextlib
import heapq
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
    """A producer for ``address``. All happens in the thread that owns ``selector``; ``acked`` is told of each sample.

    ``patience_s``: it sends again what is not acked so long, and then after twice that time and so on; 0: only over another connection.
    """

    def __init__(
        self,
        address: tuple[str, int],
        selector: selectors.BaseSelector,
        acked: Callable[[Sample, int], None],
        *,
        patience_s: float = 0.0,
        standby: bool = False,
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
        self._patience_s = patience_s
        self._waiting: list[tuple[float, int, float]] = []
        """Of an impatient one, a heap: when (monotonic) which id is tried again, and after how many seconds that is."""
        self._unwritten: list[tuple[int, float]] = []
        """Those that the system has not taken yet, and their seconds."""
        self._wants_standby = standby
        self._standby: socket.socket | None = None

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
        elif self._wants_standby and self.connected and self._standby is None and now >= self._redial:
            self._standby = self._connect()
        else:
            self._send_again(now)
            if self._out:
                self._write()

    def _send_again(self, now: float) -> None:
        """What has waited for too long, once more; not what is acked in a system's buffer, as this process stood still."""
        if not self._waiting or self._waiting[0][0] > now or self._deaf_until or not self._hear():
            return
        while self._waiting and self._waiting[0][0] <= now:
            _, ident, patience_s = heapq.heappop(self._waiting)
            if ident in self.unacked:
                self.resent += 1
                self._put(ident, patience_s)

    def _hear(self) -> bool:
        """Reads all that has come; False: the connection is gone."""
        while (made := self._socket) is not None and self.connected:
            try:
                made.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return True
            except OSError:
                pass
            if not self._read(made):
                self._hang_up()
        return False

    def serve(self, events: int) -> None:
        """The selector says that something can be done."""
        self._look_at_standby()
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
        self._wants_standby = False
        self._drop_standby()
        self._hang_up()

    # --- the connection

    def _dial(self) -> None:
        self._socket, self._standby = self._standby or self._connect(), None
        if self._selector.get_key(self._socket).events == selectors.EVENT_READ:
            # It has stood by.
            self._greet(self._socket)
            self._write()

    def _connect(self) -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        made.connect_ex(self.address)
        self._selector.register(made, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
        return made

    def _look_at_standby(self) -> None:
        """It stands, or it is gone: nothing is ever said over it."""
        if (made := self._standby) is None:
            return
        with contextlib.suppress(OSError):
            if made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                made.getpeername()
                self._selector.modify(made, selectors.EVENT_READ, self)
        try:
            if made.recv(1):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._drop_standby()

    def _drop_standby(self) -> None:
        if self._standby is not None:
            self._selector.unregister(self._standby)
            self._standby.close()
            self._standby = None
            self._redial = time.monotonic() + _REDIAL_S

    def _greet(self, made: socket.socket) -> bool:
        """The connection stands, or not: everything that is unacked goes first."""
        if made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._hang_up()
            return False
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connected = True
        self._rest, self._out = b"", bytearray()
        self._waiting.clear()
        self._unwritten.clear()
        self.resent += sum(ident <= self._tried for ident in self.unacked)
        for ident in self.unacked:
            self._put(ident)
        return True

    def _put(self, ident: int, after_s: float = 0.0) -> None:
        sample, shard, value = self.unacked[ident]
        now = time.time_ns()
        sample.sent_ns = sample.sent_ns or now
        self._tried = max(self._tried, ident)
        if self._patience_s:
            self._unwritten.append((ident, 2 * after_s or self._patience_s))
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
        if not self._out:
            now = time.monotonic()
            for ident, patience_s in self._unwritten:
                heapq.heappush(self._waiting, (now + patience_s, ident, patience_s))
            self._unwritten.clear()

    def _hang_up(self, *, reset: bool = False) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                if reset:
                    self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._selector.unregister(self._socket)
            self._socket.close()
        self._socket, self.connected, self._deaf_until = None, False, 0.0
        self._redial = time.monotonic() + (0.0 if self._standby is not None else _REDIAL_S)

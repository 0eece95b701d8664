"""A small producer of m3msg: numbered messages to one consumer, kept until they are acknowledged, sent again to whoever listens next."""

import socket
import time
from collections.abc import Callable, Iterable
from typing import Self

from m3msg.frames import Message, Metadata, decode_ack, encode_message, split

__all__ = ["Client"]

_READ = 1 << 16


class Client:
    """One connection at a time to ``address``; blocking. ``acked`` is told the number of each message that is acknowledged."""

    def __init__(self, address: tuple[str, int], acked: Callable[[int], None] = lambda number: None) -> None:
        self.address = address
        self.unacked: dict[int, bytes] = {}
        """Frames, by the numbers of their messages."""
        self.connects = 0
        """How often it has connected."""
        self.error = ""
        """Why it could not the last time."""
        self._acked = acked
        self._next = 1
        self._socket: socket.socket | None = None
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._disconnect()

    def send(self, messages: Iterable[bytes], shard: int = 1) -> range:
        """Sends them now, or as soon as there is a connection; the numbers that they have got."""
        first = self._next
        fresh = {}
        for value in messages:
            fresh[self._next] = encode_message(Message(Metadata(shard, self._next, 1), value))
            self._next += 1
        self.unacked.update(fresh)
        if self._socket is not None:
            self._write(fresh)
        return range(first, self._next)

    def settle(self, timeout_s: float = 60.0) -> None:
        """Returns when all is acknowledged; connects again as often as needed. Raises ``TimeoutError``."""
        deadline = time.monotonic() + timeout_s
        while self.unacked:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.unacked)} messages are not acknowledged within {timeout_s:g} s")
            self.pump(0.2)

    def pump(self, wait_s: float) -> None:
        """Takes what acknowledgements come within a while; where nobody listens, waits for that long."""
        if self._socket is None and not self._connect():
            time.sleep(wait_s)
            return
        assert self._socket is not None
        self._socket.settimeout(wait_s)
        try:
            data = self._socket.recv(_READ)
        except TimeoutError:
            return
        except OSError:
            data = b""
        if not data:
            self._disconnect()
            return
        payloads, self._rest = split(self._rest + data)
        for payload in payloads:
            for metadata in decode_ack(payload):
                if self.unacked.pop(metadata.id, None) is not None:
                    self._acked(metadata.id)

    def _connect(self) -> bool:
        try:
            self._socket = socket.create_connection(self.address, 5)
        except OSError as error:
            self.error = str(error)
            return False
        self.connects += 1
        self._rest = b""
        self._write(self.unacked)
        return self._socket is not None

    def _write(self, frames: dict[int, bytes]) -> None:
        assert self._socket is not None
        data = b"".join(frames.values())
        self._socket.settimeout(30)
        try:
            self._socket.sendall(data)
        except OSError:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

"""The end of a producer's connection that takes acks, for load generators."""

import contextlib
import socket
import threading
import time
from abc import ABC, abstractmethod

from bench.messages import METADATA_SIZE

__all__ = ["ENTRY_SIZE", "Acked"]

ENTRY_SIZE = METADATA_SIZE + 2
"""Bytes of each message in a frame of acks: tag, length and the echoed metadata."""


class Acked(ABC):
    """One connection to ``address``; a thread of its own takes what comes. ``failed`` says why it ended, empty while it has not."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.acked = 0
        self.failed = ""
        self._reader = threading.Thread(target=self._read, daemon=True)

    @abstractmethod
    def _take(self, acks: list[bytes], now: float) -> None:
        """Frames of acks without their lengths, which came at that time (monotonic seconds)."""

    def close(self) -> None:
        """Hangs up and ends the reader."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(5)
        self._socket.close()

    def _read(self) -> None:
        rest = b""
        while True:
            try:
                data = self._socket.recv(1 << 20)
            except OSError as error:
                self.failed = self.failed or str(error)
                return
            if not data:
                self.failed = self.failed or "connection closed by the server"
                return
            now = time.monotonic()
            data, at, frames = rest + data, 0, []
            while at + 4 <= len(data):
                size = int.from_bytes(data[at : at + 4], "big")
                if at + 4 + size > len(data):
                    break
                frames.append(data[at + 4 : at + 4 + size])
                at += 4 + size
            rest = data[at:]
            self._take(frames, now)

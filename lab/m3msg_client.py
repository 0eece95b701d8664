"""A small producer of m3msg: numbered messages to one consumer, kept until they are acknowledged, sent again to whoever listens next."""

import contextlib
import socket
import time
from collections.abc import Iterable
from typing import Self

from m3metrics.codec import AggregatedMetric, encode_aggregated
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy
from m3msg.frames import Message, Metadata, decode_ack, encode_message, split

__all__ = ["M3MsgClient", "aggregated"]

_READ = 1 << 16


def aggregated(labels: dict[str, str], time_ns: int, value: float, policy: str) -> bytes:
    """A value as an aggregator hands it over."""
    tags = [(name.encode(), text.encode()) for name, text in sorted(labels.items())]
    return encode_aggregated(
        AggregatedMetric(id=encode_tags(tags), time_ns=time_ns, value=value, storage_policy=StoragePolicy.parse(policy))
    )


class M3MsgClient:
    """One connection at a time to ``127.0.0.1:port``; blocking."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._next = 1
        self.unacked: dict[int, bytes] = {}
        self._socket: socket.socket | None = None
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._disconnect()

    def send(self, messages: Iterable[bytes]) -> None:
        """Sends them now, or as soon as there is a connection."""
        fresh = {}
        for value in messages:
            fresh[self._next] = value
            self._next += 1
        self.unacked.update(fresh)
        if self._socket is not None:
            self._write(fresh)

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
                self.unacked.pop(metadata.id, None)

    def _connect(self) -> bool:
        with contextlib.suppress(OSError):
            self._socket = socket.create_connection(("127.0.0.1", self._port), 5)
            self._rest = b""
            self._write(self.unacked)
        return self._socket is not None

    def _write(self, messages: dict[int, bytes]) -> None:
        assert self._socket is not None
        data = b"".join(encode_message(Message(Metadata(1, number, 1), value)) for number, value in messages.items())
        self._socket.settimeout(30)
        try:
            self._socket.sendall(data)
        except OSError:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

"""An HTTP server that reads bodies and throws them away: what a remote write client costs is then the client's alone.

``with Drain() as drain`` starts it as a process of its own; ``python -m bench.drain`` is that process: it prints its address, then a JSON
summary for every line of standard input, and ends with it.
"""

import asyncio
import json
import subprocess
import sys
from typing import Any

from lab.processes import module_command

__all__ = ["Drain"]

_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class _Connection(asyncio.Protocol):
    """Requests with a ``Content-Length``, one after another."""

    requests = 0
    bytes = 0

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        _Connection.bytes += len(data)
        while data:
            if self._left:
                taken = min(self._left, len(data))
                self._left -= taken
                data = data[taken:]
            else:
                head, end, data = (self._head + data).partition(b"\r\n\r\n")
                if not end:
                    self._head = head
                    return
                self._head = b""
                self._left = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            if not self._left and self._transport is not None:
                _Connection.requests += 1
                self._transport.write(_ANSWER)


class Drain:
    """Inside ``with``: ``url`` is where to send to."""

    def __enter__(self) -> "Drain":
        self._process = subprocess.Popen(
            module_command("bench.drain"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self.url = self._out.readline().strip()
        return self

    def summary(self) -> dict[str, Any]:
        """``requests`` and ``bytes`` so far."""
        self._in.write("\n")
        self._in.flush()
        found: dict[str, Any] = json.loads(self._out.readline())
        return found

    def __exit__(self, *_: object) -> None:
        self._in.close()
        self._process.wait(10)
        self._out.close()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0)
    print("http://{}:{}/write".format(*server.sockets[0].getsockname()), flush=True)
    async with server:
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps({"requests": _Connection.requests, "bytes": _Connection.bytes}), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve())

"""An HTTP server that reads bodies, counts their bytes and answers 204: ``python -m bench.http_drain`` prints its address, then
``requests bytes`` for every line of standard input, and ends with it."""

import asyncio
import sys

_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class _Connection(asyncio.Protocol):
    requests = bytes_read = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._head = b""
        self._left = 0

    def data_received(self, data: bytes) -> None:
        while data or self._left == 0:
            if self._left:
                taken = min(self._left, len(data))
                self._left -= taken
                _Connection.bytes_read += taken
                data = data[taken:]
                if self._left == 0:
                    _Connection.requests += 1
                    self._transport.write(_ANSWER)  # type: ignore[attr-defined]
                continue
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head = b""
            lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
            self._left = int(lengths[0].split(b":")[1]) if lengths else 0
            if self._left == 0:
                _Connection.requests += 1
                self._transport.write(_ANSWER)  # type: ignore[attr-defined]


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(_Connection.requests, _Connection.bytes_read, flush=True)
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve())

"""The store behind a chain, in a process of its own: a remote write endpoint that counts series of requests and answers 204.

``python -m bench.chain.store`` prints its port, then ``requests bytes series`` for every line of standard input, and ends with it.
"""

import asyncio
import subprocess
import sys
from typing import Self

import cramjam
from aiohttp import web
from lab.processes import module_command

__all__ = ["Arrived", "Store"]

_SERIES = 0x0A
"""Tag of ``WriteRequest.timeseries``."""
_LARGEST_BODY = 1 << 28


class Arrived:
    """What has come so far."""

    def __init__(self) -> None:
        self.requests = self.nbytes = self.series = 0

    async def take(self, request: web.Request) -> web.Response:
        """Counts a request; what is no remote write counts as bytes only."""
        body = await request.read()
        self.requests += 1
        self.nbytes += len(body)
        encoding = request.headers.get("Content-Encoding", "")
        if encoding == "snappy":
            self.series += count_series(bytes(cramjam.snappy.decompress_raw(body)))
        elif encoding == "zstd":
            self.series += count_series(bytes(cramjam.zstd.decompress(body)))
        return web.Response(status=204)


def count_series(message: bytes) -> int:
    """How many time series a ``WriteRequest`` has, each of which has a sample here."""
    found = at = 0
    while at < len(message):
        found += message[at] == _SERIES
        at += 1
        size = shift = 0
        while True:
            byte = message[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        at += size
    return found


class Store:
    """The process."""

    def __init__(self) -> None:
        command = module_command("bench.chain.store")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/api/v1/write"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.terminate()

    def series(self) -> int:
        """How many series of requests have come so far: a value each."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline().split()[2])


async def _serve() -> None:
    arrived = Arrived()
    application = web.Application(client_max_size=_LARGEST_BODY)
    application.router.add_post("/{path:.*}", arrived.take)
    # What a sender has compressed is counted as it came, and cramjam knows more ways than aiohttp.
    runner = web.AppRunner(application, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(arrived.requests, arrived.nbytes, arrived.series, flush=True)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_serve())

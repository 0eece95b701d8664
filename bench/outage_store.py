"""A remote write endpoint for ``bench.outage``, as a process of its own: it checks off every value that it gets, and refuses if told to.

A value names its series and window (``series * WINDOWS + window``), so that nothing else of a request has to be looked at.

    POST /write                    remote write: 204, or 503 while it refuses
    POST /refuse, POST /take       what it does from now on
    GET  /report                   JSON: values, missing, twice, backwards, requests
    GET  /arrivals                 float64: Unix seconds at which the last value of each chunk came first; 0: not complete
"""

import asyncio
import sys
import time

import numpy as np
from aiohttp import web

from coordinator.write import kernels
from coordinator.write.decoding import RequestDecoder
from coordinator.write.options import WriteOptions

__all__ = ["CHUNK", "WINDOWS", "CountingStore"]

WINDOWS = 1 << 12
"""More windows than a run has."""
CHUNK = 5000
"""Series of a chunk: those of one second, at 5,000 values a second."""


class CountingStore:
    """Of ``series`` series in ``windows`` windows."""

    def __init__(self, series: int, windows: int) -> None:
        self._got = np.zeros((windows, series), np.uint8)
        self._last = np.full(series, -1, np.int64)
        self._left = np.full((windows, -(-series // CHUNK)), CHUNK, np.int64)
        self._arrived = np.zeros(self._left.shape)
        self._decoder = RequestDecoder()
        self._refuses = False
        self._twice = self._backwards = self._requests = 0

    def app(self) -> web.Application:
        """Its routes."""
        app = web.Application(client_max_size=64 << 20)
        app.add_routes(
            [
                web.post("/write", self._write), web.post("/refuse", self._refuse), web.post("/take", self._take),
                web.get("/report", self._report), web.get("/arrivals", self._arrivals),
            ]
        )  # fmt: skip
        return app

    async def _write(self, request: web.Request) -> web.Response:
        body = await request.read()
        self._requests += 1
        if self._refuses:
            return web.Response(status=503, text="it does not take anything now")
        numbers = self._decoder.decode(body, WriteOptions()).values.astype(np.int64)
        series, window = np.divmod(numbers, WINDOWS)
        before = self._got[window, series]
        self._twice += int(np.count_nonzero(before))
        self._got[window, series] = 1
        self._check_order(series, window)
        np.subtract.at(self._left, (window[before == 0], series[before == 0] // CHUNK), 1)
        complete = (self._left == 0) & (self._arrived == 0)
        self._arrived[complete] = time.time()
        return web.Response(status=204)

    def _check_order(self, series: np.ndarray, window: np.ndarray) -> None:
        """Counts values that come after a later one of their series."""
        order = np.argsort(series, kind="stable")
        series, window = series[order], window[order]
        first = np.append(True, series[1:] != series[:-1])
        earlier = np.where(first, self._last[series], np.append(-1, window[:-1]))
        self._backwards += int(np.count_nonzero(window < earlier))
        np.maximum.at(self._last, series, window)

    async def _refuse(self, _: web.Request) -> web.Response:
        self._refuses = True
        return web.Response()

    async def _take(self, _: web.Request) -> web.Response:
        self._refuses = False
        return web.Response()

    async def _report(self, _: web.Request) -> web.Response:
        got = int(np.count_nonzero(self._got))
        report = {
            "values": got, "missing": self._got.size - got, "twice": self._twice, "backwards": self._backwards,
            "requests": self._requests,
        }  # fmt: skip
        return web.json_response(report)

    async def _arrivals(self, _: web.Request) -> web.Response:
        return web.Response(body=self._arrived.tobytes())


async def _serve(series: int, windows: int) -> None:
    kernels.warm()
    runner = web.AppRunner(CountingStore(series, windows).app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    # It ends with whoever started it.
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))

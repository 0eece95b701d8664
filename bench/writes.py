"""What a remote write costs a whole coordinator: CPU of its processes from HTTP to the aggregators' acks, by when it is answered.

    scripts/bench writes [--series 2000] [--connections 16] [--seconds 4] [--turns 4] [--workers 1]

Two coordinators, one with ``writes: {ack: aggregated}``, are loaded in turn: every connection sends requests of one sample for each of
``--series`` known series (eight labels), the next one when it has its answer. The aggregator is a consumer in this process that acks at
once. The figure of a turn is the CPU time from its beginning until everything is acked, by request.
"""

import argparse
import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.cluster import LOCAL, coordinator_overlay, member, overlaid, write_cluster
from lab.http import get
from lab.kv import kv_of
from lab.ports import free_ports
from lab.processes import Process, family, module_command
from lab.waiting import wait_until

from bench.rules_bench import requests
from m3msg.consumer import ConsumerServer, ReceivedBatch
from m3x.process import cpu_seconds

__all__ = ["Aggregator", "Loaded", "Send", "main", "measure", "posting", "serving"]

Send = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[bool]]
"""Sends a body over a connection; whether the server wants that closed."""

_REMOTE_WRITE = "/api/v1/prom/remote/write"
_NUM_SHARDS = 64
_BODIES = 16
_AT_MOST_UNACKED_S = 30


class Aggregator:
    """Counts and acks messages."""

    def __init__(self) -> None:
        self.messages = 0

    async def handle(self, batch: ReceivedBatch) -> None:
        """Of one connection."""
        self.messages += len(batch)
        batch.ack()


class Loaded:
    """A coordinator. ``overlay``: sections of its file; ``env``: of its process; ``workers``: how many processes take writes."""

    def __init__(
        self,
        name: str,
        folder: Path,
        overlay: Mapping[str, Any],
        env: Mapping[str, str] | None = None,
        workers: int = 1,
    ) -> None:
        self.name = name
        self.latencies_s: list[float] = []
        self.cpu_s = 0.0
        self.requests = 0
        self.samples = 0
        ports = free_ports(4)
        self.port, self.carbon_port = ports[0], ports[2]
        place = folder / name
        place.mkdir()
        sections = coordinator_overlay(
            (ports[0], ports[1], ports[2], ports[3]), kv_of("embedded", folder).section("c"), place
        )
        files = overlaid(
            LOCAL / "m3coordinator.yml", {**sections, "workers": workers, **overlay}, place / "overlay.yml"
        )
        command = module_command("coordinator", *files, "--data-dir", str(place))
        self.process = Process(name, command, place / "log", env=env)

    def wait(self) -> None:
        """Returns when it takes writes."""
        base = f"http://127.0.0.1:{self.port}"
        self.process.wait_for_http(f"{base}/health", 300)
        wait_until(f"{self.name} takes writes", lambda: get(f"{base}/ready")[0] == 200)

    async def turn(
        self,
        bodies: Sequence[bytes],
        series: int,
        connections: int,
        seconds: float,
        aggregator: Aggregator,
        send: Send | None = None,
        port: int = 0,
    ) -> None:
        """Loads it for so long. ``series``: messages that a body makes; ``send``: how it is sent, a remote write if there is none."""
        send = send or posting(_REMOTE_WRITE)
        cpu, before, sent = self._cpu(), aggregator.messages, 0
        until = time.monotonic() + seconds

        async def connection(first: int) -> int:
            reader, writer = await asyncio.open_connection("127.0.0.1", port or self.port)
            n = 0
            while time.monotonic() < until:
                started = time.monotonic()
                if await send(reader, writer, bodies[(first + n) % len(bodies)]):
                    writer.close()
                    reader, writer = await asyncio.open_connection("127.0.0.1", port or self.port)
                self.latencies_s.append(time.monotonic() - started)
                n += 1
            writer.close()
            return n

        sent = sum(await asyncio.gather(*(connection(k) for k in range(connections))))
        async with asyncio.timeout(_AT_MOST_UNACKED_S):
            while aggregator.messages < before + sent * series:  # noqa: ASYNC110 - counted in a handler
                await asyncio.sleep(0.005)
        self.cpu_s += self._cpu() - cpu
        self.requests += sent
        self.samples += sent * series

    def _cpu(self) -> float:
        """Of all of its processes."""
        return sum(map(cpu_seconds, family(self.process.pid)))

    def report(self) -> str:
        """One line."""
        latencies = sorted(self.latencies_s)
        middle, late = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
        return (
            f"{self.name:12} {self.cpu_s / self.requests * 1e6:6.0f} us of CPU a request, "
            f"{self.cpu_s / self.samples * 1e6:.3f} us a sample; {self.requests} requests, "
            f"answered after {middle * 1e3:.1f} ms (median), {late * 1e3:.1f} ms (99 %)"
        )


def posting(path: str, media: str = "application/x-protobuf") -> Send:
    """Sends bodies over HTTP, and waits for their answers."""

    async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> bool:
        head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        status = await reader.readline()
        size, closes = 0, False
        while (line := await reader.readline()) != b"\r\n":
            if not line:
                raise SystemExit(f"the connection ended before its answer was whole: {status.decode().strip()!r}")
            if line.lower().startswith(b"content-length:"):
                size = int(line.split(b":")[1])
            closes = closes or line.lower().startswith(b"connection: close")
        text = await reader.readexactly(size)
        if b" 200 " not in status and b" 204 " not in status:
            raise SystemExit(f"{status.decode().strip()}: {text.decode()}")
        return closes

    return post


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Aggregator]:
    """An aggregator that placement and topic name."""
    aggregator = Aggregator()
    async with ConsumerServer("127.0.0.1:0", aggregator.handle) as server:
        instances = [member("m3aggregator", f"127.0.0.1:{server.port}")]
        kv = kv_of("embedded", folder)
        await asyncio.to_thread(kv.do, lambda store: write_cluster(store, instances, "127.0.0.1:1", _NUM_SHARDS))
        yield aggregator


async def measure(folder: Path, coordinators: Sequence[Loaded], options: argparse.Namespace) -> None:
    """All in turn; the first turn of each, with new series, does not count."""
    bodies = requests(_BODIES * options.series, 0, options.series)
    async with serving(folder) as aggregator:
        for one in coordinators:
            await asyncio.to_thread(one.wait)
            await one.turn(bodies, options.series, options.connections, options.seconds, aggregator)
            one.cpu_s, one.requests, one.samples = 0.0, 0, 0
            one.latencies_s.clear()
        for turn in range(options.turns):
            for one in coordinators if turn % 2 else reversed(coordinators):
                await one.turn(bodies, options.series, options.connections, options.seconds, aggregator)
    for one in coordinators:
        print(one.report())


def main(arguments: list[str]) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench writes", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--series", type=int, default=2000, help="samples of a request")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one turn")
    parser.add_argument("--turns", type=int, default=4, help="of each")
    parser.add_argument("--workers", type=int, default=1, help="processes that take writes")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="bench-writes-"))
    coordinators = [
        Loaded(ack, folder, {"writes": {"ack": ack}}, workers=options.workers) for ack in ("buffered", "aggregated")
    ]
    try:
        asyncio.run(measure(folder, coordinators, options))
    finally:
        for one in coordinators:
            one.process.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return 0

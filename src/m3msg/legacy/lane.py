"""One instance: what waits for it, and the connection to it.

Whatever waits is sent at once, in blocks. A block that could not be written is written again over a new connection, as M3's client does:
what the instance had read of it before counts twice there, and what was in the systems' buffers of the old connection is lost. Nobody knows
either, as there are no acks.
"""

import asyncio
import contextlib
import socket
from collections import deque
from typing import Literal

from m3msg.legacy.options import LegacyOptions
from m3x.config import parse_address
from m3x.endpoints import configure
from m3x.instrument import Scope
from m3x.log import logger
from m3x.retry import Backoff
from m3x.tls import ClientTLS, TLSError

__all__ = ["Lane", "Queue"]

log = logger(__name__)

_BLOCK_BYTES = 512 * 1024
"""M3 writes no more at a time."""
_KEEP_ALIVE_S = 15
_FIRST_PAUSE_S = 0.1


class Queue:
    """Records that wait, in blocks; bounded by bytes."""

    def __init__(self, most_bytes: int, drop: Literal["oldest", "current"]) -> None:
        self._most_bytes = most_bytes
        self._drop = drop
        self._blocks: deque[list[bytes]] = deque()
        self._counts: deque[list[int]] = deque()
        """Bytes and records of each block."""
        self.nbytes = 0

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def put(self, records: bytes, count: int) -> int:
        """Takes ``count`` records; returns how many were given up for want of room."""
        if self._drop == "current" and self.nbytes + len(records) > self._most_bytes:
            return count
        if self._blocks and self._counts[-1][0] + len(records) <= _BLOCK_BYTES:
            self._blocks[-1].append(records)
            self._counts[-1][0] += len(records)
            self._counts[-1][1] += count
        else:
            self._blocks.append([records])
            self._counts.append([len(records), count])
        self.nbytes += len(records)
        dropped = 0
        while self.nbytes > self._most_bytes:
            dropped += self.take()[1]
        return dropped

    def take(self) -> tuple[bytes, int]:
        """The oldest block, and how many records it has. Raises ``IndexError``."""
        parts = self._blocks.popleft()
        nbytes, count = self._counts.popleft()
        self.nbytes -= nbytes
        return b"".join(parts), count


class Lane:
    """See the module; ``run`` it as long as it is used. ``scope``: where M3 counts what its queues and connections do."""

    def __init__(self, endpoint: str, options: LegacyOptions, scope: Scope) -> None:
        self.endpoint = endpoint
        self.error = "no connection yet"
        """Why there is no connection; empty: there is one."""
        self.queue = Queue(options.queue_bytes, options.drop)
        self.idle = asyncio.Event()
        """Nothing waits, and nothing is being written."""
        self.idle.set()
        self._options = options
        self._tls = ClientTLS(options.tls) if options.tls.enabled else None
        self._queued = scope.tagged(action="enqueue")
        self._dropped = self._queued.tagged(drop_type=options.drop)
        self._wrote = scope.tagged(action="conn-write")
        self._connection = scope.sub("connection")
        self._backoff = Backoff(_FIRST_PAUSE_S, 2.0, options.max_reconnect_s)
        self._work = asyncio.Event()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    def put(self, records: bytes, count: int) -> None:
        """Takes records to send."""
        dropped = self.queue.put(records, count)
        self._queued.count("successes", count)
        if dropped:
            self._dropped.count("dropped", dropped)
            log.warning_limited(
                "metrics are dropped: their aggregator takes them too slowly, or is away", instance=self.endpoint,
                records=dropped, reason=self.error or "its queue is full",
            )  # fmt: skip
        if self.queue:
            self.idle.clear()
            self._work.set()

    async def run(self) -> None:
        """Connects, and sends what waits, until cancelled."""
        attempt = 0
        try:
            while True:
                if self._lost() and not await self._connect():
                    attempt += 1
                    await asyncio.sleep(self._backoff.delay(attempt))
                    continue
                attempt = 0
                if self.queue:
                    await self._send(*self.queue.take())
                if not self.queue:
                    self.idle.set()
                    self._work.clear()
                    await self._something()
        finally:
            self._disconnect("closed")

    def _lost(self) -> bool:
        """Whether there is no connection, or none any more."""
        if self._reader is not None and (self._reader.at_eof() or self._reader.exception() is not None):
            self._disconnect("the aggregator has closed the connection")
        return self._writer is None

    async def _something(self) -> None:
        """Returns when there is something to send, or the connection has ended."""
        assert self._reader is not None
        tasks = [asyncio.create_task(self._work.wait()), asyncio.create_task(self._end(self._reader))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _end(self, reader: asyncio.StreamReader) -> None:
        """Returns when the aggregator has closed the connection, on which it says nothing."""
        with contextlib.suppress(OSError):
            while await reader.read(1024):
                pass

    async def _send(self, block: bytes, count: int) -> None:
        for attempt in range(self._options.write_retries + 1):
            if attempt:
                self._connection.count("write-retries")
                await asyncio.sleep(self._options.retry.delay(attempt))
            if (not self._lost() or await self._connect()) and await self._write(block):
                self._wrote.count("successes", count)
                return
        self._wrote.count("errors", count)
        log.warning_limited("metrics are lost: they could not be written", instance=self.endpoint, records=count)

    async def _write(self, block: bytes) -> bool:
        assert self._writer is not None
        try:
            async with asyncio.timeout(self._options.write_timeout_s):
                self._writer.write(block)
                await self._writer.drain()
        except (OSError, TimeoutError) as error:
            self._connection.count("write-error")
            self._disconnect(str(error) or "not written in time")
            return False
        return True

    async def _connect(self) -> bool:
        try:
            host, port = parse_address(self.endpoint)
            async with asyncio.timeout(self._options.connect_timeout_s):
                context = None if self._tls is None else self._tls.context()
                name = None if self._tls is None else self._tls.server_name or host
                self._reader, self._writer = await asyncio.open_connection(
                    host, port, ssl=context, server_hostname=name
                )
        except (OSError, TimeoutError, TLSError, ValueError) as error:
            self._connection.count("connect-error")
            self.error = str(error) or "no connection in time"
            return False
        # Then ``drain`` returns when the system has everything.
        self._writer.transport.set_write_buffer_limits(high=0)
        sock = self._writer.get_extra_info("socket")
        if isinstance(sock, socket.socket) or hasattr(sock, "setsockopt"):
            configure(sock, _KEEP_ALIVE_S if self._options.keep_alive else 0)
        self._connection.count("connect-success")
        self.error = ""
        return True

    def _disconnect(self, why: str) -> None:
        self.error = why
        if self._writer is not None:
            self._writer.transport.abort() if why != "closed" else self._writer.close()
        self._reader = self._writer = None

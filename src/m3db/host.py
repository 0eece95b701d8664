"""The connections to one host: opened again and again, asked for their health, and bounded in what is on its way.

They are few, where M3 has 32 (docs/m3/m3db_cluster.md, connections of a client). What is sent and not answered
is counted in bytes. A host that is full and answers is waited for; one that has answered nothing for a second (``stalled_after_s``) is
left out, so that it costs its own copies only, and no more memory than the bound.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from m3db.connection import Answer, Connection, Done, MessageIds
from m3db.errors import CallError, CallFailure, ConnectError, M3DBError
from m3db.options import HostOptions
from m3db.thrift import METHODS
from m3db.topology import Host
from m3db.write import Calls
from m3x import clock
from m3x.config import parse_address
from m3x.log import logger

__all__ = ["NO_CONNECTION", "HostPool", "HostStatus", "Link", "Opener", "open_link"]

_log = logger(__name__)
_HEALTH = METHODS["health"]
_SHORT_LIFE_S = 1.0
"""A connection that ends sooner counts as one that was not made: a host that hangs up at once is not dialled without a pause."""
_NOT_ALIVE = {CallFailure.TIMEOUT, CallFailure.NETWORK, CallFailure.PROTOCOL, CallFailure.CANCELLED}
"""Ends of a call that are no sign of life."""
NO_CONNECTION = "connection pool has no connections"


class Link(Protocol):
    """What is used of a ``Connection``."""

    @property
    def closed(self) -> bool: ...

    @property
    def unsent_bytes(self) -> int: ...

    async def call(self, method: str, body: bytes, timeout_s: float) -> Answer: ...

    def send(self, frames: memoryview | bytes, first: int, count: int, timeout_s: float, done: Done) -> None: ...

    async def wait_closed(self) -> None: ...

    async def close(self) -> None: ...


Opener = Callable[[str, int, float, MessageIds], Awaitable[Link]]
"""Host, port, time-out in seconds, message ids → a connection. Raises ``ConnectError``."""


async def open_link(host: str, port: int, timeout_s: float, ids: MessageIds) -> Link:
    """A real one."""
    return await Connection.open(host, port, timeout_s=timeout_s, ids=ids)


@dataclass(frozen=True, slots=True)
class HostStatus:
    """What is known of one host, for people."""

    id: str
    endpoint: str
    connections: int
    """That stand now."""
    wanted: int
    """That there should be."""
    failing_since_ns: int | None
    """Wall time since when it could not be reached, was not well, or did not answer calls; None: all is well."""
    last_error: str
    """The newest one, whether it is well again or not; empty: there was none."""
    outstanding_bytes: int
    """Sent, and not answered."""
    bootstrapped: bool | None
    """What it said of itself last; None: nothing yet."""


class HostPool:
    """``run`` it as long as the host is used. ``changed`` is told when a connection has come or gone."""

    def __init__(
        self,
        host: Host,
        options: HostOptions,
        ids: MessageIds,
        changed: Callable[[], None],
        opener: Opener = open_link,
    ) -> None:
        self.host = host
        self.outstanding_bytes = 0
        self._options = options
        self._ids = ids
        self._changed = changed
        self._opener = opener
        self._links: list[Link] = []
        self._turn = 0
        self._progress_s = 0.0
        """When it last answered a batch, or was sent one while nothing was on its way."""
        self._relief = asyncio.Event()
        """Set when there may be room that was not there before."""
        self._failing_since_ns: int | None = None
        self._calls_fail = False
        """It fails since calls were not answered: that it is well in its health checks does not make up for that."""
        self._last_error = ""
        self._bootstrapped: bool | None = None

    # --- what is known

    @property
    def connected(self) -> int:
        """Connections that stand."""
        return sum(not link.closed for link in self._links)

    @property
    def status(self) -> HostStatus:
        """See there."""
        return HostStatus(
            id=self.host.id,
            endpoint=self.host.endpoint,
            connections=self.connected,
            wanted=self._options.connections,
            failing_since_ns=self._failing_since_ns,
            last_error=self._last_error,
            outstanding_bytes=self._busy_bytes(),
            bootstrapped=self._bootstrapped,
        )

    @property
    def stalled(self) -> bool:
        """Whether something is on its way, and it has answered nothing for too long."""
        return self._patience_s() <= 0

    # --- sending

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more are within the bound; where nothing is on its way, any number is."""
        busy = self._busy_bytes()
        return busy == 0 or busy + size <= self._options.max_outstanding_bytes

    async def until_room(self, size: int, last_s: float) -> bool:
        """Waits for it while the host answers, but not beyond ``last_s`` of the loop's time; False: there is none."""
        while not self.has_room(size) and self.connected:
            now_s = asyncio.get_running_loop().time()
            until_s = min(now_s + self._patience_s(), last_s)
            if until_s <= now_s:
                return False
            self._relief.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until_s):
                    await self._relief.wait()
        return True

    def send(self, calls: Calls, timeout_s: float, done: Done) -> bool:
        """Sends calls, and tells ``done`` of each within ``timeout_s``, never before this returns; it must not raise. False: there is no
        connection, nothing is told."""
        link = self._pick()
        if link is None:
            return False
        if not self.outstanding_bytes:
            self._progress_s = asyncio.get_running_loop().time()
        self.outstanding_bytes += len(calls.frames)
        link.send(calls.frames, calls.first_id, len(calls), timeout_s, partial(self._ended, done, calls))
        return True

    async def call(self, method: str, body: bytes, timeout_s: float) -> Answer:
        """One call. Raises ``CallError``."""
        link = self._pick()
        if link is None:
            raise CallError(CallFailure.NETWORK, f"{self.host.endpoint}: {NO_CONNECTION}")
        try:
            answer = await link.call(method, body, timeout_s)
        except CallError as error:
            self._note_call(error)
            raise
        self._note_call(answer)
        return answer

    # --- connections

    async def run(self) -> None:
        """Keeps the connections until cancelled, and closes them then."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._options.connections):
                group.create_task(self._keep())

    async def _keep(self) -> None:
        """One connection."""
        attempt = 0
        while True:
            link = await self._connect()
            if link is not None:
                begun = asyncio.get_running_loop().time()
                self._links.append(link)
                self._changed()
                try:
                    await self._watch(link)
                finally:
                    self._links.remove(link)
                    self._relief.set()
                    await link.close()
                self._changed()
                if asyncio.get_running_loop().time() - begun >= _SHORT_LIFE_S:
                    attempt = 0
                    continue
            attempt += 1
            await asyncio.sleep(self._options.reconnect.delay(attempt))

    async def _connect(self) -> Link | None:
        """A connection that has answered for its health."""
        link = None
        try:
            address = parse_address(self.host.endpoint)
            link = await self._opener(*address, self._options.connect_timeout_s, self._ids)
            await self._ask(link)
        except (M3DBError, ValueError) as error:
            self._failed(str(error))
            if link is not None:
                await link.close()
            return None
        except asyncio.CancelledError:
            if link is not None:
                await link.close()
            raise
        self._failing_since_ns, self._calls_fail = None, False
        return link

    async def _watch(self, link: Link) -> None:
        """Returns when the connection has ended, or has failed too many checks in a row."""
        options, failures = self._options, 0
        while True:
            wait_s = (
                options.health_pause_s
                if failures
                else options.health_interval_s + random.random() * options.health_jitter_s
            )
            try:
                async with asyncio.timeout(wait_s):
                    await link.wait_closed()
            except TimeoutError:
                pass
            else:
                self._failed(f"{self.host.endpoint}: the connection has ended")
                return
            try:
                await self._ask(link)
            except M3DBError as error:
                failures += 1
                self._failed(str(error))
                if failures >= options.health_fail_limit:
                    _log.warning(
                        "a connection to a node of M3DB is given up: it fails its health checks",
                        host=self.host.id,
                        endpoint=self.host.endpoint,
                        error=str(error),
                    )
                    return
            else:
                failures = 0
                if not self._calls_fail:
                    self._failing_since_ns = None

    async def _ask(self, link: Link) -> None:
        """Raises ``M3DBError`` unless the node says that it is well."""
        answer = await link.call(_HEALTH.name, _HEALTH.body(), self._options.health_timeout_s)
        found = _HEALTH.outcome(answer.body)
        self._bootstrapped = bool(found["bootstrapped"])
        if not found["ok"]:
            raise ConnectError(f"{self.host.endpoint}: the node says that it is not well")

    # --- bookkeeping

    def _pick(self) -> Link | None:
        """The connections take turns."""
        for _ in range(len(self._links)):
            self._turn += 1
            link = self._links[self._turn % len(self._links)]
            if not link.closed:
                return link
        return None

    def _busy_bytes(self) -> int:
        """What calls that were given up have left in the buffers of sockets counts, too."""
        return max(self.outstanding_bytes, sum(link.unsent_bytes for link in self._links))

    def _patience_s(self) -> float:
        """So much longer it may be waited for."""
        if not self._busy_bytes():
            return self._options.stalled_after_s
        return self._progress_s + self._options.stalled_after_s - asyncio.get_running_loop().time()

    def _ended(self, done: Done, calls: Calls, numbers: Sequence[int], result: Answer | CallError) -> None:
        self.outstanding_bytes -= calls.size_of(numbers)
        if self._note_call(result):
            self._progress_s = asyncio.get_running_loop().time()
        self._relief.set()
        done(numbers, result)

    def _note_call(self, result: Answer | CallError) -> bool:
        """Whether the end of a call is a sign of life."""
        if isinstance(result, CallError) and result.kind in _NOT_ALIVE:
            self._calls_fail = True
            self._failed(str(result))
            return False
        self._failing_since_ns, self._calls_fail = None, False
        return True

    def _failed(self, text: str) -> None:
        self._last_error = text
        if self._failing_since_ns is None:
            self._failing_since_ns = clock.wall_ns()

"""A session with a cluster of M3DB: it follows the topology, keeps connections to the hosts, and writes rows to their copies.

    topology (KV or file) ──> hosts ──> connections                 ``host``
    rows ──> shards ──> hosts ──> answers ──> rows decided          ``attempt``, ``tallies``
             └── again, with a new look at the topology, while some are RETRY

A topology takes effect once enough of its hosts are connected (``connectConsistencyLevel``); a host whose endpoint changes is a new one.
Nothing here is ever given up for good: what cannot be written is RETRY, unless bad requests alone put the level out of reach
(docs/compatibility.md).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from m3db.attempt import Attempt, Hurry, RowError
from m3db.connection import Answer, MessageIds
from m3db.consistency import PENDING, ConnectLevel, RowState, connected_enough
from m3db.errors import CallError, CallFailure
from m3db.host import HostPool, HostStatus, Opener, open_link
from m3db.options import SessionOptions
from m3db.tallies import Routing, WriteTally
from m3db.topology import Host, Topology, changes
from m3db.write import WriteRows
from m3x import clock
from m3x.instrument import Scope
from m3x.log import logger

__all__ = [
    "FixedTopology",
    "ReadHosts",
    "RowError",
    "RowState",
    "Session",
    "TopologySource",
    "WriteResult",
    "WriteRows",
    "open_session",
]

_log = logger(__name__)
_PATIENCE_NS = 10 * 10**9
"""A host that is connected and not well for so long is worth a word."""
NOT_INITIALIZED = "M3DB session not yet initialized"
_STEPS = {ConnectLevel.ANY: (ConnectLevel.ALL, ConnectLevel.MAJORITY, ConnectLevel.ONE)}


@dataclass(slots=True, eq=False)
class WriteResult:
    """What became of rows."""

    states: NDArray[np.uint8]
    """``RowState`` of each."""
    errors: list[RowError] = field(default_factory=list)
    """What hosts said in the last round of rows that are RETRY or REFUSED, as far as it was waited for."""

    def rows(self, state: RowState) -> NDArray[np.int64]:
        """The rows of a state, ascending."""
        return np.flatnonzero(self.states == state)


class TopologySource(Protocol):
    """Where the topology comes from: ``m3db.following.FollowedTopology``, or ``FixedTopology``."""

    def trouble(self) -> str | None:
        """One line for people while there is something to say."""

    async def run(self, changed: Callable[[Topology], None]) -> None:
        """Calls ``changed`` with every good topology, until cancelled."""


class FixedTopology:
    """That of a file."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology

    def trouble(self) -> str | None:
        """Nothing."""
        return None

    async def run(self, changed: Callable[[Topology], None]) -> None:
        """Tells it once."""
        changed(self._topology)


@dataclass(frozen=True, slots=True, eq=False)
class ReadHosts:
    """The topology as it is in use, and its hosts by the same index."""

    topology: Topology
    pools: Sequence[HostPool]

    async def call(self, host: int, method: str, body: bytes, timeout_s: float) -> Answer:
        """A call of the host with that index. Raises ``CallError``."""
        return await self.pools[host].call(method, body, timeout_s)


@dataclass(frozen=True, slots=True, eq=False)
class _Active:
    routing: Routing
    pools: list[HostPool]


class Session:
    """See the module; ``open_session`` makes one that runs."""

    def __init__(
        self,
        options: SessionOptions,
        source: TopologySource,
        scope: Scope,
        *,
        opener: Opener = open_link,
    ) -> None:
        self.options = options
        self._source = source
        self._scope = scope
        self._write_scope, self._request_scope = scope.sub("write"), scope.sub("write-req")
        self._opener = opener
        self._ids = MessageIds()
        self._written = 0
        """Rows, in all rounds."""
        self._active: _Active | None = None
        self._newest: Topology | None = None
        self._news = asyncio.Event()
        """Set when there is a newer topology, or a connection has come or gone."""
        self._pools: dict[Host, tuple[HostPool, asyncio.Task[None]]] = {}

    # --- what is known

    @property
    def topology(self) -> Topology | None:
        """The one in use; None: there is none yet, or too few of its hosts are connected."""
        return None if self._active is None else self._active.routing.topology

    @property
    def hosts(self) -> list[HostStatus]:
        """Of all hosts of the topology in use, and of one that is to follow it."""
        return [pool.status for pool, _ in self._pools.values()]

    def trouble(self) -> list[str]:
        """Lines for people: what keeps this session from writing, or some hosts from being written to. Empty: all is well."""
        lines = [line] if (line := self._source.trouble()) is not None else []
        if self._active is None and self._newest is not None:
            lines.append(
                f"too few nodes of M3DB are connected for connectConsistencyLevel {self.options.connect_level}"
            )
        return lines + [line for host in self.hosts if (line := _trouble_with(host)) is not None]

    def hosts_for_reading(self) -> ReadHosts | None:
        """None: see ``topology``."""
        return None if self._active is None else ReadHosts(self._active.routing.topology, self._active.pools)

    async def call(self, host: str, method: str, body: bytes, timeout_s: float) -> Answer:
        """A call of the host with that id. Raises ``CallError``."""
        active = self._active
        index = None if active is None else active.routing.topology.index(host)
        if active is None or index is None:
            raise CallError(CallFailure.NETWORK, f"{host}: {NOT_INITIALIZED if active is None else 'no such host'}")
        return await active.pools[index].call(method, body, timeout_s)

    # --- writing

    async def write(self, rows: WriteRows, *, patience_s: float | None = None) -> WriteResult:
        """Writes rows; returns when each is decided, after as many retries as ``writeRetry`` has.

        With ``patience_s`` rows whose hosts have answered nothing for so long (or up to twice as long) are RETRY while rows of other
        hosts are written: one hung shard does not keep all others waiting for ``writeTimeout``. They may be written all the same.

        Raises ``ValueError`` for rows that cannot be encoded (``m3db.write.encode_calls``).
        """
        begun = asyncio.get_running_loop().time()
        scope = self._request_scope
        states, errors = await self._attempt(rows, patience_s)
        scope.count("attempts", len(rows))
        retry = 0
        while (states == RowState.RETRY).any():
            retry += 1
            delay_s = self.options.write_retry.delay_s(retry)
            if delay_s is None:
                break
            again = np.flatnonzero(states == RowState.RETRY)
            scope.count("retries", len(again))
            await asyncio.sleep(delay_s)
            part = rows if len(again) == len(rows) else _subset(rows, again)
            states[again], errors = await self._attempt(part, patience_s)
            scope.count("attempts", len(part))
            errors = [replace(error, rows=again[error.rows]) for error in errors]
        self._count(states, asyncio.get_running_loop().time() - begun)
        result = WriteResult(states, _of_failed(errors, states))
        if result.errors:
            first = result.errors[0]
            _log.warning_limited(
                "m3db client write error occurred",
                host=first.host, kind=first.kind, error=first.text,
                retry=len(result.rows(RowState.RETRY)), refused=len(result.rows(RowState.REFUSED)),
            )  # fmt: skip
        return result

    async def _attempt(self, rows: WriteRows, patience_s: float | None) -> tuple[NDArray[np.uint8], list[RowError]]:
        active = self._active
        if active is None:
            return _all_retry(rows, NOT_INITIALIZED)
        if rows.forms.rules.shards != active.routing.topology.num_shards:
            return _all_retry(
                rows,
                f"shards were computed for {rows.forms.rules.shards} of them, but the topology has "
                f"{active.routing.topology.num_shards}",
            )
        attempt = Attempt(active.routing, active.pools, rows, self.options.write_timeout_s)
        begun, hurry = self._written, None
        if patience_s is not None:
            hurry = Hurry(patience_s, lambda: self._written > begun)
        await attempt.run(self._ids.reserve, self.options.elements_per_call, hurry)
        if attempt.errors:
            self._count_copies(attempt.tally)
        # Copies: answers that come later go on being counted in the arrays of the tally.
        states = attempt.tally.states.copy()
        if attempt.tally.undecided:
            states[states == PENDING] = RowState.RETRY
        self._written += int(np.count_nonzero(states == RowState.WRITTEN))
        return states, attempt.errors

    def _count(self, states: NDArray[np.uint8], seconds: float) -> None:
        written, retry, refused = (int(np.count_nonzero(states == state)) for state in RowState)
        write, request = self._write_scope, self._request_scope
        for scope in (write, request):
            scope.count("success", written)
        for kind, count in (("internal_error", retry), ("bad_request", refused)):
            if count:
                write.tagged(error_type=f"{kind}").count("errors", count)
                request.tagged(type="retryable" if kind == "internal_error" else "non-retryable").count("errors", count)
        write.record("latency", seconds)
        request.count("calls", len(states))

    def _count_copies(self, tally: WriteTally) -> None:
        """How many rows had how many copies that answered with errors, when they were decided."""
        for kind, counts in (("bad_request_error", tally.copies_refused()), ("server_error", tally.copies_failed())):
            for nodes, count in enumerate(np.bincount(counts[counts > 0]).tolist()):
                if count:
                    self._scope.tagged(nodes=str(nodes), error_type=kind).count("write.nodes-responding-error", count)

    # --- topology

    async def run(self) -> None:
        """Follows the topology and keeps the connections, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._source.run(self._received))
            await self._apply(group)

    def _received(self, topology: Topology) -> None:
        self._newest = topology
        self._news.set()

    async def _apply(self, group: asyncio.TaskGroup) -> None:
        while True:
            while self._newest is None or (self._active is not None and self._newest is self._active.routing.topology):
                self._news.clear()
                await self._news.wait()
            topology = self._newest
            for host in topology.hosts:
                if host not in self._pools:
                    pool = HostPool(host, self.options.host, self._ids, self._connection_changed, self._opener)
                    self._pools[host] = pool, group.create_task(pool.run(), name=f"m3db host {host.id}")
            if await self._connected(topology):
                self._use(topology)
            self._retire(group)

    async def _connected(self, topology: Topology) -> bool:
        """Waits for ``connectConsistencyLevel``, of a topology that follows another one only for hosts that are new in it; False: a newer
        topology has come meanwhile."""
        known = set() if self._active is None else set(self._active.routing.topology.hosts)
        level, begun = self.options.connect_level, asyncio.get_running_loop().time()
        steps = list(_STEPS.get(level, (level,)))
        deadline = begun + self.options.connect_timeout_s
        while self._newest is topology:
            there = np.array([host in known or self._pools[host][0].connected > 0 for host in topology.hosts])
            if connected_enough(steps[0], topology, there):
                self._scope.record("cluster-connect.latency", asyncio.get_running_loop().time() - begun)
                return True
            self._news.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._news.wait()
            except TimeoutError:
                deadline += self.options.connect_timeout_s
                missing = [
                    host.id for host, is_there in zip(topology.hosts, there.tolist(), strict=True) if not is_there
                ]
                del steps[0]
                if not steps:
                    if level is ConnectLevel.ANY or self._active is not None:
                        _log.warning("too few nodes of M3DB are connected; going on all the same", missing=missing)
                        return True
                    steps = [level]
                    _log.warning(
                        "timed out establishing min connections to cluster; still waiting", level=level, missing=missing
                    )
        return False

    def _use(self, topology: Topology) -> None:
        changed = changes(self.topology, topology)
        self._active = _Active(Routing(topology, self.options.rules), [self._pools[host][0] for host in topology.hosts])
        self._scope.count("topology.updated-success")
        _log.info(
            "successfully updated topology",
            numHosts=len(topology.hosts), numShards=topology.num_shards, version=topology.version,
            added=changed.added, removed=changed.removed, moved=changed.moved,
        )  # fmt: skip

    def _retire(self, group: asyncio.TaskGroup) -> None:
        """Closes the connections of hosts that no topology names any more, once what is on its way there has ended."""
        kept = set() if self._newest is None else set(self._newest.hosts)
        if self._active is not None:
            kept |= set(self._active.routing.topology.hosts)
        for host in self._pools.keys() - kept:
            group.create_task(self._end(*self._pools.pop(host)))

    async def _end(self, pool: HostPool, task: asyncio.Task[None]) -> None:
        for _ in range(10):
            if not pool.outstanding_bytes:
                break
            await asyncio.sleep(self.options.write_timeout_s / 10)
        task.cancel()

    def _connection_changed(self) -> None:
        self._news.set()
        for pool, _ in self._pools.values():
            self._scope.tagged(hostID=pool.host.id).gauge("hostqueue.health-status", float(pool.connected > 0))


@asynccontextmanager
async def open_session(
    options: SessionOptions, source: TopologySource, scope: Scope, *, opener: Opener = open_link
) -> AsyncIterator[Session]:
    """A session that runs until the context ends. Does not wait for anything: until enough hosts are connected, writes are RETRY."""
    session = Session(options, source, scope, opener=opener)
    failed: Exception | None = None
    async with asyncio.TaskGroup() as group:
        running = group.create_task(session.run())
        try:
            yield session
        except Exception as error:
            # The group would wrap what is no failure of its own.
            failed = error
        finally:
            running.cancel()
    if failed is not None:
        raise failed


def _trouble_with(host: HostStatus) -> str | None:
    named = f"node {host.id} ({host.endpoint})"
    if not host.connections:
        return f"{named} is not connected: {host.last_error or 'no connection yet'}"
    since_ns = host.failing_since_ns
    if since_ns is None or clock.wall_ns() - since_ns < _PATIENCE_NS:
        return None
    return f"{named} is not well since {time.strftime('%H:%M:%S', time.gmtime(since_ns / 1e9))} UTC: {host.last_error}"


def _subset(rows: WriteRows, chosen: NDArray[np.int64]) -> WriteRows:
    return replace(
        rows,
        series=rows.series[chosen],
        namespace=rows.namespace[chosen],
        timestamp=rows.timestamp[chosen],
        time_type=rows.time_type[chosen],
        values=rows.values[chosen],
        annotation=rows.annotation[chosen],
    )


def _all_retry(rows: WriteRows, text: str) -> tuple[NDArray[np.uint8], list[RowError]]:
    everything = np.arange(len(rows))
    return np.full(len(rows), RowState.RETRY, np.uint8), [RowError(everything, "", "not initialized", text)]


def _of_failed(errors: list[RowError], states: NDArray[np.uint8]) -> list[RowError]:
    """The errors, as far as they are about rows that were not written."""
    kept = []
    for error in errors:
        failed = error.rows[states[error.rows] != RowState.WRITTEN]
        if len(failed):
            kept.append(replace(error, rows=failed))
    return kept

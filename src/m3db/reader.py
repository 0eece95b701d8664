"""Tagged reads from a cluster: every node is asked, and the answers become one (docs/m3/m3db_reading.md, consistency of reads).

A node whose answer cannot be read has failed like one that does not answer: where others have the same shards, nobody notices.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import m3db.m3tsz.kernels
import m3db.read.aggregate_kernels
import m3db.read.fetch_kernels
import m3db.read.merge_kernels
import m3x.byte_table
from m3db.connection import Answer
from m3db.consistency import ReadLevel, ReadTally
from m3db.errors import M3DBError, NodeError
from m3db.options import SessionOptions
from m3db.read import aggregate, fetch
from m3db.read.aggregate import Aggregated
from m3db.read.fetch import MAX_POINTS, TaggedAnswer
from m3db.read.merge import EqualTimes, Fetched, merge
from m3db.topology import Topology
from m3x.instrument import Scope

__all__ = ["ReadError", "Reader", "ReadingHosts", "ReadingSession", "warm"]

_T = TypeVar("_T")
_QUICK_BYTES = 1 << 16
"""Answers up to here are read on the event loop; larger ones beside it."""


class ReadingHosts(Protocol):
    """A topology, and its hosts."""

    @property
    def topology(self) -> Topology:
        """As it is while the read goes on."""

    async def call(self, host: int, method: str, body: bytes, timeout_s: float) -> Answer:
        """A call of the host with that index in the topology. Raises ``CallError``."""


class ReadingSession(Protocol):
    """What a reader needs of a session: ``m3db.session.Session``."""

    @property
    def options(self) -> SessionOptions:
        """Of the cluster: level, retries, which of equal times stays."""

    def hosts_for_reading(self) -> ReadingHosts | None:
        """None while there is no topology to read from."""


class ReadError(M3DBError):
    """A read that did not reach its consistency level."""

    def __init__(self, text: str, errors: Sequence[tuple[str, M3DBError]] = ()) -> None:
        super().__init__(text)
        self.errors = tuple(errors)
        """Hosts that have failed, and why."""

    @property
    def bad_request(self) -> bool:
        """Whether the same read would fail again, since a node has called it bad."""
        return any(isinstance(error, NodeError) and error.bad_request for _, error in self.errors)


@dataclass(frozen=True, slots=True)
class _Call:
    """What is asked of every host."""

    method: str
    body: bytes


class Reader:
    """Reads from the cluster of a session."""

    def __init__(self, session: ReadingSession, scope: Scope, *, max_points: int = MAX_POINTS) -> None:
        """``scope``: of the client's figures. ``max_points``: of one answer; a node that has more has failed."""
        self._session = session
        self._scope = scope.sub("fetch")
        self._max_points = max_points

    async def fetch_tagged(
        self,
        namespace: bytes,
        query: bytes,
        start_ns: int,
        end_ns: int,
        *,
        series_limit: int = 0,
        docs_limit: int = 0,
        require_exhaustive: bool = True,
        fetch_data: bool = True,
        timeout_s: float = 30.0,
    ) -> Fetched:
        """The series that match ``query`` (``index_query.marshal_query``), with their points in ``[start_ns, end_ns)``.

        ``series_limit``, ``docs_limit``: more is an error with ``require_exhaustive``, else the result is not exhaustive; 0: no limit.
        Without ``fetch_data`` no series has points. Raises ``ReadError``, at the latest after ``timeout_s``, in which all retries have
        to fit.
        """
        body = fetch.request_body(
            namespace,
            query,
            start_ns,
            end_ns,
            series_limit=series_limit,
            docs_limit=docs_limit,
            require_exhaustive=require_exhaustive,
            fetch_data=fetch_data,
        )
        answers = await self._read(_Call("fetchTagged", body), self._read_answer, timeout_s)
        rule = EqualTimes(self._session.options.equal_timestamps)
        return await _beside(
            sum(len(answer.body) for answer in answers),
            lambda: merge(answers, start_ns, end_ns, series_limit=series_limit, equal_times=rule),
        )

    async def aggregate(
        self,
        namespace: bytes,
        query: bytes,
        start_ns: int,
        end_ns: int,
        *,
        names: Sequence[bytes] = (),
        names_only: bool = False,
        series_limit: int = 0,
        docs_limit: int = 0,
        require_exhaustive: bool = True,
        timeout_s: float = 30.0,
    ) -> Aggregated:
        """Names and values of the tags of series that match ``query`` and have something in blocks of the range.

        ``names``: only of these tags, if there are any. The rest as in ``fetch_tagged``.
        """
        body = aggregate.request_body(
            namespace,
            query,
            start_ns,
            end_ns,
            names=names,
            names_only=names_only,
            series_limit=series_limit,
            docs_limit=docs_limit,
            require_exhaustive=require_exhaustive,
        )
        answers = await self._read(_Call("aggregateRaw", body), aggregate.read_aggregated, timeout_s)
        return aggregate.merge_aggregated(answers, limit=series_limit)

    def _read_answer(self, body: bytes) -> TaggedAnswer:
        return fetch.read_answer(body, max_points=self._max_points)

    async def _read(self, call: _Call, parse: Callable[[bytes], _T], timeout_s: float) -> list[_T]:
        """The answers of hosts that were enough, in the order of the topology; retried as ``fetchRetry`` says."""
        begun = time.monotonic()
        retry = 0
        while True:
            try:
                answers = await self._attempt(call, parse, begun + timeout_s - time.monotonic())
            except ReadError as error:
                retry += 1
                delay_s = None if error.bad_request else self._session.options.fetch_retry.delay_s(retry)
                if delay_s is None or time.monotonic() + delay_s >= begun + timeout_s:
                    kind = "bad_request" if error.bad_request else "internal_error"
                    self._scope.tagged(error_type=kind).count("errors")
                    raise
                self._scope.count("retries")
                await asyncio.sleep(delay_s)
            else:
                self._scope.count("success")
                self._scope.record("latency", time.monotonic() - begun)
                return answers

    async def _attempt(self, call: _Call, parse: Callable[[bytes], _T], timeout_s: float) -> list[_T]:
        hosts = self._session.hosts_for_reading()
        if hosts is None:
            raise ReadError("M3DB session not yet initialized")
        level = self._session.options.read_level
        tally = ReadTally(level, hosts.topology)
        answers: dict[int, _T] = {}
        errors: dict[int, M3DBError] = {}
        tasks = {
            asyncio.create_task(_ask(hosts, host, call, parse, timeout_s)): host
            for host in range(len(hosts.topology.hosts))
        }
        pending = set(tasks)
        try:
            while pending and not tally.decided:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    host = tasks[task]
                    try:
                        answers[host] = task.result()
                    except M3DBError as error:
                        errors[host] = error
                    tally.answered(host, host in answers)
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if len(short := tally.short()):
            raise _failure(level, hosts.topology, len(short), len(answers), errors)
        return [answers[host] for host in sorted(answers)]


async def _ask(hosts: ReadingHosts, host: int, call: _Call, parse: Callable[[bytes], _T], timeout_s: float) -> _T:
    answer = await hosts.call(host, call.method, call.body, timeout_s)
    return await _beside(len(answer.body), lambda: parse(answer.body))


async def _beside(size: int, work: Callable[[], _T]) -> _T:
    """Work on so many bytes, beside the event loop if these are many."""
    return work() if size <= _QUICK_BYTES else await asyncio.to_thread(work)


def _failure(
    level: ReadLevel, topology: Topology, shards: int, successes: int, errors: dict[int, M3DBError]
) -> ReadError:
    found = [(topology.hosts[host].id, errors[host]) for host in sorted(errors)]
    listed = ", ".join(f"error fetching tagged from host {host}: {error}" for host, error in found)
    return ReadError(
        f"unable to satisfy consistency requirements, shards={shards}: failed to meet consistency level {level} with "
        f"{successes}/{len(topology.hosts)} success, {successes + len(errors)} nodes responded, errors: [{listed}]",
        found,
    )


def warm() -> None:
    """Compiles the kernels of reads, or loads them from the cache."""
    m3x.byte_table.warm()
    m3db.m3tsz.kernels.warm()
    m3db.read.fetch_kernels.warm()
    m3db.read.merge_kernels.warm()
    m3db.read.aggregate_kernels.warm()

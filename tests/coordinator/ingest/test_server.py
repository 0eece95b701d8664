"""The ingest server over a real socket: what is acked, when, and what is counted."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from coordinator.ingest import Ingester, IngestOptions, IngestServer, StoreOutlet
from coordinator.matchers import Matcher, MatchOp
from coordinator.store import Store, StoreError, StoreOptions, WriteBatch, Written, open_store
from m3metrics.codec import AggregatedMetric, encode_aggregated
from m3metrics.policy import StoragePolicy
from m3msg.frames import Message, Metadata, decode_ack, encode_message, split
from m3x.instrument import Registry
from m3x.retry import Backoff

POLICIES = [StoragePolicy.parse("10s:6h"), StoragePolicy.parse("1m:2d")]
OPTIONS = IngestOptions(
    retry=Backoff(0.001, 1.0, 0.001, False), max_retries=2, blackhole_policies=(StoragePolicy.parse("1s:1h"),)
)
Make = Callable[..., bytes]


class Flaky:
    """A store that fails a number of times first, and can be held."""

    def __init__(self, store: Store) -> None:
        self.store, self.failures, self.calls = store, 0, 0
        self.go = asyncio.Event()
        self.go.set()

    def policy_index(self, window_ns: int, retention_ns: int) -> int:
        return self.store.policy_index(window_ns, retention_ns)

    async def write(self, batch: WriteBatch) -> Written:
        self.calls += 1
        await self.go.wait()
        if self.failures:
            self.failures -= 1
            raise StoreError("no space left")
        return await self.store.write(batch)


class Producer:
    """The other side: sends messages with ids 1, 2 …, collects acks."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sent = 0
        self._rest = b""
        self.acked: set[int] = set()

    async def __aenter__(self) -> "Producer":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def send(self, *messages: bytes) -> None:
        for one in messages:
            self._sent += 1
            self._writer.write(encode_message(Message(Metadata(3, self._sent, 5), one)))
        await self._writer.drain()

    async def wait(self, *ids: int) -> None:
        """Reads acks until exactly those are there."""
        async with asyncio.timeout(20):
            while not set(ids) <= self.acked:
                data = await self._reader.read(65536)
                assert data, "the connection was closed"
                payloads, self._rest = split(self._rest + data)
                self.acked |= {one.id for payload in payloads for one in decode_ack(payload)}
        assert self.acked == set(ids)


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[tuple[Flaky, IngestServer, Registry]]:
    registry = Registry()
    async with open_store(tmp_path / "m.duckdb", POLICIES) as store:
        flaky = Flaky(store)
        async with IngestServer(
            "127.0.0.1:0", StoreOutlet(flaky), POLICIES[:1], OPTIONS, registry.scope("ingest-m3msg")
        ) as server:
            yield flaky, server, registry


async def values(store: Store, name: bytes) -> list[float]:
    found = await store.select([Matcher(MatchOp.EQUAL, b"__name__", name)], 0, 2**42)
    result: list[float] = found.values.tolist()
    return result


async def test_values_are_acked_when_they_are_committed(
    setup: tuple[Flaky, IngestServer, Registry], message: Make
) -> None:
    flaky, server, registry = setup
    now = time.time_ns()
    async with Producer(server.port) as producer:
        flaky.go.clear()
        await producer.send(message("a", now - 10**10, 1.0), message("a", now, 2.0), message("b", now, 3.0))
        async with asyncio.timeout(20):
            while flaky.calls == 0:  # noqa: ASYNC110 - nothing else shows that it has arrived
                await asyncio.sleep(0.01)
        assert producer.acked == set()
        flaky.go.set()
        await producer.wait(1, 2, 3)
    assert await values(flaky.store, b"a") == [1.0, 2.0]
    assert await values(flaky.store, b"b") == [3.0]
    assert registry.counter("ingest_m3msg_ingest_success") == 3


async def test_what_can_never_be_stored_is_acked_and_counted_and_named(
    setup: tuple[Flaky, IngestServer, Registry], message: Make
) -> None:
    flaky, server, registry = setup
    now = time.time_ns()
    async with Producer(server.port) as producer:
        await producer.send(
            b"\xff garbage",
            message("a", now, 1.0, "10s:2d"),  # no such namespace
            message("a", now, 1.0, "1m:2d"),  # read-only
            message("a", now, 1.0, "1s@1ms:1h"),  # thrown away
            message("a", now - 7 * 3600 * 10**9, 1.0),  # too old
            message("a", now, 1.0)[:-20] + b"x" * 20,
            encode_aggregated(AggregatedMetric(id=b"no tags", time_ns=now, value=1.0, storage_policy=POLICIES[0])),
            message("ok", now, 2.0),
        )
        await producer.wait(*range(1, 9))
    assert await values(flaky.store, b"a") == []
    assert await values(flaky.store, b"ok") == [2.0]

    def count(name: str, **tags: str) -> float:
        return registry.counter(f"ingest_m3msg_{name}", **tags)

    assert count("metric_accepted") == 6
    assert count("metric_dropped", reason="decode-error") == 2
    assert count("metric_dropped", reason="blackhole-policy") == 1
    refused = ["no-namespace", "read-only-namespace", "outside-retention", "bad-id"]
    assert [count("ingest_refused", reason=reason) for reason in refused] == [1, 1, 1, 1]
    assert count("ingest_error", error_type="internal_error") == 0
    assert count("ingest_error", error_type="non_retryable_error") == 4
    assert count("ingest_success") == 1
    problems = server.problems()
    assert len(problems) == 5
    (homeless,) = [line for line in problems if "10s:2d" in line]
    assert "no configured cluster namespace for: retention=2d, resolution=10s" in homeless
    assert 'like a{host="x"}' in homeless
    assert "add the namespace to clusters[].namespaces" in homeless


async def test_new_series_of_a_full_store_are_acked(tmp_path: Path, message: Make, pack: Callable[..., Any]) -> None:
    registry, now = Registry(), time.time_ns()
    async with open_store(tmp_path / "m.duckdb", POLICIES, StoreOptions(max_series=1)) as store:
        ingester = Ingester(StoreOutlet(store), POLICIES, OPTIONS, registry.scope("x"))
        acked = await ingester.ingest(*pack([message("a", now, 1.0), message("b", now, 1.0)]))
        assert acked.tolist() == [True, True]
        assert await values(store, b"a") == [1.0]
    assert registry.counter("x_ingest_refused", reason="too-many-series") == 1
    (problem,) = ingester.problems()
    assert 'like b{host="x"}' in problem


class Growing:
    """A store to which namespaces are added."""

    def __init__(self, *policies: StoragePolicy) -> None:
        self.policies = [*policies]
        self.written = 0

    def policy_index(self, window_ns: int, retention_ns: int) -> int:
        found = [i for i, p in enumerate(self.policies) if (p.window_ns, p.retention_ns) == (window_ns, retention_ns)]
        return found[0] if found else -1

    async def write(self, batch: WriteBatch) -> Written:
        self.written += len(batch.id_at)
        return Written(np.zeros(len(batch.id_at), np.uint8), [])


class Patient:
    """An ingester that gives namespaces a minute to appear, and its clock."""

    def __init__(self) -> None:
        self.now_s = 1000
        self.registry = Registry()
        self.store = Growing(POLICIES[0])
        options = msgspec.structs.replace(OPTIONS, no_namespace_grace_ns=60 * 10**9)
        self.ingester = Ingester(
            StoreOutlet(self.store), POLICIES[:1], options, self.registry.scope("x"), clock=lambda: self.now_s * 10**9
        )

    def count(self, error_type: str) -> float:
        return self.registry.counter("x_ingest_error", error_type=error_type)


async def test_where_a_namespace_may_still_come_values_wait_for_it_and_are_given_up_after_the_grace(
    message: Make, pack: Callable[..., Any]
) -> None:
    patient = Patient()
    homeless = pack([message("a", 0, 1.0, "1m:2d"), message("b", 0, 1.0, "1m@1s:2d"), message("c", 0, 1.0)])
    for second, expected in ((1000, False), (1059, False), (1060, True), (1300, True)):
        patient.now_s = second
        assert (await patient.ingester.ingest(*homeless)).tolist() == [expected, expected, True]
    assert patient.count("internal_error") == 4
    assert patient.count("non_retryable_error") == 4
    assert patient.registry.counter("x_ingest_refused", reason="no-namespace") == 8
    assert "8 messages of policy 1m:2d not stored" in patient.ingester.problems()[0]


async def test_the_grace_of_each_policy_begins_with_its_first_value(message: Make, pack: Callable[..., Any]) -> None:
    patient = Patient()
    await patient.ingester.ingest(*pack([message("a", 0, 1.0, "1m:2d")]))
    patient.now_s += 60
    both = pack([message("a", 0, 1.0, "1m:2d"), message("a", 0, 1.0, "5m:2d")])
    assert (await patient.ingester.ingest(*both)).tolist() == [True, False]


async def test_a_namespace_that_appears_is_written_at_once(message: Make, pack: Callable[..., Any]) -> None:
    patient = Patient()
    homeless = pack([message("a", 0, 1.0, "1m:2d")])
    assert (await patient.ingester.ingest(*homeless)).tolist() == [False]
    patient.store.policies.append(POLICIES[1])
    patient.ingester.set_namespaces(POLICIES)
    assert (await patient.ingester.ingest(*homeless)).tolist() == [True]
    assert patient.store.written == 1


async def test_a_store_that_fails_is_tried_again_a_bounded_number_of_times(
    setup: tuple[Flaky, IngestServer, Registry], message: Make
) -> None:
    flaky, server, registry = setup
    now = time.time_ns()
    async with Producer(server.port) as producer:
        flaky.failures = 2
        await producer.send(message("a", now, 1.0))
        await producer.wait(1)
        assert flaky.calls == 3
        flaky.failures = 3
        await producer.send(message("b", now, 1.0))
        async with asyncio.timeout(20):
            while flaky.failures:  # noqa: ASYNC110 - nothing is sent that could be waited for
                await asyncio.sleep(0.01)
        await producer.send(message("b", now, 2.0))
        await producer.wait(1, 3)
    assert await values(flaky.store, b"b") == [2.0]
    assert registry.counter("ingest_m3msg_ingest_refused", reason="storage") == 1
    assert (registry.counter("ingest_m3msg_errors"), registry.counter("ingest_m3msg_errors_final")) == (5, 1)
    assert "no space left (tried 3 times)" in server.problems()[0]


async def test_two_suffixes_are_one_series(setup: tuple[Flaky, IngestServer, Registry], message: Make) -> None:
    flaky, server, _ = setup
    now = time.time_ns()
    async with Producer(server.port) as producer:
        await producer.send(
            *(message("t", now, float(i), suffix=suffix) for i, suffix in enumerate([b".p50", b".p99"]))
        )
        await producer.wait(1, 2)
    assert await values(flaky.store, b"t") == [1.0]


async def test_garbage_ends_only_its_own_connection(setup: tuple[Flaky, IngestServer, Registry], message: Make) -> None:
    _, server, _ = setup
    async with Producer(server.port) as good:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"\xff" * 64)
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()
        await good.send(message("a", time.time_ns(), 1.0))
        await good.wait(1)


async def test_an_address_in_use_is_named(setup: tuple[Flaky, IngestServer, Registry]) -> None:
    flaky, server, registry = setup
    with pytest.raises(OSError, match=str(server.port)):
        async with IngestServer(f"127.0.0.1:{server.port}", StoreOutlet(flaky), POLICIES, OPTIONS, registry.scope("x")):
            pass


def test_an_address_without_a_port_is_refused() -> None:
    with pytest.raises(ValueError, match="host:port"):
        IngestServer("localhost", Any, POLICIES, OPTIONS, Registry().scope("x"))  # type: ignore[arg-type]

"""Answers that wait for the aggregators: docs/answers.md row by row, and what is kept of requests that wait, come again or go away."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest
from lab.waiting import until
from tests.coordinator.write.test_answers import (
    AS_THEY_COME,
    GOOD,
    ORDINARY,
    PATH,
    TEN,
    SetUp,
    World,
    body,
    dropping,
    failing_store,
    rows,
    series,
    world_of,
)

from coordinator.write import Acks, RefusedError, RemoteWriter
from coordinator.write.acks import Ticket
from coordinator.write.options import WriteOptions
from coordinator.write.repeats import key_of
from m3msg.batch import MessageBatch
from m3msg.producer import Done, Loss, Secured
from m3x.instrument import Registry
from m3x.web import serve

RAW = [TEN, AS_THEY_COME]
OPTIONS = WriteOptions()
LOST = Loss("buffer-full", "m3aggregator01", b"")


class Aggregators:
    """Ends the batches of a producer as it is told: ``end`` says how, None: not at all. ``batches`` are those that were given."""

    def __init__(self, acks: Acks, end: Callable[[MessageBatch], Done | None] | None = None) -> None:
        self.acks = acks
        self.batches: list[MessageBatch] = []
        self.end = end or (lambda _: None)

    def produce(self, batch: MessageBatch) -> bool:
        self.batches.append(batch)
        if (done := self.end(batch)) is not None:
            self.acks.on_done(done)
        return True

    def acknowledge(self) -> None:
        """All that was given, and from now on at once."""
        self.end = acknowledged
        for batch in self.batches:
            self.acks.on_done(acknowledged(batch))


def acknowledged(batch: MessageBatch) -> Done:
    return Done(batch.token, len(batch), 0, 0)


def filtered(batch: MessageBatch) -> Done:
    return Done(batch.token, 0, 0, len(batch))


def given_up(batch: MessageBatch) -> Done:
    return Done(batch.token, 0, len(batch), 0, loss=LOST)


def closed(batch: MessageBatch) -> Done:
    return Done(batch.token, 0, 0, 0, closed=len(batch))


def nothing(_: MessageBatch) -> None:
    return None


def waiting_for(world: World, end: Callable[[MessageBatch], Done | None], timeout_s: float = 0.05) -> Aggregators:
    """Lets the world's requests wait; its aggregators."""
    scope = world.registry.scope("coordinator").tagged(handler="remote-write")
    world.acks = Acks(timeout_s, scope)
    world.acks.behind = lambda: "m3aggregator01: 1 messages, connected"
    aggregators = Aggregators(world.acks, end)
    produce = world.producer.produce

    def taken(batch: MessageBatch) -> bool:
        return produce(batch) and aggregators.produce(batch)

    world.producer.produce = taken  # type: ignore[method-assign]
    return aggregators


class Case(NamedTuple):
    """A request, and what becomes of its messages."""

    end: Callable[[MessageBatch], Done | None]
    body: bytes = ORDINARY
    says: str = ""
    set_up: SetUp = SetUp()


TWICE = body(GOOD, series("up", 1.0, labels=[("k", "1"), ("k", "2")]))
CASES = {
    "ack-given": Case(acknowledged),
    "ack-filtered": Case(filtered),
    "ack-nothing-to-send": Case(nothing, set_up=SetUp(rules=dropping())),
    "ack-timeout": Case(nothing, says="not acknowledged all of it within 0.05 s (m3aggregator01: 1 messages, connected)"),
    "ack-given-up": Case(given_up, says="1 of 1 messages were given up before the aggregators had acknowledged them (buffer-full, for m3a"),
    "ack-closed": Case(closed, says="1 of 1 messages were for aggregators that have left the placement"),
    "ack-invalid-labels": Case(acknowledged, TWICE, "duplicate"),
    "ack-invalid-labels-timeout": Case(nothing, TWICE, "not acknowledged all of it"),
    "ack-raw-beside": Case(acknowledged, set_up=SetUp(RAW)),
}  # fmt: skip


@pytest.mark.parametrize("key", CASES)
async def test_answers(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, row = CASES[key], rows()[key]
    async with world_of(case.set_up, tmp_path, monkeypatch) as world:
        waiting_for(world, case.end)
        answer = await world.post(case.body, {})
        assert (str(answer.status_code), world.ends(), world.counted()) == row
        assert case.says in answer.text
        assert ("retry-after" in answer.headers) == (row.status == "503")


# --- requests that come again, and those whose end comes from elsewhere


async def _again(world: World, _patch: pytest.MonkeyPatch) -> httpx.Response:
    aggregators = waiting_for(world, nothing)
    assert (await world.post(ORDINARY, {})).headers["retry-after"] == "1"
    again = asyncio.create_task(world.post(ORDINARY, {}))
    await until(lambda: world.counted()["write_repeats"])
    aggregators.acknowledge()
    return await again


async def _given_up_again(world: World, _patch: pytest.MonkeyPatch) -> httpx.Response:
    aggregators = waiting_for(world, given_up)
    assert (await world.post(ORDINARY, {})).status_code == 503
    aggregators.end = acknowledged
    return await world.post(ORDINARY, {})


async def _store_fails(world: World, _patch: pytest.MonkeyPatch) -> httpx.Response:
    waiting_for(world, acknowledged)
    with pytest.MonkeyPatch.context() as failing:
        failing_store(world, failing)
        answer = await world.post(ORDINARY, {})
    assert (await world.post(ORDINARY, {})).status_code == 200
    return answer


async def _unexpected(world: World, _patch: pytest.MonkeyPatch) -> httpx.Response:
    waiting_for(world, acknowledged)
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(RemoteWriter, "_store", lambda *_: 1 // 0)
        answer = await world.post(ORDINARY, {})
    assert (await world.post(ORDINARY, {})).status_code == 200
    return answer


async def _producer_fails(world: World, _patch: pytest.MonkeyPatch) -> httpx.Response:
    aggregators = waiting_for(world, nothing, 60)
    posting = asyncio.create_task(world.post(ORDINARY, {}))
    await until(lambda: aggregators.batches)
    aggregators.acks.fail("the producer towards the aggregators has failed")
    answer = await posting
    assert "has failed" in answer.text
    return answer


async def _end(world: World, patch: pytest.MonkeyPatch) -> httpx.Response:
    patch.setattr("coordinator.write.acks._END_S", 0.05)
    aggregators = waiting_for(world, nothing, 60)
    posting = asyncio.create_task(world.post(ORDINARY, {}))
    await until(lambda: aggregators.batches)
    aggregators.acks.end()
    return await posting


async def _sender_gone(world: World, patch: pytest.MonkeyPatch) -> httpx.Response:
    """On the wire: a connection that is closed while its answer is awaited."""
    patch.setattr("coordinator.write.acks._WATCH_AFTER_S", 0.01)
    aggregators = waiting_for(world, nothing, 60)
    async with serve(world.app(), "127.0.0.1:0") as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(ORDINARY)}\r\n\r\n".encode() + ORDINARY)
        await until(lambda: aggregators.batches)
        writer.close()
        await until(lambda: world.counted()['write_unacked{reason="sender-gone"}'])
        await until(lambda: world.counted()['write_errors{code="5XX"}'])
        assert waiting(world.registry) == 0
    return httpx.Response(503)


MORE: dict[str, Callable[[World, pytest.MonkeyPatch], Awaitable[httpx.Response]]] = {
    "ack-again": _again,
    "ack-given-up-again": _given_up_again,
    "ack-raw-store-fails": _store_fails,
    "ack-unexpected": _unexpected,
    "ack-producer-fails": _producer_fails,
    "ack-end": _end,
    "ack-sender-gone": _sender_gone,
}


@pytest.mark.parametrize("key", MORE)
async def test_more(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world_of(SetUp(RAW if "raw" in key else [TEN]), tmp_path, monkeypatch) as world:
        answer = await MORE[key](world, monkeypatch)
        assert (str(answer.status_code), world.ends(), world.counted()) == rows()[key]


def test_every_row_has_its_case_and_the_other_way_round() -> None:
    assert sorted(key for key in rows() if key.startswith("ack-")) == sorted([*CASES, *MORE])


# --- what is kept


class Sink:
    """Takes batches, or does not."""

    largest_message = largest_batch = 1 << 30
    takes = True

    def __init__(self) -> None:
        self.batches: list[MessageBatch] = []

    def ready(self, nbytes: int) -> int | None:
        return 64

    async def admit(self, nbytes: int) -> int:
        return 64

    def produce(self, batch: MessageBatch) -> bool:
        self.batches.append(batch)
        return self.takes


def batch_of_one() -> MessageBatch:
    return MessageBatch(np.zeros(1, np.uint8), np.array([0, 1]), np.zeros(1, np.uint32))


def waiting(registry: Registry) -> float:
    return figure(registry, "write_ack_waiting")


def figure(registry: Registry, name: str) -> float:
    return sum(sample.value for family in registry.collect() for sample in family.samples if sample.name.endswith(name))


@pytest.fixture
def acks(registry: Registry) -> Acks:
    return Acks(60.0, registry.scope("x"))


def ticket_of(acks: Acks, sink: Sink | None = None) -> Ticket:
    ticket = acks.produce(sink or Sink(), batch_of_one(), b"body", OPTIONS)
    assert ticket is not None
    return ticket


def later(seconds: float) -> float:
    return time.monotonic() + seconds


async def test_those_that_wait_are_counted_and_the_acknowledged_are_timed(acks: Acks, registry: Registry) -> None:
    sink = Sink()
    tasks = [asyncio.create_task(acks.wait(ticket_of(acks, sink), b"%d" % i, OPTIONS, later(60))) for i in range(10)]
    await until(lambda: waiting(registry) == 10)
    for batch in sink.batches:
        acks.on_done(acknowledged(batch))
    await asyncio.gather(*tasks)
    assert (waiting(registry), figure(registry, "write_ack_latency_count")) == (0, 10)
    assert not acks._open


async def test_what_one_replica_has_is_acknowledged_when_the_producer_says_that_it_is_secured(acks: Acks) -> None:
    sink = Sink()
    ticket = ticket_of(acks, sink)
    acks.on_secured(Secured("of somebody else"))
    acks.on_secured(Secured(ticket))
    await acks.wait(ticket, b"", OPTIONS, later(60))
    acks.on_done(given_up(sink.batches[0]))
    assert not acks._open


async def test_a_request_that_is_cancelled_waits_no_more(acks: Acks, registry: Registry) -> None:
    sink = Sink()
    task = asyncio.create_task(acks.wait(ticket_of(acks, sink), b"", OPTIONS, later(60)))
    await until(lambda: waiting(registry) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert waiting(registry) == 0
    acks.on_done(acknowledged(sink.batches[0]))
    assert not acks._open


async def test_what_the_sink_does_not_take_has_no_ticket(acks: Acks) -> None:
    sink = Sink()
    sink.takes = False
    assert acks.produce(sink, batch_of_one(), b"body", OPTIONS) is None
    assert not acks._open


async def test_ids_of_messages_follow_from_the_request(acks: Acks) -> None:
    """Whichever process sends it; of headers as of bytes."""
    sink = Sink()
    other = replace(OPTIONS, store=False)
    for one, data, options in (
        (acks, b"body", OPTIONS),
        (Acks(60.0, Registry().scope("y")), b"body", OPTIONS),
        (acks, b"other", OPTIONS),
        (acks, b"body", other),
    ):
        one.produce(sink, batch_of_one(), data, options)
    same, again, *different = [batch.first_id for batch in sink.batches]
    assert same == again
    assert len({same, *different}) == 3
    assert all(1 <= first_id <= 1 << 55 for first_id in (same, *different))


async def test_batches_of_others_are_nobodys_concern(acks: Acks) -> None:
    acks.on_done(Done(None, 1, 0, 0))
    acks.on_done(Done("token", 0, 1, 0))


async def test_an_end_that_comes_before_the_wait_is_known(acks: Acks) -> None:
    sink = Sink()
    good, bad = ticket_of(acks, sink), ticket_of(acks, sink)
    acks.on_done(acknowledged(sink.batches[0]))
    acks.on_done(given_up(sink.batches[1]))
    await acks.wait(good, b"", OPTIONS, later(-1))
    with pytest.raises(RefusedError, match="given up"):
        await acks.wait(bad, b"", OPTIONS, later(-1))


async def test_after_the_end_of_the_producer_nothing_waits(acks: Acks) -> None:
    acks.fail("it has failed")
    with pytest.raises(RefusedError, match="it has failed; the aggregators may have this request or not: send it"):
        await acks.wait(ticket_of(acks), b"", OPTIONS, later(60))
    assert not acks._open


async def test_the_sender_is_watched_after_a_while_only(acks: Acks, monkeypatch: pytest.MonkeyPatch) -> None:
    watched, gone = asyncio.Event(), asyncio.Event()

    async def watch() -> None:
        watched.set()
        await gone.wait()

    sink = Sink()
    quick = asyncio.create_task(acks.wait(ticket_of(acks, sink), b"quick", OPTIONS, later(60), watch))
    await asyncio.sleep(0)
    acks.on_done(acknowledged(sink.batches[0]))
    await quick
    assert not watched.is_set()
    monkeypatch.setattr("coordinator.write.acks._WATCH_AFTER_S", 0.01)
    ticket = ticket_of(acks, sink)
    slow = asyncio.create_task(acks.wait(ticket, b"slow", OPTIONS, later(60), watch))
    await watched.wait()
    gone.set()
    with pytest.raises(RefusedError, match="went away"):
        await slow
    # It may come again.
    assert acks.repeated(b"slow", OPTIONS) is ticket
    acks.on_done(acknowledged(sink.batches[1]))
    await acks.wait(ticket, b"slow", OPTIONS, later(60))
    assert acks.repeated(b"slow", OPTIONS) is None, "it has been answered"


async def test_only_the_same_bytes_and_headers_are_a_repeat(acks: Acks) -> None:
    ticket = ticket_of(acks)
    acks.remember(ticket, b"body", OPTIONS)
    assert acks.repeated(b"body", WriteOptions()) is ticket
    assert acks.repeated(b"bodY", OPTIONS) is None
    assert acks.repeated(b"body", WriteOptions(map_tags=((b"a", b"b"),))) is None


async def test_what_came_to_nothing_is_no_repeat(acks: Acks) -> None:
    sink = Sink()
    ticket = ticket_of(acks, sink)
    acks.remember(ticket, b"body", OPTIONS)
    acks.on_done(closed(sink.batches[0]))
    assert acks.repeated(b"body", OPTIONS) is None
    assert not acks._remembered


async def test_what_is_remembered_is_bounded(acks: Acks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.write.repeats._MOST", 10)
    for i in range(100):
        acks.remember(ticket_of(acks), b"%d" % i, OPTIONS)
    assert len(acks._remembered) == 10
    assert acks.repeated(b"99", OPTIONS) is not None
    assert acks.repeated(b"89", OPTIONS) is None
    monkeypatch.setattr("coordinator.write.repeats._KEPT_S", 0.0)
    acks.remember(ticket_of(acks), b"new", OPTIONS)
    assert len(acks._remembered) == 1


class OtherProcesses:
    """Hear which requests this one has to have."""

    def __init__(self) -> None:
        self.keys = Counter[bytes]()

    def remember(self, key: bytes) -> None:
        self.keys[key] += 1

    def forget(self, key: bytes) -> None:
        assert self.keys[key] > 0
        self.keys -= Counter([key])

    def has(self, *_: object) -> bool:
        return False

    async def answer(self, *_: object) -> None:
        return None


@pytest.mark.parametrize(
    ("end", "known_after", "known_at_last"),
    [(acknowledged, False, False), (given_up, False, False), (nothing, True, False)],
    ids=["acknowledged", "given up", "waits for longer"],
)
async def test_other_processes_know_of_a_request_for_as_long_as_it_may_come_again(
    end: Callable[[MessageBatch], Done | None], known_after: bool, known_at_last: bool
) -> None:
    others = OtherProcesses()
    acks = Acks(0.02, Registry().scope("c"), others)
    aggregators = Aggregators(acks)
    data = b"a request"
    ticket = acks.produce(
        aggregators, MessageBatch(np.zeros(1, np.uint8), np.array([0, 1]), np.zeros(1, np.uint32)), data, OPTIONS
    )  # type: ignore[arg-type]
    assert ticket is not None
    assert others.keys == {key_of(data, OPTIONS): 1}, "while it waits"
    if (done := end(aggregators.batches[0])) is not None:
        acks.on_done(done)
    with contextlib.suppress(RefusedError):
        await acks.wait(ticket, data, OPTIONS, time.monotonic() + 0.02)
    assert bool(others.keys) is known_after
    if known_after:
        aggregators.acknowledge()
        again = acks.repeated(data, OPTIONS)
        assert again is ticket
        await acks.wait(again, data, OPTIONS, time.monotonic() + 10)
    assert bool(others.keys) is known_at_last

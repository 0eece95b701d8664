"""Remote writes past the application: the same answers and figures, and whatever is refused is left."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pytest
from lab.waiting import until
from starlette.applications import Starlette
from starlette.responses import Response
from tests.coordinator.write.conftest import TEN_SECONDS
from tests.coordinator.write.test_acks import Aggregators, acknowledged, given_up, nothing
from tests.coordinator.write.test_known import NEAR, TIME_MS, USUAL, counts_of, packed, series

from coordinator.config.write_limits import WriteLimitsConfig
from coordinator.downsample import Downsampler
from coordinator.write import (
    Acks,
    BodyRoom,
    Limiter,
    RemoteWriter,
    RemoteWriteShortcut,
    SeriesCache,
    remote_write_routes,
)
from coordinator.write.bodies import WHOLE_BODY
from coordinator.write.known import TriedBody
from coordinator.write.remote_write import REMOTE_WRITE_PATH
from m3msg.batch import MessageBatch
from m3msg.producer import Done
from m3x.instrument import Registry
from m3x.web import serve

NEW = packed(series({**USUAL, "new": "1"}, (TIME_MS, 1.0)))
KNOWN = packed(NEAR)


class Replied:
    """A reply, and what is still held then."""

    def __init__(self) -> None:
        self.response: Response | None = None

    def answer(self, response: Response) -> None:
        assert self.response is None
        self.response = response

    async def gone(self) -> None:
        await asyncio.Event().wait()


class World:
    """A writer whose messages end as ``end`` says."""

    def __init__(self, end: Callable[[MessageBatch], Done | None] | None = None, timeout_s: float = 5.0) -> None:
        self.registry = Registry()
        scope = self.registry.scope("test")
        self.acks = Acks(timeout_s, scope)
        self.sink = Sink(self.acks, end)
        self.bodies = BodyRoom(1 << 20, scope)
        self.writer = RemoteWriter(
            Downsampler([TEN_SECONDS], now_ns=TIME_MS * 10**6), SeriesCache(0, 1 << 22), self.sink, scope,
            acks=None if end is None else self.acks, bodies=self.bodies,
        )  # fmt: skip
        self.shortcut = RemoteWriteShortcut(self.writer)

    def take(self, body: bytes, *headers: tuple[bytes, bytes]) -> tuple[Replied, Mapping[str, Any] | None]:
        replied = Replied()
        return replied, self.shortcut.take(list(headers), body, replied)

    @contextlib.asynccontextmanager
    async def client(self, *, short: bool = True) -> AsyncIterator[httpx.AsyncClient]:
        app = Starlette(routes=[*remote_write_routes(self.writer)])
        async with (
            serve(app, "127.0.0.1:0", None, self.shortcut if short else None) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            yield client


class Sink(Aggregators):
    """Takes messages, or does not."""

    largest_message = largest_batch = 1 << 30
    takes = True

    def ready(self, _: int) -> int:
        return 64

    async def admit(self, _: int) -> int:
        return 64

    def produce(self, batch: MessageBatch) -> bool:
        return self.takes and super().produce(batch)


@pytest.mark.parametrize("end", [None, acknowledged])
async def test_answers_and_figures_are_those_of_the_long_way(end: Callable[[MessageBatch], Done | None] | None) -> None:
    came = []
    for short in (False, True):
        world = World(end)
        async with world.client(short=short) as client:
            for body in (KNOWN, KNOWN, NEW, NEW, b"\x05nonsense", KNOWN):
                answer = await client.post(REMOTE_WRITE_PATH, content=body)
                headers = {name: value for name, value in answer.headers.items() if name != "date"}
                came.append((answer.status_code, headers, answer.content))
        came.append((0, {}, b"\n".join(counts_of(world.registry))))
        came.append((0, {}, b"".join(batch.payload[: batch.offsets[-1]].tobytes() for batch in world.sink.batches)))
        assert world.bodies.used == 0
    assert came[: len(came) // 2] == came[len(came) // 2 :]


async def test_known_series_are_taken_and_others_left_with_what_was_unpacked() -> None:
    world = World()
    _, added = world.take(KNOWN)
    assert added is not None
    left = added[WHOLE_BODY]
    assert isinstance(left, TriedBody)
    assert left == KNOWN
    # It stays as it is while others are unpacked.
    assert left.plain is not None
    plain = left.plain.tobytes()
    assert world.take(packed(series({"x": "y" * 50}, (TIME_MS, 1.0))))[1] is not None
    assert left.plain.tobytes() == plain
    await world.writer.write(left, world.writer._prometheus.asked([]))
    replied, added = world.take(KNOWN)
    assert (added, len(world.sink.batches)) == (None, 2)
    assert replied.response is not None
    assert (replied.response.status_code, world.bodies.used) == (200, 0)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"m3-metrics-type", b"x")],
        [(b"m3-write-type", b"aggregate"), (b"m3-map-tags-json", b"{")],
        [(b"content-encoding", b"zstd")],
    ],
)
async def test_headers_that_ask_for_something_else_are_left(headers: list[tuple[bytes, bytes]]) -> None:
    world = World()
    await world.writer.write(KNOWN, world.writer._prometheus.asked([]))
    assert world.take(KNOWN, *headers)[1] == {WHOLE_BODY: KNOWN}


async def test_what_does_not_fit_is_left_and_so_is_what_the_sink_refuses() -> None:
    world = World()
    await world.writer.write(KNOWN, world.writer._prometheus.asked([]))
    assert world.shortcut.came((1 << 20) - 1)
    assert world.take(KNOWN)[1] == {WHOLE_BODY: KNOWN}
    assert not world.shortcut.came(2)
    world.shortcut.let_go((1 << 20) - 1)
    world.sink.takes = False
    async with world.client() as client:
        answer = await client.post(REMOTE_WRITE_PATH, content=KNOWN)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "the buffer towards the aggregators is full" in answer.text
    assert world.registry.counter("test_write_errors", code="5XX") == 1


async def test_limits_and_long_bodies_and_who_may_not_write_are_left() -> None:
    world = World()
    assert world.shortcut.opens([], 1 << 20)
    assert not world.shortcut.opens([], 1 << 25)
    assert not RemoteWriteShortcut(world.writer, lambda _: False).opens([], 1)
    world.writer.set_limiter(Limiter(WriteLimitsConfig(), world.registry.scope()))
    assert not world.shortcut.opens([], 1)


async def test_answers_wait_for_the_aggregators() -> None:
    world = World(nothing)
    world.sink.end = acknowledged
    async with world.client() as client:
        await client.post(REMOTE_WRITE_PATH, content=KNOWN)
        world.sink.end = nothing
        replied, added = world.take(KNOWN)
        assert added is None
        assert (replied.response, world.bodies.used) == (None, len(KNOWN))
        assert b"write_ack_waiting" in world.registry.render()
        world.sink.acknowledge()
        await until(lambda: replied.response is not None)
        assert replied.response is not None
        assert (replied.response.status_code, world.bodies.used) == (200, 0)


@pytest.mark.parametrize(
    ("end", "says"), [(nothing, "not acknowledged all of it within 0.1 s"), (given_up, "1 of 1 messages were given up")]
)
async def test_what_is_not_acknowledged_is_refused_and_known_when_it_comes_again(
    end: Callable[[MessageBatch], Done | None], says: str
) -> None:
    world = World(nothing, 0.1)
    world.sink.end = acknowledged
    async with world.client() as client:
        await client.post(REMOTE_WRITE_PATH, content=KNOWN)
        world.sink.end = end
        answer = await client.post(REMOTE_WRITE_PATH, content=KNOWN)
        assert (answer.status_code, says in answer.text, "Retry-After" in answer.headers) == (503, True, True)
        sent = len(world.sink.batches)
        world.sink.acknowledge()
        answer = await client.post(REMOTE_WRITE_PATH, content=KNOWN)
        assert answer.status_code == 200
        # Messages that may still be acknowledged are not sent once more.
        assert len(world.sink.batches) == sent + (end is given_up)
    assert world.bodies.used == 0


async def test_a_mistake_of_ours_is_answered_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    def broken(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(world.writer, "take_known", broken)
    replied, added = world.take(KNOWN)
    assert added is None
    assert replied.response is not None
    assert (replied.response.status_code, world.bodies.used) == (500, 0)
    assert b"unexpected KeyError" in bytes(replied.response.body)
    assert world.registry.counter("test_write_errors", code="5XX") == 1

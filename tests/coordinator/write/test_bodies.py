"""How much of bodies a process holds at a time."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from lab.waiting import until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coordinator.write.bodies import BodyRoom, body_of
from coordinator.write.sink import RefusedError
from m3x.instrument import Registry


def test_what_does_not_fit_is_refused_and_room_comes_back() -> None:
    registry = Registry()
    room = BodyRoom(1000, registry.scope())
    with room.request() as one:
        one.take(600)
        with room.request() as other:
            other.take(400)
            with pytest.raises(RefusedError, match="there is room for 1000") as refused:
                other.take(1)
            assert refused.value.retry_after_s == 1
        assert room.used == 600
        with room.request() as third:
            third.take(400)
    assert room.used == 0
    assert registry.counter("write_bodies_refused") == 1


def test_one_that_is_alone_has_room_however_large_it_is() -> None:
    room = BodyRoom(1000, Registry().scope())
    with room.request() as one:
        one.take(600)
        one.take(64 << 20)
        with room.request() as other, pytest.raises(RefusedError):
            other.take(1)


def test_without_a_bound_all_have_room() -> None:
    room = BodyRoom(0, Registry().scope())
    with room.request() as one, room.request() as other:
        one.take(1 << 40)
        other.take(1 << 40)


async def test_bodies_that_arrive_together_are_bounded_while_they_arrive() -> None:
    registry = Registry()
    room = BodyRoom(100_000, registry.scope())
    go_on = asyncio.Event()

    async def write(request: Request) -> Response:
        with room.request() as held:
            try:
                body = await body_of(request, None, held)
            except RefusedError as error:
                return PlainTextResponse(error.reason, 503)
            return PlainTextResponse(str(len(body)))

    async def slowly() -> AsyncIterator[bytes]:
        yield 90_000 * b"x"
        await go_on.wait()
        yield b"y"

    app = Starlette(routes=[Route("/", write, methods=["POST"])])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c") as client:
        first = asyncio.create_task(client.post("/", content=slowly()))
        await until(lambda: room.used > 0)
        refused = await client.post("/", content=20_000 * b"z")
        taken = await client.post("/", content=5_000 * b"z")
        go_on.set()
        assert (refused.status_code, taken.text, (await first).text) == (503, "5000", "90001")
    assert room.used == 0

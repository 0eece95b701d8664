"""Requests that come again, to another process than before."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from lab.waiting import until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from coordinator.write import RefusedError
from coordinator.write.options import WriteOptions
from coordinator.write.outcome import error_response
from coordinator.write.remote_write import HANDED_OVER
from coordinator.write.repeats import Repeats, key_of
from coordinator.writers.board import Board
from coordinator.writers.handing import Handing, handed_over
from m3x.web import serve

OPTIONS = WriteOptions()


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board.made(2, in_use=2)
    yield made
    made.close()


class Process:
    """One that answers writes: remembers all of them until it is told to forget, and says who has answered."""

    def __init__(self, board: Board, index: int, folder: Path) -> None:
        self.index = index
        self.endpoint = f"unix:{folder / f'writes-{index}'}"
        self.handing = Handing(board, index, lambda owner: f"unix:{folder / f'writes-{owner}'}")
        self.repeats = Repeats[int](self.handing)
        self.may = asyncio.Event()
        self.may.set()
        self.waits = self.gone = False
        self.app = Starlette(routes=[Route("/write", self.write, methods=["POST"])])

    async def write(self, request: Request) -> Response:
        body = await request.body()
        if not request.scope.get(HANDED_OVER):
            try:
                answer = await self.handing.answer(request, body, OPTIONS, lambda: self.leaves(request))
            except RefusedError as error:
                return error_response(503, error.reason)
            if answer is not None:
                return answer
        self.repeats.remember(body, OPTIONS, 1)
        if not self.may.is_set():
            self.waits = True
            watching = asyncio.create_task(self.leaves(request))
            waiting = asyncio.create_task(self.may.wait())
            await asyncio.wait((watching, waiting), return_when=asyncio.FIRST_COMPLETED)
            self.gone = watching.done()
        return Response(f"process {self.index}, {request.query_params.get('q')}", 500, {"M3-Thing": "x"})

    @staticmethod
    async def leaves(request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass


@contextlib.asynccontextmanager
async def two(
    board: Board, folder: Path
) -> AsyncIterator[tuple[Process, Process, list[str], contextlib.AsyncExitStack]]:
    processes = [Process(board, index, folder) for index in range(2)]
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(contextlib.AsyncExitStack())
        urls = []
        for process, exits in zip(processes, (first, stack), strict=True):
            await exits.enter_async_context(serve(handed_over(process.app), process.endpoint))
            port = await stack.enter_async_context(serve(process.app, "127.0.0.1:0"))
            urls.append(f"http://127.0.0.1:{port}/write?q=1")
        yield processes[0], processes[1], urls, first


async def test_the_process_that_remembers_a_request_answers_it(board: Board, tmp_path: Path) -> None:
    async with two(board, tmp_path) as (one, _, urls, _), httpx.AsyncClient(timeout=20) as client:
        for url in urls:
            answer = await client.post(url, content=b"body")
            assert (answer.status_code, answer.text) == (500, "process 0, 1")
            assert answer.headers["m3-thing"] == "x"
        assert (await client.post(urls[1], content=b"other")).text == "process 1, 1"
        one.repeats.forget(b"body", OPTIONS)
        assert (await client.post(urls[1], content=b"body")).text == "process 1, 1"
        assert (await client.post(urls[0], content=b"body")).text == "process 1, 1"


async def test_a_sender_that_goes_away_is_gone_for_the_process_that_has_its_request(
    board: Board, tmp_path: Path
) -> None:
    async with two(board, tmp_path) as (one, _, urls, _), httpx.AsyncClient(timeout=20) as client:
        await client.post(urls[0], content=b"body")
        one.may.clear()
        asking = asyncio.create_task(client.post(urls[1], content=b"body"))
        await until(lambda: one.waits)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: one.gone)


async def test_of_a_process_that_has_ended_nothing_is_said(board: Board, tmp_path: Path) -> None:
    """The sender comes again; when the board knows that it is dead, whoever gets the request takes it."""
    async with two(board, tmp_path) as (_, _, urls, first), httpx.AsyncClient(timeout=20) as client:
        await client.post(urls[0], content=b"body")
        await first.aclose()
        answer = await client.post(urls[1], content=b"body")
        assert answer.status_code == 503
        assert "has ended" in answer.json()["error"]
        board.clear(0)
        assert (await client.post(urls[1], content=b"body")).text == "process 1, 1"


def test_what_is_remembered_twice_is_forgotten_with_the_second(board: Board) -> None:
    handing = Handing(board, 0, str)
    key = key_of(b"body", OPTIONS)
    handing.remember(key)
    handing.remember(key)
    handing.forget(key)
    assert board.owner(key, 1) == 0
    handing.forget(key)
    assert board.owner(key, 1) is None
    handing.forget(key)
    handing.remember(key)
    assert board.owner(key, 1) == 0

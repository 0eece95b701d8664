"""Requests handed on to another process: what arrives there, and what comes back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from lab.waiting import until
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from coordinator.writers.passing import Passing
from m3x.web import serve

LARGE = bytes(range(256)) * (8 << 12)


class Main:
    """The process behind: tells what it was asked."""

    def __init__(self) -> None:
        self.gone = False
        self.waits = False
        self.app = Starlette(
            routes=[
                Route("/echo/{rest:path}", self.echo, methods=["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
                Route("/early", self.early, methods=["POST"]),
                Route("/stream", self.stream),
                Route("/cut", self.cut),
                Route("/wait", self.wait, methods=["POST"]),
            ]
        )

    async def echo(self, request: Request) -> Response:
        body = await request.body()
        told = {
            "method": request.method,
            "path": request.scope["raw_path"].decode(),
            "query": request.scope["query_string"].decode(),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw],
            "size": len(body),
            "same": body == LARGE,
        }
        answer = JSONResponse(told, 201)
        answer.raw_headers += [(b"x-twice", b"1"), (b"x-twice", "ü".encode("latin-1"))]
        return answer

    async def early(self, _: Request) -> Response:
        return Response("not this", 413)

    async def stream(self, _: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            for n in range(100):
                yield b"%d," % n * 1000

        return StreamingResponse(parts())

    async def cut(self, _: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"half"
            raise OSError("a mistake in the middle")

        return StreamingResponse(parts())

    async def wait(self, request: Request) -> Response:
        self.waits = True
        with contextlib.suppress(ClientDisconnect):
            await request.body()
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        return Response()


@contextlib.asynccontextmanager
async def passing(folder: Path) -> AsyncIterator[tuple[Main, httpx.AsyncClient, int]]:
    main = Main()
    endpoint = f"unix:{folder / 'main'}"
    async with (
        serve(main.app, endpoint),
        serve(Passing(endpoint), "127.0.0.1:0") as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        yield main, client, port


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
async def test_all_of_a_request_arrives(tmp_path: Path, method: str) -> None:
    async with passing(tmp_path) as (_, client, _):
        headers = [("X-Twice", "a"), ("X-Twice", "b"), ("M3-Thing", "v")]
        content = LARGE if method in ("POST", "PUT") else b""
        answer = await client.request(method, "/echo/a%2Fb/c?q=1&q=%20", headers=headers, content=content)
        assert answer.status_code == 201
        told = answer.json()
        assert (told["method"], told["path"], told["query"]) == (method, "/echo/a%2Fb/c", "q=1&q=%20")
        assert [value for name, value in told["headers"] if name == "x-twice"] == ["a", "b"]
        assert dict(told["headers"])["host"] == answer.request.headers["host"]
        assert told["same"] is bool(content)
        assert [value for name, value in answer.headers.raw if name == b"x-twice"] == [b"1", b"\xfc"]
        assert len(answer.headers.get_list("date")) == 1


async def test_bodies_of_unknown_length_and_large_answers(tmp_path: Path) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for begin in range(0, len(LARGE), 1 << 16):
            yield LARGE[begin : begin + (1 << 16)]

    async with passing(tmp_path) as (_, client, _):
        told = (await client.post("/echo/x", content=parts())).json()
        assert told["same"]
        answer = await client.get("/stream")
        assert answer.content == b"".join(b"%d," % n * 1000 for n in range(100))
        assert "content-length" not in answer.headers


async def test_statuses_of_the_other_process(tmp_path: Path) -> None:
    async with passing(tmp_path) as (_, client, _):
        assert (await client.get("/nothing")).status_code == 404
        assert (await client.post("/stream")).status_code == 405
        head = await client.head("/stream")
        assert (head.status_code, head.content) == (200, b"")
        early = await client.post("/early", content=LARGE)
        assert (early.status_code, early.text) == (413, "not this")


async def test_half_an_answer_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with passing(tmp_path) as (_, client, _):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/cut")
    capsys.readouterr()


async def test_a_sender_that_goes_away_is_gone_there_too(tmp_path: Path) -> None:
    async with passing(tmp_path) as (main, _, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /wait HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab")
        await until(lambda: main.waits)
        writer.close()
        await until(lambda: main.gone)


async def test_nobody_behind_is_503(tmp_path: Path) -> None:
    async with (
        serve(Passing(f"unix:{tmp_path / 'nobody'}"), "127.0.0.1:0") as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        answer = await client.post("/x", content=b"abc")
        assert answer.status_code == 503
        assert "main process" in answer.text

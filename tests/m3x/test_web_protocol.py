"""The way past an application: what it takes, what it leaves, and that senders do not see which one it was."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from lab.waiting import until
from starlette.responses import PlainTextResponse, Response

from m3x.web import serve
from m3x.web_protocol import Headers, Reply


class Short:
    """Takes requests whose body begins with ``short``; those with ``later`` are answered when the test says so."""

    path = b"/w"

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.waiting: list[Reply] = []
        self.held = 0
        self.room = 1 << 20
        self.ends = False
        self.open = True

    def opens(self, _: Headers, length: int) -> bool:
        return self.open and length < 1 << 20

    def came(self, nbytes: int) -> bool:
        if self.held + nbytes > self.room:
            return False
        self.held += nbytes
        return True

    def let_go(self, nbytes: int) -> None:
        self.held -= nbytes

    def take(self, _: Headers, body: bytes, reply: Reply) -> Mapping[str, Any] | None:
        if not body.startswith(b"short"):
            return {"added": len(body)}
        self.taken.append(body)
        if b"later" in body:
            self.waiting.append(reply)
        else:
            reply.answer(Response(b"short", 200))
        return None

    def closes(self) -> bool:
        return self.ends


class App:
    """Says what it was sent."""

    def __init__(self) -> None:
        self.gone = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone += 1
                return
            body, more = body + message["body"], message["more_body"]
        await PlainTextResponse(f"app {scope['path']} {len(body)} {scope.get('added')}")(scope, receive, send)


def post(body: bytes, path: str = "/w", more: str = "", version: str = "1.1") -> bytes:
    return f"POST {path} HTTP/{version}\r\nHost: h\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, dict[bytes, bytes]]:
    """Body and headers of the next answer, which is a success."""
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    headers = {}
    while (line := await reader.readline()) != b"\r\n":
        name, _, value = line.strip().partition(b": ")
        headers[name] = value
    return await reader.readexactly(int(headers[b"content-length"])), headers


async def test_requests_of_one_connection_go_either_way() -> None:
    short = Short()
    async with serve(App(), "127.0.0.1:0", None, short) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body, said in (
            (b"short 1", b"short"),
            (b"other", b"app /w 5 5"),
            (b"short 2", b"short"),
            (b"x" * 200_000, b"app /w 200000 200000"),
            (b"short" + bytes(200_000), b"short"),
        ):
            writer.write(post(body))
            text, headers = await answer(reader)
            assert (text, b"date" in headers, b"connection" in headers) == (said, True, False)
        writer.close()
    assert [len(body) for body in short.taken] == [7, 7, 200_005]
    assert short.held == 0


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (post(b"short", "/other"), b"app /other 5 None"),
        (post(b"short", "/w?a=b"), b"app /w 5 None"),
        (post(b"short", more="Expect: 100-continue\r\n"), b"app /w 5 None"),
        (post(b"short", version="1.0"), b"app /w 5 None"),
        (post(b"short", more="Connection: close\r\n"), b"app /w 5 None"),
        # Behind a request for another protocol uvicorn reads no body.
        (post(b"short", more="Connection: upgrade\r\nUpgrade: h2c\r\n"), b"app /w 0 None"),
        (post(b""), b"app /w 0 None"),
        (b"POST /w HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\n\r\n", b"app /w 5 None"),
        (b"PUT /w HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nshort", b"app /w 5 None"),
    ],
)
async def test_what_is_unusual_goes_to_the_application(request_: bytes, said: bytes) -> None:
    short = Short()
    async with serve(App(), "127.0.0.1:0", None, short) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_)
        if b"Expect" in request_:
            assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
            await reader.readline()
        assert (await answer(reader))[0] == said
        writer.close()
    assert not short.taken


async def test_bodies_come_in_pieces_and_are_given_up_where_there_is_no_room() -> None:
    short = Short()
    async with serve(App(), "127.0.0.1:0", None, short) as port:
        for room, said in ((1 << 20, b"short"), (60, b"app /w 105 None")):
            short.room = room
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            data = post(b"short" + bytes(100))
            for at in range(0, len(data), 40):
                writer.write(data[at : at + 40])
                await writer.drain()
                await asyncio.sleep(0.005)
            assert ((await answer(reader))[0], short.held) == (said, 0)
            writer.close()


async def test_a_request_waits_for_the_answer_to_the_one_before() -> None:
    short = Short()
    async with serve(App(), "127.0.0.1:0", None, short) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"short later") + post(b"short 2") + post(b"other"))
        await until(lambda: len(short.waiting) == 1)
        short.waiting[0].answer(Response(b"late", 200))
        # What stands behind another one is nothing usual.
        assert [(await answer(reader))[0] for _ in range(3)] == [b"late", b"app /w 7 None", b"app /w 5 None"]
        writer.write(post(b"short 3"))
        assert (await answer(reader))[0] == b"short"
        writer.close()
    assert short.taken == [b"short later", b"short 3"]


async def test_senders_go_away() -> None:
    short, app = Short(), App()
    async with serve(app, "127.0.0.1:0", None, short) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"short" + bytes(1000))[:-500])
        await until(lambda: short.held > 0)
        writer.close()
        await until(lambda: app.gone == 1 and short.held == 0)

        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"short later"))
        await until(lambda: len(short.waiting) == 1)
        gone = asyncio.create_task(short.waiting[0].gone())
        writer.close()
        async with asyncio.timeout(30):
            await gone
            await short.waiting[0].gone()
        short.waiting[0].answer(Response(b"late", 200))


async def test_a_connection_ends_with_an_answer_if_the_shortcut_says_so() -> None:
    short = Short()
    short.ends = True
    async with serve(App(), "127.0.0.1:0", None, short) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"short"))
        text, headers = await answer(reader)
        assert (text, headers[b"connection"], await reader.read()) == (b"short", b"close", b"")
        writer.close()


async def test_the_end_of_the_server_waits_for_what_is_in_hand() -> None:
    short = Short()
    async with serve(App(), "127.0.0.1:0", None, short) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"short later"))
        await until(lambda: len(short.waiting) == 1)
        asyncio.get_running_loop().call_later(0.2, short.waiting[0].answer, Response(b"late", 200))
    text, headers = await answer(reader)
    assert (text, headers[b"connection"]) == (b"late", b"close")
    writer.close()


async def test_the_end_of_the_server_closes_a_connection_whose_request_goes_to_the_application() -> None:
    short = Short()
    async with serve(App(), "127.0.0.1:0", None, short) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = post(b"other" + bytes(1000))
        writer.write(data[:-500])
        await until(lambda: short.held > 0)
        asyncio.get_running_loop().call_later(0.2, writer.write, data[-500:])
    text, headers = await answer(reader)
    assert (text, headers[b"connection"], await reader.read()) == (b"app /w 1005 1005", b"close", b"")
    writer.close()

"""The HTTP server inside a loop, reserve, retry."""

import asyncio
import contextlib
import json
import socket

import httpx
import numpy as np
import pytest
from lab.waiting import until

from m3x.gate import Gate
from m3x.instrument import Registry
from m3x.reserve import release, reserve
from m3x.retry import Backoff
from m3x.web import MAX_HEAD_BYTES, metrics_app, serve, serve_shared


async def test_metrics_page_is_served_and_the_port_freed() -> None:
    registry = Registry()
    registry.scope("a").count("b")
    async with serve(metrics_app(registry), "127.0.0.1:0") as port, httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/metrics")
    assert answer.status_code == 200
    assert "a_b 1.0" in answer.text
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))


async def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with serve(metrics_app(Registry()), f"127.0.0.1:{port}"):
                pass


def test_reserved_memory_is_zero_again_after_release() -> None:
    rows = reserve(1 << 30, np.int64)
    rows[5000:20000] = 9
    release(rows, 0, 20000)
    assert not rows[8192:16384].any()
    assert rows.shape == (1 << 30,)


def test_backoff_grows_to_its_bound() -> None:
    plain = Backoff(0.1, 2, 1.0, jitter=False)
    assert [plain.delay(n) for n in (1, 2, 3, 4, 5, 10_000)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert all(0.05 <= Backoff(0.1).delay(1) <= 0.1 for _ in range(50))


PLAIN = Gate("HTTP", Registry().scope())


async def test_headers_are_bounded_and_bodies_are_not_headers() -> None:
    registry = Registry()
    gate = Gate("HTTP", registry.scope())
    async with serve(metrics_app(Registry()), "127.0.0.1:0", gate) as port:
        # Many headers, and a line without an end.
        for endless in (
            b"GET /metrics HTTP/1.1\r\n" + 3000 * b"a: 0123456789012345678901\r\n",
            b"GET /" + 200_000 * b"x",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for at in range(0, len(endless), 4096):
                writer.write(endless[at : at + 4096])
                await asyncio.sleep(0)
            # What is still on its way makes the system cut the connection, perhaps before the answer was read.
            with contextlib.suppress(ConnectionError):
                assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        assert registry.counter("http_heads_refused") == 2
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = 300_000 * b"x"
        for _ in range(3):
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            size = 0
            while (line := await reader.readline()) != b"\r\n":
                size = int(line.split(b":")[1]) if line.lower().startswith(b"content-length") else size
            await reader.readexactly(size)
        writer.close()
        await writer.wait_closed()
    assert registry.counter("http_heads_refused") == 2
    assert MAX_HEAD_BYTES == 64 << 10


async def test_who_speaks_no_http_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(metrics_app(Registry()), "127.0.0.1:0", Gate("a page", Registry().scope())) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        name, own_port = writer.get_extra_info("sockname")
        writer.write(b"\xff\xfe nonsense\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        await writer.wait_closed()
    (line,) = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (line["level"], line["msg"], line["peer"]) == ("warn", "a page: what came is not HTTP", f"{name}:{own_port}")


class Turns:
    """Whose turn it is, as the test says."""

    def __init__(self) -> None:
        self.pause = 0.0
        self.asked: list[int] = []
        self.connections = -1

    def pause_s(self, connections: int) -> float:
        self.asked.append(connections)
        return self.pause

    def have(self, connections: int) -> None:
        self.connections = connections


async def test_processes_that_share_a_listener_take_connections_in_turn() -> None:
    one, other = Turns(), Turns()
    one.pause = 3600.0
    with socket.create_server(("127.0.0.1", 0)) as listener, listener.dup() as same:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"
        first, second = Registry(), Registry()
        first.scope("first").count("b")
        second.scope("second").count("b")
        async with serve_shared(metrics_app(second), listener, other, PLAIN):
            async with (
                serve_shared(metrics_app(first), same, one, PLAIN),
                httpx.AsyncClient() as client,
                httpx.AsyncClient() as more,
            ):
                assert one.connections == other.connections == 0
                assert "second_b" in (await client.get(url)).text
                assert (one.connections, other.connections) == (0, 1)
                assert "second_b" in (await more.get(url)).text
                assert (one.connections, other.connections) == (0, 2)
                await more.aclose()
                await until(lambda: other.connections == 1)
            # What waits when one of them has ended is the other one's, and the listener stays open.
            async with httpx.AsyncClient() as client:
                assert "second_b" in (await client.get(url)).text
        with socket.create_connection(listener.getsockname()):
            pass


async def test_a_connection_that_nobody_else_takes_is_taken_late() -> None:
    turns = Turns()
    turns.pause = 0.01
    registry = Registry()
    registry.scope("a").count("b")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with serve_shared(metrics_app(registry), listener, turns, PLAIN), httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{listener.getsockname()[1]}/metrics")
            assert "a_b" in answer.text
    assert turns.asked[0] == 0

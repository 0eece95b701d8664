"""Calls over a link, in both directions."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from coordinator.writers.link import Handler, Link, LinkError


@contextlib.asynccontextmanager
async def linked(
    folder: Path, ours: Mapping[str, Handler], theirs: Mapping[str, Handler]
) -> AsyncIterator[tuple[Link, Link]]:
    """Both ends, running."""
    accepted: asyncio.Future[Link] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(reader, writer, theirs)
        accepted.set_result(link)
        await link.run()

    server = await asyncio.start_unix_server(accept, folder / "link")
    reader, writer = await asyncio.open_unix_connection(folder / "link")
    link = Link(reader, writer, ours)
    running = asyncio.create_task(link.run())
    other = await accepted
    yield link, other
    link.close()
    await running
    server.close()
    await server.wait_closed()


async def test_answers_come_in_their_own_order_and_calls_begin_in_theirs(tmp_path: Path) -> None:
    begun: list[bytes] = []
    may = asyncio.Event()

    async def slow(body: bytes) -> bytes:
        begun.append(body)
        await may.wait()
        return b"slow " + body

    async def quick(body: bytes) -> bytes:
        begun.append(body)
        return body * 2

    async with linked(tmp_path, {"ours": quick}, {"slow": slow, "quick": quick}) as (link, other):
        first = asyncio.create_task(link.ask("slow", b"1"))
        await asyncio.sleep(0)
        large = bytes(3 << 20)
        assert await link.ask("quick", large) == large * 2
        assert begun[0] == b"1"
        assert not first.done()
        may.set()
        assert await first == b"slow 1"
        assert await other.ask("ours", b"ab") == b"abab"


async def test_whoever_waits_is_told_that_the_other_process_has_ended(tmp_path: Path) -> None:
    async def never(_: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with linked(tmp_path, {}, {"never": never}) as (link, other):
        asking = asyncio.create_task(link.ask("never"))
        with pytest.raises(TimeoutError):
            await link.ask("never", timeout_s=0.01)
        other.close()
        with pytest.raises(LinkError, match="has ended"):
            await asking
        with pytest.raises(LinkError, match="has ended"):
            await link.ask("never")
        link.tell("never", b"")


async def test_a_call_that_fails_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def wrong(_: bytes) -> bytes:
        raise ValueError("no")

    async with linked(tmp_path, {}, {"wrong": wrong}) as (link, _):
        with pytest.raises(LinkError, match="unexpected ValueError"):
            await link.ask("wrong")
        with pytest.raises(LinkError, match="unexpected KeyError"):
            await link.ask("nobody")
    assert "a call of another process failed" in capsys.readouterr().err

"""The child: started again, ended by the end of its input, in a session of its own."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lab.waiting import until

from coordinator.child.process import ChildProcess

PROGRAM = "tests.coordinator.child.a_child"


class NotNowError(Exception):
    """Raised by ``prepare``."""


async def ready() -> None:
    """Nothing to prepare."""


@pytest.fixture
async def tasks() -> AsyncIterator[list[asyncio.Task[None]]]:
    """Cancelled at the end: whatever runs is killed."""
    running: list[asyncio.Task[None]] = []
    yield running
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def starts(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


async def test_it_is_started_again_and_ends_when_it_is_told(tmp_path: Path, tasks: list[asyncio.Task[None]]) -> None:
    file = tmp_path / "pids"
    child = ChildProcess(PROGRAM, [str(file)], ready, NotNowError)
    tasks.append(asyncio.create_task(child.run()))
    await until(lambda: starts(file) == 1)
    assert file.read_text().strip() == str(os.getpid())
    first = child.pid
    assert os.getsid(first) == first
    os.kill(first, signal.SIGKILL)
    await until(lambda: starts(file) == 2)
    assert child.restarts == 1
    assert child.last_code == -signal.SIGKILL
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(child.pid, number)
    assert child.pid not in (0, first)
    await child.end()
    await asyncio.wait_for(tasks[0], 10)
    assert (child.pid, child.last_code, starts(file)) == (0, 0, 2)


async def test_one_that_fails_at_once_is_started_with_pauses(tmp_path: Path, tasks: list[asyncio.Task[None]]) -> None:
    file = tmp_path / "pids"
    child = ChildProcess(PROGRAM, [str(file), "--fail"], ready, NotNowError)
    tasks.append(asyncio.create_task(child.run()))
    await until(lambda: starts(file) >= 2)
    assert child.last_code == 7
    await child.end()
    await asyncio.wait_for(tasks[0], 20)


async def test_a_start_that_cannot_be_prepared_is_tried_again(tmp_path: Path, tasks: list[asyncio.Task[None]]) -> None:
    file, tried = tmp_path / "pids", 0

    async def prepare() -> None:
        nonlocal tried
        tried += 1
        if tried == 1:
            raise NotNowError("the KV does not answer")

    child = ChildProcess(PROGRAM, [str(file)], prepare, NotNowError)
    tasks.append(asyncio.create_task(child.run()))
    await until(lambda: starts(file) == 1)
    assert tried == 2
    await child.end()


async def test_an_end_before_the_start_is_an_end(tmp_path: Path) -> None:
    child = ChildProcess(PROGRAM, [str(tmp_path / "pids")], ready, NotNowError)
    await child.end()
    await asyncio.wait_for(child.run(), 10)
    assert starts(tmp_path / "pids") == 0

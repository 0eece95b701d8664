"""Processes that are kept alive: incarnations, pauses, ends that are expected and ends that are not."""

import asyncio
import errno
import os
import resource
import signal
from pathlib import Path

from lab.waiting import until
from tests.m3x.processes.conftest import CHILD, alive, no_more_files, told

from m3x.processes import Child, Launch, Zygote


def launch(folder: Path, order: str, epoch: int) -> Launch:
    return Launch(CHILD, [str(folder / str(epoch)), order])


async def test_a_killed_process_comes_back_at_once_with_a_new_epoch(zygote: Zygote, tmp_path: Path) -> None:
    gone: list[tuple[int, int]] = []
    child = Child("it", zygote, lambda epoch: launch(tmp_path, "stay", epoch), lambda *end: gone.append(end))
    task = asyncio.create_task(child.run())
    await until(lambda: child.pid)
    first = child.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: child.pid not in (0, first))
    assert (gone, child.epoch, child.restarts) == ([(1, -signal.SIGKILL)], 2, 1)
    second = child.pid
    task.cancel()
    await asyncio.wait([task])
    assert not alive(second)


async def test_an_expected_end_is_the_end(zygote: Zygote, tmp_path: Path) -> None:
    child = Child("it", zygote, lambda epoch: launch(tmp_path, "stay", epoch), lambda *end: None)
    async with asyncio.TaskGroup() as group:
        group.create_task(child.run())
        await told(tmp_path / "1")
        assert not await child.ended(0.05)
        child.terminate()
        assert await child.ended(10)
    assert (child.epoch, child.pid) == (1, 0)


async def test_one_that_is_told_to_end_while_it_is_being_started_ends(zygote: Zygote, tmp_path: Path) -> None:
    gone: list[tuple[int, int]] = []
    child = Child("it", zygote, lambda epoch: launch(tmp_path, "stay", epoch), lambda *end: gone.append(end))
    task = asyncio.create_task(child.run())
    await asyncio.sleep(0)
    child.stop()
    await asyncio.wait_for(task, 60)
    assert gone == [(1, -signal.SIGKILL)]


async def test_a_process_that_dies_again_and_again_is_started_ever_more_slowly(zygote: Zygote, tmp_path: Path) -> None:
    pauses: list[float] = []
    codes: list[int] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            child.stop()

    child = Child(
        "it",
        zygote,
        lambda epoch: launch(tmp_path, "end:3", epoch),
        lambda epoch, code: codes.append(code),
        sleep=pause,
    )
    await asyncio.wait_for(child.run(), 60)
    assert (pauses, codes) == ([0.0, 0.5, 1.0, 2.0], [3] * 4)


async def test_one_that_cannot_be_started_is_tried_again(zygote: Zygote, tmp_path: Path) -> None:
    await (await zygote.spawn(CHILD, [str(tmp_path / "loaded"), "end:0"])).wait()
    limits = no_more_files(zygote.pid)
    codes: list[int] = []

    def gone(_: int, code: int) -> None:
        codes.append(code)
        resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE, limits)

    child = Child("it", zygote, lambda epoch: launch(tmp_path, "stay", epoch), gone)
    task = asyncio.create_task(child.run())
    await told(tmp_path / "2")
    assert (codes, child.epoch) == ([1], 2)
    task.cancel()
    await asyncio.wait([task])


async def test_one_that_cannot_be_prepared_is_tried_again(zygote: Zygote, tmp_path: Path) -> None:
    """As while the disk is full, which takes nothing that describes it."""
    gone: list[tuple[int, int]] = []

    def prepare(epoch: int) -> Launch:
        if epoch < 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return launch(tmp_path, "stay", epoch)

    child = Child("it", zygote, prepare, lambda *end: gone.append(end))
    async with asyncio.TaskGroup() as group:
        group.create_task(child.run())
        await told(tmp_path / "3")
        child.terminate()
    assert gone[:2] == [(1, 1), (2, 1)]
    assert (child.epoch, child.restarts) == (3, 2)


async def test_what_ends_it_again_and_again_is_told(zygote: Zygote, tmp_path: Path) -> None:
    troubles: list[str | None] = []
    orders = iter(("end:3", "say:no room", "fail", "log:the engine does not start", "kill:9", "kill:11"))

    async def pause(_: float) -> None:
        troubles.append(child.trouble)
        if len(troubles) == 6:
            child.stop()

    child = Child("it", zygote, lambda epoch: launch(tmp_path, next(orders), epoch), lambda *end: None, sleep=pause)
    await asyncio.wait_for(child.run(), 60)
    assert troubles == [
        None,
        None,
        "it has died 3 times in a row, the last time of exit code 1 (RuntimeError: told to fail)",
        "it has died 4 times in a row, the last time of exit code 1 (the engine does not start: ValueError: told)",
        "it has died 5 times in a row, the last time of SIGKILL (memory may have been short: see the log of the kernel)",
        "it has died 6 times in a row, the last time of SIGSEGV",
    ]

"""Virtual time: what never ends there fails, and says where it was."""

import asyncio
import contextlib

import pytest
from tests import virtual_time


async def waits_for_ever() -> None:
    while True:  # noqa: ASYNC110 - that is the case
        await asyncio.sleep(1)


async def runs_without_a_pause() -> None:
    while True:  # noqa: ASYNC110 - that is the case
        await asyncio.sleep(0)


def test_a_run_that_goes_on_for_ever_ends_with_what_its_tasks_did() -> None:
    with pytest.raises(virtual_time.EndlessError, match="not at its end after 1201 s") as raised:
        virtual_time.run(waits_for_ever())
    assert any("test_virtual_time.py" in note for note in raised.value.__notes__)


def test_a_loop_without_a_pause_is_noticed() -> None:
    async def scenario() -> None:
        await asyncio.sleep(7)
        await runs_without_a_pause()

    with pytest.raises(virtual_time.EndlessError, match="time stands still at 7 s"):
        virtual_time.run(scenario())


def test_a_task_that_did_not_take_its_end_is_no_reason_to_wait_for_ever() -> None:
    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await waits_for_ever()
        await waits_for_ever()

    async def scenario() -> None:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(1)
        task.cancel()
        await task

    with pytest.raises(virtual_time.EndlessError):
        virtual_time.run(scenario())


def test_a_long_run_is_none_that_never_ends() -> None:
    async def scenario() -> str:
        for _ in range(1000):
            await asyncio.sleep(1)
        for _ in range(1000):
            await asyncio.sleep(0)
        return "done"

    assert virtual_time.run(scenario()) == "done"

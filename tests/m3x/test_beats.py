"""Loops on shared beats, in virtual time."""

import asyncio

import pytest
from tests.virtual_time import run as run_virtual

from m3x.beats import beat


def test_loops_that_began_at_different_times_wake_together() -> None:
    async def run() -> list[list[float]]:
        woken: list[list[float]] = [[], []]

        async def look(number: int, begin_s: float) -> None:
            await asyncio.sleep(begin_s)
            for _ in range(3):
                await beat()
                woken[number].append(asyncio.get_running_loop().time())

        await asyncio.gather(look(0, 0.3), look(1, 0.7))
        return woken

    one, other = run_virtual(run())
    assert one == other
    assert one == pytest.approx([round(at) for at in one])


def test_an_event_ends_the_wait_before_the_beat() -> None:
    async def run() -> tuple[bool, float, bool]:
        event, loop = asyncio.Event(), asyncio.get_running_loop()
        await beat()
        began = loop.time()
        loop.call_later(0.25, event.set)
        woken = await beat(event)
        took = loop.time() - began
        event.clear()
        return woken, took, await beat(event)

    woken, took, again = run_virtual(run())
    assert woken
    assert took == pytest.approx(0.25)
    assert not again


def test_beats_of_another_period() -> None:
    async def run() -> float:
        await beat(every_s=0.25)
        return asyncio.get_running_loop().time()

    assert run_virtual(run()) % 0.25 == pytest.approx(0)

"""Loops on shared beats, in virtual time."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.virtual_time import run as run_virtual

from m3x.beats import beat, early_beat_s, next_beat_s


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


def test_a_beat_comes_once_though_the_loop_wakes_a_little_early() -> None:
    """As it does within the resolution of its clock: loops that begin the same beat anew each time would keep each other busy."""

    async def run() -> list[list[int]]:
        loop = asyncio.get_running_loop()
        await beat()
        await asyncio.sleep(1 - 4e-10)

        async def look(turns: int) -> list[int]:
            for _ in range(turns):
                await asyncio.sleep(0)
            woken = []
            for _ in range(5):
                await beat(asyncio.Event())
                woken.append(round(loop.time()))
            return woken

        return await asyncio.gather(*(look(turns) for turns in range(4)))

    for woken in run_virtual(run()):
        assert woken == list(range(woken[0], woken[0] + 5))


@given(period=st.sampled_from([0.02, 0.05, 0.1, 0.7, 1 / 3]), at=st.integers(0, 1 << 40))
def test_the_next_beat_is_never_now(period: float, at: int) -> None:
    """The beat that is now, as it is computed, may be the next one by a hair's breadth of the clock."""
    now_s = at * period
    assert period / 2 < next_beat_s(now_s, period) - now_s < period * 1.01


@given(st.floats(0, 1e6), st.floats(0.01, 100))
def test_what_is_to_be_done_in_time_is_done_on_a_beat_before_it_or_then(since_s: float, after_s: float) -> None:
    at_s = early_beat_s(since_s, after_s)
    # A beat that a loop woke a little early for is that beat.
    assert since_s + after_s / 2 <= at_s <= since_s + after_s + 1e-3
    assert at_s == since_s + after_s or at_s == round(at_s)
    if after_s >= 2:
        assert at_s == round(at_s)

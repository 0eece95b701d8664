"""When a store is looked at: a period after the last look, or on the beats of the period."""

import asyncio

import pytest

from m3cluster.kv.contact import Contact
from m3cluster.kv.watching import Feed, Token
from m3x.beats import next_beat_s

PERIOD_S = 1.2


@pytest.mark.parametrize(("on_beats", "first_s"), [(False, PERIOD_S), (True, 0.7 * PERIOD_S)])
async def test_the_next_look_is_a_period_after_the_last_one_or_on_the_next_beat(on_beats: bool, first_s: float) -> None:
    loop, looks = asyncio.get_running_loop(), []

    async def poll(known: dict[str, int], token: Token) -> tuple[dict[str, None], Token]:
        looks.append(loop.time())
        return {}, token

    # A third of a period behind a beat.
    await asyncio.sleep(next_beat_s(loop.time(), PERIOD_S) + 0.3 * PERIOD_S - loop.time())
    feed = Feed(poll, PERIOD_S, Contact("a store"), on_beats=on_beats)
    feed.watch("a")
    task = asyncio.create_task(feed.run())
    await asyncio.sleep(1.5 * PERIOD_S)
    task.cancel()
    assert looks[1] - looks[0] == pytest.approx(first_s, abs=0.25 * PERIOD_S)

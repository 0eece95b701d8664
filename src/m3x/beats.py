"""Loops that look around from time to time, on the same beats: a process then wakes once for all of them.

A wake costs more than most of what is looked at: the caches are cold. Beats are at the multiples of their period on the loop's clock, so
those of a second are also the fourth of a quarter, and processes of one machine have them together.
"""

import asyncio
import math

__all__ = ["beat", "early_beat_s", "next_beat_ns", "next_beat_s"]

_SAME = 1e-3
"""Part of a period: a loop wakes a little early, up to the resolution of its clock, and that beat has been then."""


def next_beat_s(now_s: float, every_s: float) -> float:
    """When the next beat is, on the loop's clock."""
    return (math.floor(now_s / every_s + _SAME) + 1) * every_s


def next_beat_ns(now_ns: int, every_ns: int) -> int:
    """The same in nanoseconds, for a process that has no such loop: of the clock that loops have, the monotonic one."""
    return now_ns - now_ns % every_ns + every_ns


def early_beat_s(since_s: float, after_s: float, every_s: float = 1.0) -> float:
    """When to do what is to be done ``after_s`` later at the latest: at the last beat before that, unless that is less than half of it."""
    at_s = math.floor((since_s + after_s) / every_s + _SAME) * every_s
    return at_s if at_s >= since_s + after_s / 2 else since_s + after_s


async def beat(event: asyncio.Event | None = None, every_s: float = 1.0) -> bool:
    """Returns at the next beat, which is a period away at most, or as soon as ``event`` is set: whether it is."""
    loop = asyncio.get_running_loop()
    at_s = next_beat_s(loop.time(), every_s)
    if event is None:
        await asyncio.sleep(at_s - loop.time())
        return False
    try:
        async with asyncio.timeout_at(at_s):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True

"""Work of the event loop in steps of some milliseconds, between which others have their turn: a generator that yields after each.

Where it yields a function instead, that may take long by itself and runs in a thread; what it returns is sent back.
"""

import asyncio
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

__all__ = ["Steps", "finished", "in_turns"]

TURN_S = 0.01
"""The longest that the loop is kept from others, but for the length of a step."""

T = TypeVar("T")
Steps = Generator[Callable[[], Any] | None, Any, T]


def finished(steps: Steps[T]) -> T:
    """Goes all steps at once."""
    given: Any = None
    while True:
        try:
            work = steps.send(given)
        except StopIteration as end:
            result: T = end.value
            return result
        given = None if work is None else work()


async def in_turns(steps: Steps[T], holds: Callable[[], bool] = lambda: True) -> T | None:
    """Goes all steps, and lets others have their turn; None: after one of these what they are based on did not hold any more."""
    given: Any = None
    began_s = time.monotonic()
    while True:
        try:
            work = steps.send(given)
        except StopIteration as end:
            result: T = end.value
            return result
        given = None
        if work is not None:
            given = await asyncio.to_thread(work)
        elif time.monotonic() - began_s < TURN_S:
            continue
        else:
            await asyncio.sleep(0)
        if not holds():
            steps.close()
            return None
        began_s = time.monotonic()

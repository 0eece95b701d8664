"""Large bodies that are decoded in Python: in steps, between which the event loop has its turn.

A sender whose bodies may take long has a method ``steps`` besides ``decode``, which makes a generator of steps. Where it yields nothing,
a step of a millisecond or so has ended; where it yields a function, that may take long by itself, needs nothing of the sender, and
runs in a thread.
"""

import asyncio
import time
from collections.abc import Callable, Generator
from typing import Any

from coordinator.write.decoding import Decoded
from coordinator.write.options import WriteOptions
from coordinator.write.sender import Sender

__all__ = ["LARGE_BYTES", "Steps", "Turns", "finished"]

LARGE_BYTES = 64 << 10
"""Bodies from which on unpacking and parsing are worth a thread."""
TURN_S = 0.01
"""The longest that the loop is kept from others, but for the length of a step."""
_MOST_AT_A_TIME = 4
"""Large bodies in work; others wait for their turn, so that what is half done is bounded."""

Steps = Generator[Callable[[], Any] | None, Any, Decoded]


class Turns:
    """Of one event loop."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(_MOST_AT_A_TIME)

    async def decoded(self, sender: Sender, body: bytes, options: WriteOptions) -> Decoded:
        """Decodes, and lets others have their turn meanwhile if the sender has ``steps``. Raises ``BadRequestError``."""
        make: Callable[[bytes, WriteOptions], Steps] | None = getattr(sender, "steps", None)
        if make is None:
            return sender.decode(body, options)
        if len(body) < LARGE_BYTES:
            return await _in_turns(make(body, options))
        async with self._room:
            return await _in_turns(make(body, options))


async def _in_turns(steps: Steps) -> Decoded:
    """Goes all steps."""
    given: Any = None
    began_s = time.monotonic()
    while True:
        try:
            work = steps.send(given)
        except StopIteration as end:
            decoded: Decoded = end.value
            return decoded
        given = None
        if work is not None:
            given = await asyncio.to_thread(work)
        elif time.monotonic() - began_s < TURN_S:
            continue
        else:
            await asyncio.sleep(0)
        began_s = time.monotonic()


def finished(steps: Steps) -> Decoded:
    """Goes all steps at once."""
    given: Any = None
    while True:
        try:
            work = steps.send(given)
        except StopIteration as end:
            decoded: Decoded = end.value
            return decoded
        given = None if work is None else work()

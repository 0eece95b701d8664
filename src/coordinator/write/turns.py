"""Large bodies in steps: a sender whose bodies take long to decode has a method ``steps`` besides ``decode``."""

import asyncio
from collections.abc import Callable

from coordinator.write.decoding import Decoded
from coordinator.write.options import WriteOptions
from coordinator.write.sender import Sender
from coordinator.write.steps import Steps, in_turns

__all__ = ["LARGE_BYTES", "Turns"]

LARGE_BYTES = 64 << 10
"""Bodies from which on unpacking and parsing are worth a thread."""
_MOST_AT_A_TIME = 4
"""Large bodies in work; others wait for their turn, so that what is half done is bounded."""


class Turns:
    """Of one event loop."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(_MOST_AT_A_TIME)

    async def decoded(self, sender: Sender, body: bytes, options: WriteOptions) -> Decoded:
        """Decodes, and lets others have their turn meanwhile if the sender has ``steps``. Raises ``BadRequestError``."""
        make: Callable[[bytes, WriteOptions], Steps[Decoded]] | None = getattr(sender, "steps", None)
        if make is None:
            return sender.decode(body, options)
        if len(body) < LARGE_BYTES:
            found = await in_turns(make(body, options))
        else:
            async with self._room:
                found = await in_turns(make(body, options))
        assert found is not None
        return found

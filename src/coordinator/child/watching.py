"""What the aggregator inside says of itself, over HTTP: whether it is ready, its pages, its figures."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

__all__ = ["Answer", "Watching"]

_TIMEOUT_S = 2.0
_SOON_S, _OFTEN_S = 0.1, 1.0
"""Between two looks: while it is not ready, and when it is."""


class Answer(NamedTuple):
    """Of one of its pages."""

    status: int
    content_type: str
    body: bytes


class Watching:
    """``socket``: where it serves HTTP. ``state`` says what is known of the process where it does not answer. Run it as long as it is
    asked; ``close`` it then."""

    def __init__(self, socket: Path, state: Callable[[], str]) -> None:
        self._socket = socket
        self._state = state
        self._session: aiohttp.ClientSession | None = None
        self.reasons: list[str] = [f"the aggregator inside this coordinator is not up yet ({state()})"]
        """Why it takes no samples; empty: it does."""
        self.notes: list[str] = []
        """What else is worth knowing."""

    async def run(self) -> None:
        """Asks whether it is ready until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_SOON_S if self.reasons else _OFTEN_S)

    async def look(self) -> None:
        """Asks once."""
        try:
            answer = await self.get("/ready")
            found: Any = json.loads(answer.body)
            reasons, notes = [str(one) for one in found["reasons"]], [str(one) for one in found["notes"]]
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError):
            reasons, notes = [f"it does not answer ({self._state()})"], []
        self.reasons = [f"the aggregator inside this coordinator: {reason}" for reason in reasons]
        self.notes = [f"the aggregator inside this coordinator: {note}" for note in notes]

    async def get(self, path: str) -> Answer:
        """One of its pages. Raises ``aiohttp.ClientError``, ``TimeoutError`` or ``OSError``."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path=str(self._socket)), timeout=aiohttp.ClientTimeout(_TIMEOUT_S)
            )
        async with self._session.get(f"http://aggregator{path}", allow_redirects=False) as answer:
            return Answer(answer.status, answer.headers.get("Content-Type", "text/plain"), await answer.read())

    async def figures(self) -> bytes:
        """Its figures as Prometheus text; nothing where it does not answer."""
        try:
            answer = await self.get("/metrics")
        except (aiohttp.ClientError, TimeoutError, OSError):
            return b""
        return answer.body if answer.status == 200 else b""

    async def close(self) -> None:
        """Closes connections."""
        if self._session is not None:
            await self._session.close()

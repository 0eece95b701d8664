"""Requests that come again: told to the other write processes, handed to the one that remembers them (``coordinator.write.repeats``)."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coordinator.write import RefusedError
from coordinator.write.options import WriteOptions
from coordinator.write.remote_write import HANDED_OVER
from coordinator.write.repeats import key_of
from coordinator.writers.board import Board
from coordinator.writers.passing import NoAnswerError, exchange, target_of

__all__ = ["Handing", "handed_over"]

_SOON_S = 1


class Handing:
    """``Elsewhere`` of the write process ``index``. ``endpoint``: where a process answers what is handed to it."""

    def __init__(self, board: Board, index: int, endpoint: Callable[[int], str]) -> None:
        self._board = board
        self._index = index
        self._endpoint = endpoint
        self._remembered = Counter[bytes]()

    def remember(self, key: bytes) -> None:
        """See ``Elsewhere``."""
        self._remembered[key] += 1
        if self._remembered[key] == 1:
            self._board.write(self._index, key)

    def forget(self, key: bytes) -> None:
        """See ``Elsewhere``."""
        self._remembered[key] -= 1
        if self._remembered[key] <= 0:
            del self._remembered[key]
            self._board.erase(self._index, key)

    def has(self, body: bytes, options: WriteOptions) -> bool:
        """See ``Elsewhere``."""
        return self._owner(body, options) is not None

    def _owner(self, body: bytes, options: WriteOptions) -> int | None:
        """The other process that has to have a request."""
        if not self._board.any_but(self._index):
            return None
        key = key_of(body, options)
        return None if key in self._remembered else self._board.owner(key, self._index)

    async def answer(
        self, request: Request, body: bytes, options: WriteOptions, gone: Callable[[], Awaitable[Any]]
    ) -> Response | None:
        """See ``Elsewhere``."""
        owner = self._owner(body, options)
        if owner is None:
            return None
        work = asyncio.ensure_future(self._handed(owner, request, body))
        watching = asyncio.ensure_future(gone())
        try:
            await asyncio.wait((work, watching), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise RefusedError("the sender went away")
            return work.result()
        finally:
            for task in (work, watching):
                task.cancel()
            await asyncio.gather(work, watching, return_exceptions=True)

    async def _handed(self, owner: int, request: Request, body: bytes) -> Response:
        scope = request.scope
        try:
            async with exchange(
                self._endpoint(owner), request.method, target_of(scope), scope["headers"], body
            ) as answer:
                text = b"".join([part async for part in answer.body()])
        except NoAnswerError as error:
            # Whatever it had done of it bears the same message ids when it is done again.
            raise RefusedError(
                f"the process that had this request has ended ({error}); send it again", _SOON_S
            ) from error
        response = Response(text, answer.status)
        response.raw_headers = answer.headers
        return response


def handed_over(app: Any) -> Any:
    """``app`` for requests that other write processes hand over: they are answered here."""

    async def handed(scope: Any, receive: Any, send: Any) -> None:
        scope[HANDED_OVER] = True
        await app(scope, receive, send)

    return handed

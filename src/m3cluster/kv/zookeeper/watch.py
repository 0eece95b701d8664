"""Watches of ZooKeeper, which report once each and only while their connection lives.

A watched key is read again whenever its node is reported to have changed; all are when a connection is made, be it of the old session or of
a new one, and every ``watch_silence_s`` anyhow: nothing is missed for longer than that. Reading asks for the next report.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from m3cluster.kv.contact import Contact
from m3cluster.kv.rules import UNKNOWN
from m3cluster.kv.store import KVError, Value
from m3cluster.kv.watching import Feed, Token
from m3x.log import logger

__all__ = ["Report", "Watcher"]

log = logger(__name__)

_RETRY_S = 0.25


@dataclass(frozen=True, slots=True)
class Report:
    """What kazoo calls, on a thread of its own, once the node of ``key`` has changed. Equal ones are kept once."""

    watcher: "Watcher"
    key: str

    def __call__(self, _: Any) -> None:
        self.watcher.report(self.key)


class Watcher:
    """Feeds all watches of one store. ``read`` gives the value of a key and sets the report; it may raise ``KVError``."""

    def __init__(
        self, read: Callable[[str, Report], Awaitable[Value | None]], silence_s: float, contact: Contact
    ) -> None:
        self._read = read
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._stale: set[str] = set()
        self._all_stale_at = 0.0
        self.feed = Feed(self._poll, silence_s, contact)

    def connected(self) -> None:
        """There is a new connection: what happened without it was not reported."""
        self._all_stale_at = 0.0
        self.feed.wake()

    def report(self, key: str) -> None:
        """The key has changed; called from any thread."""
        # A loop that has been closed has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed, key)

    def _changed(self, key: str) -> None:
        self._stale.add(key)
        self.feed.wake()

    async def _poll(self, known: dict[str, int], token: Token) -> tuple[dict[str, Value | None], Token]:
        now = self._loop.time()
        everything = now >= self._all_stale_at
        if everything:
            self._all_stale_at = now + self._silence_s
        keys = [key for key in known if everything or key in self._stale or known[key] == UNKNOWN]
        self._stale.clear()
        news: dict[str, Value | None] = {}
        failure: KVError | None = None
        for key, found in zip(keys, await asyncio.gather(*map(self._look, keys)), strict=True):
            if isinstance(found, KVError):
                failure = found
                self._stale.add(key)
            elif (found.mod_revision if found else 0) != known[key]:
                news[key] = found
        if failure is not None:
            self.feed.contact.failed(str(failure))
            self._loop.call_later(_RETRY_S, self.feed.wake)
        elif keys:
            self.feed.contact.answered()
        return news, token

    async def _look(self, key: str) -> Value | KVError | None:
        try:
            return await self._read(key, Report(self, key))
        except KVError as error:
            return error

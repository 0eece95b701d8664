"""Watches: each holds the newest value of one key until its reader takes it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from m3cluster.kv.contact import Contact
from m3cluster.kv.rules import UNKNOWN
from m3cluster.kv.store import KVError, Value
from m3x.beats import beat

__all__ = ["Feed", "LatestWatch", "until_deleted"]


class LatestWatch:
    """A watch of one key (``Watch``): whoever learns of a change offers it, the reader takes the newest one."""

    def __init__(self, on_close: Callable[["LatestWatch"], None], *, report_missing: bool = False) -> None:
        self._on_close = on_close
        self._revision = 0 if not report_missing else UNKNOWN
        self._news = asyncio.Event()
        self._value: Value | None = None
        self._closed = False

    def offer(self, value: Value | None) -> bool:
        """The key now has this value; None: it does not exist. False: the reader has been told that already."""
        revision = value.mod_revision if value else 0
        if revision == self._revision:
            return False
        self._revision = revision
        self._value = value
        self._news.set()
        return True

    def __aiter__(self) -> "LatestWatch":
        return self

    async def __anext__(self) -> Value | None:
        await self._news.wait()
        if self._closed:
            raise StopAsyncIteration
        self._news.clear()
        return self._value

    async def close(self) -> None:
        """Ends the iteration."""
        self.end()

    def end(self) -> None:
        """Ends the iteration; may be called more than once."""
        if not self._closed:
            self._closed = True
            self._news.set()
            self._on_close(self)


async def until_deleted(watch: LatestWatch, key: str, create_revision: int, owner: str) -> None:
    """Returns as soon as ``key`` does not exist with that create revision. ``watch`` is one of it that reports a missing key; it is ended.

    Raises ``KVError`` if ``owner`` was closed before that.
    """
    try:
        async for value in watch:
            if value is None or value.create_revision != create_revision:
                return
    finally:
        watch.end()
    raise KVError(f"{owner} was closed while waiting for the deletion of {key}")


Token = tuple[int, int]
Poll = Callable[[dict[str, int], Token], Awaitable[tuple[dict[str, Value | None], Token]]]


class Feed:
    """Feeds all watches of one store from one polling loop, which also runs at once when it is woken."""

    def __init__(self, poll: Poll, period_s: float, contact: Contact, *, on_beats: bool = False) -> None:
        """``on_beats``: looks are on those of their period (``m3x.beats``), so that one may come a little early, but none is missed."""
        self._poll = poll
        self.period_s = period_s
        """How long after a look the next one is at the latest; whoever polls may change it."""
        self._on_beats = on_beats
        self.contact = contact
        """Told here of failures; whoever polls tells it of answers."""
        self._watches: dict[str, set[LatestWatch]] = {}
        self._known: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._token: Token = (UNKNOWN, UNKNOWN)

    def watch(self, key: str, *, report_missing: bool = False) -> LatestWatch:
        """A new watch of ``key``; with ``report_missing`` it begins with None if the key does not exist."""
        watch = LatestWatch(lambda closed: self._forget(key, closed), report_missing=report_missing)
        self._watches.setdefault(key, set()).add(watch)
        self._known[key] = UNKNOWN
        self._wake.set()
        return watch

    def _forget(self, key: str, watch: LatestWatch) -> None:
        watches = self._watches.get(key, set())
        watches.discard(watch)
        if not watches:
            self._watches.pop(key, None)
            self._known.pop(key, None)

    def wake(self) -> None:
        """Something may have changed: look at once."""
        self._wake.set()

    def end(self) -> None:
        """Ends all watches."""
        for watches in list(self._watches.values()):
            for watch in list(watches):
                watch.end()

    async def run(self) -> None:
        """The loop; runs until cancelled. A store that does not answer is asked again, watches keep their last value."""
        while True:
            await self._rest()
            self._wake.clear()
            if not self._watches:
                continue
            try:
                news, self._token = await self._poll(dict(self._known), self._token)
            except KVError as error:
                self.contact.failed(str(error))
                await asyncio.sleep(self.period_s)
                self._wake.set()
                continue
            for key, value in news.items():
                self._deliver(key, value)

    async def _rest(self) -> None:
        """Returns when it is woken, or the next look is due."""
        if not self._watches:
            await self._wake.wait()
        elif self._on_beats:
            await beat(self._wake, self.period_s)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.period_s):
                    await self._wake.wait()

    def _deliver(self, key: str, value: Value | None) -> None:
        if key not in self._watches:
            return
        self._known[key] = value.mod_revision if value else 0
        for watch in list(self._watches[key]):
            watch.offer(value)

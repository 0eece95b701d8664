"""What is known of all keys below a prefix: read once, and again where etcd says that something has changed, or cannot be heard.

A list counts for as long as all of this holds; else the keys are read, as ``keys`` of the store does:

* the stream of watches tells of the prefix from the revision of the list on, and has told of nothing newer;
* something was heard on that stream no longer ago than it would be asked whether it lives, and a moment;
* this client has written nothing below the prefix since the list was asked for: its own writes it always sees;
* it is no older than ``_LONG_NS``.
"""

from collections.abc import Awaitable, Callable

from m3cluster.kv.etcd.watch import PrefixWatch
from m3cluster.kv.store import Value
from m3x.clock import boot_ns

__all__ = ["Found", "WatchedListing"]

_LONG_NS = 60_000_000_000

Found = tuple[int, list[tuple[str, Value]]]
"""Keys with values, and the revision that they were read at."""


class WatchedListing:
    """The keys below ``prefix`` (``Listing``); ``read`` asks etcd, ``forget`` is called when it is closed."""

    def __init__(
        self,
        prefix: str,
        read: Callable[[], Awaitable[Found]],
        watch: PrefixWatch,
        forget: Callable[["WatchedListing"], None],
    ) -> None:
        self.prefix = prefix
        self._read = read
        self._watch = watch
        self._forget = forget
        self._found: Found | None = None
        self._read_ns = 0
        self._writes = 0

    def written(self) -> None:
        """This client writes below the prefix, or has just done so."""
        self._writes += 1
        self._found = None

    async def keys(self) -> list[tuple[str, Value]]:
        """All keys, in order of create revision. Raises ``KVError``."""
        now_ns = boot_ns()
        if self._found is None or now_ns - self._read_ns > _LONG_NS or not self._watch.vouches(self._found[0]):
            self._found = None
            writes = self._writes
            found = await self._read()
            if writes == self._writes:
                self._found, self._read_ns = found, now_ns
                self._watch.tell_after(found[0])
            return found[1]
        return self._found[1]

    def close(self) -> None:
        """Nobody looks any more."""
        self._watch.close()
        self._forget(self)

"""What is known of requests whose senders will come again: bounded in number and age. The same request has the same bytes and options.

Where several processes take writes (``coordinator.writers``), the one that remembers a request gets it when it comes again, whichever
process its sender reaches: ``Elsewhere``.
"""

import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from coordinator.write.options import WriteOptions

__all__ = ["Elsewhere", "Repeats", "key_of"]

_MOST = 4096
_KEPT_S = 600.0

T = TypeVar("T")


class Elsewhere(Protocol):
    """The other processes that take writes."""

    def remember(self, key: bytes) -> None:
        """This process is the one that has to have the request with this key (``key_of``) when it comes again."""

    def forget(self, key: bytes) -> None:
        """Once for every ``remember``: it need not have it any more."""

    def has(self, body: bytes, options: WriteOptions) -> bool:
        """Whether another process has to have this request."""

    async def answer(
        self, request: Request, body: bytes, options: WriteOptions, gone: Callable[[], Awaitable[Any]]
    ) -> Response | None:
        """The answer of the process that has to have a request, whose ``body`` was read; None: there is none, or it is dead.

        ``gone`` returns when the sender has gone away. Raises ``RefusedError``.
        """


class Repeats(Generic[T]):
    """By request, what was remembered longest ago first. As long as nothing is remembered no request is hashed.

    ``elsewhere``: who is told; None: this process takes all writes.
    """

    def __init__(self, elsewhere: Elsewhere | None = None) -> None:
        self._known: dict[bytes, tuple[T, float]] = {}
        """And since when, on the monotonic clock."""
        self._elsewhere = elsewhere

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[T]:
        return (value for value, _ in self._known.values())

    def get(self, body: bytes, options: WriteOptions) -> T | None:
        """What is known of a request."""
        known = self._known.get(key_of(body, options)) if self._known else None
        return None if known is None else known[0]

    def remember(self, body: bytes, options: WriteOptions, value: T) -> None:
        """In place of what was known of it."""
        now = time.monotonic()
        while self._known:
            oldest, (_, since) = next(iter(self._known.items()))
            if len(self._known) < _MOST and now - since < _KEPT_S:
                break
            self._drop(oldest)
        key = key_of(body, options)
        self._drop(key)
        self._known[key] = (value, now)
        if self._elsewhere is not None:
            self._elsewhere.remember(key)

    def forget(self, body: bytes, options: WriteOptions) -> None:
        """Its sender will not come again."""
        if self._known:
            self._drop(key_of(body, options))

    def _drop(self, key: bytes) -> None:
        if self._known.pop(key, None) is not None and self._elsewhere is not None:
            self._elsewhere.forget(key)


_last: tuple[bytes, WriteOptions, bytes] = (b"", WriteOptions(), b"")
"""The request that was asked about last: it is asked about several times."""

_begun = (WriteOptions(), hashlib.blake2b(repr(WriteOptions()).encode(), digest_size=16))
"""What was asked for last, and the digest of that."""


def key_of(body: bytes, options: WriteOptions) -> bytes:
    """What a request is known by: 16 bytes, the same in every process."""
    global _begun, _last  # noqa: PLW0603
    if body is not _last[0] or options is not _last[1]:
        if options is not _begun[0]:
            _begun = options, hashlib.blake2b(repr(options).encode(), digest_size=16)
        digest = _begun[1].copy()
        digest.update(body)
        _last = body, options, digest.digest()
    return _last[2]

"""What is known of requests whose senders will come again: bounded in number and age. The same request has the same bytes and options."""

import hashlib
import time
from collections.abc import Iterator
from typing import Generic, TypeVar

from coordinator.write.options import WriteOptions

__all__ = ["Repeats"]

_MOST = 4096
_KEPT_S = 600.0

_Key = tuple[bytes, WriteOptions]
T = TypeVar("T")


class Repeats(Generic[T]):
    """By request, what was remembered longest ago first. As long as nothing is remembered no request is hashed."""

    def __init__(self) -> None:
        self._known: dict[_Key, tuple[T, float]] = {}
        """And since when, on the monotonic clock."""

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[T]:
        return (value for value, _ in self._known.values())

    def get(self, body: bytes, options: WriteOptions) -> T | None:
        """What is known of a request."""
        known = self._known.get(_key(body, options)) if self._known else None
        return None if known is None else known[0]

    def remember(self, body: bytes, options: WriteOptions, value: T) -> None:
        """In place of what was known of it."""
        now = time.monotonic()
        while self._known:
            oldest, (_, since) = next(iter(self._known.items()))
            if len(self._known) < _MOST and now - since < _KEPT_S:
                break
            del self._known[oldest]
        key = _key(body, options)
        self._known.pop(key, None)
        self._known[key] = (value, now)

    def forget(self, body: bytes, options: WriteOptions) -> None:
        """Its sender will not come again."""
        if self._known:
            self._known.pop(_key(body, options), None)


def _key(body: bytes, options: WriteOptions) -> _Key:
    return hashlib.blake2b(body, digest_size=16).digest(), options

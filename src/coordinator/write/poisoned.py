"""Requests that are refused for good, and come again and again all the same: who sends them is named in the log.

A sender that takes no refusal for an answer holds up all that it has behind that request, and nobody looks at its own log. Known by sender
and bytes; bounded.
"""

import hashlib
from typing import Any

from starlette.requests import Request

from m3x.instrument import Scope
from m3x.log import logger

__all__ = ["OFTEN", "Poisoned"]

OFTEN = 5
"""So often it has to have come to be named; then again each time that it has come ten times as often."""
_MOST = 1024
_LOOKED_AT = 64 << 10
"""Bytes at each end of a body that tell it apart, together with its length."""
_LINES_PER_SECOND = 1 / 10
_SHOWN = 300

log = logger(__name__)


class Poisoned:
    """Counts them for one process; used from its event loop only."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, str, bytes], int] = {}
        """What came longest ago stands first."""

    def note(self, request: Request, body: bytes, status: int, text: str, scope: Scope) -> None:
        """A request was refused for good. ``body``: empty where it was not read; ``text``: why; ``scope``: of its way in."""
        size = str(len(body)) if body else request.headers.get("Content-Length", "0")
        path = request.scope.get("path", "")
        sender = request.client.host if request.client is not None else "a socket in the file system"
        key = sender, path, _digest(size.encode(), body)
        times = self._times.pop(key, 0) + 1
        if len(self._times) >= _MOST:
            del self._times[next(iter(self._times))]
        self._times[key] = times
        if times < OFTEN or not _is_round(times):
            return
        if times == OFTEN:
            scope.count("poisoned_requests")
        fields: dict[str, Any] = {
            "sender": sender, "userAgent": request.headers.get("User-Agent", "")[:_SHOWN], "path": path,
            "times": times, "bytes": size, "status": status, "error": text[:_SHOWN],
        }  # fmt: skip
        log.warning_limited(
            "a sender repeats a request that is refused for good", per_second=_LINES_PER_SECOND, **fields
        )


def _is_round(times: int) -> bool:
    """Whether it is ``OFTEN``, or ten, a hundred … times that."""
    while times % 10 == 0:
        times //= 10
    return times == OFTEN


def _digest(size: bytes, body: bytes) -> bytes:
    digest = hashlib.blake2b(size, digest_size=16)
    digest.update(body[:_LOOKED_AT])
    digest.update(body[-_LOOKED_AT:])
    return digest.digest()

"""HTTP requests whose failures read as sentences, over TLS and with a token where that is asked for."""

import email.utils
import http.client
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from m3x.tls import trouble_of

__all__ = ["Answer", "Caller", "CtlError", "Unreachable", "ask_all", "base_url"]

_MAX_BODY_BYTES = 64 << 20
_MAX_AT_ONCE = 32

Item = TypeVar("Item")
Result = TypeVar("Result")
Body = TypeVar("Body")


class CtlError(Exception):
    """What cannot be done; the message says what, where, and what to do."""


class Unreachable(CtlError):
    """Nobody answered."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, whatever its status."""

    url: str
    status: int
    body: bytes
    skew_s: float | None
    """The server's clock minus ours, to a second (its ``Date`` header); None: it does not say."""

    def read(self, shape: type[Body], *, what: str) -> Body:
        """The body as ``shape``; ``what`` names the service that should have sent it. Raises ``CtlError``."""
        try:
            # M3 writes 64-bit numbers as text.
            return msgspec.json.decode(self.body, type=shape, strict=False)
        except (msgspec.DecodeError, RecursionError) as error:
            raise CtlError(
                f"{self.url} answered {self.status} with something that {what} does not say ({error}): {self.text()!r}; "
                f"is this the address of {what}?"
            ) from error

    def text(self) -> str:
        """The error's text if the body is M3's envelope, else the beginning of the body."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and isinstance(found.get("error"), str):
            return str(found["error"])
        return self.body[:200].decode(errors="replace").strip()


def base_url(text: str, scheme: str = "http") -> str:
    """``host:port`` or a URL as ``http://host:port``. Raises ``ValueError`` for what is neither, or has a password in it."""
    url = text if "://" in text else f"{scheme}://{text}"
    parts = urllib.parse.urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("an URL with a user or a password in it: give a token with --token-file instead")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text!r} is neither host:port nor an http(s) URL")
    _ = parts.port  # raises ValueError if it is no number
    return url.rstrip("/")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token is for the one who was asked, and nobody else."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Caller:
    """Makes requests. ``context``: of TLS; None: the authorities of the system are trusted. ``token``: a bearer token; empty: none."""

    def __init__(self, context: ssl.SSLContext | None = None, token: str = "") -> None:
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirect)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def request(
        self,
        method: str,
        url: str,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> Answer:
        """One request, ``body`` bytes or what becomes JSON; every status is an answer.

        Raises ``Unreachable``, and ``CtlError`` where a token is wanted.
        """
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        answer = _ask(
            self._opener,
            urllib.request.Request(url, data=data, headers={**self._headers, **(headers or {})}, method=method),
            timeout_s,
        )
        if answer.status in (401, 403):
            given = (
                "the token of --token-file or M3CTL_TOKEN is not good for it"
                if self._headers
                else ("give one with --token-file FILE, or in M3CTL_TOKEN")
            )
            raise CtlError(f"{url} answered {answer.status}: {answer.text()}; {given}")
        return answer


def _ask(opener: urllib.request.OpenerDirector, prepared: urllib.request.Request, timeout_s: float) -> Answer:
    url = prepared.full_url
    try:
        try:
            with opener.open(prepared, timeout=timeout_s) as answer:
                return _answer(url, answer.status, answer.read(_MAX_BODY_BYTES), answer.headers.get("Date"))
        except urllib.error.HTTPError as error:
            with error:
                return _answer(url, error.code, error.read(_MAX_BODY_BYTES), error.headers.get("Date"))
    except TimeoutError as error:
        raise Unreachable(f"{url} did not answer within {timeout_s:g} s (--timeout)") from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        # UnicodeError: a host name that cannot be one, such as a..b
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            raise Unreachable(f"{url} did not answer within {timeout_s:g} s (--timeout)") from error
        text = trouble_of(reason) if isinstance(reason, ssl.SSLError) else getattr(reason, "strerror", None)
        text = text or str(reason) or type(reason).__name__
        raise Unreachable(f"{url} cannot be reached: {text}") from error


def _answer(url: str, status: int, body: bytes, date: str | None) -> Answer:
    try:
        skew_s = None if date is None else email.utils.parsedate_to_datetime(date).timestamp() - time.time()
    except ValueError:
        skew_s = None
    return Answer(url, status, body, skew_s)


def ask_all(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result | CtlError]:
    """``function`` of every item, at the same time; one that does not answer delays no other. A ``CtlError`` takes its result's place."""

    def guarded(item: Item) -> Result | CtlError:
        try:
            return function(item)
        except CtlError as error:
            return error

    asked = list(items)
    if not asked:
        return []
    with ThreadPoolExecutor(min(len(asked), _MAX_AT_ONCE)) as pool:
        return list(pool.map(guarded, asked))

"""What proves to an endpoint who we are, and what must therefore never be seen: not in errors, logs or status pages."""

import base64
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

__all__ = ["Address", "Authorization", "CredentialError", "Secrets", "basic", "shown_address"]

_MASK = "***"
_SHORTEST = 3
"""Shorter secrets would mask half of every text, and keep nothing secret."""


class CredentialError(Exception):
    """A file with a secret cannot be read."""


class Secrets:
    """Texts that are masked wherever they turn up."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        for secret in secrets:
            self.add(secret)

    def add(self, secret: str) -> None:
        """One more; the ones before stay secret."""
        self._secrets |= {form for form in (secret, unquote(secret)) if len(form) >= _SHORTEST}

    def mask(self, text: str) -> str:
        """``text`` without any of them."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, _MASK)
        return text


@dataclass(frozen=True, slots=True)
class Address:
    """An URL taken apart. Raises ``ValueError``, without the address in the text."""

    url: str
    """Without user info and fragment; path and query as they were written."""
    host: str
    user: str | None
    password: str

    @classmethod
    def parse(cls, text: str) -> "Address":
        """``http`` and ``https`` only. User info is decoded, as Go's client does."""
        try:
            parts = urlsplit(text)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise ValueError("is not an URL") from None
        if parts.scheme not in {"http", "https"}:
            raise ValueError("must begin with http:// or https://")
        if not host:
            raise ValueError("has no host")
        if re.search(r"[\s\x00-\x1f]", text):
            raise ValueError("has white space in it")
        user = None if parts.username is None else unquote(parts.username)
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
        return cls(bare.geturl(), host, user, unquote(parts.password or ""))

    @property
    def secrets(self) -> list[str]:
        """What of it must not be seen: user info, and the values of the query."""
        values = [pair.partition("=")[2] for pair in urlsplit(self.url).query.split("&")]
        return [self.password, *values, *([basic(self.user, self.password)] if self.user is not None else [])]


def shown_address(text: str) -> str:
    """An URL as it may be seen: without user info, with the query left out."""
    try:
        parts = urlsplit(text)
        netloc = parts.netloc.rpartition("@")[2]
        return SplitResult(parts.scheme, netloc, parts.path, "…" if parts.query else "", "").geturl()
    except ValueError:
        return "an address that is no URL"


def basic(user: str, password: str) -> str:
    """The value of ``Authorization`` for a name and a password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Authorization:
    """The value of the header of that name: fixed, or made from a file that is read again when it changes."""

    def __init__(self, secrets: Secrets, *, user: str | None = None, password: str = "", file: str = "") -> None:
        """``user``: basic authentication, with ``password`` or that in ``file``; no user and a file: a bearer token. Neither: no header."""
        self._secrets, self._user, self._file = secrets, user, file
        self._stamp: tuple[int, int, int] | None = None
        self._value: str | None = None
        if user is not None and not file:
            self._set(password)

    def header(self) -> str | None:
        """What to send now. Raises ``CredentialError``."""
        if self._file and (self._value is None or self._look() != self._stamp):
            self.read_again()
        return self._value

    def read_again(self) -> bool:
        """After a refusal: whether there is something new to try. Raises ``CredentialError``."""
        if not self._file:
            return False
        before = self._value
        self._stamp = self._look()
        try:
            self._set(Path(self._file).read_text(encoding="utf-8").strip("\r\n \t"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise CredentialError(f"{self._file} cannot be read: {reason}") from None
        return self._value != before

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._file)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _set(self, secret: str) -> None:
        if "\n" in secret or "\r" in secret:
            raise CredentialError(f"{self._file} has more than one line")
        self._value = f"Bearer {secret}" if self._user is None else basic(self._user, secret)
        self._secrets.add(secret)
        self._secrets.add(self._value.partition(" ")[2])

"""``writeForwarding``: to whom remote writes go as well (docs/m3/coordinator.md, forwarding).

Keys and defaults are M3's. What M3 finds out at each request, and logs, is refused at start.
"""

import re
import socket
from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

from coordinator.config.prom_remote import SecretText, check_headers, check_url
from m3x.config import Duration, EmptyIsDefault, Natural, Rate, Section, parse_address
from m3x.retry import Backoff
from m3x.sections import RetryConfig

__all__ = ["ForwardTargetConfig", "ForwardingConfig", "ShadowConfig", "WriteForwardingConfig", "leads_to"]

_METHOD = re.compile(r"[A-Za-z-]+")
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_ALL_INTERFACES = {"0.0.0.0", "::"}
_RESERVED_HEADERS = {"connection", "content-length", "host", "transfer-encoding"}
_DEFAULT_TIMEOUT_S = 15.0
_DEFAULT_BACKOFF = Backoff(initial_s=2.0)
_DEFAULT_RETRIES = 1
_RETRIES_OF_A_BLOCK = 2
"""With a ``retry`` block that does not say how many."""


class ShadowConfig(Section, frozen=True, kw_only=True):
    """``targets[].shadow``: a part of the series instead of all."""

    percent: Rate = 0.0
    """Of 1, in spite of its name; ten-thousandths count."""
    hash: EmptyIsDefault[Literal["xxhash", "murmur3"]] = "xxhash"


class ForwardTargetConfig(Section, frozen=True, kw_only=True):
    """``promRemoteWrite.targets[]``."""

    url: SecretText = SecretText("")
    """A user and a password in it become basic authentication."""
    method: str = ""
    """Empty: POST."""
    headers: dict[str, SecretText] = {}
    no_retry: bool = False
    shadow: ShadowConfig | None = None
    """None: requests as they came."""

    def problems(self) -> Iterator[tuple[str, str]]:
        try:
            check_url("url", self.url)
            has_user = urlsplit(self.url).username is not None
        except ValueError as error:
            yield "url", str(error).removeprefix("url ")
            has_user = False
        if self.method and not _METHOD.fullmatch(self.method):
            yield "method", f"{self.method!r} is not a method of HTTP; leave it out for POST"
        try:
            check_headers(self.headers, has_user, _RESERVED_HEADERS)
        except ValueError as error:
            yield "headers", str(error).removeprefix("headers: ")


class ForwardingConfig(Section, frozen=True, kw_only=True):
    """``promRemoteWrite``."""

    max_concurrency: Natural = 0
    """Requests that may be on their way to a target at a time, those that wait to be tried again among them; 0: our own bounds."""
    timeout: Duration = Duration(0)
    """Of an attempt; 0: 15 s."""
    retry: RetryConfig | None = None
    targets: list[ForwardTargetConfig] = []

    def __post_init__(self) -> None:
        if self.timeout < 0:
            raise ValueError("timeout must not be negative")

    @property
    def timeout_s(self) -> float:
        """Of an attempt, in seconds."""
        return self.timeout.seconds or _DEFAULT_TIMEOUT_S

    @property
    def backoff(self) -> Backoff:
        """How long to wait between attempts."""
        return _DEFAULT_BACKOFF if self.retry is None else self.retry.backoff()

    @property
    def max_retries(self) -> float:
        """Attempts after the first one."""
        if self.retry is None:
            return _DEFAULT_RETRIES
        return float("inf") if self.retry.forever else self.retry.max_retries or _RETRIES_OF_A_BLOCK


class WriteForwardingConfig(Section, frozen=True, kw_only=True):
    """``writeForwarding``."""

    prom_remote_write: ForwardingConfig = ForwardingConfig()


def leads_to(url: str, listen_address: str) -> bool:
    """Whether an URL certainly leads to who listens there: by its host, as far as that is known without asking anybody, and its port."""
    parts = urlsplit(url)
    host, (own, port) = (parts.hostname or "").lower(), parse_address(listen_address)
    if (parts.port or {"http": 80, "https": 443}.get(parts.scheme)) != port:
        return False
    if own in _ALL_INTERFACES:
        return host in _LOOPBACK | _ALL_INTERFACES | {socket.gethostname().lower()}
    return host == own or {host, own} <= _LOOPBACK | _ALL_INTERFACES

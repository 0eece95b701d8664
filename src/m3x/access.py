"""Who may ask for what over HTTP: bearer tokens, TLS of the HTTP ports, and how both are configured. Ours; M3 has neither.

Each call needs one of three rights (``Right``), or none. A right for which the file names no token is everybody's. Tokens of
administrators are good for all calls, those of writers and readers for writes and reads. Tokens come from files, one in a line, which are
read again when they change, so that an old and a new one are good at a time; or from variables of the environment. What was presented is
compared with all that are known, by hashes, in a time that does not depend on either. Tokens are in no text that is made here.
"""

import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec

from m3x.config import Section, parse_address
from m3x.endpoints import accepted_from, is_unix
from m3x.instrument import Registry, Scope
from m3x.log import logger
from m3x.reloading import Reloading
from m3x.tls import ServerTLSConfig, trouble_with

__all__ = ["Access", "AccessError", "Right", "RightOf", "SecurityConfig", "TokenSource", "exposed", "unusable"]

_log = logger(__name__)

_SHORTEST = 16
"""Characters of a token."""
_SCHEMES = {"bearer", "token"}
"""``Token`` is what senders of InfluxDB's protocol write."""

ASGI = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


class AccessError(Exception):
    """Tokens cannot be used; the text names the file or the variable."""


class Right(StrEnum):
    """What a call needs."""

    NONE = "none"
    READS = "reads"
    WRITES = "writes"
    ADMIN = "admin"


RightOf = Callable[[str, str], Right]
"""Method and path → what the call needs."""


class TokenSource(Section, frozen=True, kw_only=True):
    """``adminTokens[]`` and the like: one of the two."""

    file: str = ""
    """One token in each line; empty lines and those that begin with ``#`` are none."""
    environment: str = ""
    """The name of a variable."""

    def __post_init__(self) -> None:
        if bool(self.file) == bool(self.environment):
            raise ValueError("one of file and environment is needed: a path, or the name of a variable")


class SecurityConfig(Section, frozen=True, kw_only=True):
    """``security``: who may speak HTTP with the service, the same in both services. Not a section of M3."""

    tls: ServerTLSConfig = ServerTLSConfig()
    """Of the port with the API."""
    metrics_tls: ServerTLSConfig = msgspec.field(name="metricsTLS", default=ServerTLSConfig())
    """Of the port with the metrics page, where that has one of its own."""
    admin_tokens: list[TokenSource] = []
    write_tokens: list[TokenSource] = []
    read_tokens: list[TokenSource] = []

    def sources(self) -> dict[Right, list[TokenSource]]:
        """The tokens for each right."""
        return {Right.ADMIN: self.admin_tokens, Right.WRITES: self.write_tokens, Right.READS: self.read_tokens}


class _Tokens:
    """The hashes of what is good for one right."""

    def __init__(self, sources: Iterable[TokenSource]) -> None:
        """Raises ``AccessError``."""
        self._files: list[Reloading[list[bytes]]] = []
        self._fixed: list[bytes] = []
        for source in sources:
            if source.file:
                self._files.append(_reloading(source.file))
            else:
                self._fixed += _hashes(os.environ.get(source.environment, ""), f"variable {source.environment}")

    def __bool__(self) -> bool:
        return bool(self._files or self._fixed)

    def has(self, digest: bytes) -> bool:
        """Whether one of them is it; takes as long whichever it is."""
        found = False
        for known in [*self._fixed, *(one for file in self._files for one in file.get())]:
            found |= hmac.compare_digest(known, digest)
        return found


def _reloading(file: str) -> Reloading[list[bytes]]:
    def read() -> list[bytes]:
        try:
            return _hashes(Path(file).read_text(encoding="utf-8"), file)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise AccessError(f"tokens: {file} cannot be read: {reason}") from None

    return Reloading(read, [file], what="tokens", failures=AccessError)


def _hashes(text: str, where: str) -> list[bytes]:
    lines = [line.strip() for line in text.splitlines()]
    tokens = [line for line in lines if line and not line.startswith("#")]
    if not tokens:
        raise AccessError(f"tokens: {where} has none: expected a token in a line")
    for number, token in enumerate(tokens, 1):
        if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
            raise AccessError(
                f"tokens: {where}: token {number} is too short, or has other characters than those of ASCII without spaces: "
                f"expected at least {_SHORTEST}, as openssl rand -hex 32 makes"
            )
    return [_hash(token) for token in tokens]


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Access:
    """The tokens of a configuration. Raises ``AccessError``. ``scope`` has the counter ``http-refused{reason=…,needs=…}``."""

    def __init__(self, config: SecurityConfig, scope: Scope) -> None:
        self._tokens = {right: _Tokens(sources) for right, sources in config.sources().items()}
        self._scope = scope

    def guarding(self, app: ASGI, right_of: RightOf) -> ASGI:
        """``app`` for those only who have the right that their call needs; ``app`` itself where no call needs one."""
        if not any(self._tokens.values()):
            return app

        async def guarded(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            right = right_of(scope["method"], scope["path"])
            refusal = self._refusal(right, scope["headers"])
            if refusal is None:
                await app(scope, receive, send)
            else:
                self._say(refusal, right, scope)
                await _refuse(refusal, right, send)

        return guarded

    def allows(self, right: Right, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a call with these headers has a right; nothing is counted."""
        return self._refusal(right, headers) is None

    def _refusal(self, right: Right, headers: Iterable[tuple[bytes, bytes]]) -> "_Refusal | None":
        """None: the call is allowed."""
        if right is Right.NONE or not self._tokens[right]:
            return None
        given = [value for name, value in headers if name == b"authorization"]
        if not given:
            return _Refusal.MISSING
        scheme, _, token = given[0].decode("latin-1").partition(" ")
        if len(given) > 1 or scheme.lower() not in _SCHEMES or not token.strip():
            return _Refusal.NO_BEARER
        digest = _hash(token.strip())
        if self._tokens[right].has(digest) | self._tokens[Right.ADMIN].has(digest):
            return None
        known = any([tokens.has(digest) for tokens in self._tokens.values()])
        return _Refusal.NOT_ENOUGH if known else _Refusal.UNKNOWN

    def _say(self, refusal: "_Refusal", right: Right, scope: MutableMapping[str, Any]) -> None:
        self._scope.tagged(reason=refusal.value, needs=right.value).count("http-refused")
        _log.warning_limited(
            f"HTTP: a call was refused: {_TEXTS[refusal]}",
            needs=right.value, method=scope["method"], path=scope["path"], peer=accepted_from(scope["client"]),
        )  # fmt: skip


class _Refusal(StrEnum):
    MISSING = "no-token"
    NO_BEARER = "no-bearer-token"
    UNKNOWN = "unknown-token"
    NOT_ENOUGH = "token-without-this-right"


_TEXTS = {
    _Refusal.MISSING: "it has no token",
    _Refusal.NO_BEARER: "its Authorization is no bearer token",
    _Refusal.UNKNOWN: "its token is not known here",
    _Refusal.NOT_ENOUGH: "its token is good for other calls only",
}
_CHALLENGES = {
    _Refusal.MISSING: b'Bearer realm="m3"',
    _Refusal.NO_BEARER: b'Bearer realm="m3", error="invalid_request"',
    _Refusal.UNKNOWN: b'Bearer realm="m3", error="invalid_token"',
    _Refusal.NOT_ENOUGH: b'Bearer realm="m3", error="insufficient_scope"',
}
"""RFC 6750, 3."""
_KEYS = {
    Right.ADMIN: "adminTokens",
    Right.WRITES: "writeTokens or adminTokens",
    Right.READS: "readTokens or adminTokens",
}


async def _refuse(refusal: _Refusal, right: Right, send: Any) -> None:
    text = (
        f"this call needs a token of security.{_KEYS[right]}, and {_TEXTS[refusal]}: "
        "send the header Authorization: Bearer TOKEN"
    )
    body = msgspec.json.encode({"status": "error", "error": text}) + b"\n"
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"www-authenticate", _CHALLENGES[refusal]),
    ]
    status = 403 if refusal is _Refusal.NOT_ENOUGH else 401
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def unusable(config: SecurityConfig) -> Iterator[tuple[str, str]]:
    """What of a section could not be used as things are: its key, and what is wrong."""
    for key, tls in (("security.tls", config.tls), ("security.metricsTLS", config.metrics_tls)):
        if (trouble := trouble_with(tls)) is not None:
            yield key, trouble
    try:
        Access(config, Registry().scope())
    except AccessError as error:
        yield "security", str(error)


def exposed(config: SecurityConfig, address: str, key: str) -> list[str]:
    """What is open to whoever reaches ``address``, a listener's that ``key`` names: one line each, for the log at the start."""
    if is_unix(address) or _is_loopback(parse_address(address)[0]):
        return []
    mutual = config.tls.mode == "enforced" and config.tls.m_tls_enabled
    found = []
    if not config.admin_tokens and not mutual:
        found.append(
            f"ANYBODY who reaches {address} can administrate this service: {key} is beyond loopback, with neither security.adminTokens "
            "nor mutual TLS (security.tls: mode enforced, mTLSEnabled); see docs/security.md"
        )
    tokens = config.admin_tokens or config.write_tokens or config.read_tokens
    if tokens and config.tls.mode != "enforced":
        found.append(
            f"tokens come to {address} in plain text: {key} is beyond loopback, without security.tls (mode enforced)"
        )
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""TLS from PEM files, under M3's keys: contexts for clients and servers that take up changed files by themselves.

A certificate that is about to expire is replaced on disk by whatever manages it; ``ClientTLS.context`` and ``ServerTLS.context`` look at
the files at most once a ``certificatesTTL`` (a second if that is 0) and load them anew when one has changed. Files that cannot be loaded
then are logged, and the last usable ones stay in use; at the start they are an error.
"""

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from m3x.config import Duration, Section
from m3x.log import logger

__all__ = ["ClientTLS", "ClientTLSConfig", "ServerTLS", "ServerTLSConfig", "TLSError"]

_MIN_LOOK_S = 1.0

_log = logger(__name__)


class TLSError(Exception):
    """Certificates or keys cannot be used; the text names the file."""


class ClientTLSConfig(Section, frozen=True, kw_only=True):
    """``tls`` of a client."""

    enabled: bool = True
    ca_file: str = msgspec.field(name="caFile", default="")
    """Certificates of the authorities that are trusted; empty: those of the system."""
    cert_file: str = ""
    key_file: str = ""
    """What is shown to servers that ask for a certificate."""
    server_name: str = ""
    """The name that the server's certificate must have; empty: the host of the address."""
    insecure_skip_verify: bool = False
    """Trusts any server."""
    certificates_ttl: Duration = msgspec.field(name="certificatesTTL", default=Duration(0))

    def __post_init__(self) -> None:
        _check_pair(self.cert_file, self.key_file)
        _check_ttl(self.certificates_ttl)


class ServerTLSConfig(Section, frozen=True, kw_only=True):
    """``tls`` of a listener."""

    mode: Literal["disabled", "permissive", "enforced"] = "disabled"
    """``permissive``: plain connections are taken as well."""
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = msgspec.field(name="clientCAFile", default="")
    """Authorities of clients' certificates."""
    m_tls_enabled: bool = msgspec.field(name="mTLSEnabled", default=False)
    """Whether clients must show a certificate of these."""
    certificates_ttl: Duration = msgspec.field(name="certificatesTTL", default=Duration(0))

    def __post_init__(self) -> None:
        _check_pair(self.cert_file, self.key_file)
        _check_ttl(self.certificates_ttl)
        if self.mode != "disabled" and not self.cert_file:
            raise ValueError(f"mode {self.mode} needs certFile and keyFile")
        if self.m_tls_enabled and not self.client_ca_file:
            raise ValueError("mTLSEnabled needs clientCAFile")


def _check_pair(cert_file: str, key_file: str) -> None:
    if bool(cert_file) != bool(key_file):
        raise ValueError("certFile and keyFile belong together; only one of them is given")


def _check_ttl(ttl: Duration) -> None:
    if ttl < 0:
        raise ValueError(f"certificatesTTL must not be negative, found {ttl}")


class _Reloading:
    """A context made of files, made again when they change. Raises ``TLSError`` if the first one cannot be made."""

    def __init__(self, make: Callable[[], ssl.SSLContext], files: list[str], ttl: Duration) -> None:
        self._make, self._files = make, [Path(file) for file in files if file]
        self._every_s = ttl.seconds or _MIN_LOOK_S
        self._look_at = time.monotonic() + self._every_s
        self._seen = self._stamps()
        self._current = make()

    def get(self) -> ssl.SSLContext:
        if self._files and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + self._every_s
            stamps = self._stamps()
            if stamps != self._seen:
                self._seen = stamps
                try:
                    self._current = self._make()
                except TLSError as error:
                    _log.error("changed TLS files cannot be used: the earlier ones stay in use", error=str(error))
                else:
                    _log.info("TLS files have changed and are in use", files=[str(file) for file in self._files])
        return self._current

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(file) for file in self._files]


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


class ClientTLS:
    """Contexts for connections to servers. Raises ``TLSError``."""

    def __init__(self, config: ClientTLSConfig) -> None:
        self._config = config
        self._contexts = _Reloading(
            self._make, [config.ca_file, config.cert_file, config.key_file], config.certificates_ttl
        )

    @property
    def server_name(self) -> str | None:
        """What to call the server instead of its host; None: its host."""
        return self._config.server_name or None

    def context(self) -> ssl.SSLContext:
        """The context to connect with now; the same object while the files are the same."""
        return self._contexts.get()

    def _make(self) -> ssl.SSLContext:
        config = self._config
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if config.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif config.ca_file:
            _load(config.ca_file, lambda: context.load_verify_locations(config.ca_file))
        else:
            context.load_default_certs()
        if config.cert_file:
            _load(config.cert_file, lambda: context.load_cert_chain(config.cert_file, config.key_file))
        return context


class ServerTLS:
    """Contexts for a listener whose ``mode`` is not ``disabled``. Raises ``TLSError``."""

    def __init__(self, config: ServerTLSConfig) -> None:
        self._config = config
        self._contexts = _Reloading(
            self._make, [config.cert_file, config.key_file, config.client_ca_file], config.certificates_ttl
        )

    def context(self) -> ssl.SSLContext:
        """To be given to a server once: handshakes look for changed files themselves."""
        return self._contexts.get()

    def _make(self) -> ssl.SSLContext:
        config = self._config
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _load(config.cert_file, lambda: context.load_cert_chain(config.cert_file, config.key_file))
        if config.client_ca_file:
            _load(config.client_ca_file, lambda: context.load_verify_locations(config.client_ca_file))
        if config.m_tls_enabled:
            context.verify_mode = ssl.CERT_REQUIRED
        # Called at every handshake, whether or not the client names a host.
        context.sni_callback = self._take_current
        return context

    def _take_current(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, used: ssl.SSLContext) -> None:
        current = self._contexts.get()
        if current is not used:
            connection.context = current


def _load(file: str, load: Callable[[], object]) -> None:
    try:
        load()
    except (OSError, ssl.SSLError) as error:
        raise TLSError(f"TLS: {file}: {error.strerror or error}") from error

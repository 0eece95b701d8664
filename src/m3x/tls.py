"""TLS from PEM files, under M3's keys: contexts for clients and servers that take up changed files by themselves.

A certificate that is about to expire is replaced on disk by whatever manages it; ``ClientTLS.context`` and ``ServerTLS.context`` look at
the files at most once a ``certificatesTTL`` (a second if that is 0) and load them anew when one has changed. Files that cannot be loaded
then are logged, and the last usable ones stay in use; at the start they are an error.
"""

import ssl
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Literal

import msgspec

from m3x.config import Duration, Section
from m3x.log import logger
from m3x.reloading import Reloading

__all__ = [
    "HANDSHAKE_S",
    "TLS_BYTE",
    "TLS_MAJOR",
    "ClientTLS",
    "ClientTLSConfig",
    "Refusal",
    "ServerTLS",
    "ServerTLSConfig",
    "TLSError",
    "log_refusal",
    "refusal_of",
    "trouble_of",
    "trouble_with",
]

TLS_BYTE = 0x16
"""What a TLS connection begins with; nothing else that our ports take does."""
TLS_MAJOR = 3
"""What follows."""
HANDSHAKE_S = 10.0
"""A handshake that takes longer is given up."""
_FILES = "TLS files"

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


class ClientTLS:
    """Contexts for connections to servers. Raises ``TLSError``."""

    def __init__(self, config: ClientTLSConfig) -> None:
        self._config = config
        self._contexts = Reloading(
            self._make,
            [config.ca_file, config.cert_file, config.key_file],
            what=_FILES,
            failures=TLSError,
            every_s=config.certificates_ttl.seconds,
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
        self.plain_too = config.mode == "permissive"
        """Whether plain connections are taken as well."""
        self.mutual = config.mode == "enforced" and config.m_tls_enabled
        """Whether every client has shown a certificate."""
        self._contexts = Reloading(
            self._make,
            [config.cert_file, config.key_file, config.client_ca_file],
            what=_FILES,
            failures=TLSError,
            every_s=config.certificates_ttl.seconds,
        )

    @classmethod
    def of(cls, config: ServerTLSConfig) -> "ServerTLS | None":
        """None: mode ``disabled``. Raises ``TLSError``."""
        return None if config.mode == "disabled" else cls(config)

    def context(self) -> ssl.SSLContext:
        """To be asked for at each connection, or given to a server once: handshakes look for changed files themselves."""
        return self._contexts.get()

    def _make(self) -> ssl.SSLContext:
        config = self._config
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        # A sender that only writes would close with these unread, for which its system resets the connection: what it sent last is lost.
        context.num_tickets = 0
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


def trouble_with(config: ClientTLSConfig | ServerTLSConfig) -> str | None:
    """Why a section could not be used as its files are; None: it could, or is not in use."""
    try:
        if isinstance(config, ServerTLSConfig):
            ServerTLS.of(config)
        elif config.enabled:
            ClientTLS(config)
    except TLSError as error:
        return str(error)
    return None


class Refusal(StrEnum):
    """Why a listener does not go on with a connection; tag ``reason`` of ``upgrade-to-tls-errors``."""

    PLAIN_TEXT = "plain-text"
    TLS_ON_PLAIN_PORT = "tls-on-plain-port"
    NO_CLIENT_CERTIFICATE = "no-client-certificate"
    BAD_CLIENT_CERTIFICATE = "bad-client-certificate"
    SERVER_CERTIFICATE_REFUSED = "server-certificate-refused"
    TIMEOUT = "handshake-timeout"
    CLOSED = "closed-in-handshake"
    PROTOCOL = "protocol"

    @property
    def text(self) -> str:
        """For logs."""
        return _TEXTS[self]


_TEXTS = {
    Refusal.PLAIN_TEXT: "this port takes TLS only, and the peer sends plain text",
    Refusal.TLS_ON_PLAIN_PORT: "this port takes plain text only, and the peer begins a TLS handshake",
    Refusal.NO_CLIENT_CERTIFICATE: "the peer shows no certificate, and this port asks for one (mTLSEnabled)",
    Refusal.BAD_CLIENT_CERTIFICATE: "the peer's certificate is not accepted",
    Refusal.SERVER_CERTIFICATE_REFUSED: "the peer does not accept our certificate (certFile)",
    Refusal.TIMEOUT: f"the peer did not finish its TLS handshake within {HANDSHAKE_S:g} s",
    Refusal.CLOSED: "the peer closed in the middle of the TLS handshake",
    Refusal.PROTOCOL: "the TLS handshake failed",
}
_NO_TLS = {
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "HTTPS_PROXY_REQUEST",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
}
_ABOUT_CERTIFICATES = (
    "UNKNOWN_CA",
    "BAD_CERTIFICATE",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN",
    "CERTIFICATE_REVOKED",
)


def refusal_of(error: Exception) -> tuple[Refusal, str]:
    """What a handshake of a server failed of, and its details."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refusal.BAD_CLIENT_CERTIFICATE, error.verify_message
    if isinstance(error, TimeoutError):
        return Refusal.TIMEOUT, ""
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return Refusal.CLOSED, ""
    reason = (error.reason if isinstance(error, ssl.SSLError) else "") or ""
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return Refusal.NO_CLIENT_CERTIFICATE, ""
    if reason in _NO_TLS:
        return Refusal.PLAIN_TEXT, ""
    if "ALERT" in reason and reason.endswith(_ABOUT_CERTIFICATES):
        return Refusal.SERVER_CERTIFICATE_REFUSED, _words(reason)
    return Refusal.PROTOCOL, _words(reason) or str(error)


def log_refusal(port: str, refusal: Refusal, peer: str, detail: str) -> None:
    """One line a second for each port, which is called so, and reason."""
    more: dict[str, Any] = {"detail": detail} if detail else {}
    _log.warning_limited(f"{port}: connection refused: {refusal.text}", reason=refusal.value, peer=peer, **more)


def trouble_of(error: OSError) -> str:
    """What is wrong with a connection of a client, TLS or not, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError):
        return "the server broke the TLS connection off: it died, or asks for a client certificate that it accepts (certFile, keyFile)"
    if not isinstance(error, ssl.SSLError):
        return str(error) or type(error).__name__
    reason = error.reason or ""
    if reason.endswith(("ALERT_CERTIFICATE_REQUIRED", "ALERT_HANDSHAKE_FAILURE")):
        return f"the server asks for a client certificate that it accepts (certFile, keyFile): {_words(reason)}"
    if "ALERT" in reason and reason.endswith(_ABOUT_CERTIFICATES):
        return f"the server does not accept our certificate (certFile): {_words(reason)}"
    if reason in _NO_TLS:
        return "the server speaks no TLS on this port"
    return f"TLS: {_words(reason) or error}"


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")

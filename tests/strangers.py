"""Those who knock at a port with TLS and are not let in, each for a reason of its own; and the certificates that all of them have.

``STRANGERS`` is the table: what a listener must be, who comes, what it says of that. Each port is tested with all of it
(``docs/security.md``).
"""

import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.certificates import Authority, Pair

from m3x.config import Duration
from m3x.tls import Refusal, ServerTLSConfig

__all__ = ["CASES", "HOSTS", "LISTENERS", "STRANGERS", "Certificates", "Stranger", "trusting"]

HOSTS = ("DNS:localhost", "IP:127.0.0.1")
_PATIENCE_S = 30.0


class Certificates:
    """Made once for a module: of an authority that everybody trusts, and of another one with the same name."""

    def __init__(self, directory: Path) -> None:
        for name in ("own", "strange"):
            (directory / name).mkdir()
        self.authority, self.strange = Authority(directory / "own"), Authority(directory / "strange")
        self.server = self.authority.sign("server", *HOSTS)
        self.expired_server = self.authority.sign("expired-server", *HOSTS, days=-1)
        self.client = self.authority.sign("client")
        self.expired_client = self.authority.sign("expired-client", days=-1)
        self.strange_client = self.strange.sign("client")

    def config(self, mode: str = "enforced", *, mutual: bool = False, expired: bool = False) -> ServerTLSConfig:
        """Of a server."""
        pair = self.expired_server if expired else self.server
        return ServerTLSConfig(
            mode=mode,  # type: ignore[arg-type]
            cert_file=str(pair.cert),
            key_file=str(pair.key),
            client_ca_file=str(self.authority.cert) if mutual else "",
            m_tls_enabled=mutual,
            certificates_ttl=Duration(1),
        )


def trusting(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    """Of a client that trusts ``authority`` and shows ``pair``."""
    context = ssl.create_default_context(cafile=str(authority.cert))
    if pair is not None:
        context.load_cert_chain(pair.cert, pair.key)
    return context


Knock = Callable[[Certificates, socket.socket], None]


def _shaking(authority: str, name: str = "localhost", client: str = "") -> Knock:
    """Somebody who makes a handshake, and then listens."""

    def knock(certificates: Certificates, plain: socket.socket) -> None:
        context = trusting(getattr(certificates, authority), getattr(certificates, client) if client else None)
        with context.wrap_socket(plain, server_hostname=name) as secure:
            secure.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            while secure.recv(1 << 16):
                pass

    return knock


def _speaking_plainly(_: Certificates, plain: socket.socket) -> None:
    plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    while plain.recv(1 << 16):
        pass


def _leaving_early(_: Certificates, plain: socket.socket) -> None:
    # The head of a record, and nothing of the record.
    plain.sendall(bytes((0x16, 3, 1, 1, 0)))


def _speaking_nonsense(_: Certificates, plain: socket.socket) -> None:
    plain.sendall(bytes((0x16, 3, 1, 0, 4)) + b"\x63\x00\x00\x00")
    while plain.recv(1 << 16):
        pass


@dataclass(frozen=True, slots=True)
class Stranger:
    """``listener``: arguments of ``Certificates.config``; None: one without TLS."""

    name: str
    listener: dict[str, bool] | None
    knock: Knock
    refusal: Refusal

    def come(self, certificates: Certificates, port: int) -> None:
        """Knocks, and returns when the port has closed the connection."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S) as plain:
            self.knock(certificates, plain)


STRANGERS = (
    Stranger("wrong authority", {}, _shaking("strange"), Refusal.SERVER_CERTIFICATE_REFUSED),
    Stranger("expired", {"expired": True}, _shaking("authority"), Refusal.SERVER_CERTIFICATE_REFUSED),
    Stranger("wrong name", {}, _shaking("authority", "elsewhere.example"), Refusal.SERVER_CERTIFICATE_REFUSED),
    Stranger("plain text", {}, _speaking_plainly, Refusal.PLAIN_TEXT),
    Stranger("TLS on a plain port", None, _shaking("authority"), Refusal.TLS_ON_PLAIN_PORT),
    Stranger("no client certificate", {"mutual": True}, _shaking("authority"), Refusal.NO_CLIENT_CERTIFICATE),
    Stranger(
        "client of another authority",
        {"mutual": True},
        _shaking("authority", client="strange_client"),
        Refusal.BAD_CLIENT_CERTIFICATE,
    ),
    Stranger(
        "expired client",
        {"mutual": True},
        _shaking("authority", client="expired_client"),
        Refusal.BAD_CLIENT_CERTIFICATE,
    ),
    Stranger("leaves early", {}, _leaving_early, Refusal.CLOSED),
    Stranger("no handshake", {}, _speaking_nonsense, Refusal.PROTOCOL),
)
LISTENERS: list[dict[str, bool] | None] = [{}, {"expired": True}, {"mutual": True}, None]
"""All that they come to."""
CASES = [stranger.name.replace(" ", "-") for stranger in STRANGERS]

"""A running coordinator that a command asks, over TLS and with a token where it wants them."""

import json
import os
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3x.tls import ClientTLS, ClientTLSConfig, TLSError, trouble_of

__all__ = ["Proofs", "ProofsError", "Running", "UnreadableError"]

_TIMEOUT_S = 60.0


class ProofsError(Exception):
    """A file of certificates or of a token cannot be used; the text says why."""


class UnreadableError(Exception):
    """The running coordinator does not tell what is needed of it."""


@dataclass(frozen=True, slots=True)
class Proofs:
    """Paths; empty: none. ``token_file``: in its first line a bearer token, without one it is that of ``M3CTL_TOKEN``."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    token_file: str = ""

    def context(self) -> ssl.SSLContext | None:
        """Of TLS; None: the authorities of the system are trusted. Raises ``ProofsError``."""
        if not (self.ca_file or self.cert_file or self.key_file):
            return None
        try:
            config = ClientTLSConfig(ca_file=self.ca_file, cert_file=self.cert_file, key_file=self.key_file)
            return ClientTLS(config).context()
        except (ValueError, TLSError) as error:
            raise ProofsError(str(error)) from error

    def token(self) -> str:
        """Empty: none. Raises ``ProofsError``."""
        if not self.token_file:
            return os.environ.get("M3CTL_TOKEN", "").strip()
        try:
            lines = [line.strip() for line in Path(self.token_file).read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ProofsError(f"--token-file {self.token_file} cannot be read: {reason}") from None
        found = next((line for line in lines if line and not line.startswith("#")), "")
        if not found:
            raise ProofsError(f"--token-file {self.token_file} has no token")
        return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token is for the one who was asked."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Running:
    """The coordinator at ``url``. Raises ``ProofsError``."""

    def __init__(self, url: str, proofs: Proofs) -> None:
        self.url = url
        token = proofs.token()
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=proofs.context()), _NoRedirect)

    def get(self, path: str) -> dict[str, Any]:
        """A document; ``path`` may have a query. Raises ``UnreadableError``."""
        where = f"{self.url}{path.partition('?')[0]}"
        request = urllib.request.Request(f"{self.url}{path}", headers=self._headers)
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                document = json.load(answer)
        except urllib.error.HTTPError as error:
            error.close()
            wants = ": it wants a token: give one with --token-file, or in M3CTL_TOKEN" if error.code == 401 else ""
            wants = wants or (": the token is not good for it" if error.code == 403 else "")
            raise UnreadableError(f"{where} cannot be read: it answered {error.code}{wants}") from error
        except (OSError, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            text = trouble_of(reason) if isinstance(reason, ssl.SSLError) else ""
            raise UnreadableError(f"{where} cannot be read: {text or error or type(error).__name__}") from error
        if not isinstance(document, dict):
            raise UnreadableError(f"{where} cannot be read: it is no document of a coordinator of ours")
        return document

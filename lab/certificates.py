"""Certificates for tests, made by the ``openssl`` command: an authority, and what it signs."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError

__all__ = ["Authority", "Pair"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Files of a certificate and its key, PEM."""

    cert: Path
    key: Path


class Authority:
    """Makes certificates in ``directory``. Raises ``LabError`` if openssl is missing or fails."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._own = Pair(directory / f"{name}.pem", directory / f"{name}.key")
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-keyout", str(self._own.key), "-out", str(self._own.cert),
        )  # fmt: skip

    @property
    def cert(self) -> Path:
        """What those who trust it load."""
        return self._own.cert

    def sign(self, name: str, *hosts: str, days: int = 2) -> Pair:
        """A certificate for ``hosts`` (``DNS:localhost``, ``IP:127.0.0.1``), named ``name``; an earlier one of that name is replaced.
        ``days`` below 0: it has expired."""
        pair = Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        request, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        _openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
            "-keyout", str(pair.key), "-out", str(request),
        )  # fmt: skip
        extensions.write_text(f"subjectAltName={','.join(hosts)}\n" if hosts else "")
        _openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self._own.cert), "-CAkey", str(self._own.key), "-CAcreateserial",
            "-days", str(days), "-extfile", str(extensions), "-out", str(pair.cert),
        )  # fmt: skip
        return pair


def _openssl(*arguments: str) -> None:
    try:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise LabError("openssl is not installed") from None
    except subprocess.CalledProcessError as error:
        raise LabError(f"openssl {arguments[0]} failed: {error.stderr.strip()}") from None

"""HTTP requests of the laboratory: an answer with an error status is an answer."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

__all__ = ["get", "get_json", "request", "try_get"]

TIMEOUT_S = 10.0


def request(
    method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S
) -> tuple[int, bytes]:  # fmt: skip
    """Status and body, whatever the status. Raises ``OSError`` if nobody answers, ``http.client.HTTPException`` for half an answer."""
    made = urllib.request.Request(url, data=body, headers=dict(headers or {}), method=method)
    try:
        with urllib.request.urlopen(made, timeout=timeout_s) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def get(url: str, timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
    """Status and text. Raises as ``request``."""
    status, body = request("GET", url, timeout_s=timeout_s)
    return status, body.decode(errors="replace")


def try_get(url: str, timeout_s: float = 5.0) -> tuple[int, str]:
    """Status and text; 0 and the reason if nobody answers."""
    try:
        return get(url, timeout_s)
    except OSError as error:
        return 0, str(error)


def get_json(url: str, timeout_s: float = TIMEOUT_S) -> Any:
    """The JSON of a page, whatever its status. Raises as ``request``, and ``ValueError`` if it is none."""
    return json.loads(request("GET", url, timeout_s=timeout_s)[1])

"""``POST /api/v1/json/write``: one sample in JSON (docs/m3/coordinator.md, JSON writes).

``{"tags": {"__name__": "up", "host": "a"}, "timestamp": "1534952005.5", "value": 1}``; the time is a text with seconds since 1970, or as
RFC 3339 has it, and counts to the millisecond.
"""

import math
import re
from datetime import datetime
from typing import Any

import msgspec
from starlette.requests import Request

from coordinator.write.building import Builder, label_fields
from coordinator.write.decoding import Decoded, inflate
from coordinator.write.options import BadRequestError, WriteOptions, content_encoding, parse_options
from coordinator.write.sender import M3Answers
from m3metrics.errors import IdError

__all__ = ["PATH", "JSONWrite"]

PATH = "/api/v1/json/write"
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)([.,]\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_SECONDS = re.compile(r"[+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?", re.ASCII)
_MOST_MS = ((1 << 63) - 1) // 1_000_000
"""What fits into 64 bits of nanoseconds."""


class _Sample(msgspec.Struct):
    """The document."""

    tags: dict[str, str]
    timestamp: str
    value: float = 0.0


class JSONWrite(M3Answers):
    """One sample per request."""

    handler = "json-write"
    title = "JSON write"

    def options(self, request: Request) -> WriteOptions:
        """See ``Sender``."""
        return parse_options(request.headers, dialect="json", encoding=content_encoding(request.headers))

    def decode(self, body: bytes, options: WriteOptions) -> Decoded:
        """See ``Sender``."""
        if not body:
            raise BadRequestError("empty request body")
        try:
            document: Any = msgspec.json.decode(inflate(body, options.encoding))
            if isinstance(document, dict):
                # Go's decoder takes names in any case.
                document = {name.lower(): content for name, content in document.items()}
            sample = msgspec.convert(document, _Sample)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadRequestError(
                f'{error}; expected {{"tags": {{"name": "value"}}, "timestamp": "seconds", "value": 1}}'
            ) from error
        builder = Builder()
        try:
            labels = label_fields((name.encode(), value.encode()) for name, value in sample.tags.items())
        except IdError as error:
            raise BadRequestError(str(error)) from error
        builder.add(labels, _milliseconds(sample.timestamp), sample.value)
        return builder.decoded(options)


def _milliseconds(text: str) -> int:
    """Raises ``BadRequestError``, in M3's words."""
    if _SECONDS.fullmatch(text):
        seconds = float(text)
        if abs(seconds) <= _MOST_MS / 1000:
            fraction, whole = math.modf(seconds)
            return int(whole) * 1000 + math.floor(abs(fraction) * 1000 + 0.5) * (-1 if fraction < 0 else 1)
    found = _RFC3339.fullmatch(text)
    if found is not None:
        try:
            whole_s = int(datetime.fromisoformat(f"{found[1]}T{found[2]}{found[4]}").timestamp())
        except ValueError:
            raise BadRequestError(f"invalid timestamp for {text}") from None
        return whole_s * 1000 + int((found[3] or ".")[1:4].ljust(3, "0"))
    raise BadRequestError(f"invalid timestamp for {text}")

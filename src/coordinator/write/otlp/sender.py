"""OTLP/HTTP as a ``Sender``."""

from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from starlette.requests import Request
from starlette.responses import Response

from coordinator.write.building import Builder
from coordinator.write.decoding import MAX_PLAIN_BODY_BYTES, Decoded, inflate
from coordinator.write.options import (
    BadRequestError,
    UnsupportedMediaError,
    WriteOptions,
    content_encoding,
    parse_options,
)
from coordinator.write.otlp import answers
from coordinator.write.otlp.labels import NOTHING, Promotion
from coordinator.write.otlp.metrics import Metrics
from coordinator.write.outcome import Outcome

__all__ = ["OTLP", "PATH"]

PATH = "/api/v1/otlp/v1/metrics"
_MOST_JSON_BYTES = 4 << 20
"""It takes many times as long as protobuf."""
_UNDERSTOOD = f"OTLP/HTTP is: Content-Type: {answers.PROTOBUF} or {answers.JSON}"


class OTLP:
    """Metrics of OpenTelemetry."""

    handler = "otlp-write"
    title = "OTLP write"

    def __init__(self, promotion: Promotion = NOTHING) -> None:
        self._metrics = Metrics(promotion)

    def options(self, request: Request) -> WriteOptions:
        """See ``Sender``."""
        media = _media(request)
        if media not in (answers.PROTOBUF, answers.JSON):
            raise UnsupportedMediaError(f"Content-Type: {media or 'none'}", _UNDERSTOOD)
        return parse_options(request.headers, dialect=media, encoding=content_encoding(request.headers))

    def decode(self, body: bytes, options: WriteOptions) -> Decoded:
        """See ``Sender``."""
        builder = Builder()
        most = MAX_PLAIN_BODY_BYTES if options.dialect == answers.PROTOBUF else _MOST_JSON_BYTES
        self._metrics.read(_request(inflate(body, options.encoding, most), options.dialect), builder)
        return builder.decoded(options)

    def answer(self, outcome: Outcome, options: WriteOptions) -> Response:
        """See ``Sender``."""
        return answers.response(outcome, options.dialect)

    def refuse(self, status: int, text: str, headers: dict[str, str], request: Request) -> Response:
        """See ``Sender``."""
        return answers.refusal(status, text, headers, _media(request))


def _media(request: Request) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _request(body: bytes, media: str) -> Any:
    """The decoded message. Raises ``BadRequestError``."""
    if media == answers.JSON:
        if not body.lstrip().startswith(b"{"):
            raise BadRequestError("the body is no ExportMetricsServiceRequest in JSON: it is no object")
        try:
            # Ids of traces, in exemplars, are hexadecimal here and read as base64; nobody looks at them.
            return json_format.Parse(body, ExportMetricsServiceRequest(), ignore_unknown_fields=True)
        except (json_format.ParseError, ValueError, RecursionError) as error:
            raise BadRequestError(f"the body is no ExportMetricsServiceRequest in JSON: {error}") from error
    try:
        return ExportMetricsServiceRequest.FromString(body)
    except DecodeError as error:
        raise BadRequestError(f"the body is no ExportMetricsServiceRequest: {error}") from error

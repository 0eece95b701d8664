"""OTLP/HTTP as a ``Sender``."""

from functools import partial
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
from coordinator.write.steps import Steps, finished
from coordinator.write.turns import LARGE_BYTES

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
        return finished(self.steps(body, options))

    def steps(self, body: bytes, options: WriteOptions) -> Steps[Decoded]:
        """See ``turns``."""
        read = partial(_request, body, options)
        request = read() if len(body) < LARGE_BYTES else (yield read)
        builder = Builder()
        yield from self._metrics.read(request, builder)
        return builder.decoded(options)

    def answer(self, outcome: Outcome, options: WriteOptions) -> Response:
        """See ``Sender``."""
        return answers.response(outcome, options.dialect)

    def refuse(self, status: int, text: str, headers: dict[str, str], request: Request) -> Response:
        """See ``Sender``."""
        return answers.refusal(status, text, headers, _media(request))


def _media(request: Request) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _request(body: bytes, options: WriteOptions) -> Any:
    """The decoded message. Raises ``BadRequestError``."""
    body = inflate(
        body, options.encoding, MAX_PLAIN_BODY_BYTES if options.dialect == answers.PROTOBUF else _MOST_JSON_BYTES
    )
    if options.dialect == answers.JSON:
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

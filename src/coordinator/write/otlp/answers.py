"""What exporters are told, in the form in which they speak: protobuf or JSON (OTLP 1.x, OTLP/HTTP response).

200 means that nothing of the request is to be sent again. What was refused for good is in its *partial success*, how many data points and
why; other statuses than 429, 502, 503 and 504 are the end of a request for an exporter, so that what may be cured is 503.
"""

import json
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from starlette.responses import Response

from coordinator.not_kept import Reason
from coordinator.write.outcome import Outcome
from m3x.protobuf import Field, Kind, generated, marshal

__all__ = ["JSON", "PROTOBUF", "refusal", "response"]

PROTOBUF, JSON = "application/x-protobuf", "application/json"

_STATUS = generated("Status", Field(1, "code", Kind.INT32), Field(2, "message", Kind.BYTES))
_INVALID_ARGUMENT, _RESOURCE_EXHAUSTED, _UNAVAILABLE = 3, 8, 14
_RETRY_AFTER = {"Retry-After": "1"}
_REJECTED = (
    Reason.INVALID_LABELS, Reason.TOO_LARGE, Reason.OUTSIDE_RETENTION, Reason.STORAGE_FULL, Reason.REFUSED_BY_STORE, Reason.TOO_LATE,
    Reason.TOO_EARLY, Reason.AGGREGATION_TYPE, Reason.NATIVE_HISTOGRAM, Reason.MALFORMED, Reason.LIMITED,
)  # fmt: skip
"""What a sender is told that is not kept; the other reasons are what the rules of this coordinator want, or exemplars."""


def response(outcome: Outcome, media: str) -> Response:
    """To a request that was not refused as a whole. ``media``: its type, one of the two."""
    if outcome.status >= 500:
        return refusal(503, outcome.text, _RETRY_AFTER, media)
    # Samples are counted where they are refused, of which a histogram's point has many.
    rejected = min(sum(outcome.not_kept.get(reason, 0) for reason in _REJECTED), outcome.points or 0)
    texts = [outcome.text] if outcome.text else []
    if outcome.not_kept.get(Reason.AGGREGATION_TYPE):
        texts.append(f"{Reason.AGGREGATION_TYPE.text} (delta sums need a rule that asks for Sum)")
    text = "; ".join(texts)
    if media == JSON:
        partial = {"partialSuccess": {"rejectedDataPoints": str(rejected), "errorMessage": text}}
        return _json(200, partial if text or rejected else {}, {})
    message = ExportMetricsServiceResponse()
    if text or rejected:
        message.partial_success.rejected_data_points = rejected
        message.partial_success.error_message = text
    return Response(message.SerializeToString(), 200, media_type=PROTOBUF)


def refusal(status: int, text: str, headers: dict[str, str], media: str) -> Response:
    """To a request of which nothing was kept, or not all that may be the next time."""
    if status == 500:
        status, headers = 503, _RETRY_AFTER
    code = {429: _RESOURCE_EXHAUSTED, 503: _UNAVAILABLE}.get(status, _INVALID_ARGUMENT)
    if media == JSON:
        return _json(status, {"code": code, "message": text}, headers)
    return Response(marshal(_STATUS, {"code": code, "message": text.encode()}), status, headers, media_type=PROTOBUF)


def _json(status: int, document: dict[str, Any], headers: dict[str, str]) -> Response:
    return Response(json.dumps(document), status, headers, media_type=JSON)

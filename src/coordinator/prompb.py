"""Prometheus' ``WriteRequest`` in plain Python: the authority on broken bodies, and on label bytes met for the first time.

Field numbers: docs/m3/coordinator.md, request of a write. The hot path is ``coordinator.write.request_kernels``. The request of Remote
Write 2.0 beside it has the numbers of Prometheus' specification (``io.prometheus.write.v2``); its hot path is
``coordinator.write.symbol_kernels``.
"""

from m3x.protobuf import DecodeError, Field, Kind, Message, MessageValue, generated, marshal, unmarshal

LABEL = generated("Label", Field(1, "name", Kind.BYTES), Field(2, "value", Kind.BYTES))
SAMPLE = generated("Sample", Field(1, "value", Kind.DOUBLE), Field(2, "timestamp", Kind.INT64))
TIME_SERIES = generated(
    "TimeSeries",
    Field(1, "labels", Kind.MESSAGE, LABEL, repeated=True),
    Field(2, "samples", Kind.MESSAGE, SAMPLE, repeated=True),
    Field(101, "m3_type", Kind.INT32),
    Field(102, "source", Kind.INT32),
    Field(1001, "type", Kind.INT32),
)
WRITE_REQUEST = generated("WriteRequest", Field(1, "timeseries", Kind.MESSAGE, TIME_SERIES, repeated=True))
METRIC_METADATA = generated(
    "MetricMetadata",
    Field(1, "type", Kind.INT32),
    Field(2, "metric_family_name", Kind.BYTES),
    Field(4, "help", Kind.BYTES),
    Field(5, "unit", Kind.BYTES),
)
METADATA_REQUEST = generated("WriteRequest", Field(3, "metadata", Kind.MESSAGE, METRIC_METADATA, repeated=True))
"""A request with metadata and nothing else; types are numbered as in annotations (docs/m3/coordinator.md)."""

SAMPLE_2 = generated(
    "Sample",
    Field(1, "value", Kind.DOUBLE),
    Field(2, "timestamp", Kind.INT64),
    Field(3, "start_timestamp", Kind.INT64),
)
METADATA_2 = generated(
    "Metadata", Field(1, "type", Kind.INT32), Field(3, "help_ref", Kind.UINT32), Field(4, "unit_ref", Kind.UINT32)
)
TIME_SERIES_2 = generated(
    "TimeSeries",
    Field(1, "labels_refs", Kind.UINT32, repeated=True),
    Field(2, "samples", Kind.MESSAGE, SAMPLE_2, repeated=True),
    Field(3, "histograms", Kind.BYTES, repeated=True),
    Field(4, "exemplars", Kind.BYTES, repeated=True),
    Field(5, "metadata", Kind.MESSAGE, METADATA_2),
)
"""Labels are pairs of references into the symbols of the request. Its sixth field was a created timestamp before samples had theirs."""
REQUEST_2 = generated(
    "Request",
    Field(4, "symbols", Kind.BYTES, repeated=True),
    Field(5, "timeseries", Kind.MESSAGE, TIME_SERIES_2, repeated=True),
)
"""Of Remote Write 2.0. The first symbol is empty."""

Labels = list[tuple[bytes, bytes]]
"""Names and values in the order of the request."""


def decode(body: bytes) -> list[MessageValue]:
    """The series of a request. Raises ``DecodeError``; its ``reason`` is M3's text."""
    series: list[MessageValue] = unmarshal(WRITE_REQUEST, body).get("timeseries", [])
    return series


def error_of(body: bytes, message: Message = WRITE_REQUEST) -> str:
    """Why the compiled decoder refused ``body``."""
    try:
        unmarshal(message, body)
    except DecodeError as error:
        return error.reason
    return "not a write request"


def labels_of(data: bytes) -> Labels:
    """The labels in the bytes of label fields. Raises ``DecodeError``."""
    values = unmarshal(TIME_SERIES, data)
    return [(label.get("name", b""), label.get("value", b"")) for label in values.get("labels", [])]


def label_fields(data: bytes) -> bytes:
    """The label fields of a TimeSeries message side by side, written as clients write them. Raises ``DecodeError``."""
    labels = unmarshal(TIME_SERIES, data).get("labels", [])
    return marshal(TIME_SERIES, {"labels": labels})

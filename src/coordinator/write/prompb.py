"""Prometheus' ``WriteRequest`` in plain Python: the authority on broken bodies, and on label bytes met for the first time.

Field numbers: reference/coordinator.md §8.2. The hot path is ``coordinator.write.kernels.request``.
"""

from m3metrics.codec.wire import Field, Kind, Message, Values, marshal, unmarshal
from m3metrics.errors import UnmarshalError

LABEL = Message("Label", {1: Field("name", Kind.BYTES), 2: Field("value", Kind.BYTES)})
SAMPLE = Message("Sample", {1: Field("value", Kind.DOUBLE), 2: Field("timestamp", Kind.INT64)})
TIME_SERIES = Message(
    "TimeSeries",
    {
        1: Field("labels", Kind.MESSAGES, LABEL),
        2: Field("samples", Kind.MESSAGES, SAMPLE),
        101: Field("m3_type", Kind.INT32),
        102: Field("source", Kind.INT32),
        1001: Field("type", Kind.INT32),
    },
)
WRITE_REQUEST = Message("WriteRequest", {1: Field("timeseries", Kind.MESSAGES, TIME_SERIES)})

Labels = list[tuple[bytes, bytes]]
"""Names and values in the order of the request."""


def decode(body: bytes) -> list[Values]:
    """The series of a request. Raises ``UnmarshalError`` with M3's text."""
    series: list[Values] = unmarshal(WRITE_REQUEST, body).get("timeseries", [])
    return series


def error_of(body: bytes) -> str:
    """Why the compiled decoder refused ``body``."""
    try:
        decode(body)
    except UnmarshalError as error:
        return str(error)
    return "not a write request"


def labels_of(data: bytes) -> Labels:
    """The labels in the bytes of label fields. Raises ``UnmarshalError``."""
    values = unmarshal(TIME_SERIES, data)
    return [(label.get("name", b""), label.get("value", b"")) for label in values.get("labels", [])]


def label_fields(data: bytes) -> bytes:
    """The label fields of a TimeSeries message side by side, written as clients write them. Raises ``UnmarshalError``."""
    labels = unmarshal(TIME_SERIES, data).get("labels", [])
    return marshal(TIME_SERIES, {"labels": labels})

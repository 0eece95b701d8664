"""Bodies of remote write, snappy-compressed protobuf (``prompb``)."""

from collections.abc import Iterable

import cramjam

from m3x.protobuf import Field, Kind, generated, marshal

__all__ = ["SERIES", "WRITE", "Labels", "write_request"]

Labels = tuple[tuple[str, str], ...]

_LABEL = generated("Label", Field(1, "name", Kind.BYTES), Field(2, "value", Kind.BYTES))
_SAMPLE = generated("Sample", Field(1, "value", Kind.DOUBLE), Field(2, "timestamp", Kind.INT64))
SERIES = generated(
    "TimeSeries",
    Field(1, "labels", Kind.MESSAGE, _LABEL, repeated=True),
    Field(2, "samples", Kind.MESSAGE, _SAMPLE, repeated=True),
)
WRITE = generated("WriteRequest", Field(1, "timeseries", Kind.MESSAGE, SERIES, repeated=True))


def write_request(samples: Iterable[tuple[Labels, float, int]]) -> bytes:
    """A compressed ``WriteRequest`` of (labels, value, time in ms) samples, one series each."""
    series = [
        {
            "labels": [{"name": name.encode(), "value": value.encode()} for name, value in labels],
            "samples": [{"value": value, "timestamp": time_ms}],
        }
        for labels, value, time_ms in samples
    ]
    return bytes(cramjam.snappy.compress_raw(marshal(WRITE, {"timeseries": series})))

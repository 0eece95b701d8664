"""A small client of Prometheus' remote write and remote read protocols (snappy-compressed protobuf, ``prompb``)."""

from collections.abc import Iterable

import cramjam

from lab.http import request
from m3metrics.codec.wire import Field, Kind, Message, Values, marshal, unmarshal

Labels = tuple[tuple[str, str], ...]
Points = dict[Labels, dict[int, float]]
"""Series (labels sorted by name) → time in milliseconds → value."""

EQUAL, NOT_EQUAL, REGEX, NOT_REGEX = range(4)

_LABEL = Message("Label", {1: Field("name", Kind.BYTES), 2: Field("value", Kind.BYTES)})
_SAMPLE = Message("Sample", {1: Field("value", Kind.DOUBLE), 2: Field("timestamp", Kind.INT64)})
_SERIES = Message(
    "TimeSeries", {1: Field("labels", Kind.MESSAGES, _LABEL), 2: Field("samples", Kind.MESSAGES, _SAMPLE)}
)
_WRITE = Message("WriteRequest", {1: Field("timeseries", Kind.MESSAGES, _SERIES)})
_MATCHER = Message(
    "LabelMatcher", {1: Field("type", Kind.INT32), 2: Field("name", Kind.BYTES), 3: Field("value", Kind.BYTES)}
)
_QUERY = Message(
    "Query", {1: Field("start", Kind.INT64), 2: Field("end", Kind.INT64), 3: Field("matchers", Kind.MESSAGES, _MATCHER)}
)
_READ = Message("ReadRequest", {1: Field("queries", Kind.MESSAGES, _QUERY)})
_RESULT = Message("QueryResult", {1: Field("timeseries", Kind.MESSAGES, _SERIES)})
_ANSWER = Message("ReadResponse", {1: Field("results", Kind.MESSAGES, _RESULT)})


def write_request(samples: Iterable[tuple[Labels, float, int]]) -> bytes:
    """A compressed ``WriteRequest`` of (labels, value, time in ms) samples, one series each."""
    series = [
        {
            "labels": [{"name": name.encode(), "value": value.encode()} for name, value in labels],
            "samples": [{"value": value, "timestamp": time_ms}],
        }
        for labels, value, time_ms in samples
    ]
    return bytes(cramjam.snappy.compress_raw(marshal(_WRITE, {"timeseries": series})))


def remote_write(base_url: str, samples: Iterable[tuple[Labels, float, int]]) -> None:
    """Raises ``OSError`` with the answer's text if the coordinator refuses."""
    _post(f"{base_url}/api/v1/prom/remote/write", write_request(samples))


def remote_read(base_url: str, matchers: Iterable[tuple[str, int, str]], start_ms: int, end_ms: int) -> Points:
    """Raw samples of the series that match all of (name, kind, value), both times included."""
    query: Values = {
        "start": start_ms,
        "end": end_ms,
        "matchers": [{"type": kind, "name": name.encode(), "value": value.encode()} for name, kind, value in matchers],
    }
    request = bytes(cramjam.snappy.compress_raw(marshal(_READ, {"queries": [query]})))
    body = bytes(cramjam.snappy.decompress_raw(_post(f"{base_url}/api/v1/prom/remote/read", request)))
    points: Points = {}
    for result in unmarshal(_ANSWER, body).get("results", ()):
        for series in result.get("timeseries", ()):
            labels = tuple(sorted((one["name"].decode(), one["value"].decode()) for one in series.get("labels", ())))
            stored = points.setdefault(labels, {})
            for sample in series.get("samples", ()):
                stored[sample.get("timestamp", 0)] = sample.get("value", 0.0)
    return points


def _post(url: str, body: bytes) -> bytes:
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
    status, answer = request("POST", url, body, headers, timeout_s=30)
    if status >= 300:
        raise OSError(f"{url} answered {status}: {answer[:300].decode(errors='replace').strip()}")
    return answer

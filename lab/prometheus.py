"""A small client of Prometheus' remote write and remote read protocols (snappy-compressed protobuf, ``prompb``)."""

from collections.abc import Iterable, Mapping
from typing import Any

import cramjam

from coordinator.prompb import REQUEST_2
from lab.http import request
from m3ctl.bench.remote_write import SERIES, WRITE, Labels, write_request
from m3x.protobuf import Field, Kind, MessageValue, generated, marshal, unmarshal

Points = dict[Labels, dict[int, float]]
"""Series (labels sorted by name) → time in milliseconds → value."""

EQUAL, NOT_EQUAL, REGEX, NOT_REGEX = range(4)

_MATCHER = generated(
    "LabelMatcher", Field(1, "type", Kind.INT32), Field(2, "name", Kind.BYTES), Field(3, "value", Kind.BYTES)
)
_QUERY = generated(
    "Query",
    Field(1, "start", Kind.INT64),
    Field(2, "end", Kind.INT64),
    Field(3, "matchers", Kind.MESSAGE, _MATCHER, repeated=True),
)
_READ = generated("ReadRequest", Field(1, "queries", Kind.MESSAGE, _QUERY, repeated=True))
_RESULT = generated("QueryResult", Field(1, "timeseries", Kind.MESSAGE, SERIES, repeated=True))
_ANSWER = generated("ReadResponse", Field(1, "results", Kind.MESSAGE, _RESULT, repeated=True))


def request_2(series: list[dict[str, Any]]) -> bytes:
    """A request of Remote Write 2.0, not compressed, of series as ``coordinator.prompb.WRITE_REQUEST`` has them."""
    numbers: dict[bytes, int] = {b"": 0}

    def number(text: bytes) -> int:
        return numbers.setdefault(text, len(numbers))

    written = [
        {
            "labels_refs": [
                number(label.get(part, b"")) for label in one.get("labels", []) for part in ("name", "value")
            ],
            "samples": one.get("samples", []),
            "metadata": {"type": one.get("type", 0)},
        }
        for one in series
    ]
    return marshal(REQUEST_2, {"symbols": list(numbers), "timeseries": written})


def decode_write(message: bytes) -> list[tuple[list[tuple[bytes, bytes]], list[tuple[float, int]]]]:
    """Labels and (value, time in ms) of every series of a ``WriteRequest``."""
    return [
        (
            [(label.get("name", b""), label.get("value", b"")) for label in series.get("labels", ())],
            [(sample.get("value", 0.0), sample.get("timestamp", 0)) for sample in series.get("samples", ())],
        )
        for series in unmarshal(WRITE, message).get("timeseries", ())
    ]


def remote_write(base_url: str, samples: Iterable[tuple[Labels, float, int]]) -> None:
    """Raises ``OSError`` with the answer's text if the coordinator refuses."""
    _post(f"{base_url}/api/v1/prom/remote/write", write_request(samples))


def remote_read(
    base_url: str,
    matchers: Iterable[tuple[str, int, str]],
    start_ms: int,
    end_ms: int,
    headers: Mapping[str, str] | None = None,
) -> Points:
    """Raw samples of the series that match all of (name, kind, value), both times included."""
    query: MessageValue = {
        "start": start_ms,
        "end": end_ms,
        "matchers": [{"type": kind, "name": name.encode(), "value": value.encode()} for name, kind, value in matchers],
    }
    request = bytes(cramjam.snappy.compress_raw(marshal(_READ, {"queries": [query]})))
    body = bytes(cramjam.snappy.decompress_raw(_post(f"{base_url}/api/v1/prom/remote/read", request, headers)))
    points: Points = {}
    for result in unmarshal(_ANSWER, body).get("results", ()):
        for series in result.get("timeseries", ()):
            labels = tuple(sorted((one["name"].decode(), one["value"].decode()) for one in series.get("labels", ())))
            stored = points.setdefault(labels, {})
            for sample in series.get("samples", ()):
                stored[sample.get("timestamp", 0)] = sample.get("value", 0.0)
    return points


def _post(url: str, body: bytes, more: Mapping[str, str] | None = None) -> bytes:
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf", **(more or {})}
    status, answer = request("POST", url, body, headers, timeout_s=30)
    if status >= 300:
        raise OSError(f"{url} answered {status}: {answer[:300].decode(errors='replace').strip()}")
    return answer

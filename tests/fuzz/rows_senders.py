"""What other senders write: InfluxDB's line protocol, samples in JSON, OpenTelemetry in protobuf and in JSON, bodies in gzip."""

import gzip
from functools import cache
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from tests.fuzz.parser import Parser

from coordinator import prompb
from coordinator.write.decoding import inflate
from coordinator.write.influx import Influx
from coordinator.write.json_write import JSONWrite
from coordinator.write.options import BadRequestError, WriteOptions
from coordinator.write.otlp import OTLP
from coordinator.write.otlp.answers import JSON, PROTOBUF

__all__ = ["PARSERS"]

_NOW_NS = 1_700_000_000_000_000_000
_LINES = (
    b"cpu,host=a,region=eu-1 usage=0.5,count=3i,up=t,size=7u 1700000000000000000\nmem free=1\n",
    b'cpu\\ x,ho\\,st=a\\=b text="a \\"b\\", c\nd",value=-1.5e3\n# comment\n\n',
    b"cpu value=1 -5\r\ncpu value=1i,value=2 1700000000\n",
)
_LINE_WORDS = (
    b"\\",
    b'"',
    b",",
    b"=",
    b" ",
    b"\n",
    b"9",
    b"0",
    b"-0",
    b"i",
    b"u",
    b"t",
    b"e",
    b"#",
    b"\\\\",
    b"\xc3\xa9",
    b"true",
)
_SAMPLES = (
    b'{"tags": {"__name__": "up", "host": "a"}, "timestamp": "1534952005.5", "value": 1}',
    b'{"Tags": {"a": "b"}, "timestamp": "2018-08-22T15:33:25.123+02:00", "value": -1e300}',
)
_JSON_WORDS = (
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"9", b"0", b" ", b"null", b'"\\ud800"', b"1e999", b"0001-01-01T00:00:00+14:00",
    b"9999-12-31",
    b"-",
    b"NaN",
)  # fmt: skip


def _decoded(sender: Any, dialect: str) -> Any:
    """A reader that is asked twice, as one that remembers has to say the same again."""

    def read(data: bytes) -> Any:
        first, second = (sender.decode(data, WriteOptions(dialect=dialect)) for _ in range(2))
        found = [_columns(one) for one in (first, second)]
        assert [labels for labels, _ in found[0]] == [labels for labels, _ in found[1]]
        return None

    return read


def _columns(decoded: Any) -> list[tuple[Any, int]]:
    """Labels and number of samples of each series; the labels can be read."""
    found = []
    for row in decoded.series:
        at = int(row["labels_at"])
        labels = prompb.labels_of(decoded.buf[at : at + int(row["labels_size"])].tobytes())
        assert int(row["sample_from"]) + int(row["samples"]) <= len(decoded.values)
        found.append((labels, int(row["samples"])))
    return found


@cache
def _exports() -> list[ExportMetricsServiceRequest]:
    number = {"timeUnixNano": str(_NOW_NS), "attributes": [{"key": "host", "value": {"stringValue": "a"}}]}
    histogram = {**number, "count": "3", "sum": 4.5, "bucketCounts": ["1", "2"], "explicitBounds": [0.5]}
    summary = {**number, "count": "3", "sum": 4.5, "quantileValues": [{"quantile": 0.5, "value": 1.0}]}
    metrics = [
        {"name": "g", "unit": "By", "gauge": {"dataPoints": [{**number, "asDouble": 1.5}]}},
        {
            "name": "c.d",
            "sum": {"aggregationTemporality": 2, "isMonotonic": True, "dataPoints": [{**number, "asInt": "5"}]},
        },
        {"name": "d", "sum": {"aggregationTemporality": 1, "dataPoints": [{**number, "asInt": "5"}]}},
        {"name": "h", "histogram": {"aggregationTemporality": 2, "dataPoints": [histogram]}},
        {"name": "s", "summary": {"dataPoints": [summary]}},
    ]
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "api"}}]}
    documents = [
        {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"scope": {"name": "x"}, "metrics": some}]}]}
        for some in (metrics, metrics[:1], metrics[3:4])
    ]
    return [json_format.ParseDict(document, ExportMetricsServiceRequest()) for document in documents]


def _export_texts() -> list[bytes]:
    return [json_format.MessageToJson(one, indent=None).encode() for one in _exports()]


PARSERS = (
    Parser("influx", lambda: _LINES, _decoded(Influx(), ""), (BadRequestError,), words=_LINE_WORDS),
    Parser("json-write", lambda: _SAMPLES, _decoded(JSONWrite(), "json"), (BadRequestError,), words=_JSON_WORDS),
    Parser(
        "otlp",
        lambda: [one.SerializeToString() for one in _exports()],
        _decoded(OTLP(), PROTOBUF),
        (BadRequestError,),
    ),
    Parser("otlp-json", _export_texts, _decoded(OTLP(), JSON), (BadRequestError,), words=_JSON_WORDS),
    Parser(
        "gzip",
        lambda: [gzip.compress(b"a" * 100), gzip.compress(b"x") * 2],
        lambda data: inflate(data, "gzip"),
        (BadRequestError,),
    ),
)

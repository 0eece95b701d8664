"""What Prometheus makes of requests is what is made of them here.

``translated.jsonl`` is what its translation (release 3.16, its defaults, deltas allowed) answered to random requests with odd names, units,
attributes and values: the request in base64, then labels, time in ms, bits of the value and type of every sample.
"""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from tests.coordinator.write.decoded import Sample, samples
from tests.coordinator.write.otlp.requests import DELTA, decode

from coordinator.write.attributes import PromType

LINES = (Path(__file__).parent / "translated.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
STALE = 0x7FF0000000000002
Row = tuple[tuple[tuple[str, str], ...], int, int, str]


def is_delta(message: Any) -> bool:
    metrics = [metric for one in message.resource_metrics for scope in one.scope_metrics for metric in scope.metrics]
    kinds = [getattr(metric, metric.WhichOneof("data")) for metric in metrics]
    return any(getattr(kind, "aggregation_temporality", 0) == DELTA for kind in kinds)


def expected(rows: list[Any]) -> list[Row]:
    """On purpose: one ``target_info``, at the latest time; Prometheus has more of them where a request spans time."""
    found = sorted({(tuple(sorted(labels.items())), time, bits, kind) for labels, time, bits, kind in rows})
    target = [row for row in found if ("__name__", "target_info") in row[0]]
    latest = max((row[1] for row in target), default=0)
    return [row for row in found if row not in target or row[1] == latest]


def of_sample(one: Sample) -> Row:
    (bits,) = struct.unpack("<Q", struct.pack("<d", one.value))
    return tuple(sorted(one.labels.items())), one.time, bits, PromType(one.prom_type).name.lower()


@pytest.mark.parametrize("number", range(len(LINES)))
def test_it_is_translated_as_prometheus_does(number: int) -> None:
    document = json.loads(LINES[number])
    message = ExportMetricsServiceRequest.FromString(base64.b64decode(document["request"]))
    # On purpose: a delta series that has ended says nothing.
    nothing = STALE if is_delta(message) else -1
    ours = {of_sample(one) for one in samples(decode(message))}
    theirs = expected(document["rows"])
    assert sorted(row for row in ours if row[2] != nothing) == [row for row in theirs if row[2] != nothing]

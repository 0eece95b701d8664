import math
import struct
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from tests.coordinator.write.decoded import Sample, samples
from tests.coordinator.write.otlp.requests import (
    CUMULATIVE,
    DELTA,
    MS,
    NS,
    attributes,
    decode,
    one_metric,
    point,
    request,
)

from coordinator.not_kept import Reason
from coordinator.write.attributes import PromType
from coordinator.write.options import BadRequestError, WriteOptions
from coordinator.write.otlp import OTLP
from coordinator.write.otlp.labels import Promotion
from coordinator.write.otlp.metrics import Metrics

GAUGE, COUNTER, TIMER = 0, 1, 2
UNKNOWN = PromType.UNKNOWN
STALE = 0x7FF0000000000002


def sample(name: str, value: float, m3_type: int = GAUGE, prom_type: int = UNKNOWN, **labels: str) -> Sample:
    return Sample({"__name__": name, **labels}, MS, value, m3_type, prom_type)


def sums(*points: dict[str, Any], temporality: int = CUMULATIVE, monotonic: bool = True) -> Any:
    data = {"data_points": list(points), "aggregation_temporality": temporality, "is_monotonic": monotonic}
    return one_metric("requests", "1", sum=data)


def test_gauges() -> None:
    decoded = decode(one_metric("load.avg", "1", gauge={"data_points": [point(1.5, {"cpu": 0}), point(3, {"cpu": 1})]}))
    expected = [
        sample("load_avg_ratio", value, GAUGE, PromType.GAUGE, cpu=cpu) for value, cpu in ((1.5, "0"), (3, "1"))
    ]
    assert samples(decoded) == expected
    assert (decoded.unread, decoded.others, decoded.unit_ns) == (0, {}, 1_000_000)


@pytest.mark.parametrize(
    ("temporality", "monotonic", "value", "expected"),
    [
        (CUMULATIVE, True, 5, sample("requests_total", 5, GAUGE, PromType.COUNTER)),
        (CUMULATIVE, True, 5.5, sample("requests_total", 5.5, GAUGE, PromType.COUNTER)),
        (CUMULATIVE, False, -5, sample("requests", -5, GAUGE, PromType.GAUGE)),
        (DELTA, True, 5, sample("requests_total", 5, COUNTER)),
        (DELTA, True, 5.5, sample("requests_total", 5.5, TIMER)),
        (DELTA, False, -5, sample("requests", -5, COUNTER)),
    ],
)  # fmt: skip
def test_sums(temporality: int, monotonic: bool, value: float, expected: Sample) -> None:
    assert samples(decode(sums(point(value), temporality=temporality, monotonic=monotonic))) == [expected]


def histogram(temporality: int = CUMULATIVE, **more: Any) -> Any:
    one = point(count=10, explicit_bounds=[0.5, 1.0, 2.5], bucket_counts=[1, 2, 3, 4], at={"k": "v"}, **more)
    return one_metric("latency", "s", histogram={"data_points": [one], "aggregation_temporality": temporality})


@pytest.mark.parametrize(
    ("temporality", "whole", "fraction", "prom_type"),
    [(CUMULATIVE, GAUGE, GAUGE, PromType.HISTOGRAM), (DELTA, COUNTER, TIMER, UNKNOWN)],
)
def test_histograms(temporality: int, whole: int, fraction: int, prom_type: int) -> None:
    buckets = [
        sample("latency_seconds_bucket", value, whole, prom_type, k="v", le=le)
        for le, value in (("0.5", 1), ("1", 3), ("2.5", 6), ("+Inf", 10))
    ]
    count = sample("latency_seconds_count", 10, whole, prom_type, k="v")
    total = sample("latency_seconds_sum", 12.5, fraction, prom_type, k="v")
    assert samples(decode(histogram(temporality, sum=12.5, min=0.1, max=3.0))) == [*buckets, count, total]
    assert samples(decode(histogram(temporality))) == [*buckets, count], "a sum is optional"


def test_a_histogram_without_buckets_has_one() -> None:
    data = {"data_points": [point(count=3, sum=1.5)], "aggregation_temporality": CUMULATIVE}
    names = [
        (one.labels["__name__"], one.labels.get("le"), one.value)
        for one in samples(decode(one_metric("h", histogram=data)))
    ]
    assert names == [("h_bucket", "+Inf", 3), ("h_count", None, 3), ("h_sum", None, 1.5)]


def test_summaries() -> None:
    quantiles = [{"quantile": 0.5, "value": 1.0}, {"quantile": 1.0, "value": 2.0}]
    data = {"data_points": [point(count=7, sum=9.5, quantile_values=quantiles, at={"k": "v"})]}
    kind = PromType.SUMMARY
    assert samples(decode(one_metric("s", summary=data))) == [
        sample("s", 1.0, GAUGE, kind, k="v", quantile="0.5"),
        sample("s", 2.0, GAUGE, kind, k="v", quantile="1"),
        sample("s_count", 7, GAUGE, kind, k="v"),
        sample("s_sum", 9.5, GAUGE, kind, k="v"),
    ]


def test_exponential_histograms_are_counted_and_said() -> None:
    data = {"data_points": [point(count=1), point(count=2)], "aggregation_temporality": CUMULATIVE}
    decoded = decode(
        request({"name": "e", "exponential_histogram": data}, {"name": "g", "gauge": {"data_points": [point(1)]}})
    )
    assert [one.labels["__name__"] for one in samples(decoded)] == ["g"]
    assert (decoded.unread, decoded.others) == (2, {Reason.NATIVE_HISTOGRAM: 2})
    assert decoded.last_unread == (
        "metric 'e' is an exponential histogram, which is not aggregated; let its sender use explicit buckets"
    )


def test_exemplars_are_counted() -> None:
    decoded = decode(sums(point(1, exemplars=[{"as_int": 1}, {"as_int": 2}])))
    assert (len(samples(decoded)), decoded.unread, decoded.others) == (1, 0, {Reason.EXEMPLAR: 2})


def test_a_series_that_has_ended_is_marked_stale() -> None:
    """Of deltas nothing is to be added."""
    (one,) = samples(decode(sums(point(flags=1))))
    assert struct.pack("<d", one.value) == STALE.to_bytes(8, "little")
    assert all(math.isnan(one.value) for one in samples(decode(histogram(flags=1, sum=1.0))))
    assert samples(decode(sums(point(flags=1), temporality=DELTA))) == []
    assert samples(decode(histogram(DELTA, flags=1))) == []


# --- resources, scopes, attributes

SERVICE = {"service.name": "shop", "service.namespace": "eu", "service.instance.id": "i-1"}


def labels_of(
    resource: dict[str, Any], at: dict[str, Any] | None = None, sender: OTLP | None = None
) -> list[dict[str, str]]:
    metric = {"name": "up", "gauge": {"data_points": [point(1, at)]}}
    scope = {"name": "lib", "version": "1.2", "attributes": attributes({"build.id": 7})}
    return [one.labels for one in samples(decode(request(metric, resource=resource, scope=scope), sender))]


def test_job_and_instance() -> None:
    assert labels_of(SERVICE) == [{"__name__": "up", "job": "eu/shop", "instance": "i-1"}]
    assert labels_of({"service.name": "shop"}, {"job": "x"}) == [{"__name__": "up", "job": "shop"}]
    assert labels_of({"service.namespace": "eu"}, {"job": "x"})[0] == {"__name__": "up", "job": "x"}
    assert labels_of({"service.name": ""}, {"job": "x"})[0] == {"__name__": "up", "job": "x"}


def test_target_info() -> None:
    up, target = labels_of({**SERVICE, "host.name": "h", "cloud.zones": ["a", "b"]})
    assert up == {"__name__": "up", "job": "eu/shop", "instance": "i-1"}
    assert target == {**up, "__name__": "target_info", "host_name": "h", "cloud_zones": '["a","b"]'}
    assert len(labels_of({"host.name": "h"})) == 1, "nobody could be joined with it"


def test_target_info_has_the_latest_time_once() -> None:
    resource = {"attributes": attributes({**SERVICE, "host.name": "h"})}
    metric = {"name": "up", "gauge": {"data_points": [point(1, time_ns=NS + second * 10**9) for second in (0, 5, 3)]}}
    one = {"resource": resource, "scope_metrics": [{"metrics": [metric]}]}
    message = ExportMetricsServiceRequest(resource_metrics=[one, one])  # type: ignore[list-item]
    targets = [one for one in samples(decode(message)) if one.labels["__name__"] == "target_info"]
    assert [(one.time, one.value, one.prom_type) for one in targets] == [(MS + 5000, 1.0, PromType.GAUGE)]


def test_promotion() -> None:
    sender = OTLP(Promotion(frozenset({"host.name", "cloud.region"}), scope=True))
    up, _ = labels_of({**SERVICE, "host.name": "h", "cloud.region": "r", "other": "o"}, {"host.name": "own"}, sender)
    assert up == {
        "__name__": "up", "job": "eu/shop", "instance": "i-1", "host_name": "own", "cloud_region": "r",
        "otel_scope_name": "lib", "otel_scope_version": "1.2", "otel_scope_build_id": "7",
    }  # fmt: skip


def test_attributes_that_come_to_have_one_name_are_joined() -> None:
    at = {"a.b": "2", "a-b": "1", "a_b": "3", "": "", "__name__": "x"}
    assert labels_of({}, {k: v for k, v in at.items() if k})[0] == {"__name__": "up", "a_b": "1;2;3"}
    assert labels_of({}, {"empty": ""})[0] == {"__name__": "up"}


# --- what cannot be kept

BAD_POINTS: dict[str, tuple[dict[str, Any], str]] = {
    "no value": ({"sum": {"data_points": [point()], "aggregation_temporality": CUMULATIVE}}, "has no value"),
    "no time": ({"gauge": {"data_points": [point(1, time_ns=0)]}}, "has no time"),
    "time": ({"gauge": {"data_points": [point(1, time_ns=1 << 63)]}}, "beyond 64 bits"),
    "counts": (
        {
            "histogram": {
                "data_points": [point(explicit_bounds=[1.0], bucket_counts=[1])],
                "aggregation_temporality": CUMULATIVE,
            }
        },
        "has 1 bounds and 1 counts",
    ),
    "temporality": ({"sum": {"data_points": [point(1)]}}, "neither that it is cumulative nor that it is delta"),
    "name": ({"name": "...", "gauge": {"data_points": [point(1)]}}, "metric '...' has no name"),
    "label": ({"gauge": {"data_points": [point(1, {"..": "x"})]}}, "attribute '..' has no name"),
}


@pytest.mark.parametrize("key", BAD_POINTS)
def test_a_bad_point_harms_no_other(key: str) -> None:
    data, text = BAD_POINTS[key]
    good = {"name": "good", "gauge": {"data_points": [point(1)]}}
    decoded = decode(request(good, {"name": "bad", **data}, good))
    assert [one.labels["__name__"] for one in samples(decoded)] == ["good", "good"]
    assert (decoded.unread, decoded.others) == (1, {Reason.MALFORMED: 1})
    assert text in decoded.last_unread


def test_a_long_attribute_harms_no_other() -> None:
    decoded = decode(one_metric(gauge={"data_points": [point(1, {"a": "x" * 65_536}), point(2)]}))
    assert [one.value for one in samples(decoded)] == [2]
    assert (decoded.unread, decoded.others) == (1, {Reason.INVALID_LABELS: 1})


def test_an_attribute_of_a_resource_without_name_is_left_out() -> None:
    _, target = labels_of({**SERVICE, "..": "x", "host.name": "h"})
    assert target == {"__name__": "target_info", "job": "eu/shop", "instance": "i-1", "host_name": "h"}


# --- memory and bytes


def test_series_are_remembered_with_what_they_follow_from() -> None:
    sender = OTLP()
    for n in (1, 2):
        for bounds in ([1.0], [2.0]):
            one = point(count=n, explicit_bounds=bounds, bucket_counts=[n, 0], sum=1.0)
            found = samples(
                decode(one_metric("h", histogram={"data_points": [one], "aggregation_temporality": CUMULATIVE}), sender)
            )
            assert (found[0].labels["le"], found[0].value) == (f"{bounds[0]:g}", n)
        for grows in (True, False):
            found = samples(decode(sums(point(n), monotonic=grows), sender))
            assert found[0].labels["__name__"] == ("requests_total" if grows else "requests")


def test_what_is_remembered_is_bounded() -> None:
    metrics = Metrics(most_known=10)
    sender = OTLP()
    sender._metrics = metrics
    for n in range(50):
        message = request(
            {"name": f"m{n % 7}", "gauge": {"data_points": [point(1, {"n": n})]}}, resource={"service.name": str(n)}
        )
        assert samples(decode(message, sender))[0].labels == {"__name__": f"m{n % 7}", "n": str(n), "job": str(n)}
        assert len(metrics._known) <= 10
        assert sum(len(one.series) for one in metrics._known.values()) <= 10
        assert len(metrics._resources) <= 10


def test_json_is_the_same_message() -> None:
    text = (
        b"""{"resourceMetrics": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}, "scopeMetrics": [
        {"unknown": 1, "metrics": [{"name": "m", "sum": {"aggregationTemporality": 1, "isMonotonic": true, "dataPoints": [
        {"timeUnixNano": "%d", "asInt": "5", "attributes": [], "exemplars": [{"asInt": "1", "traceId": "5b8efff798038103d269b633813fc60c",
        "spanId": "eee19b7ec3c1b174"}]}]}}]}]}]}"""
        % NS
    )
    decoded = OTLP().decode(text, WriteOptions(dialect="application/json"))
    assert samples(decoded) == [sample("m_total", 5, COUNTER, job="shop")]


NO_JSON = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"resourceMetrics": 1}',
    b'{"resourceMetrics": [{"resource": 1}]}',
    b"\xff",
    b"[" * 5000,
]


@pytest.mark.parametrize("text", NO_JSON)
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(BadRequestError, match="no ExportMetricsServiceRequest in JSON"):
        OTLP().decode(text, WriteOptions(dialect="application/json"))


GOOD = (
    sums(point(1, {"a": "b", "list": ["x", {"y": 1.5}]}), point(2.5)).SerializeToString()
    + histogram().SerializeToString()
)


@given(st.data())
def test_whatever_comes_is_read_or_refused(data: st.DataObject) -> None:
    body = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = OTLP().decode(bytes(body), WriteOptions(dialect="application/x-protobuf"))
    except BadRequestError as error:
        assert "the body is no ExportMetricsServiceRequest" in str(error)
        return
    assert len(samples(decoded)) == len(decoded.values)


JSON_WORDS = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    '"',
    "null",
    "1",
    '"asInt"',
    '"timeUnixNano"',
    '"value"',
    "1e999",
    '"\\ud800"',
    "true",
]


@given(st.data())
def test_whatever_comes_as_json_is_read_or_refused(data: st.DataObject) -> None:
    """Pieces of a good document are replaced by words of JSON."""
    text = json_format.MessageToJson(sums(point(1, {"a": "b"}), point(2.5)), indent=None)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.sampled_from(JSON_WORDS)) + text[at + data.draw(st.integers(0, 8)) :]
    try:
        decoded = OTLP().decode(text.encode(), WriteOptions(dialect="application/json"))
    except BadRequestError as error:
        assert "the body is no ExportMetricsServiceRequest" in str(error)
        return
    assert len(samples(decoded)) == len(decoded.values)

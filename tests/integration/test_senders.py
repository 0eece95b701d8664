"""docs/sending.md as it is run: its coordinator, and an exporter of OpenTelemetry's SDK, lines of InfluxDB and JSON that are sent to it."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlencode

import pytest
from lab.http import get, request
from lab.prometheus import EQUAL, remote_read
from lab.waiting import wait_until
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from tests.docs.blocks import ROOT, RUN, run_commands
from tests.integration.inside import Inside, serving

PAGE = Path(__file__).parents[2] / "docs/sending.md"
SERVICE = {
    "service.name": "shop",
    "service.instance.id": "i-1",
    "deployment.environment.name": "test",
    "host.name": "h",
}
IDENTITY = {"job": "shop", "instance": "i-1", "deployment_environment_name": "test"}


class Coordinator(Inside):
    """The one of the page, with windows of a second."""

    def text(self) -> str:
        found = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
        assert found is not None
        text = found[1].replace("10s", "1s").replace("bufferPast: 5s", "bufferPast: 2s")
        for old, new in (("7201", self.http), ("7203", self.metrics), ("7204", self.carbon)):
            assert old in text
            text = text.replace(old, str(new))
        return text

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        return request("POST", f"{self.base}{path}", body, {}, timeout_s=60)

    def samples(self, name: str, kind: str) -> dict[frozenset[tuple[str, str]], list[float]]:
        """The values of each series of a name; ``kind``: ``aggregated`` or ``unaggregated``."""
        now_ms = time.time_ns() // 1_000_000
        headers = {"M3-Metrics-Type": kind}
        found = remote_read(self.base, [("__name__", EQUAL, name)], now_ms - 600_000, now_ms + 60_000, headers)
        return {frozenset(labels): [points[at] for at in sorted(points)] for labels, points in found.items()}

    def queried(self, expression: str) -> list[dict[str, str]]:
        status, body = get(f"{self.base}/api/v1/query?{urlencode({'query': expression})}")
        assert status == 200, body
        return [one["metric"] for one in json.loads(body)["data"]["result"]]


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with serving(Coordinator(tmp_path_factory.mktemp("senders"))) as made:
        yield made


def labels(name: str, **more: str) -> frozenset[tuple[str, str]]:
    return frozenset({"__name__": name, **more}.items())


def provider(base: str, **exporter: Any) -> MeterProvider:
    """An SDK with the environment of the page, that exports when it is told to."""
    settings = dict(re.findall(r"^(OTEL_\w+)=(.*)$", PAGE.read_text(), re.MULTILINE))
    settings["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"] = settings["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"].replace(
        "http://127.0.0.1:7201", base
    )
    with mock.patch.dict(os.environ, settings):
        exported = OTLPMetricExporter(**exporter)
    reader = PeriodicExportingMetricReader(exported, export_interval_millis=float("inf"))
    return MeterProvider([reader], Resource(SERVICE))


def test_an_sdk_exports_cumulative_metrics(coordinator: Coordinator) -> None:
    sdk = provider(coordinator.base)
    meter = sdk.get_meter("shop")
    counter = meter.create_counter("orders", "{order}")
    meter.create_observable_gauge("queue.length", unit="1", callbacks=[lambda _: iter(())])
    latency = meter.create_histogram("http.server.duration", "s", explicit_bucket_boundaries_advisory=[0.1, 1.0])
    for n in range(3):
        counter.add(n, {"http.method": "GET"})
        latency.record(n / 2)
        assert sdk.force_flush()
    sdk.shutdown()
    one = labels("orders_total", http_method="GET", **IDENTITY)
    wait_until("raw samples", lambda: coordinator.samples("orders_total", "unaggregated") == {one: [0, 1, 3]}, 30)
    buckets = coordinator.samples("http_server_duration_seconds_bucket", "unaggregated")
    assert buckets == {
        labels("http_server_duration_seconds_bucket", le=le, **IDENTITY): values
        for le, values in (("0.1", [1, 1, 1]), ("1", [1, 2, 3]), ("+Inf", [1, 2, 3]))
    }
    wait_until("the last value", lambda: coordinator.samples("orders_total", "aggregated").get(one, [0])[-1] == 3, 30)
    target = labels("target_info", job="shop", instance="i-1", host_name="h", deployment_environment_name="test")
    (found,) = coordinator.samples("target_info", "unaggregated")
    assert {pair for pair in found if not pair[0].startswith("telemetry_sdk")} == target


def test_deltas_of_an_sdk_are_summed(coordinator: Coordinator) -> None:
    delta = AggregationTemporality.DELTA
    sdk = provider(coordinator.base, preferred_temporality={Counter: delta, Histogram: delta})
    meter = sdk.get_meter("shop")
    counter, sizes = (
        meter.create_counter("parts"),
        meter.create_histogram("size", explicit_bucket_boundaries_advisory=[1.0]),
    )
    for n in range(1, 6):
        counter.add(n)
        sizes.record(n / 2)
        assert sdk.force_flush()
    sdk.shutdown()

    def sums(name: str) -> dict[frozenset[tuple[str, str]], float]:
        return {series: sum(values) for series, values in coordinator.samples(name, "aggregated").items()}

    wait_until("the sum", lambda: sums("parts_total") == {labels("parts_total", **IDENTITY): 15}, 30)
    wait_until("fractions", lambda: list(sums("size_sum").values()) == [7.5], 30)
    assert list(sums("size_sum")) == [labels("size_sum", agg=".sum", **IDENTITY)]
    assert sums("size_count") == {labels("size_count", **IDENTITY): 5}
    assert sums("size_bucket") == {
        labels("size_bucket", le="1", **IDENTITY): 2,
        labels("size_bucket", le="+Inf", **IDENTITY): 5,
    }


def test_lines_and_json(coordinator: Coordinator) -> None:
    now = int(time.time())
    line = f'cpu,host=a usage=0.5,cores=4i,name="x" {now}\nbroken\n'.encode()
    status, body = coordinator.post("/api/v1/influxdb/write?precision=s", line)
    assert (status, "line 2 cannot be read" in json.loads(body)["error"]) == (400, True)
    document = {"tags": {"__name__": "json_up", "host": "a"}, "timestamp": str(now), "value": 1}
    assert coordinator.post("/api/v1/json/write", json.dumps(document).encode()) == (200, b"")
    for name, value in (("cpu_usage", 0.5), ("cpu_cores", 4.0), ("json_up", 1.0)):
        expected = {labels(name, host="a"): [value]}
        assert coordinator.samples(name, "unaggregated") == expected
        wait_until("the last value", lambda: coordinator.samples(name, "aggregated") == expected, 30)  # noqa: B023


@pytest.mark.parametrize("page", [page for page, test in RUN.items() if test == str(Path(__file__).relative_to(ROOT))])
def test_the_calls_of_a_page_are_answered_well(coordinator: Coordinator, page: str) -> None:
    """As they stand there, but for ports."""
    places = {address: coordinator.base for address in ("http://127.0.0.1:7201", "http://m3coordinator01:7201")}
    places |= {"localhost:7201": coordinator.base, "127.0.0.1/7204": f"127.0.0.1/{coordinator.carbon}"}
    run_commands(page, places)

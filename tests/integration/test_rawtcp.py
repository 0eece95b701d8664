"""Raw TCP through a real instance: metrics in, windows out, passthrough metrics as they are; no m3msg beside it."""

import socket
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.instance import Aggregator
from bench.sink import Sink
from lab.admin_calls import admin_calls, create
from lab.cluster import ROOT
from lab.http import get
from lab.ports import free_port
from lab.prometheus import remote_write
from lab.waiting import wait_until
from tests.integration.conftest import Deployment
from tests.integration.test_types import LONG, SAMPLES, SHORT, staged
from tests.strangers import Certificates, trusting

from m3metrics.aggregation import AggregationType, compress
from m3metrics.codec import (
    BatchTimerWithMetadatas,
    CounterWithMetadatas,
    ForwardedMetricWithMetadata,
    GaugeWithMetadatas,
    Metric,
    TimedMetricWithMetadata,
    TimedMetricWithMetadatas,
    TimedMetricWithStoragePolicy,
    decode_storage_policy,
    encode_record,
)
from m3metrics.metadata import ForwardMetadata, TimedMetadata
from m3metrics.metric import MetricType

SECOND = 1_000_000_000


def instance(sink: Sink, raw: dict[str, Any], **aggregator: Any) -> Aggregator:
    """An instance that speaks raw TCP alone."""
    sections = {"bufferDurationForPastTimedMetric": "2s", "passthrough": {"enabled": True}, **aggregator}
    address = f"127.0.0.1:{free_port()}"
    return Aggregator(
        2,
        sink.address,
        {"m3msg": None, "rawtcp": {"listenAddress": address, **raw}, "aggregator": sections},
        address=address,
    )


def figure(aggregator: Aggregator, name: str) -> float:
    """The sum of a counter over its labels."""
    lines = get(aggregator.metrics_url)[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.partition("{")[0].partition(" ")[0].endswith(name))


def every_kind(start_ns: int) -> list[Metric]:
    """All kinds of payload: untimed, timed, forwarded, passthrough."""
    at = start_ns + SECOND // 10
    total = compress([AggregationType.SUM])
    metrics: list[Metric] = [
        BatchTimerWithMetadatas(id=b"timer", values=tuple(SAMPLES), metadatas=staged(AggregationType.SUM, SHORT)),
        GaugeWithMetadatas(id=b"gauge", value=2.5, metadatas=staged(AggregationType.LAST, SHORT)),
        TimedMetricWithStoragePolicy(
            metric_type=MetricType.GAUGE, id=b"passed", time_ns=at, value=7.5, storage_policy=LONG
        ),
        ForwardedMetricWithMetadata(
            metric_type=MetricType.GAUGE, id=b"forwarded", time_ns=start_ns, values=(3.0, 4.0),
            metadata=ForwardMetadata(aggregation_id=total, storage_policy=SHORT, source_id=1, num_forwarded_times=1),
        ),
    ]  # fmt: skip
    for k, value in enumerate(SAMPLES):
        of: dict[str, Any] = {"metric_type": MetricType.GAUGE, "time_ns": at + k, "value": value}
        metrics += [
            CounterWithMetadatas(id=b"counter", value=int(value), metadatas=staged(AggregationType.SUM, SHORT)),
            TimedMetricWithMetadatas(id=b"timed-staged", **of, metadatas=staged(AggregationType.SUM, SHORT)),
            TimedMetricWithMetadata(
                id=b"timed", **of, metadata=TimedMetadata(aggregation_id=total, storage_policy=SHORT)
            ),
        ]
    return metrics


def send(address: str, metrics: Sequence[Metric], tls: ssl.SSLContext) -> None:
    """One connection, which is closed at once: there is nothing to wait for."""
    host, port = address.rsplit(":", 1)
    with (
        socket.create_connection((host, int(port))) as plain,
        tls.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(b"".join(map(encode_record, metrics)))


def test_every_kind_comes_out(tmp_path: Path) -> None:
    """Over TLS."""
    sink = Sink(record=True)
    total = sum(SAMPLES)
    certificates = Certificates(tmp_path)
    pair = certificates.server
    tls = {"tls": {"mode": "enforced", "certFile": str(pair.cert), "keyFile": str(pair.key)}}
    with instance(sink, tls) as aggregator:
        time.sleep(4 - time.time() % 4 + 0.2)  # the burst lies in one window
        start_ns = time.time_ns() // (4 * SECOND) * 4 * SECOND
        metrics = every_kind(start_ns)
        send(aggregator.address, metrics, trusting(certificates.authority))
        expected = {
            b"counter": total, b"timer.sum": total, b"gauge": 2.5, b"timed": total, b"timed-staged": total, b"passed": 7.5,
            b"forwarded": 7.0,
        }  # fmt: skip
        wait_until("every kind is out", lambda: sink.sums() == expected)
        assert list(sink.values(b"passed")) == [start_ns + SECOND // 10], "with its own time"
        assert {decode_storage_policy(policy) for policy in sink.policies[b"passed"]} == {LONG}
        for name, value in (("rawtcp_server_message_received", len(metrics)), ("aggregator_addPassthrough_success", 1)):
            wait_until(f"{name} is {value}", lambda name=name, value=value: figure(aggregator, name) == value)
    sink.close()


def test_a_coordinator_with_the_legacy_client(deployment: Deployment) -> None:
    """Remote write to a coordinator, raw TCP to the aggregator, m3msg back, a query."""
    client = {
        "type": "legacy",
        "m3msg": None,
        "placementKV": {"namespace": "/placement", "environment": "namespace/m3db-cluster-name"},
        "placementWatcher": {"key": "m3aggregator"},
    }
    deployment.start_coordinator(
        ROOT / "configs/local/m3coordinator.yml", downsample={"remoteAggregator": {"client": client}}
    )
    status, body = get(f"{deployment.base}/ready")
    assert (status, "no placement of the aggregators" in body) == (500, True), body
    address = f"127.0.0.1:{free_port()}"
    create(deployment.base, admin_calls("m3aggregator-local", address, f"127.0.0.1:{deployment.ingest}"))
    aggregator = deployment.start_aggregator(
        "aggregator",
        ROOT / "configs/local/m3aggregator.yml",
        address,
        m3msg=None,
        rawtcp={"listenAddress": address},
    )
    wait_until("an instance leads", aggregator.leads, 90)
    wait_until("its processes are up", aggregator.ready)
    wait_until("the coordinator takes writes", lambda: get(f"{deployment.base}/ready")[0] == 200)
    labels = (("__name__", "over_raw_tcp"), ("job", "test"))
    remote_write(deployment.base, [(labels, 41.5, time.time_ns() // 1_000_000)])
    found = wait_until("the aggregated value", lambda: deployment.query("over_raw_tcp"))
    assert [one["value"][1] for one in found] == ["41.5"]
    assert set(deployment.stop().values()) == {0}

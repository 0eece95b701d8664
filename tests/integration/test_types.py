"""All metric and aggregation types through a real instance: m3msg in, outputs at a recording consumer, values recomputed here."""

import math
import socket
import time

import pytest
from bench.instance import Aggregator
from bench.sink import Sink
from lab.waiting import wait_until

from m3metrics.aggregation import AggregationType, compress, is_valid_for
from m3metrics.codec import (
    BatchTimerWithMetadatas,
    CounterWithMetadatas,
    GaugeWithMetadatas,
    Metric,
    TimedMetricWithMetadata,
    TimedMetricWithMetadatas,
    encode_metric,
)
from m3metrics.metadata import PipelineMetadata, StagedMetadata, TimedMetadata
from m3metrics.metric import MetricType
from m3metrics.policy import StoragePolicy
from m3msg.frames import Message, Metadata, encode_message

DEFAULT_TYPES = [
    AggregationType[name]
    for name in ("SUM", "SUM_SQ", "MEAN", "MIN", "MAX", "COUNT", "STDEV", "MEDIAN", "P50", "P95", "P99")
]
SAMPLES = [5.0, 3.0, 8.0, 1.0, 9.0, 2.0, 7.0, 4.0, 6.0, 10.0]
SHORT, LONG = StoragePolicy.parse("2s:1h"), StoragePolicy.parse("4s:1h")
NAMES = {
    AggregationType.LAST: "last", AggregationType.MIN: "lower", AggregationType.MAX: "upper", AggregationType.MEAN: "mean",
    AggregationType.MEDIAN: "median", AggregationType.COUNT: "count", AggregationType.SUM: "sum", AggregationType.SUM_SQ: "sum_sq",
    AggregationType.STDEV: "stdev",
}  # fmt: skip


def expected(kind: AggregationType) -> float:
    """What one window of ``SAMPLES`` gives, by M3's definitions (docs/m3/metrics.md, accumulators)."""
    n, total, squares = len(SAMPLES), sum(SAMPLES), sum(v * v for v in SAMPLES)
    plain = {
        AggregationType.LAST: SAMPLES[-1],
        AggregationType.MIN: min(SAMPLES),
        AggregationType.MAX: max(SAMPLES),
        AggregationType.MEAN: total / n,
        AggregationType.COUNT: float(n),
        AggregationType.SUM: total,
        AggregationType.SUM_SQ: squares,
        AggregationType.STDEV: math.sqrt((n * squares - total * total) / (n * (n - 1))),
    }
    if kind in plain:
        return plain[kind]
    quantile = 0.5 if kind is AggregationType.MEDIAN else float("0." + kind.name[1:])
    return sorted(SAMPLES)[math.ceil(quantile * n) - 1]


def suffix(kind: AggregationType) -> str:
    """The timer's suffix under the transform ``suffix``."""
    return "." + NAMES.get(kind, kind.name.lower())


def staged(kind: AggregationType | None, *policies: StoragePolicy) -> tuple[StagedMetadata, ...]:
    """Metadatas with one aggregation type (None: all that timers have by default) and the policies."""
    word = 0 if kind is None else compress([kind])
    return (StagedMetadata(pipelines=(PipelineMetadata(aggregation_id=word, storage_policies=policies),)),)


def send(address: str, metrics: list[Metric]) -> None:
    """Sends all in one burst and waits for the acks."""
    host, port = address.rsplit(":", 1)
    data = b"".join(encode_message(Message(Metadata(0, k + 1, 1), encode_metric(m))) for k, m in enumerate(metrics))
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(data)
        ends = time.monotonic() + 20
        connection.settimeout(20)
        rest, acked = b"", 0
        while acked < len(metrics) and time.monotonic() < ends:
            rest += connection.recv(1 << 16)
            acked = rest.count(b"\x18\x01")  # every echoed metadata ends with sentAtNanos = 1
        assert acked >= len(metrics)


def windows_of(metrics: list[Metric]) -> dict[bytes, int]:
    """The ids that come of them, and the number of their windows."""
    windows = {b"default-policies": 1} | {b"default-timer" + suffix(kind).encode(): 1 for kind in DEFAULT_TYPES}
    for metric in metrics:
        kind, _, name = metric.id.partition(b".")
        if name:
            ident = metric.id + suffix(AggregationType[name.decode()]).encode() * (kind in (b"t", b"tt"))
            windows[ident] = 2 if kind == b"c" else 1
    return windows


@pytest.fixture(scope="module")
def outputs() -> dict[bytes, dict[int, float]]:
    """Sends every kind once and returns what came out: id → window end in ns → value."""
    sink = Sink(record=True)
    overlay = {"aggregator": {"bufferDurationForPastTimedMetric": "2s"}}
    with Aggregator(2, sink.address, overlay) as aggregator:
        time.sleep(4 - time.time() % 4 + 0.2)  # the burst lies in one window of both resolutions
        now = time.time_ns()
        start = now - now % 4_000_000_000
        metrics: list[Metric] = []
        for kind in AggregationType:
            name = kind.name.encode()
            for k, value in enumerate(SAMPLES):
                at = start + 100_000_000 + k
                if is_valid_for(MetricType.COUNTER, kind):
                    metrics.append(
                        CounterWithMetadatas(id=b"c." + name, value=int(value), metadatas=staged(kind, SHORT, LONG))
                    )
                if is_valid_for(MetricType.GAUGE, kind):
                    metrics.append(GaugeWithMetadatas(id=b"g." + name, value=value, metadatas=staged(kind, SHORT)))
                    metrics.append(
                        TimedMetricWithMetadatas(
                            metric_type=MetricType.GAUGE,
                            id=b"tg." + name,
                            time_ns=at,
                            value=value,
                            metadatas=staged(kind, SHORT),
                        )
                    )
                    metrics.append(
                        TimedMetricWithMetadata(
                            metric_type=MetricType.GAUGE, id=b"t1." + name, time_ns=at, value=value,
                            metadata=TimedMetadata(aggregation_id=compress([kind]), storage_policy=SHORT),
                        )
                    )  # fmt: skip
                if is_valid_for(MetricType.TIMER, kind):
                    metrics.append(
                        TimedMetricWithMetadatas(
                            metric_type=MetricType.TIMER,
                            id=b"tt." + name,
                            time_ns=at,
                            value=value,
                            metadatas=staged(kind, SHORT),
                        )
                    )
            if is_valid_for(MetricType.TIMER, kind):
                metrics.append(
                    BatchTimerWithMetadatas(id=b"t." + name, values=tuple(SAMPLES), metadatas=staged(kind, SHORT))
                )
        metrics.append(
            BatchTimerWithMetadatas(id=b"default-timer", values=tuple(SAMPLES), metadatas=staged(None, SHORT))
        )
        metrics.append(GaugeWithMetadatas(id=b"default-policies", value=1.5, metadatas=staged(AggregationType.LAST)))
        send(aggregator.address, metrics)
        wait_until("every kind is out", lambda: all(len(sink.values(i)) == n for i, n in windows_of(metrics).items()))
    sink.close()
    return {ident: sink.values(ident) for ident in sink.points}


def one(outputs: dict[bytes, dict[int, float]], ident: bytes) -> float:
    """The only value of an id."""
    values = outputs.get(ident, {})
    assert len(values) == 1, (ident, values)
    return next(iter(values.values()))


GAUGE_TYPES = [kind for kind in AggregationType if is_valid_for(MetricType.GAUGE, kind)]
COUNTER_TYPES = [kind for kind in AggregationType if is_valid_for(MetricType.COUNTER, kind)]
TIMER_TYPES = [kind for kind in AggregationType if is_valid_for(MetricType.TIMER, kind)]


@pytest.mark.parametrize("kind", GAUGE_TYPES, ids=lambda kind: kind.name)
def test_gauges(outputs: dict[bytes, dict[int, float]], kind: AggregationType) -> None:
    for prefix in (b"g.", b"tg.", b"t1."):
        assert one(outputs, prefix + kind.name.encode()) == expected(kind)


@pytest.mark.parametrize("kind", COUNTER_TYPES, ids=lambda kind: kind.name)
def test_counters_with_two_policies(outputs: dict[bytes, dict[int, float]], kind: AggregationType) -> None:
    values = outputs[b"c." + kind.name.encode()]
    assert list(values.values()) == [expected(kind)] * 2
    assert {end % 2_000_000_000 for end in values} == {0}


@pytest.mark.parametrize("kind", TIMER_TYPES, ids=lambda kind: kind.name)
def test_timers(outputs: dict[bytes, dict[int, float]], kind: AggregationType) -> None:
    for prefix in (b"t.", b"tt."):
        assert one(outputs, prefix + kind.name.encode() + suffix(kind).encode()) == expected(kind)


def test_default_types_of_timers(outputs: dict[bytes, dict[int, float]]) -> None:
    assert {ident for ident in outputs if ident.startswith(b"default-timer")} == {
        b"default-timer" + suffix(kind).encode() for kind in DEFAULT_TYPES
    }
    for kind in DEFAULT_TYPES:
        assert one(outputs, b"default-timer" + suffix(kind).encode()) == expected(kind)


def test_default_policies(outputs: dict[bytes, dict[int, float]]) -> None:
    values = outputs[b"default-policies"]
    assert list(values.values()) == [1.5]
    assert next(iter(values)) % 10_000_000_000 == 0

"""Which names send most, cost most and are refused most, as an engine tells from its batches."""

import pytest
from tests.aggregator.engine.engine_calls import NOW, SECOND, engine_of, options, send
from tests.m3metrics.test_growth import Clock

from m3metrics.codec import BatchTimerWithMetadatas, GaugeWithMetadatas, TimedMetricWithMetadata, encode_metric
from m3metrics.ids import encode_tags
from m3metrics.metadata import DEFAULT_STAGED_METADATAS, TimedMetadata
from m3metrics.metric import MetricType
from m3metrics.policy import StoragePolicy
from m3metrics.traffic import Traffic


def ident(name: str, host: int) -> bytes:
    return encode_tags([(b"__name__", name.encode()), (b"host", b"h%d" % host)])


def gauge(name: str, host: int) -> bytes:
    return encode_metric(GaugeWithMetadatas(id=ident(name, host), value=1.0, metadatas=DEFAULT_STAGED_METADATAS))


def timer(name: str, values: int) -> bytes:
    metric = BatchTimerWithMetadatas(id=ident(name, 0), values=(1.0,) * values, metadatas=DEFAULT_STAGED_METADATAS)
    return encode_metric(metric)


def late(path: str) -> bytes:
    parts = [(b"__g%d__" % number, part.encode()) for number, part in enumerate(path.split("."))]
    metadata = TimedMetadata(storage_policy=StoragePolicy.parse("10s:2d"))
    metric = TimedMetricWithMetadata(
        metric_type=MetricType.GAUGE, id=encode_tags(parts), time_ns=NOW - 3600 * SECOND, value=1.0, metadata=metadata
    )
    return encode_metric(metric)


def test_rates_costs_and_refusals_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, engine = Clock(), engine_of(options())
    monkeypatch.setattr(engine, "_traffic", Traffic(clock))
    rng_batches = 60
    for second in range(rng_batches):
        batch = [gauge("many", host) for host in range(300)] + [gauge("few", host) for host in range(60)]
        batch += [timer("latency", 20) for _ in range(6)] + [late("shop.web.orders")] * 30
        send(engine, batch, NOW + second * SECOND, segments=3)
        clock.now_s += 1
    report = engine.traffic()
    assert report.messages == rng_batches * 396
    assert rng_batches * 20 < report.looked_at < rng_batches * 64
    samples = {one.name: one.per_second for one in report.samples}
    assert samples["many"] == pytest.approx(300, rel=0.2)
    assert samples["few"] == pytest.approx(60, rel=0.5)
    assert samples["latency"] == pytest.approx(120, rel=0.9)
    # Two policies each.
    updates = {one.name: one.per_second for one in report.updates}
    for name in ("many", "few", "latency"):
        assert updates[name] == pytest.approx(2 * samples[name])
    kept = {one.name: one.per_second for one in report.timer_bytes}
    assert kept == pytest.approx({"latency": 8 * 2 * samples["latency"]})
    (refused,) = report.refused
    assert (refused.name, refused.reason) == ("shop.web.*", "too-far-in-the-past")
    assert refused.per_second == pytest.approx(30, rel=0.01)

"""Remote write with rules: once per series, changes on the way, untimed samples, the unaggregated namespace."""

from collections.abc import Callable, Sequence
from typing import Any

import cramjam
import pytest

from coordinator.config.cluster import Namespace
from coordinator.downsample import Downsampler, RulesInEffect
from coordinator.prompb import WRITE_REQUEST
from coordinator.sinks import SeriesTable, Values
from coordinator.write import RemoteWriter, SeriesCache
from coordinator.write.direct import RefusedSample
from coordinator.write.options import WriteOptions
from m3metrics.codec import GaugeWithMetadatas, TimedMetricWithMetadatas, decode_metric
from m3metrics.filters import compile_filter
from m3metrics.ids import decode_tags
from m3metrics.metadata import DropPolicy
from m3metrics.pipeline import TransformationOp, TransformationType
from m3metrics.policy import StoragePolicy
from m3metrics.rules import (
    MappingRule,
    MappingSnapshot,
    RollupRule,
    RollupRuleOp,
    RollupSnapshot,
    RollupTarget,
    RuleSet,
)
from m3msg.batch import MessageBatch
from m3x.instrument import Registry
from m3x.protobuf import marshal

TEN_SECONDS = Namespace("ten", 10 * 10**9, 6 * 3600 * 10**9)
POLICIES = (StoragePolicy.parse("10s:6h"),)
SUM = 1 << 7


class Sink:
    largest_message = 1 << 20
    largest_batch = 100 << 20

    def __init__(self) -> None:
        self.metrics: list[Any] = []

    def ready(self, nbytes: int) -> int | None:
        return 64

    async def admit(self, nbytes: int) -> int:
        return 64

    def produce(self, batch: MessageBatch) -> bool:
        for i in range(len(batch)):
            self.metrics.append(decode_metric(batch.payload[batch.offsets[i] : batch.offsets[i + 1]].tobytes()))
        return True

    def names(self) -> list[bytes]:
        return sorted(dict(decode_tags(metric.id))[b"__name__"] for metric in self.metrics)


class Storage:
    """Has an unaggregated namespace."""

    def __init__(self) -> None:
        self.table = SeriesTable()
        self.names: list[bytes] = []

    def refusal(self, policy: StoragePolicy | None) -> str | None:
        return None if policy is None else "unaggregated only"

    async def write(self, batch: Values, *, patient: bool = False) -> list[RefusedSample]:
        self.names += [dict(decode_tags(batch.table.id(one)))[b"__name__"] for one in batch.series.tolist()]
        return []


def rolled_up(*ops: Any, tags_filter: str = "__name__:requests*") -> RuleSet:
    target = RollupTarget((*ops, RollupRuleOp.create(b"by_code", [b"code"], SUM)), POLICIES)
    snapshot = RollupSnapshot(name="r", cutover_ns=1, filter=compile_filter(tags_filter), targets=(target,))
    return RuleSet(namespace="default", rollup_rules=(RollupRule("1", (snapshot,)),))


def dropped(tags_filter: str) -> RuleSet:
    snapshot = MappingSnapshot(
        name="d", cutover_ns=1, filter=compile_filter(tags_filter), drop_policy=DropPolicy.IF_ONLY_MATCH
    )
    return RuleSet(namespace="default", mapping_rules=(MappingRule("1", (snapshot,)),))


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def rules() -> RulesInEffect:
    return RulesInEffect()


@pytest.fixture
def make_writer(sink: Sink, rules: RulesInEffect, registry: Registry) -> Callable[..., RemoteWriter]:
    def make(
        direct: Storage | None = None, namespaces: Sequence[Namespace] = (TEN_SECONDS,), **more: bool
    ) -> RemoteWriter:
        downsampler = Downsampler(namespaces, rules, **more)
        return RemoteWriter(downsampler, SeriesCache(4096, 8 << 20), sink, registry.scope("test"), direct=direct)

    return make


def body(*series: dict[str, str]) -> bytes:
    listed = [
        {
            "labels": [{"name": name.encode(), "value": value.encode()} for name, value in labels.items()],
            "samples": [{"value": 2.5, "timestamp": 1_700_000_000_000}],
        }
        for labels in series
    ]
    return bytes(cramjam.snappy.compress_raw(marshal(WRITE_REQUEST, {"timeseries": listed})))


REQUESTS = {"__name__": "requests", "host": "a", "code": "200"}
OTHER = {"__name__": "other"}


async def test_rules_are_matched_once_per_series_and_again_after_a_change(
    make_writer: Callable[..., RemoteWriter], sink: Sink, rules: RulesInEffect, monkeypatch: pytest.MonkeyPatch
) -> None:
    matched: list[Any] = []
    plain = Downsampler.match
    monkeypatch.setattr(Downsampler, "match", lambda self, tags: (matched.append(tags), plain(self, tags))[1])
    writer = make_writer()
    rules.put("default", rolled_up())
    for _ in range(3):
        await writer.write(body(REQUESTS, OTHER), WriteOptions())
    # No rule asks for a label of the other series, so that it never leaves compiled code.
    assert len(matched) == 1
    assert sink.names() == [b"by_code"] * 3 + [b"other"] * 3 + [b"requests"] * 3
    sink.metrics.clear()
    rules.put("default", dropped("host:a"))
    await writer.write(body(REQUESTS, OTHER), WriteOptions())
    assert sink.names() == [b"other"]
    sink.metrics.clear()
    rules.remove("default")
    await writer.write(body(REQUESTS, OTHER), WriteOptions())
    assert sink.names() == [b"other", b"requests"]


async def test_each_rolled_up_id_in_the_pipeline_is_that_of_its_series(
    make_writer: Callable[..., RemoteWriter], sink: Sink, rules: RulesInEffect
) -> None:
    rules.put("default", rolled_up(TransformationOp(TransformationType.PER_SECOND)))
    # Far more different staged metadatas than the cache shares.
    series = [{**REQUESTS, "code": f"{code:0100d}"} for code in range(3000)]
    await make_writer().write(body(*series), WriteOptions())
    assert len(sink.metrics) == 3000
    for metric in sink.metrics:
        (pipeline,) = [p for p in metric.metadatas[0].pipelines if p.pipeline]
        code = dict(decode_tags(metric.id))[b"code"]
        assert dict(decode_tags(pipeline.pipeline[1].id))[b"code"] == code


async def test_untimed_rollups(make_writer: Callable[..., RemoteWriter], sink: Sink, rules: RulesInEffect) -> None:
    rules.put("default", rolled_up())
    await make_writer(untimed_rollups=True).write(body(REQUESTS, OTHER), WriteOptions())
    untimed = [metric for metric in sink.metrics if isinstance(metric, GaugeWithMetadatas)]
    (timed,) = [metric for metric in sink.metrics if isinstance(metric, TimedMetricWithMetadatas)]
    assert {(metric.value, metric.client_time_ns) for metric in untimed} == {(2.5, 1_700_000_000 * 10**9)}
    assert len(untimed) == 2
    assert dict(decode_tags(timed.id))[b"__name__"] == b"other"


async def test_a_drop_rule_keeps_series_out_of_the_unaggregated_namespace(
    make_writer: Callable[..., RemoteWriter], rules: RulesInEffect
) -> None:
    storage = Storage()
    writer = make_writer(storage)
    await writer.write(body(REQUESTS, OTHER), WriteOptions())
    assert storage.names == [b"requests", b"other"]
    rules.put("default", dropped("host:a"))
    await writer.write(body(REQUESTS, OTHER), WriteOptions())
    assert storage.names == [b"requests", b"other", b"other"]


async def test_what_an_unaggregated_namespace_keeps_is_not_counted_as_lost(
    make_writer: Callable[..., RemoteWriter], sink: Sink, rules: RulesInEffect, registry: Registry
) -> None:
    storage, quiet = Storage(), Namespace("quiet", 10**10, 6 * 3600 * 10**9, downsample_all=False)
    rules.put("default", dropped("host:a"))
    assert (await make_writer(storage, [quiet]).write(body(REQUESTS, OTHER), WriteOptions())).status_code == 200
    # Both passes leave the dropped one out; no rule asks for the other, which is stored as it is.
    assert (storage.names, sink.metrics) == ([b"other"], [])
    counted = {reason: registry.counter("test_samples_not_kept", reason=reason) for reason in ("drop-rule", "no-rule")}
    assert counted == {"drop-rule": 1, "no-rule": 0}


async def test_aggregation_alone_is_nothing_without_aggregated_namespaces(
    make_writer: Callable[..., RemoteWriter], sink: Sink, registry: Registry
) -> None:
    storage = Storage()
    writer = make_writer(storage, [])
    assert (await writer.write(body(OTHER), WriteOptions(store=False))).status_code == 200
    assert (storage.names, sink.metrics) == ([], [])
    assert registry.counter("test_samples_not_kept", reason="no-aggregated-namespace") == 1
    assert (await writer.write(body(OTHER), WriteOptions())).status_code == 200
    assert storage.names == [b"other"]


async def test_reasons_are_remembered_with_the_series(
    make_writer: Callable[..., RemoteWriter], rules: RulesInEffect, registry: Registry
) -> None:
    rules.put("default", dropped("host:a"))
    writer = make_writer()
    for _ in range(3):
        await writer.write(body(REQUESTS), WriteOptions())
    # Two generations of new series push it out of the cache, or to the other half of it.
    for wave in range(2):
        await writer.write(body(*({"__name__": f"w{wave}", "n": str(i)} for i in range(1500))), WriteOptions())
        await writer.write(body(REQUESTS), WriteOptions())
    assert registry.counter("test_samples_not_kept", reason="drop-rule") == 5

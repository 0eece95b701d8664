"""The memory limit of an engine: what counts, who is refused, and that it is over when series expire."""

import random

import numpy as np
import pytest
from tests.aggregator.engine.engine_calls import NOW, SECOND, engine_of, flush, flush_all, options, send

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.engine.tables import layout
from aggregator.engine.tables.memory import held_bytes
from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, ListId
from m3metrics import codec
from m3metrics.aggregation import AggregationType
from m3metrics.ids import encode_tags
from m3metrics.metadata import ForwardMetadata, PipelineMetadata, StagedMetadata, TimedMetadata
from m3metrics.metric import MetricType
from m3metrics.policy import StoragePolicy

TEN = StoragePolicy.parse("10s:2d")
SUM = 1 << AggregationType.SUM
LAST = 1 << AggregationType.LAST
MIB = 1 << 20
NEW, KNOWN = "memory limit reached for new metrics", "memory limit reached"


def gauge(ident: bytes, value: float = 1.0, types: int = LAST) -> bytes:
    staged = (StagedMetadata(pipelines=(PipelineMetadata(aggregation_id=types, storage_policies=(TEN,)),)),)
    return codec.encode_metric(codec.GaugeWithMetadatas(id=ident, value=value, metadatas=staged))


def timer(ident: bytes, values: tuple[float, ...]) -> bytes:
    types = 1 << AggregationType.P99
    staged = (StagedMetadata(pipelines=(PipelineMetadata(aggregation_id=types, storage_policies=(TEN,)),)),)
    return codec.encode_metric(codec.BatchTimerWithMetadatas(id=ident, values=values, metadatas=staged))


def forwarded(ident: bytes, source: int, at_ns: int, value: float = 1.0) -> bytes:
    metadata = ForwardMetadata(aggregation_id=SUM, storage_policy=TEN, source_id=source, num_forwarded_times=1)
    return codec.encode_metric(
        codec.ForwardedMetricWithMetadata(
            metric_type=MetricType.COUNTER, id=ident, time_ns=at_ns, values=(value,), metadata=metadata
        )
    )


def figures(engine: Engine) -> tuple[float, float]:
    """Bytes in use, and with full windows."""
    gauges = engine.stats()[1]
    return gauges["memory.used-bytes"], gauges["memory.needed-bytes"]


def errors(engine: Engine, reason: str) -> int:
    return sum(n for name, n in engine.stats()[0].items() if name.endswith(f".errors{{reason={reason}}}"))


def ids(count: int, name: bytes = b"m") -> list[bytes]:
    return [b"%s-%06d" % (name, k) + 60 * b"x" for k in range(count)]


def fill(engine: Engine, now_ns: int, most: int = 20_000) -> int:
    """New series until they are refused; how many were taken."""
    taken, names = 0, ids(most)
    for start in range(0, most, 2000):
        before = engine.stats()[1]["engine.entries"]
        said = send(engine, [gauge(one) for one in names[start : start + 2000]], now_ns)
        taken += int(engine.stats()[1]["engine.entries"] - before)
        if said:
            assert set(said) == {NEW}
            return taken
    raise AssertionError(f"{most} series were taken")


def test_new_series_are_refused_first_and_known_ones_never_suffer() -> None:
    """Known series fill one window after the other, also those that nobody has written down yet."""
    engine = engine_of(options(memory_limit_bytes=2 * MIB), max_series=1 << 17)
    known = ids(1000, b"known")
    assert send(engine, [gauge(one) for one in known], NOW) == []
    taken = fill(engine, NOW)
    assert 1000 < taken < 15_000
    everything = [*known, *ids(taken)]
    for window in range(1, 5):
        at = NOW + window * 10 * SECOND
        assert send(engine, [gauge(one, 2.0) for one in everything], at) == []
        assert set(send(engine, [gauge(b"new-%d-%d" % (window, k)) for k in range(50)], at)) == {NEW}
        out = flush(engine, flush_all(KIND_STANDARD, 10, at), at)
        assert len(out) == len(everything)
        engine.commit(ipc.Commit(ListId(KIND_STANDARD, 10 * SECOND), [], at))
        assert figures(engine)[0] <= 2 * MIB
    assert errors(engine, "memory-limit") == 0
    assert errors(engine, "new-metric-memory-limit") >= 250


def test_when_series_expire_new_ones_are_taken_again() -> None:
    engine = engine_of(options(memory_limit_bytes=2 * MIB, entry_ttl_ns=60 * SECOND), max_series=1 << 17)
    first = fill(engine, NOW)
    for turn in range(1, 3):
        at = NOW + turn * 100 * SECOND
        # Windows are gone long before their series expire.
        flush(engine, flush_all(KIND_STANDARD, 10, at), at)
        engine.commit(ipc.Commit(ListId(KIND_STANDARD, 10 * SECOND), [], at))
        engine.expire(at)
        assert engine.stats()[1]["engine.entries"] == 0
        assert abs(fill(engine, at) - first) < first * 0.05
    assert engine.memory_bytes() < 4 * MIB


def test_what_is_in_use_is_counted_once_it_comes_and_until_it_goes() -> None:
    engine = engine_of(options(), max_series=1 << 14)
    empty = figures(engine)[0]
    send(engine, [gauge(one, types=SUM) for one in ids(5000)], NOW)
    used, needed = figures(engine)
    assert used > empty + 5000 * (64 + 69 + 16 + 64)
    # Windows of samples without a time are open for one resolution; two more may wait for their flush.
    assert needed >= used + 5000 * 64
    t, tables = engine._t, engine._tables
    assert int(tables.buckets["taken"].sum()) == 5000
    flush(engine, flush_all(KIND_STANDARD, 10, NOW + 10 * SECOND), NOW + 10 * SECOND)
    engine.commit(ipc.Commit(ListId(KIND_STANDARD, 10 * SECOND), [], NOW + 10 * SECOND))
    engine.expire(NOW + 1000 * SECOND)
    assert int(tables.buckets["taken"].sum()) == 0
    # Ids go when there are enough of them to be worth it; an index does not shrink.
    left = held_bytes(t)[0] - (int(tables.head["index_mask"]) + 1) * 8 - int(engine._tables.head["ids"])
    assert left < empty


@pytest.mark.parametrize("seed", range(3))
def test_slots_in_use_are_counted_as_they_are(seed: int) -> None:
    rng = random.Random(seed)
    engine = engine_of(options(entry_ttl_ns=15 * SECOND), max_series=1 << 13)
    for turn in range(12):
        at = NOW + turn * 10 * SECOND
        names = [b"%d" % rng.randrange(3000) for _ in range(800)]
        send(engine, [gauge(one, types=rng.choice((LAST, SUM, 0))) for one in names], at)
        send(engine, [forwarded(b"f%d" % rng.randrange(200), k, at) for k in range(50)], at)
        flush(engine, flush_all(KIND_STANDARD, 10, at), at)
        engine.commit(ipc.Commit(ListId(KIND_STANDARD, 10 * SECOND), [], at))
        engine.commit(ipc.Commit(ListId(KIND_FORWARDED, 10 * SECOND, 1), [], at))
        engine.expire(at)
        tables = engine._tables
        for bucket in range(int(tables.head["buckets"])):
            elements = tables.elements_of(bucket)
            used = elements["state"] != layout.ELEMENT_FREE
            slim = np.repeat(tables.ranges[bucket] != 0, layout.PAGE_ROWS)[: len(used)]
            row = tables.buckets[bucket]
            assert (int(row["taken"]), int(row["taken_slim"])) == (int((used & ~slim).sum()), int((used & slim).sum()))


def test_source_sets_of_forwarded_metrics_count_and_are_bounded() -> None:
    engine = engine_of(
        options(memory_limit_bytes=4 * MIB, forwarding_max_const_delay_ns=20 * SECOND), max_series=1 << 13
    )
    before = figures(engine)[0]
    assert send(engine, [forwarded(b"r", source, NOW) for source in range(5_000)], NOW) == []
    # A row of 24 bytes each, in a table that is at most two thirds full.
    assert figures(engine)[0] > before + 5_000 * 24 * 3 // 2
    said = send(engine, [forwarded(b"r", source, NOW) for source in range(5_000, 30_000)], NOW)
    assert set(said) == {KNOWN}
    assert errors(engine, "memory-limit") > 0
    # A table of sources grows at once.
    assert figures(engine)[0] <= 4 * MIB + layout.SOURCE.itemsize * (1 << 16)
    # What has come is known to have come, and aggregated once.
    assert send(engine, [forwarded(b"r", 7, NOW)], NOW) == []
    assert engine.stats()[0]["entry.duplicate-sources{entry-type=forwarded}"] == 1
    at = NOW + 60 * SECOND
    list_id = ListId(KIND_FORWARDED, 10 * SECOND, 1)
    list(engine.flush(ipc.Flush(1, list_id, True, [ipc.ShardBounds([], at, 0, layout.MAX_INT64)]), at))
    engine.commit(ipc.Commit(list_id, [], at))
    # What was interned since the last time, too; its tables stay as large as they were.
    engine.expire(at)
    engine.expire(at)
    assert figures(engine)[0] < before + 2 * MIB
    assert send(engine, [forwarded(b"r", source, at) for source in range(5_000)], at) == []


def test_tables_of_sources_that_were_given_back_are_zero_when_they_are_used_again() -> None:
    """Large ones are given back to the system, but for the next one to be used; the list of free ones has to survive that."""
    engine = engine_of(options(forwarding_max_const_delay_ns=20 * SECOND), max_series=1 << 10)
    list_id = ListId(KIND_FORWARDED, 10 * SECOND, 1)
    for turn in range(3):
        at = NOW + turn * 200 * SECOND
        for window in range(3):
            start = at + window * 10 * SECOND
            assert send(engine, [forwarded(b"r%d" % window, source, start) for source in range(6000)], at) == []
        after = at + 60 * SECOND
        bounds = [ipc.ShardBounds([], after, 0, layout.MAX_INT64)]
        list(engine.flush(ipc.Flush(1, list_id, True, bounds), after))
        engine.commit(ipc.Commit(list_id, [], after))
        if turn == 0:
            high = int(engine._tables.head["sources"])
        assert int(engine._tables.head["used_sources"]) == 0
        assert int(engine._tables.head["sources"]) == high
    assert engine.stats()[0].get("entry.duplicate-sources{entry-type=forwarded}", 0) == 0


def test_samples_of_timers_count_and_are_bounded() -> None:
    engine = engine_of(options(memory_limit_bytes=4 * MIB), max_series=1 << 10)
    assert send(engine, [timer(b"t", (1.0,) * 1000), gauge(b"known")], NOW) == []
    for _ in range(8):
        send(engine, [timer(b"t", (1.0,) * 1000) for _ in range(100)], NOW)
    counters = engine.stats()[0]
    assert counters["timer.samples-without-memory"] > 0
    assert figures(engine)[0] <= 4 * MIB + layout.LOG_CHUNK * 8
    assert set(send(engine, [gauge(b"new")], NOW)) == {NEW}


def test_metadatas_count() -> None:
    engine = engine_of(options(), max_series=1 << 10)
    before = figures(engine)[0]
    policies = [StoragePolicy.parse(f"10s:{k}d") for k in range(1, 200)]
    for k, policy in enumerate(policies):
        staged = (StagedMetadata(pipelines=(PipelineMetadata(storage_policies=(policy,)),)),)
        send(engine, [codec.encode_metric(codec.GaugeWithMetadatas(id=b"m%d" % k, value=1.0, metadatas=staged))], NOW)
    assert figures(engine)[0] > before + 199 * (layout.META.itemsize + layout.STAGE.itemsize)


def test_names_of_new_series_are_told() -> None:
    engine = engine_of(options(), max_series=1 << 14)
    tagged = [encode_tags([(b"__name__", b"http_requests"), (b"pod", b"p%d" % k)]) for k in range(300)]
    send(engine, [gauge(one) for one in [*tagged, b"carbon.path"]], NOW)
    send(engine, [gauge(one) for one in tagged], NOW + SECOND)
    report = engine.growth()
    assert report.new_series == 301
    assert [(one.name, one.series) for one in report.metric_names] == [("http_requests", 300), ("carbon.path", 1)]
    assert [(one.name, one.values) for one in report.label_names] == [("pod", 300)]
    # Many more in a second than there is room for: the last ones stand for all.
    more = [encode_tags([(b"__name__", b"storm"), (b"pod", b"s%d" % k)]) for k in range(9000)]
    send(engine, [gauge(one) for one in more], NOW + SECOND)
    report = engine.growth()
    assert report.new_series == 9301
    assert report.metric_names[0].name == "storm"
    assert abs(report.metric_names[0].series - 9000) < 1000


def test_what_is_replayed_is_no_growth() -> None:
    engine = engine_of(options(), max_series=1 << 10)
    engine.begin_replay()
    send(engine, [gauge(one) for one in ids(100)], NOW)
    engine.end_replay()
    assert engine.growth().new_series == 0


def test_annotations_are_bounded() -> None:
    engine = engine_of(options(), max_series=1 << 10)
    staged = (StagedMetadata(pipelines=(PipelineMetadata(storage_policies=(TEN,)),)),)

    def annotated(k: int) -> bytes:
        note = b"%06d" % k + 60_000 * b"n"
        return codec.encode_metric(
            codec.GaugeWithMetadatas(id=b"a%d" % (k % 100), value=1.0, metadatas=staged, annotation=note)
        )

    for start in range(0, 1200, 100):
        assert send(engine, [annotated(k) for k in range(start, start + 100)], NOW) == []
    assert 0 < engine.stats()[0]["annotations-dropped"] < 200


def test_aggregations_of_one_metric_are_bounded() -> None:
    engine = engine_of(options(), max_series=1 << 10)

    def timed(days: int) -> bytes:
        return codec.encode_metric(
            codec.TimedMetricWithMetadata(
                metric_type=MetricType.GAUGE,
                id=b"m",
                time_ns=NOW,
                value=1.0,
                metadata=TimedMetadata(storage_policy=StoragePolicy.parse(f"10s:{days}d")),
            )
        )

    assert send(engine, [timed(days) for days in range(1, layout.MAX_ELEMENTS + 1)], NOW) == []
    assert set(send(engine, [timed(days) for days in range(5000, 5010)], NOW)) == {KNOWN}
    assert errors(engine, "memory-limit") == 10


@pytest.mark.slow
def test_messages_that_may_come_again_are_bounded() -> None:
    engine = engine_of(options(), max_series=1 << 10)
    words = np.zeros(1 << 20, layout.REPEAT)
    for turn in range(20):
        words["content"] = np.arange(2 + (turn << 20), 2 + (turn + 1 << 20), dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15
        ) | np.uint64(2)
        engine.expect_repeats(words)
    expected = engine.stats()[1]["engine.messages-expected-again"]
    assert layout.MAX_REPEATS * 0.9 < expected <= layout.MAX_REPEATS
    engine.forget_repeats()
    assert engine.stats()[1]["engine.messages-expected-again"] == 0

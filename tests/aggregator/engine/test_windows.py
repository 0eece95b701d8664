"""What happens around a flush: pauses, keeping, committing, emitting again, memory; and what comes in broken."""

import math
import random
from typing import Any

import numpy as np
import pytest
from tests.aggregator.engine.engine_calls import (
    NEVER,
    NOW,
    SECOND,
    acked,
    all_shards,
    engine_of,
    flush,
    flush_all,
    options,
    send,
)
from tests.aggregator.engine.engine_frames import frame

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.lists import KIND_STANDARD, KIND_TIMED, ListId
from m3metrics import codec
from m3metrics.aggregation import AggregationType
from m3metrics.metadata import DEFAULT_STAGED_METADATAS, PipelineMetadata, StagedMetadata
from m3metrics.metric import MetricType
from m3metrics.policy import StoragePolicy
from m3metrics.shard import shard_of

TEN = (StagedMetadata(pipelines=(PipelineMetadata(storage_policies=(StoragePolicy.parse("10s:2d"),)),)),)


MAXIMUM = (
    StagedMetadata(
        pipelines=(
            PipelineMetadata(
                aggregation_id=1 << AggregationType.MAX, storage_policies=TEN[0].pipelines[0].storage_policies
            ),
        )
    ),
)


def gauge(ident: bytes, value: float, stages: Any = TEN) -> bytes:
    return codec.encode_metric(codec.GaugeWithMetadatas(id=ident, value=value, metadatas=stages))


def counter(ident: bytes, value: int) -> bytes:
    return codec.encode_metric(codec.CounterWithMetadatas(id=ident, value=value, metadatas=TEN))


def timer(ident: bytes, values: tuple[float, ...]) -> bytes:
    return codec.encode_metric(codec.BatchTimerWithMetadatas(id=ident, values=values, metadatas=TEN))


def windows(engine: Engine) -> float:
    return engine.stats()[1]["engine.windows"]


def standard(target: int, **bounds: Any) -> ipc.Flush:
    return flush_all(KIND_STANDARD, 10, target, **bounds)


def commit(engine: Engine, through: int) -> None:
    engine.commit(ipc.Commit(ListId(KIND_STANDARD, 10 * SECOND), [], through))


def test_a_paused_flush_emits_what_was_there_when_it_began() -> None:
    engine = engine_of(options(), max_series=1 << 15)
    ids = [b"metric-%06d" % k for k in range(12_000)]
    send(engine, [counter(i, 1) for i in ids], NOW)
    run = engine.flush(standard(NOW + 10 * SECOND), NOW + 10 * SECOND)
    parts = [next(run)]
    assert not parts[0].last
    # The clock has stepped back: these would belong to the window that is being emitted.
    send(engine, [counter(i, 100) for i in ids], NOW + SECOND)
    commit(engine, NOW + 10 * SECOND)
    engine.expire(NOW + 3600 * SECOND)
    parts += list(run)
    assert parts[-1].last
    values = []
    for part in parts:
        assert part.batch is not None
        assert part.batch.size_bytes <= 512 * 1024
        b = part.batch
        values += [
            codec.decode_aggregated(b.payload[x:y].tobytes()) for x, y in zip(b.offsets, b.offsets[1:], strict=False)
        ]
    assert [v.id for v in values] == [b"stats.counts." + i + b"sum" for i in ids]
    assert {v.value for v in values} == {1.0}
    assert [v for part in parts for v in part.batch.shards.tolist()] == [shard_of(v.id, 16) for v in values]
    rest = flush(engine, standard(NOW + 20 * SECOND), NOW + 20 * SECOND)
    assert len(rest) == len(ids)
    assert {row[3] for row in rest} == {np.float64(100.0).view(np.uint64).item().to_bytes(8, "big").hex()}


def test_a_flush_that_is_given_up_lets_go_of_its_windows() -> None:
    engine = engine_of(options())
    send(engine, [counter(b"a", 1)], NOW)
    run = engine.flush(standard(NOW + 10 * SECOND), NOW + 10 * SECOND)
    commit(engine, NOW + 10 * SECOND)
    assert windows(engine) == 1
    run.close()
    run.close()
    assert windows(engine) == 0
    assert list(run) == []


def test_the_same_target_twice_is_stale() -> None:
    engine = engine_of(options())
    send(engine, [counter(b"a", 1)], NOW)
    assert len(flush(engine, standard(NOW + 10 * SECOND), NOW + 10 * SECOND)) == 1
    assert flush(engine, standard(NOW + 10 * SECOND), NOW + 10 * SECOND) == []
    assert engine.stats()[0]["list.flush-before.stale"] == 1


def test_an_unknown_list_has_one_empty_part() -> None:
    engine = engine_of(options())
    (part,) = list(engine.flush(flush_all(KIND_TIMED, 3, NOW), NOW))
    assert (part.batch, part.last, part.discarded) == (None, True, 0)


def test_a_flush_does_not_touch_shards_without_such_a_list() -> None:
    engine = engine_of(options())
    ids = {shard_of(b"%d" % k, 4): b"%d" % k for k in range(40)}
    send(engine, [counter(ids[0], 1)], NOW)
    named = ipc.ShardBounds([0, 1], NOW + 20 * SECOND, 0, NEVER)
    everyone_else = ipc.ShardBounds([], NOW + 20 * SECOND, 0, NEVER)
    command = ipc.Flush(1, ListId(KIND_STANDARD, 10 * SECOND), True, [named, everyone_else])
    assert len(flush(engine, command, NOW + 20 * SECOND)) == 1
    # The clock has stepped back: the lists of shards 1 and 2 are new and have not been flushed yet, that of shard 0 has.
    send(engine, [counter(ids[shard], 1) for shard in (0, 1, 2)], NOW + 5 * SECOND)
    rows = flush(engine, standard(NOW + 15 * SECOND), NOW + 15 * SECOND)
    assert sorted(row[0] for row in rows) == sorted(b"stats.counts." + ids[shard] + b"sum" for shard in (1, 2))


def test_a_refused_update_makes_the_lists_of_the_keys_before_the_wrong_one() -> None:
    engine = engine_of(options())
    seven, minute = (StoragePolicy.parse(text) for text in ("7s:1d", "1m:40d"))
    good = PipelineMetadata(storage_policies=(TEN[0].pipelines[0].storage_policies[0], seven))
    wrong = PipelineMetadata(aggregation_id=1 << 14, storage_policies=(minute,))
    stages = (StagedMetadata(pipelines=(good, wrong, PipelineMetadata(storage_policies=(minute,)))),)
    assert send(engine, [gauge(b"a", 1.0, stages)] * 2, NOW) == ["invalid aggregation types"] * 2
    made = [(new.shard, new.list_id.resolution_ns, new.now_ns) for new in engine.new_lists()]
    shard = shard_of(b"a", 4)
    assert sorted(made) == [(shard, 7 * SECOND, NOW), (shard, 10 * SECOND, NOW)]
    assert windows(engine) == 0
    assert flush(engine, standard(NOW + 20 * SECOND), NOW + 20 * SECOND) == []
    # The clock has stepped back: the list remembers that it has been flushed.
    assert send(engine, [gauge(b"a", 1.0)], NOW + 5 * SECOND) == []
    assert flush(engine, standard(NOW + 15 * SECOND), NOW + 15 * SECOND) == []


def test_windows_stay_until_committed_and_can_be_emitted_again() -> None:
    engine = engine_of(options())
    for k in range(4):
        send(engine, [counter(b"a", k + 1), timer(b"t", (3.0, 1.0, float(k)))], NOW + k * 10 * SECOND)
    first = flush(engine, standard(NOW + 40 * SECOND, emit=False), NOW + 40 * SECOND)
    assert first == []
    assert windows(engine) == 4
    commit(engine, NOW + 15 * SECOND)
    assert windows(engine) == 3
    assert flush(engine, standard(NOW + 41 * SECOND), NOW) == []
    engine.reopen(ipc.Reopen(9, ListId(KIND_STANDARD, 10 * SECOND), NOW + 20 * SECOND))
    assert send(engine, [counter(b"a", 50)], NOW + 35 * SECOND) == []  # goes into the window that begins at +40 s
    again = flush(engine, standard(NOW + 41 * SECOND), NOW)
    sums = {row[1]: row[3] for row in again if row[0] == b"stats.counts.asum"}
    assert sums == {
        NOW + 30 * SECOND: np.float64(3).tobytes()[::-1].hex(),
        NOW + 40 * SECOND: np.float64(4).tobytes()[::-1].hex(),
    }
    assert len(again) == 2 * 12
    commit(engine, NOW + 100 * SECOND)
    assert windows(engine) == 1


@pytest.mark.parametrize(("retained", "kept"), [(0, 4), (1 << 30, 10)])
def test_what_nobody_commits_is_kept_until_it_is_old_and_memory_is_short(retained: int, kept: int) -> None:
    o = options(max_buffer_ns=30 * SECOND, retained_bytes=retained)
    engine = engine_of(o)
    for k in range(10):
        at = NOW + k * 10 * SECOND
        send(engine, [counter(b"a", 1)], at)
        flush(engine, standard(at), at)
    assert windows(engine) == kept


def test_a_follower_counts_what_it_throws_away() -> None:
    engine = engine_of(options())
    send(engine, [counter(b"a", 1), timer(b"t", (1.0,))], NOW)
    (part,) = list(engine.flush(standard(NOW + 10 * SECOND, emit=False), NOW))
    assert part.discarded == 12


def test_pages_and_logs_are_used_again() -> None:
    engine = engine_of(options())
    most = 0
    for k in range(60):
        at = NOW + k * 10 * SECOND
        send(engine, [gauge(b"g%d" % i, i) for i in range(50)] + [timer(b"t", tuple(map(float, range(3000))))], at)
        flush(engine, standard(at), at)
        commit(engine, at)
        if k == 5:
            most = engine.memory_bytes()
    assert engine.memory_bytes() == most
    engine.expire(NOW)
    assert engine.stats()[1]["engine.window-bytes"] > 0


def test_the_memory_of_released_windows_goes_back_at_once() -> None:
    engine = engine_of(options())
    tables = engine._tables
    for k in range(9):
        at = NOW + k * 10 * SECOND
        send(engine, [gauge(b"g", 1.0), gauge(b"n", 1.0, MAXIMUM), timer(b"t", (1.0, 2.0))], at)

    def untouched() -> list[int]:
        """Pages of each kind that read as zero."""
        pages = (tables.slim_records["stamp"][: 9 << 12], tables.records["last_at"][: 9 << 12], tables.log[: 9 << 12])
        return [int((~page.reshape(9, -1).view(np.int64).any(axis=1)).sum()) for page in pages]

    assert untouched() == [0, 0, 0]
    flush(engine, standard(NOW + 90 * SECOND), NOW + 90 * SECOND)
    assert untouched() == [0, 0, 0]
    # Of each kind a quarter as many pages as are in use are kept.
    commit(engine, NOW + 50 * SECOND)
    assert untouched() == [4, 4, 4]
    commit(engine, NOW + 90 * SECOND)
    assert untouched() == [9, 9, 9]


def test_expired_entries_give_rows_slots_and_ids_back() -> None:
    o = options(entry_ttl_ns=5 * SECOND)
    engine = engine_of(o, max_series=1 << 13)
    for k in range(40):
        at = NOW + k * 10 * SECOND
        assert send(engine, [counter(b"%d-%d" % (k, i) + b"x" * 900, i) for i in range(3000)], at) == []
        assert len(flush(engine, standard(at + 10 * SECOND), at)) == 3000
        commit(engine, at + 10 * SECOND)
        engine.expire(at + 10 * SECOND)
        assert engine.stats()[1]["engine.entries"] == 0
    assert engine.stats()[0]["map.new-entries"] == 120_000
    assert engine.memory_bytes() < 20 << 20


def test_expired_entries_still_emit_what_they_have() -> None:
    engine = engine_of(options(entry_ttl_ns=SECOND))
    send(engine, [counter(b"a", 5)], NOW)
    engine.expire(NOW + 3 * SECOND)
    assert engine.stats()[1]["engine.entries"] == 0
    send(engine, [counter(b"a", 7)], NOW + 4 * SECOND)
    assert len(flush(engine, standard(NOW + 10 * SECOND), NOW)) == 2


def test_the_table_of_entries_grows_and_then_is_full() -> None:
    engine = engine_of(options(), max_series=10_000)
    said = send(engine, [gauge(b"m%d" % k, k) for k in range(10_500)], NOW)
    assert said == ["memory limit reached for new metrics"] * 64
    assert engine.stats()[0]["addUntimed.errors{reason=new-metric-memory-limit}"] == 500
    assert len(flush(engine, standard(NOW + 10 * SECOND), NOW)) == 10_000


def test_quantiles_are_exact() -> None:
    r = random.Random(5)
    metadata = (
        StagedMetadata(
            pipelines=(
                PipelineMetadata(
                    aggregation_id=((1 << 25) - 1) & ~3, storage_policies=TEN[0].pipelines[0].storage_policies
                ),
            )
        ),
    )
    for n in (1, 2, 3, 4, 24, 25, 1000, 20_000):
        engine = engine_of(options())
        values = [r.choice([r.uniform(-5, 5), 2.0, r.gauss(0, 100)]) for _ in range(n)]
        half = n // 2
        batches = [tuple(values[:half]), tuple(values[half:])]
        send(
            engine,
            [
                codec.encode_metric(codec.BatchTimerWithMetadatas(id=b"t", values=b, metadatas=metadata))
                for b in batches
            ],
            NOW,
        )
        out = {row[0]: row[3] for row in flush(engine, standard(NOW + 10 * SECOND), NOW)}
        ordered = sorted(values)
        for name, q in (
            (b".median", 0.5),
            (b".p10", 0.1),
            (b".p25", 0.25),
            (b".p75", 0.75),
            (b".p99", 0.99),
            (b".p9999", 0.9999),
        ):
            want = ordered[min(int(q * n), n - 1)] if n <= 3 else ordered[math.ceil(q * n) - 1]
            assert out[b"t" + name] == np.float64(want).tobytes()[::-1].hex(), (n, name)
        assert out[b"t.upper"] == np.float64(ordered[-1]).tobytes()[::-1].hex()


def test_samples_past_the_cap_count_but_leave_the_quantiles_alone() -> None:
    engine = engine_of(options(timer_samples_per_series_cap=10))
    send(engine, [timer(b"t", tuple(map(float, range(8)))), timer(b"t", (8.0, 9.0, 100.0, 200.0))], NOW)
    out = {row[0]: row[3] for row in flush(engine, standard(NOW + 10 * SECOND), NOW)}
    assert out[b"t.count"] == np.float64(12).tobytes()[::-1].hex()
    assert out[b"t.upper"] == np.float64(200).tobytes()[::-1].hex()
    assert out[b"t.p99"] == np.float64(9).tobytes()[::-1].hex()
    assert engine.stats()[0]["timer.samples-beyond-cap"] == 2


def test_an_id_longer_than_a_part() -> None:
    engine = engine_of(options())
    ident = b"z" * (700 * 1024)
    send(engine, [gauge(b"a", 1.0), gauge(ident, 2.0), gauge(b"b", 3.0)], NOW)
    assert [row[0] for row in flush(engine, standard(NOW + 10 * SECOND), NOW)] == [b"a", ident, b"b"]


def test_untimed_gauges_of_one_batch_come_one_after_another() -> None:
    engine = engine_of(options())
    send(engine, [gauge(b"a", 1.0), gauge(b"a", 2.0)], NOW)
    send(engine, [gauge(b"a", 3.0)], NOW)  # the same time, another batch: not later
    (row,) = flush(engine, standard(NOW + 10 * SECOND), NOW)
    assert row[3] == np.float64(2).tobytes()[::-1].hex()
    assert engine.stats()[0]["aggregation.gauges.values-out-of-order"] == 1


def test_messages_of_odd_shape_mean_what_the_plain_decoder_says() -> None:
    engine = engine_of(options())
    whole = gauge(b"a", 1.5)
    odd = whole + b"\x78\x01"  # an unknown field
    assert send(engine, [odd, b"", b"\x08\x63", whole[:-1], odd], NOW) == [
        "unrecognized message type",
        "unrecognized message type",
        "message cannot be decoded",
    ]
    (row,) = flush(engine, standard(NOW + 10 * SECOND), NOW)
    assert row[3] == np.float64(1.5).tobytes()[::-1].hex()


def test_bad_metadata_is_refused_before_anything_is_made() -> None:
    engine = engine_of(options())
    good = gauge(b"a", 1.0)
    bad = good.replace(bytes.fromhex("0880c8afa025"), bytes.fromhex("7880c8afa025"))
    assert bad != good
    message = codec.encode_metric(codec.GaugeWithMetadatas(id=b"a", value=1.0, metadatas=DEFAULT_STAGED_METADATAS))
    broken = message[:-1] + b"\xff"
    assert send(engine, [broken], NOW) == ["message cannot be decoded"]
    assert engine.stats()[1]["engine.entries"] == 0
    assert engine.stats()[0]["ingest.errors{reason=decode}"] == 1


def test_bytes_that_are_no_frame_spoil_only_the_rest_of_their_connection() -> None:
    engine = engine_of(options())
    parts = [
        frame(gauge(b"a", 1.0)) + b"\x00\x00\x00\x03\xff\xff\xff" + frame(gauge(b"b", 1.0)),
        frame(gauge(b"c", 1.0), ident=9),
    ]
    data = np.frombuffer(b"".join(parts), np.uint8)
    result = engine.ingest(data, np.array([len(p) for p in parts], np.int64), NOW)
    assert acked(result.acks.tobytes()) == [1, 9]
    assert result.messages == 2
    assert engine.stats()[0]["ingest.errors{reason=frame}"] == 1


def test_random_bytes_never_raise() -> None:
    r = random.Random(3)
    engine = engine_of(options())
    valid = [gauge(b"a", 1.0), timer(b"t", (1.0, 2.0)), counter(b"c", 4)]
    for _ in range(3000):
        message = bytearray(r.choice(valid))
        for _ in range(r.randint(1, 4)):
            message[r.randrange(len(message))] = r.randrange(256)
        data = np.frombuffer(frame(bytes(message[: r.randint(0, len(message))])), np.uint8)
        assert engine.ingest(data, np.array([len(data)]), NOW).messages == 1
        engine.recent_errors.clear()


def test_empty_segments_and_empty_batches() -> None:
    engine = engine_of(options())
    result = engine.ingest(np.zeros(0, np.uint8), np.array([0, 0]), NOW)
    assert (result.messages, len(result.acks), result.ack_sizes.tolist()) == (0, 0, [0, 0])
    result = engine.ingest(np.zeros(0, np.uint8), np.zeros(0, np.int64), NOW)
    assert result.messages == 0


def test_shards_that_are_not_owned_or_not_writeable() -> None:
    o = options(buffer_before_cutover_ns=10, buffer_after_cutoff_ns=5)
    ident = next(b"m%d" % k for k in range(100) if shard_of(b"m%d" % k, 4) == 2)
    engine = engine_of(o, [ipc.OwnedShard(2, NOW, NOW + 100)])
    for at, wanted in ((NOW - 11, True), (NOW - 10, False), (NOW + 104, False), (NOW + 105, True)):
        assert send(engine, [gauge(ident, 1.0)], at) == ["aggregator shard is not writeable"] * wanted
    engine = engine_of(o, [ipc.OwnedShard(1, 0, NEVER)])
    assert send(engine, [gauge(ident, 1.0)], NOW) == ["aggregator shard is not owned"]
    assert engine.stats()[0]["addUntimed.errors{reason=shard-not-owned}"] == 1


def test_shards_that_go_take_their_data_with_them() -> None:
    engine = engine_of(options())
    ids = [b"m%d" % k for k in range(200)]
    send(engine, [counter(i, 1) for i in ids], NOW)
    assert {new.shard for new in engine.new_lists()} == {0, 1, 2, 3}
    assert engine.new_lists() == []
    engine.set_shards(ipc.Shards(4, 16, all_shards()[:2]), NOW)
    kept = [i for i in ids if shard_of(i, 4) < 2]
    assert engine.stats()[1]["engine.entries"] == len(kept)
    assert len(flush(engine, standard(NOW + 10 * SECOND), NOW)) == len(kept)
    engine.set_shards(ipc.Shards(4, 16, all_shards()), NOW)
    send(engine, [counter(i, 1) for i in ids], NOW + 11 * SECOND)
    assert {new.shard for new in engine.new_lists()} == {2, 3}
    assert len(flush(engine, standard(NOW + 20 * SECOND), NOW)) == len(ids)
    rows = {row.id: row for row in engine.stats()[2]}
    assert sum(row.entries for row in rows.values()) == len(ids)
    assert rows[3].last_flush_ns == NOW + 20 * SECOND


def test_new_metric_limit_and_its_warm_up() -> None:
    o = options(num_shards=1, new_metric_limit_per_shard_per_second=3, new_metric_no_limit_warmup_ns=2 * SECOND)
    engine = engine_of(o)
    assert send(engine, [gauge(b"a%d" % k, 1.0) for k in range(10)], NOW) == []
    refused = "write new metric rate limit is exceeded"
    assert send(engine, [gauge(b"b%d" % k, 1.0) for k in range(5)], NOW + 3 * SECOND) == [refused] * 2
    assert send(engine, [gauge(b"c%d" % k, 1.0) for k in range(3)], NOW + 4 * SECOND) == []
    engine.set_runtime(ipc.RuntimeOptions(0, 0))
    assert send(engine, [gauge(b"d%d" % k, 1.0) for k in range(9)], NOW + 4 * SECOND) == []


def test_value_limit_changes_at_run_time() -> None:
    engine = engine_of(options())
    engine.set_runtime(
        ipc.RuntimeOptions(values_per_metric_limit_per_second=2, new_metric_limit_per_shard_per_second=0)
    )
    refused = "write value rate limit is exceeded"
    assert send(engine, [gauge(b"a", 1.0)] * 4 + [timer(b"t", (1.0, 2.0, 3.0))], NOW) == [refused] * 3
    assert send(engine, [gauge(b"a", 1.0)], NOW + SECOND) == []


def test_too_many_resolutions() -> None:
    engine = engine_of(options())
    said = []
    for seconds in range(1, 80):
        stages = (
            StagedMetadata(pipelines=(PipelineMetadata(storage_policies=(StoragePolicy.parse(f"{seconds}s:1d"),)),)),
        )
        said += send(engine, [gauge(b"a", 1.0, stages)], NOW)
    assert said == ["too many different resolutions"] * 15


@pytest.mark.parametrize("kind", [MetricType.COUNTER, MetricType.TIMER, MetricType.GAUGE])
def test_timed_metrics_of_every_type(kind: MetricType) -> None:
    engine = engine_of(options())
    metric = codec.TimedMetricWithMetadatas(
        metric_type=kind, id=b"x", time_ns=NOW + 3 * SECOND, value=2.75, metadatas=TEN
    )
    assert send(engine, [codec.encode_metric(metric)] * 2, NOW + 3 * SECOND) == []
    rows = flush(engine, flush_all(KIND_TIMED, 10, NOW + 10 * SECOND), NOW + 40 * SECOND)
    assert len(rows) == (11 if kind is MetricType.TIMER else 1)
    want = {MetricType.COUNTER: 4.0, MetricType.TIMER: 5.5, MetricType.GAUGE: 2.75}[kind]
    assert rows[0][3] == np.float64(want).tobytes()[::-1].hex()

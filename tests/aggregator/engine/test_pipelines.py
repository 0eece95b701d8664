"""Transformations, rollups, forwarded metrics and corrections; what of them survives a change of leaders; what broken ones do."""

import math
import random
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.aggregator.engine.engine_calls import NOW, SECOND, all_shards, engine_of, flush_all, options, send

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.engine.flush.forward import order_contributions
from aggregator.engine.ingest.metadata import MAX_METADATA_BYTES
from aggregator.engine.tables.layout import CONTRIBUTION, PAGE_ROWS
from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, ListId
from aggregator.worker.flushes import Flushes
from m3metrics import codec
from m3metrics.metadata import ForwardMetadata, PipelineMetadata, StagedMetadata
from m3metrics.metric import MetricType
from m3metrics.pipeline import AppliedPipeline, RollupOp, TransformationOp, TransformationType
from m3metrics.policy import StoragePolicy
from m3metrics.shard import shard_of

TEN = StoragePolicy.parse("10s:2d")
SUM = 1 << 7
STANDARD = ListId(KIND_STANDARD, 10 * SECOND)
T = TransformationType
OPS = {kind: TransformationOp(kind) for kind in TransformationType}


def stages(*ops: TransformationOp | RollupOp, resend: bool = False, types: int = 0) -> tuple[StagedMetadata, ...]:
    pipeline = PipelineMetadata(
        aggregation_id=types, storage_policies=(TEN,), pipeline=ops, resend_enabled=resend, traffic_types=3
    )
    return (StagedMetadata(pipelines=(pipeline,)),)


def gauge(ident: bytes, value: float, metadata: Any, client_ns: int = 0, annotation: bytes = b"") -> bytes:
    return codec.encode_metric(
        codec.GaugeWithMetadatas(
            id=ident, value=value, metadatas=metadata, client_time_ns=client_ns, annotation=annotation
        )
    )


def forwarded(
    values: tuple[float, ...],
    *,
    source: int = 1,
    version: int = 0,
    previous: tuple[float, ...] = (),
    kind: MetricType = MetricType.GAUGE,
    time_ns: int = NOW,
    resend: bool = False,
    pipeline: AppliedPipeline = (),
    ident: bytes = b"r",
) -> bytes:
    metadata = ForwardMetadata(
        aggregation_id=SUM,
        storage_policy=TEN,
        pipeline=pipeline,
        source_id=source,
        num_forwarded_times=1,
        resend_enabled=resend,
    )
    return codec.encode_metric(
        codec.ForwardedMetricWithMetadata(
            metric_type=kind,
            id=ident,
            time_ns=time_ns,
            values=values,
            prev_values=previous or (0.0,) * len(values),
            version=version,
            metadata=metadata,
        )
    )


def run(engine: Engine, command: ipc.Flush, now: int) -> tuple[list[tuple[bytes, int, float]], list[Any]]:
    """Final values and forwarded metrics of a flush; checks the columns of both."""
    final: list[tuple[bytes, int, float]] = []
    sent: list[Any] = []
    for part in engine.flush(command, now):
        batch = part.batch
        for k in range(0 if batch is None else len(batch)):
            assert batch is not None
            assert batch.policies is not None
            assert batch.origins is not None
            message = batch.payload[batch.offsets[k] : batch.offsets[k + 1]].tobytes()
            if part.forwarded:
                metric = codec.decode_metric(message)
                assert codec.encode_metric(metric) == message
                assert batch.shards[k] == shard_of(metric.id, 4)
                assert batch.policy_names[batch.policies[k]] == "10s:2d"
                assert batch.origins[k] == metric.metadata.source_id, "the shard that it comes from"
                sent.append(metric)
            else:
                row = codec.decode_aggregated(message)
                # Of gauges; counters and timers have a name around their id.
                assert row.id.startswith(b"stats.") or batch.origins[k] == shard_of(row.id, 4)
                final.append((row.id, row.time_ns, row.value))
    return final, sent


def standard(target: int, emit: bool = True) -> ipc.Flush:
    return flush_all(KIND_STANDARD, 10, target, emit)


def forward_list(target: int, emit: bool = True) -> ipc.Flush:
    group = ipc.ShardBounds([], target, 0, (1 << 63) - 1)
    return ipc.Flush(1, ListId(KIND_FORWARDED, 10 * SECOND, 1), emit, [group])


def commit(engine: Engine, through: int, kind: int = KIND_STANDARD, times: int = 0) -> None:
    engine.commit(ipc.Commit(ListId(kind, 10 * SECOND, times), [], through))


def test_a_rollup_sends_one_message_per_shard_with_all_values() -> None:
    engine = engine_of(options())
    ids = [b"m%d" % k for k in range(40)]
    metadata = stages(OPS[T.PER_SECOND], RollupOp(b"all", SUM), OPS[T.RESET])
    for window in range(2):
        at = NOW + window * 10 * SECOND
        send(engine, [gauge(i, k + window * (k + 1) * 10.0, metadata) for k, i in enumerate(ids)], at)
        final, sent = run(engine, standard(at + 10 * SECOND), at + 10 * SECOND)
        assert final == []
        if window == 0:
            assert sent == []  # no window before: the rate is not a number
    assert sorted(m.metadata.source_id for m in sent) == [0, 1, 2, 3]
    for m in sent:
        mine = [float(k + 1) for k, i in enumerate(ids) if shard_of(i, 4) == m.metadata.source_id]
        assert (m.id, m.metric_type, m.time_ns, list(m.values)) == (b"all", MetricType.GAUGE, NOW + 20 * SECOND, mine)
        assert m.metadata.pipeline == (OPS[T.RESET],)
        assert (m.metadata.num_forwarded_times, m.metadata.traffic_types, m.version) == (1, 3, 0)


def test_a_rate_looks_back_over_windows_that_are_gone() -> None:
    engine = engine_of(options(entry_ttl_ns=10_000 * SECOND))
    send(engine, [gauge(b"a", 5.0, stages(OPS[T.PER_SECOND]))], NOW)
    run(engine, standard(NOW + 10 * SECOND), NOW + 10 * SECOND)
    commit(engine, NOW + 10 * SECOND)
    later = NOW + 1000 * SECOND
    send(engine, [gauge(b"a", 1005.0, stages(OPS[T.PER_SECOND]))], later)
    final, _ = run(engine, standard(later + 10 * SECOND), later + 10 * SECOND)
    assert final == [(b"a", later + 10 * SECOND, 1.0)]


@pytest.mark.parametrize("released", [False, True])
def test_a_follower_that_becomes_leader_goes_on_with_rates_and_sums(released: bool) -> None:
    engine = engine_of(options())
    for window, emit in enumerate((False, False, True)):
        at = NOW + window * 10 * SECOND
        send(engine, [gauge(b"a", 10.0 * window, stages(OPS[T.PER_SECOND])), gauge(b"b", 1.0, stages(OPS[T.ADD]))], at)
        final, _ = run(engine, standard(at + 10 * SECOND, emit), at + 10 * SECOND)
        if released:
            commit(engine, at + 10 * SECOND)
    assert final == [(b"a", NOW + 30 * SECOND, 1.0), (b"b", NOW + 30 * SECOND, 3.0)]


def test_what_is_emitted_again_is_what_was_emitted() -> None:
    engine = engine_of(options())
    metadatas = {
        b"a": stages(OPS[T.PER_SECOND]),
        b"b": stages(OPS[T.ADD], OPS[T.RESET]),
        b"c": stages(OPS[T.INCREASE], RollupOp(b"r", SUM)),
    }
    emitted: list[Any] = []
    for window in range(4):
        at = NOW + window * 10 * SECOND
        send(engine, [gauge(i, window * 7.0, m) for i, m in metadatas.items()], at)
        final, sent = run(engine, standard(at + 10 * SECOND), at + 10 * SECOND)
        if window == 0:
            commit(engine, at + 10 * SECOND)
        else:
            emitted += [*final, *sent]
    engine.reopen(ipc.Reopen(9, STANDARD, NOW + 10 * SECOND))
    final, sent = run(engine, standard(NOW + 50 * SECOND), NOW + 50 * SECOND)
    assert sorted(map(repr, [*final, *sent])) == sorted(map(repr, emitted))
    # Emitting again has not disturbed what comes after.
    send(engine, [gauge(i, 28.0, m) for i, m in metadatas.items()], NOW + 50 * SECOND)
    final, sent = run(engine, standard(NOW + 60 * SECOND), NOW + 60 * SECOND)
    assert final == [
        (b"a", NOW + 60 * SECOND, 7.0 / 20),
        (b"b", NOW + 60 * SECOND, 70.0),
        (b"b", NOW + 65 * SECOND, 0.0),
    ]
    assert [m.values for m in sent] == [(7.0,)]


def test_a_flush_that_is_broken_off_is_emitted_as_a_whole_afterwards() -> None:
    engine = engine_of(options(), max_series=1 << 15)
    metadata = stages(OPS[T.ABSOLUTE])
    ids = [b"metric-%06d" % k for k in range(12_000)]
    send(engine, [gauge(i, -1.0, metadata) for i in ids], NOW)
    parts = engine.flush(standard(NOW + 10 * SECOND), NOW + 10 * SECOND)
    assert not next(parts).last
    parts.close()
    engine.reopen(ipc.Reopen(9, STANDARD, 0))
    final, _ = run(engine, standard(NOW + 10 * SECOND), NOW + 11 * SECOND)
    assert sorted(final) == [(i, NOW + 10 * SECOND, 1.0) for i in sorted(ids)]


def test_a_flush_of_an_earlier_term_takes_nothing_from_one_of_the_next() -> None:
    engine = engine_of(options(), max_series=1 << 15)
    ids = [b"metric-%06d" % k for k in range(12_000)]
    send(engine, [gauge(i, -1.0, stages(OPS[T.ABSOLUTE])) for i in ids], NOW)
    flushes = Flushes(1)
    command = standard(NOW + 10 * SECOND)
    flushes.start(command, engine.flush(command, NOW + 10 * SECOND))
    assert not flushes.take()[0].last
    assert not flushes.ready
    flushes.give_up(command.list_id)
    engine.reopen(ipc.Reopen(9, command.list_id, 0))
    assert flushes.take()[0] == ipc.Flushed(1, True, 0, False, [])
    final, _ = run(engine, command, NOW + 11 * SECOND)
    assert sorted(final) == [(i, NOW + 10 * SECOND, 1.0) for i in sorted(ids)]
    assert not len(flushes)


def test_corrections_are_sent_with_what_they_correct() -> None:
    engine = engine_of(options())
    metadata = stages(OPS[T.ABSOLUTE], RollupOp(b"r", SUM), resend=True, types=SUM)
    send(engine, [gauge(b"a", 1.0, metadata, NOW, b"first")], NOW + SECOND)
    _, (first,) = run(engine, standard(NOW + 10 * SECOND), NOW + 10 * SECOND)
    send(engine, [gauge(b"a", 4.0, metadata, NOW)], NOW + 12 * SECOND)
    _, (second,) = run(engine, standard(NOW + 20 * SECOND), NOW + 20 * SECOND)
    assert run(engine, standard(NOW + 25 * SECOND), NOW + 25 * SECOND) == ([], [])
    assert [(m.version, m.values, m.prev_values, m.annotation) for m in (first, second)] == [
        (0, (1.0,), (0.0,), b"first"),
        (1, (5.0,), (1.0,), b"first"),
    ]
    send(engine, [gauge(b"a", 4.0, metadata, NOW)], NOW + 25 * SECOND)
    run(engine, standard(NOW + 41 * SECOND), NOW + 41 * SECOND)
    # Nothing can be late any more: the window is closed, and so is the element's next value for it.
    assert send(engine, [gauge(b"a", 4.0, metadata, NOW + 5)], NOW + 41 * SECOND) == ["too far in the past"]


def test_a_version_of_a_source_counts_once() -> None:
    engine = engine_of(options(forwarding_max_const_delay_ns=20 * SECOND))
    messages = [forwarded((1.0, 2.0)), forwarded((1.0, 2.0)), forwarded((5.0,), source=2)]
    messages += [forwarded((3.0,), version=2, previous=(2.0,)), forwarded((9.0,), version=2, previous=(2.0,))]
    assert send(engine, messages, NOW + SECOND) == []
    counters = engine.stats()[0]
    assert counters["entry.duplicate-sources{entry-type=forwarded}"] == 2
    assert counters["updated-values"] == 1
    assert run(engine, forward_list(NOW), NOW + 30 * SECOND) == ([], [])  # strictly later than the start of the window
    assert run(engine, forward_list(NOW + 1), NOW + 31 * SECOND)[0] == [(b"r", NOW, 9.0)]


def test_a_forwarded_metric_may_be_late_but_not_too_late() -> None:
    engine = engine_of(options(forwarding_max_const_delay_ns=20 * SECOND))
    assert send(engine, [forwarded((1.0,))], NOW + 30 * SECOND) == []
    assert send(engine, [forwarded((1.0,))], NOW + 30 * SECOND + 1) == ["arrived too late"]
    assert engine.stats()[0]["addForwarded.errors{reason=arrived-too-late}"] == 1


@pytest.mark.parametrize("delivered", [False, True])
def test_in_grace_what_was_flushed_does_not_begin_anew(delivered: bool) -> None:
    """After a replay sources are flushed again: a window that has been put out lacks none of them, whether it is kept or not."""
    engine = engine_of(options(forwarding_max_const_delay_ns=20 * SECOND))
    sources = [forwarded((1.0,)), forwarded((5.0,), source=2)]
    send(engine, [*sources, forwarded((4.0,), time_ns=NOW + 10 * SECOND)], NOW + SECOND)
    assert run(engine, forward_list(NOW + 1), NOW + 31 * SECOND)[0] == [(b"r", NOW, 6.0)]
    assert run(engine, forward_list(NOW + 11 * SECOND), NOW + 41 * SECOND)[0] == [(b"r", NOW + 10 * SECOND, 4.0)]
    if delivered:
        engine.commit(ipc.Commit(forward_list(NOW).list_id, [], NOW + 40 * SECOND))
    engine.set_grace(ipc.Grace(NOW + 600 * SECOND))
    # While the window is kept it is known whose values are in it.
    assert send(engine, sources[:1], NOW + 90 * SECOND) == (["aggregation is closed"] if delivered else [])
    assert engine.stats()[0]["entry.duplicate-sources{entry-type=forwarded}"] == (not delivered)
    assert send(engine, [forwarded((5.0,), source=3)], NOW + 90 * SECOND) == ["aggregation is closed"]
    later = NOW + 30 * SECOND
    assert send(engine, [forwarded((2.0,), time_ns=later)], NOW + 91 * SECOND) == []
    assert run(engine, forward_list(NOW + 60 * SECOND), NOW + 92 * SECOND)[0] == [(b"r", later, 2.0)]


@pytest.mark.parametrize("kind", [MetricType.COUNTER, MetricType.TIMER])
def test_a_correction_of_a_counter_or_timer_is_an_error_and_no_more(kind: MetricType) -> None:
    """M3 never releases the window's lock (docs/m3/aggregation.md, bugs not repeated)."""
    engine = engine_of(options(forwarding_max_const_delay_ns=20 * SECOND))
    update = forwarded((3.0,), version=1, previous=(2.0,), kind=kind)
    assert send(engine, [forwarded((2.0,), kind=kind), update], NOW) == ["only gauges support updating values"]
    assert send(engine, [forwarded((4.0,), kind=kind, source=7)], NOW) == []
    prefix = b"stats.counts." if kind is MetricType.COUNTER else b""
    suffix = b".sum" if kind is MetricType.TIMER else b"sum"
    assert run(engine, forward_list(NOW + 1), NOW + 30 * SECOND)[0] == [(prefix + b"r" + suffix, NOW, 6.0)]


def test_previous_values_that_are_missing_are_an_error() -> None:
    engine = engine_of(options(forwarding_max_const_delay_ns=20 * SECOND))
    assert send(engine, [forwarded((3.0, 4.0), version=1, previous=(2.0,))], NOW) == [
        "fewer previous values than values"
    ]


def test_several_stages_of_rollups() -> None:
    engine = engine_of(options(forwarding_max_const_delay_ns=20 * SECOND))
    rest = (RollupOp(b"top", 1 << 3),)
    send(engine, [forwarded((float(k),), source=k, pipeline=rest, ident=b"r%d" % (k % 3)) for k in range(9)], NOW)
    _, sent = run(engine, forward_list(NOW + 1), NOW + 30 * SECOND)
    assert {m.id for m in sent} == {b"top"}
    assert sorted(v for m in sent for v in m.values) == [9.0, 12.0, 15.0]
    assert {(m.time_ns, m.metadata.num_forwarded_times, m.metadata.aggregation_id) for m in sent} == {(NOW, 2, 1 << 3)}


@pytest.mark.parametrize("taken", [True, False])
def test_passthrough_goes_out_as_it_is_where_it_is_taken(taken: bool) -> None:
    engine = engine_of(options(passthrough=taken))
    metric = codec.TimedMetricWithStoragePolicy(
        metric_type=MetricType.GAUGE,
        id=b"x",
        time_ns=5,
        value=2.5,
        annotation=b"n",
        storage_policy=TEN,
        traffic_types=9,
    )
    said = send(engine, [codec.encode_metric(metric)] * 2, NOW)
    if not taken:
        assert said == ["unrecognized message type"] * 2
        assert engine.take_passthrough() is None
        return
    assert said == []
    batch = engine.take_passthrough()
    assert batch is not None
    rows = [
        codec.decode_aggregated(batch.payload[batch.offsets[k] : batch.offsets[k + 1]].tobytes())
        for k in range(len(batch))
    ]
    assert [(r.id, r.time_ns, r.value, r.annotation, r.traffic_types) for r in rows] == [(b"x", 5, 2.5, b"n", 0)] * 2
    assert engine.take_passthrough() is None


def test_rollups_that_come_and_go_give_their_memory_back() -> None:
    engine = engine_of(options(entry_ttl_ns=5 * SECOND, forwarding_max_const_delay_ns=20 * SECOND), max_series=1 << 13)
    used = []
    for k in range(24):
        at = NOW + k * 10 * SECOND
        metadata = stages(OPS[T.PER_SECOND], RollupOp(b"roll", SUM))
        ids = [b"%d-%d" % (k, i) for i in range(1500)]
        assert send(engine, [gauge(i, 1.0, metadata, 0) for i in ids], at) == []
        assert send(engine, [forwarded((1.0,), ident=i, time_ns=at) for i in ids], at) == []
        run(engine, standard(at + 10 * SECOND), at + 10 * SECOND)
        run(engine, forward_list(at + 1), at + 10 * SECOND)
        commit(engine, at + 10 * SECOND)
        commit(engine, at + 1, KIND_FORWARDED, 1)
        engine.expire(at + 10 * SECOND)
        used.append(engine.memory_bytes())
    assert engine.stats()[1]["engine.entries"] == 0
    assert used[-1] <= used[5] * 1.2


def test_metadatas_that_come_and_go_are_forgotten() -> None:
    engine = engine_of(options(entry_ttl_ns=5 * SECOND), max_series=1 << 13)
    keeper = stages(OPS[T.PER_SECOND], RollupOp(b"kept" * 30, SUM))
    used = []
    for k in range(12):
        at = NOW + k * 10 * SECOND
        rollups = [stages(OPS[T.ADD], RollupOp(b"%02d-%03d" % (k, i) * 9, SUM)) for i in range(200)]
        other = stages(types=SUM | 1 << (k % 2 + 2), resend=k % 3 == 0)
        messages = [gauge(b"m%d-%d" % (k, i), 1.0 + i, metadata) for i, metadata in enumerate(rollups)]
        assert send(engine, [*messages, gauge(b"k", k * 10.0, keeper), gauge(b"o", 1.0, other)], at) == []
        final, sent = run(engine, standard(at + 10 * SECOND), at + 10 * SECOND)
        values = {m.id: m.values for m in sent}
        assert {name: values[name] for name in values if not name.startswith(b"kept")} == {
            b"%02d-%03d" % (k, i) * 9: (1.0 + i,) for i in range(200)
        }
        assert values.get(b"kept" * 30) == ((1.0,) if k else None)
        assert len(final) == 2
        commit(engine, at + 10 * SECOND)
        engine.expire(at + 4 * SECOND)
        used.append(engine._metadata.size_bytes)
    assert used[-1] == used[4]


def test_a_metric_that_becomes_correctable_keeps_what_it_has() -> None:
    engine = engine_of(options())
    send(engine, [gauge(b"a", 1.0, stages(types=SUM))], NOW)
    send(engine, [gauge(b"a", 2.0, stages(types=SUM, resend=True), NOW + 2)], NOW + SECOND)
    assert run(engine, standard(NOW + 10 * SECOND), NOW + 10 * SECOND)[0] == [(b"a", NOW + 10 * SECOND, 3.0)]
    send(engine, [gauge(b"a", 4.0, stages(types=SUM, resend=True), NOW + 3)], NOW + 11 * SECOND)
    assert run(engine, standard(NOW + 20 * SECOND), NOW + 20 * SECOND)[0] == [(b"a", NOW + 10 * SECOND, 7.0)]


def test_a_metric_that_becomes_correctable_keeps_what_is_still_to_be_emitted() -> None:
    engine = engine_of(options())
    send(engine, [gauge(b"a", 1.0, stages(types=SUM))], NOW)
    parts = engine.flush(standard(NOW + 10 * SECOND), NOW + 10 * SECOND)
    correctable = [gauge(b"a", 2.0, stages(types=SUM, resend=True), NOW + 10 * SECOND)]
    assert send(engine, correctable, NOW + 11 * SECOND) == []
    (batch,) = [part.batch for part in parts if part.batch is not None]
    row = codec.decode_aggregated(batch.payload.tobytes())
    assert (row.id, row.time_ns, row.value) == (b"a", NOW + 10 * SECOND, 1.0)
    engine.reopen(ipc.Reopen(9, STANDARD, 0))
    assert run(engine, standard(NOW + 20 * SECOND), NOW + 20 * SECOND)[0] == [
        (b"a", NOW + 10 * SECOND, 1.0),
        (b"a", NOW + 20 * SECOND, 2.0),
    ]
    commit(engine, NOW + 20 * SECOND)
    run(engine, standard(NOW + 60 * SECOND), NOW + 60 * SECOND)
    assert engine.stats()[0]["list.flush.elem-collected"] == 1


def test_elements_find_no_room_at_the_end_of_the_slots_and_share_none() -> None:
    engine = engine_of(options(), max_series=512)
    plain, wide = stages(types=SUM), stages(OPS[T.ABSOLUTE], types=SUM)
    assert send(engine, [gauge(b"first", 1.0, plain)], NOW) == []
    for used in ("slots", "next_slot"):
        engine._tables.buckets[0][used] = 3 * PAGE_ROWS - 1
    messages = [gauge(b"w%d" % k, 1.0, wide) for k in range(3)] + [gauge(b"p%d" % k, k + 1.0, plain) for k in range(3)]
    assert len(send(engine, messages, NOW)) == 5
    final, _ = run(engine, standard(NOW + 10 * SECOND), NOW + 10 * SECOND)
    assert sorted((name, value) for name, _, value in final) == [(b"first", 1.0), (b"p0", 1.0)]


def test_contributions_come_in_the_order_of_their_elements_whatever_their_slots() -> None:
    n = 100_000
    rows = np.zeros(n, CONTRIBUTION)
    rows["group"] = np.arange(n) % 2
    rows["sequence"] = np.arange(n)[::-1] // 4
    order = np.empty(n, np.int64)
    began = time.process_time()
    order_contributions(rows, n, np.zeros(4, np.int64), order)
    assert time.process_time() - began < 3.0
    assert order.tolist() == np.lexsort((np.arange(n), rows["sequence"], rows["group"])).tolist()


def test_a_metadata_that_needs_more_text_than_there_is_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 8 * MAX_METADATA_BYTES
    monkeypatch.setattr("aggregator.engine.tables.layout.TEXT_BYTES", limit)
    engine = engine_of(options())
    pipeline = (RollupOp(b"r", SUM), *[RollupOp(b"%0200d" % k, SUM) for k in range(100)])
    policies = tuple(StoragePolicy.parse(f"10s:{days}d") for days in range(1, 200))
    greedy = (StagedMetadata(pipelines=(PipelineMetadata(storage_policies=policies, pipeline=pipeline),)),)
    messages = [gauge(b"b", 1.0, stages(types=SUM)), gauge(b"a", 1.0, greedy)]
    assert send(engine, messages, NOW) == ["too many different metadatas"]
    assert engine._metadata._texts.used <= limit
    assert run(engine, standard(NOW + 10 * SECOND), NOW + 10 * SECOND)[0] == [(b"b", NOW + 10 * SECOND, 1.0)]


@pytest.mark.parametrize("ops", [(), (OPS[T.ABSOLUTE],)])
def test_what_rules_took_away_emits_nothing_once_its_shard_is_gone(ops: tuple[TransformationOp, ...]) -> None:
    engine = engine_of(options())
    names = {shard_of(name, 4): name for name in (b"m%d" % k for k in range(99))}
    send(engine, [gauge(names[shard], 5.0, stages(*ops, types=SUM)) for shard in (1, 3)], NOW)
    other = (StagedMetadata(cutover_ns=NOW - 5, pipelines=stages(*ops, types=1 << 2)[0].pipelines),)
    assert send(engine, [gauge(names[shard], 6.0, other) for shard in (1, 3)], NOW + 1) == []
    engine.set_shards(ipc.Shards(4, 16, all_shards(3)), NOW + 2)
    final, _ = run(engine, standard(NOW + 10 * SECOND), NOW + 10 * SECOND)
    assert sorted(final) == [(names[1], NOW + 10 * SECOND, 5.0), (names[1], NOW + 10 * SECOND, 6.0)]


def test_broken_forwarded_metrics_never_raise() -> None:
    r = random.Random(8)
    engine = engine_of(options(forwarding_max_const_delay_ns=20 * SECOND))
    valid = [
        forwarded((1.0, 2.0)),
        forwarded((3.0,), version=3, previous=(2.0,), resend=True, pipeline=(OPS[T.INCREASE], RollupOp(b"t", SUM))),
        gauge(b"g", 1.0, stages(OPS[T.PER_SECOND], RollupOp(b"r", SUM), OPS[T.ADD], resend=True), NOW),
        gauge(b"h", 1.0, stages(OPS[T.ADD], OPS[T.RESET], types=SUM | 1 << 3)),
    ]
    for k in range(4000):
        message = bytearray(r.choice(valid))
        for _ in range(r.randint(0, 3)):
            message[r.randrange(len(message))] = r.randrange(256)
        send(engine, [bytes(message)], NOW + k * SECOND // 100)
        if k % 97 == 0:
            for command in (standard(NOW + k * SECOND // 100), forward_list(NOW + k * SECOND // 100 - 20 * SECOND)):
                for _ in engine.flush(command, NOW + k * SECOND // 100):
                    pass
    send(engine, [gauge(b"whole", 5.0, stages(OPS[T.ABSOLUTE]))], NOW + 60 * SECOND)
    assert (b"whole", NOW + 70 * SECOND, 5.0) in run(engine, standard(NOW + 70 * SECOND), NOW + 70 * SECOND)[0]


@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_random_rates_against_plain_arithmetic(seed: int) -> None:
    """Rates, increases and sums over random windows with gaps, commits, changes of role and terms that begin anew."""
    r = random.Random(seed)
    engine = engine_of(options(entry_ttl_ns=10_000 * SECOND))
    kinds = {b"p": T.PER_SECOND, b"i": T.INCREASE, b"s": T.ADD}
    last: dict[bytes, tuple[int, float]] = {}
    sums = 0.0
    at = NOW
    for _ in range(r.randint(2, 15)):
        at += r.choice([10, 10, 10, 30, 200]) * SECOND
        wanted = []
        for ident, kind in kinds.items():
            if r.random() < 0.25:
                continue
            value = r.choice([r.uniform(0, 100), float(r.randint(0, 5)), math.nan])
            send(engine, [gauge(ident, value, stages(OPS[kind]))], at)
            before_ns, before = last.get(ident, (0, math.nan))
            end = at + 10 * SECOND
            if kind is T.ADD:
                sums += 0.0 if math.isnan(value) else value
                result = sums
            else:
                base = 0.0 if kind is T.INCREASE and math.isnan(before) else before
                result = value - base if value >= base else math.nan
                if kind is T.PER_SECOND and not math.isnan(result):
                    result = result * 1e9 / (end - before_ns)
            last[ident] = (end, value)
            if not math.isnan(result):
                wanted.append((ident, end, result))
        emit = r.random() < 0.8
        final, _ = run(engine, standard(at + 10 * SECOND, emit), at + 10 * SECOND)
        assert sorted(final) == (sorted(wanted) if emit else [])
        if emit and r.random() < 0.3:
            engine.reopen(ipc.Reopen(9, STANDARD, at))
            assert sorted(run(engine, standard(at + 10 * SECOND), at + 10 * SECOND)[0]) == sorted(wanted)
        if r.random() < 0.5:
            commit(engine, at + 10 * SECOND)

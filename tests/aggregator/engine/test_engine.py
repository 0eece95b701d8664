"""The engine against the plain one in ``reference_engine``: random streams of metrics, commands and flushes, compared by bits."""

import math
import random
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.aggregator.engine.engine_calls import NEVER, NOW, SECOND, all_shards, engine_of, flush_both, options, send
from tests.aggregator.engine.reference_engine import ReferenceEngine, bits

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.engine.tables.layout import ERRORS_KEPT
from aggregator.lists import ListId
from m3metrics import codec
from m3metrics.aggregation import compress
from m3metrics.metadata import (
    DEFAULT_STAGED_METADATAS,
    ForwardMetadata,
    PipelineMetadata,
    StagedMetadata,
    TimedMetadata,
)
from m3metrics.metric import MetricType
from m3metrics.pipeline import AppliedPipeline, RollupOp, TransformationOp, TransformationType
from m3metrics.policy import StoragePolicy

POLICIES = [StoragePolicy.parse(text) for text in ("10s:2d", "1m:40d", "7s:1d", "10s:6h", "1m@1s:40d")]
IDS = [b"", b"a", b"bb", b"ccccccc", b"dddddddd", b"eeeeeeeee", b"\xff\x00" * 40, b"h" * 300]
SPECIAL = [0.0, 1.5, -2.25, 3.0, 1e300, -1e300, float("nan"), float("inf"), float("-inf"), 0.1, 7.0]
BASIC = (2, 3, 4, 6, 7, 8, 9)


def random_pipeline(r: random.Random) -> AppliedPipeline:
    """Transformations, now and then with a rollup or two."""
    kinds = list(TransformationType)

    def some() -> list[TransformationOp | RollupOp]:
        return [TransformationOp(r.choice(kinds)) for _ in range(r.choice([0, 1, 1, 2]))]

    if r.random() < 0.5:
        return tuple(some()) if r.random() < 0.5 else ()
    ops = [*some(), RollupOp(r.choice([b"r1", b"r2"]), compress(r.sample(BASIC, r.randint(1, 2))))]
    if r.random() < 0.3:
        ops += [*some(), RollupOp(b"top", r.choice([0, 1 << 7, 1 << 3]))]
    return tuple(ops + (some() if r.random() < 0.3 else []))


def random_forwarded(r: random.Random, now: int) -> codec.ForwardedMetricWithMetadata:
    n = r.randint(0, 3)
    metadata = ForwardMetadata(
        aggregation_id=compress(r.sample(BASIC, r.randint(1, 3))),
        storage_policy=r.choice(POLICIES[:3]),
        pipeline=r.choice([(), (), (TransformationOp(TransformationType.INCREASE),), (RollupOp(b"top", 1 << 7),)]),
        source_id=r.randint(0, 3),
        num_forwarded_times=r.choice([1, 1, 2]),
        resend_enabled=r.random() < 0.4,
        traffic_types=0,
    )
    return codec.ForwardedMetricWithMetadata(
        metric_type=r.choice([MetricType.GAUGE] * 3 + [MetricType.COUNTER, MetricType.TIMER]),
        id=r.choice([b"r1", b"r2", b"x"]),
        time_ns=now - r.choice([0, 1, 7, 12, 25, 40]) * SECOND,
        values=tuple(r.choice(SPECIAL) for _ in range(n)),
        prev_values=tuple(r.choice([0.0, 1.5, math.nan]) for _ in range(n)),
        annotation=r.choice([b"", b"f"]),
        version=r.choice([0, 0, 0, 1, 2, 70]),
        metadata=metadata,
    )


def random_stages(r: random.Random, now: int, pipelines: bool) -> tuple[StagedMetadata, ...]:
    def pipeline() -> PipelineMetadata:
        return PipelineMetadata(
            aggregation_id=compress(r.sample(BASIC, r.randint(1, 4)))
            if r.random() < 0.6
            else r.choice([0, 0, 2, 1 << 14]),
            storage_policies=tuple(r.sample(POLICIES, r.randint(0, 3))),
            pipeline=random_pipeline(r) if pipelines else (),
            resend_enabled=pipelines and r.random() < 0.3,
            drop_policy=r.choice([0] * 12 + [1, 2]),
            traffic_types=r.choice([0, 0, 0, 3]),
        )

    def stage() -> StagedMetadata:
        return StagedMetadata(
            cutover_ns=r.choice([0, 0, now - 30 * SECOND, now + 5 * SECOND]),
            tombstoned=r.random() < 0.08,
            pipelines=tuple(pipeline() for _ in range(r.choice([1, 1, 1, 2, 0]))),
        )

    if r.random() < 0.3:
        return DEFAULT_STAGED_METADATAS
    return tuple(stage() for _ in range(r.choice([1, 1, 1, 2, 3, 0])))


def random_metric(r: random.Random, pool: list[Any], now: int, everything: bool) -> Any:
    """Without ``everything``: no timers, no pipelines, nothing forwarded."""
    ident = r.choice(IDS)
    stages = r.choice(pool) if r.random() < 0.9 else random_stages(r, now, everything)
    annotation = r.choice([b"", b"", b"note", b"x" * 40])
    value = r.choice(SPECIAL) if r.random() < 0.5 else r.uniform(-100, 100)
    time_ns = now + r.choice([0, 1, -SECOND, -9 * SECOND, -25 * SECOND, -40 * SECOND, 12 * SECOND, 20 * SECOND])
    kind = r.choice([MetricType.COUNTER, MetricType.GAUGE, MetricType.TIMER if everything else MetricType.GAUGE])
    client_ns = r.choice([0, time_ns])
    match r.randint(0, 5 if everything else 4):
        case 5:
            return random_forwarded(r, now)
        case 0:
            count = r.choice([0, 1, -1, 5, (1 << 62), -(1 << 63), (1 << 63) - 1])
            return codec.CounterWithMetadatas(
                id=ident, value=count, annotation=annotation, metadatas=stages, client_time_ns=client_ns
            )
        case 1 if everything:
            # The values of a timer add up in one order only if the order is theirs: both sides see the same batches.
            values = tuple(
                r.uniform(0, 50) if r.random() < 0.95 else r.choice(SPECIAL) for _ in range(r.randint(0, 40))
            )
            return codec.BatchTimerWithMetadatas(id=ident, values=values, annotation=annotation, metadatas=stages)
        case 2:
            policy = r.choice(POLICIES)
            aggregation = r.choice([0, 0, 128, 1 << 6 | 1 << 7])
            metadata = TimedMetadata(aggregation_id=aggregation, storage_policy=policy, traffic_types=r.choice([0, 1]))
            return codec.TimedMetricWithMetadata(
                metric_type=kind, id=ident, time_ns=time_ns, value=value, annotation=annotation, metadata=metadata
            )
        case 3:
            return codec.TimedMetricWithMetadatas(
                metric_type=kind, id=ident, time_ns=time_ns, value=value, annotation=annotation, metadatas=stages
            )
        case _:
            return codec.GaugeWithMetadatas(
                id=ident, value=value, annotation=annotation, metadatas=stages, client_time_ns=client_ns
            )


def play(seed: int, steps: int, *, backwards: bool) -> None:
    r = random.Random(seed)
    o = options(discard_nan=r.random() < 0.7, values_per_metric_limit_per_second=r.choice([0, 0, 60]))
    shards = (
        all_shards()
        if r.random() < 0.7
        else [ipc.OwnedShard(s, NOW + 40 * SECOND, NOW + 200 * SECOND) for s in (0, 2, 3)]
    )
    if shards[0].cutover_ns:
        o = options(buffer_before_cutover_ns=20 * SECOND, buffer_after_cutoff_ns=10 * SECOND, max_buffer_ns=30 * SECOND)
    engine, plain = engine_of(o, shards), ReferenceEngine(o, shards)
    pool = [random_stages(r, NOW, not backwards) for _ in range(5)]
    now = NOW
    back: list[bytes] = []
    for _ in range(steps):
        now += r.choice([1, SECOND // 3, SECOND, 4 * SECOND])
        if backwards and r.random() < 0.1:
            now -= 15 * SECOND
        action = r.random()
        if action < 0.75:
            messages = [
                codec.encode_metric(random_metric(r, pool, now, not backwards)) for _ in range(r.randint(1, 12))
            ]
            messages, back = [*messages, *back], []
            said, wanted = send(engine, messages, now, r.randint(1, 3)), plain.add_batch(messages, now)
            assert said == wanted[:ERRORS_KEPT]
        elif action < 0.97:
            kind, resolution = r.choice([0, 1, 2]), r.choice([10, 60, 7])
            times = r.choice([1, 1, 2]) if kind == 2 else 0
            delay = [
                0,
                o.buffer_past_ns + resolution * SECOND,
                o.forwarding_delay_ns(resolution * SECOND, times),
            ][kind]
            cutover, cutoff = shards[0].cutover_ns, shards[0].cutoff_ns
            groups = [ipc.ShardBounds([], now - delay, cutover, cutoff)]
            if r.random() < 0.3:
                groups.append(ipc.ShardBounds([2], now - delay - 9 * SECOND, cutover, cutoff))
            command = ipc.Flush(1, ListId(kind, resolution * SECOND, times), r.random() < 0.85, groups)
            back += compare_flush(engine, plain, command, now)
            if not backwards and r.random() < 0.3:
                engine.commit(ipc.Commit(ListId(kind, resolution * SECOND, times), [], now - delay))
        else:
            engine.expire(now)
            plain.expire(now)
    for kind, times in ((0, 0), (1, 0), (2, 1), (2, 2)):
        for resolution in (10, 60, 7):
            group = ipc.ShardBounds([], now + 300 * SECOND, 0, NEVER)
            command = ipc.Flush(1, ListId(kind, resolution * SECOND, times), True, [group])
            compare_flush(engine, plain, command, now)


def compare_flush(engine: Engine, plain: ReferenceEngine, command: ipc.Flush, now: int) -> list[bytes]:
    """The same flush in both engines; returns what is forwarded."""
    out, sent = flush_both(engine, command, now)
    wanted, to_send = plain.flush(command)
    assert sorted(out) == sorted(wanted)
    assert sorted(map(alike, sent)) == sorted(map(alike, to_send))
    return sorted(sent)


def alike(message: bytes) -> str:
    """A forwarded message as text, every NaN and every zero alike."""
    m = codec.decode_metric(message)
    assert isinstance(m, codec.ForwardedMetricWithMetadata)
    values, previous = ([bits(x) for x in row] for row in (m.values, m.prev_values))
    return f"{m.id!r} {m.metric_type} {m.time_ns} {values} {previous} {m.annotation!r} {m.version} {m.metadata}"


@settings(max_examples=60)
@given(st.integers(0, 2**32))
@example(37801)  # a batch with more refusals than are remembered
def test_random_streams(seed: int) -> None:
    play(seed, 60, backwards=False)


@settings(max_examples=40)
@given(st.integers(0, 2**32))
@example(41244)  # a refused update leaves a list behind
def test_random_streams_with_a_clock_that_steps_back(seed: int) -> None:
    play(seed, 60, backwards=True)


def test_metadata_of_absurd_size_is_refused_and_nothing_else() -> None:
    engine = engine_of(options(), all_shards())
    many = tuple(StagedMetadata() for _ in range(300))
    long = (StagedMetadata(pipelines=tuple(PipelineMetadata(storage_policies=tuple(POLICIES)) for _ in range(2000))),)
    good = (StagedMetadata(pipelines=(PipelineMetadata(storage_policies=(POLICIES[0],)),)),)
    messages = [
        codec.encode_metric(codec.GaugeWithMetadatas(id=b"g%d" % k, value=1.0, metadatas=metadatas))
        for k, metadatas in enumerate((many, long, good))
    ]
    send(engine, messages, NOW, 1)
    counters, _, shards = engine.stats()
    assert sum(row.entries for row in shards) >= 1
    assert sum(n for name, n in counters.items() if "too-many-metadatas" in name) == 2, counters

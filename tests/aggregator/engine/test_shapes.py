"""Messages that look like one before: read as the parsers read them, applied as all others are."""

import random
from collections.abc import Callable
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.aggregator.engine.engine_calls import NOW, SECOND, all_shards, engine_of, flush_all, flush_both, options
from tests.aggregator.engine.engine_frames import frame

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.engine import engine as engine_room
from aggregator.engine.ingest.shapes import SHAPE, SHAPES, learn, read_as_before
from aggregator.lists import ListId
from m3metrics import codec, kernels
from m3metrics.aggregation import compress
from m3metrics.metadata import PipelineMetadata, StagedMetadata, TimedMetadata
from m3metrics.metric import MetricType
from m3metrics.pipeline import TransformationOp, TransformationType
from m3metrics.policy import StoragePolicy
from m3metrics.rows import METRIC_ROW, ROW_OK
from m3msg.kernels import scan_frames
from m3msg.rows import FRAME_ROW, MAX_FRAME, SCAN_MORE

NEVER_LEARNT = 1 << 60
POLICIES = (StoragePolicy.parse("10s:2d"), StoragePolicy.parse("1m:40d"))
LAST, SUM_MAX = compress([1]), compress([3, 7])
METADATAS = tuple(
    (StagedMetadata(pipelines=(PipelineMetadata(aggregation_id=kinds, storage_policies=POLICIES[:n], pipeline=ops),)),)
    for kinds in (0, LAST, SUM_MAX)
    for n in (1, 2)
    for ops in ((), (TransformationOp(TransformationType.PER_SECOND),))
)
READ = [name for name in FRAME_ROW.names or () if name not in ("sent_at", "frame_at", "frame_size")]


def by_parsers(data: bytes) -> tuple[Any, Any] | None:
    """``(frame, row)`` of the first message, None if it is not one that encoders write."""
    buf = np.frombuffer(data, np.uint8).copy()
    frames, rows = np.zeros(1, FRAME_ROW), np.zeros(1, METRIC_ROW)
    count, _, status = scan_frames(buf, 0, len(buf), MAX_FRAME, frames)
    if count != 1 or status != SCAN_MORE:
        return None
    start = frames["value_at"].astype(np.int64)
    kernels.decode_metrics(buf, start, start + frames["value_size"].astype(np.int64), 1, rows)
    return (frames[0], rows[0]) if rows[0]["status"] == ROW_OK else None


class Shapes:
    """What was learnt, as the engine keeps it."""

    def __init__(self) -> None:
        self.table = np.zeros(SHAPES, SHAPE)

    def learn(self, data: bytes) -> None:
        found = by_parsers(data)
        assert found is not None
        frames, rows = (np.array([one]) for one in found)
        learn(np.frombuffer(data, np.uint8).copy(), self.table, frames, rows, 0)

    def read(self, data: bytes) -> tuple[Any, Any] | None:
        buf = np.frombuffer(data, np.uint8).copy()
        frames, rows = np.zeros(1, FRAME_ROW), np.zeros(1, METRIC_ROW)
        at = np.uint64(buf.ctypes.data)
        if read_as_before(at, at, at + np.uint64(len(buf)), self.table, frames, rows, 0) < 0:
            return None
        return frames[0], rows[0]

    def check(self, data: bytes) -> bool:
        """Whether it is read as one before; then it is what the parsers say."""
        found = self.read(data)
        if found is None:
            return False
        expected = by_parsers(data)
        assert expected is not None, data
        assert [found[0][name] for name in READ] == [expected[0][name] for name in READ]
        assert found[1].tobytes() == expected[1].tobytes()
        return True


def metric(r: random.Random, kind: int, ident: bytes, now: int) -> bytes:
    """A metric of one of five kinds; the same kinds of numbers have as many bytes, most of the time."""
    staged = r.choice(METADATAS)
    value = r.choice([0.0, 1.5, float("nan"), r.random()])
    time_ns = now + r.choice([0, 0, 1, -SECOND, -9 * SECOND, -25 * SECOND, 12 * SECOND, 20 * SECOND])
    client_ns = r.choice([0, time_ns])
    match kind:
        case 0:
            count = r.choice([0, 1, 5, 300, 301, -1, 1 << 40, (1 << 56) - 1, 1 << 62])
            return codec.encode_metric(
                codec.CounterWithMetadatas(id=ident, value=count, metadatas=staged, client_time_ns=client_ns)
            )
        case 1:
            values = tuple(r.random() for _ in range(r.choice([0, 1, 10, 10])))
            return codec.encode_metric(codec.BatchTimerWithMetadatas(id=ident, values=values, metadatas=staged))
        case 2:
            note = r.choice([b"", b"", b"note"])
            return codec.encode_metric(
                codec.GaugeWithMetadatas(
                    id=ident, value=value, metadatas=staged, client_time_ns=client_ns, annotation=note
                )
            )
        case 3:
            metadata = TimedMetadata(aggregation_id=r.choice([0, LAST]), storage_policy=r.choice(POLICIES))
            metric_type = r.choice([MetricType.GAUGE, MetricType.COUNTER, MetricType.TIMER])
            return codec.encode_metric(
                codec.TimedMetricWithMetadata(
                    metric_type=metric_type, id=ident, time_ns=time_ns, value=value, metadata=metadata
                )
            )
        case _:
            return codec.encode_metric(
                codec.TimedMetricWithMetadatas(
                    metric_type=MetricType.GAUGE, id=ident, time_ns=time_ns, value=value, metadatas=staged
                )
            )


def message(r: random.Random, kind: int, now: int = NOW) -> bytes:
    ident = b"series" + b"%04d" % r.randint(0, 9) * r.choice([2, 2, 10, 30])
    shard = r.choice([0, 1, 2, 127, 128, 4095])
    number = r.choice([1, 127, 128, 5000, (1 << 40) + r.randint(0, 9), (1 << 56) - 1, 1 << 60])
    return frame(metric(r, kind, ident, now), shard, number)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), kind=st.integers(0, 4))
def test_what_looks_the_same_is_read_as_the_parsers_read_it(seed: int, kind: int) -> None:
    r = random.Random(seed)
    shapes = Shapes()
    for _ in range(40):
        one = message(r, kind)
        shapes.check(one)
        shapes.learn(one)
        for at in r.sample(range(len(one)), 10):
            # A bit or a byte of it, which may decide about all that follows.
            other = bytes([one[at] ^ r.choice([1, 2, 8, 64, 128, 255, r.randint(1, 255)])])
            shapes.check(one[:at] + other + one[at + 1 :])
        shapes.check(one[:-1])


def test_another_series_time_and_value_are_the_same_shape() -> None:
    timed = codec.TimedMetricWithMetadatas(
        metric_type=MetricType.GAUGE, id=b"a" * 80, time_ns=NOW, value=1.0, metadatas=METADATAS[2]
    )
    counter = codec.CounterWithMetadatas(id=b"a" * 80, value=300, metadatas=METADATAS[0])
    timer = codec.BatchTimerWithMetadatas(id=b"a" * 80, values=(1.0,) * 10, metadatas=METADATAS[0])
    others = {
        timed: codec.TimedMetricWithMetadatas(
            metric_type=MetricType.GAUGE, id=b"b" * 80, time_ns=NOW + 77, value=-2.0, metadatas=METADATAS[2]
        ),
        counter: codec.CounterWithMetadatas(id=b"b" * 80, value=299, metadatas=METADATAS[0]),
        timer: codec.BatchTimerWithMetadatas(id=b"b" * 80, values=(2.0,) * 10, metadatas=METADATAS[0]),
    }
    shapes = Shapes()
    for one, other in others.items():
        shapes.learn(frame(codec.encode_metric(one), 1, 5000))
        assert shapes.check(frame(codec.encode_metric(other), 2, 6000))
        assert not shapes.check(frame(codec.encode_metric(other), 2, 3)), "the id of the message is shorter"


def test_a_shape_that_is_not_seen_any_more_gives_way() -> None:
    """Two that differ in a tag only have the same place."""
    one, other = (
        frame(
            codec.encode_metric(
                codec.TimedMetricWithMetadata(
                    metric_type=kind, id=b"a" * 80, time_ns=NOW, value=1.0, metadata=TimedMetadata(storage_policy=POLICIES[0])
                )
            )
        )
        for kind in (MetricType.GAUGE, MetricType.COUNTER)
    )  # fmt: skip
    shapes = Shapes()
    shapes.learn(one)
    for _ in range(100):
        assert not shapes.check(other)
        shapes.learn(other)
        assert shapes.check(one), "it is seen now and then"
    for _ in range(30):
        shapes.learn(other)
    assert shapes.check(other)
    assert not shapes.check(one)


def test_zeros_are_no_shape() -> None:
    assert Shapes().read(bytes(100)) is None


def state(engine: Engine) -> Any:
    counters, _, shards = engine.stats()
    return counters, shards, sorted(engine.recent_errors)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_they_are_applied_as_all_others_are(seed: int) -> None:
    """An engine that learns shapes and one that does not: the same acks, rows of the journal, counts and values."""
    r = random.Random(seed)
    limits = {"values_per_metric_limit_per_second": 5} if r.random() < 0.1 else {}
    engines = [engine_of(options(**limits)) for _ in range(2)]
    engines[1]._shapes["patience"] = NEVER_LEARNT
    kinds = r.sample(range(5), 2)
    now = NOW
    for _ in range(r.randint(2, 8)):
        now += r.choice([1, SECOND, 4 * SECOND, 12 * SECOND])
        data = b"".join(message(r, r.choice(kinds), now) for _ in range(r.choice([5, 60, 300])))
        _ingest_both(r, engines, [data], now)
        if r.random() < 0.3:
            _flush_some(r, engines, now)
    _flush_all(engines, now)


@settings(max_examples=15)
@given(st.integers(0, 2**32))
def test_what_happens_between_batches_is_noticed(seed: int) -> None:
    """As above, with entries that expire, ids on the move, shards that come and go, other limits, commits, and repeats within a batch."""
    r = random.Random(seed)
    engines = [engine_of(options(entry_ttl_ns=30 * SECOND)) for _ in range(2)]
    engines[1]._shapes["patience"] = NEVER_LEARNT
    kinds = r.sample(range(5), 2)
    now, sent = NOW, list[bytes]()
    with (
        patch.object(engine_room, "_COMPACT_FROM", 200),
        patch.object(engine_room, "_MOVED_BYTES", r.choice([1, 100, 5000])),
    ):
        for _ in range(r.randint(5, 14)):
            now += r.choice([1, SECOND, 4 * SECOND, 12 * SECOND, 40 * SECOND])
            parts = []
            for _connection in range(3):
                again = r.sample(sent, min(len(sent), 20)) if r.random() < 0.4 else []
                sent = [message(r, r.choice(kinds), now) for _ in range(r.choice([5, 60, 200]))] + again
                parts.append(b"".join(sent))
            _ingest_both(r, engines, parts, now)
            _happens(r, engines, now)
        _flush_all(engines, now)


def _ingest_both(r: random.Random, engines: list[Engine], parts: list[bytes], now: int) -> None:
    payload, sizes = np.frombuffer(b"".join(parts), np.uint8), np.array([*map(len, parts)], np.int64)
    again, answer = r.random() < 0.1, r.random() < 0.5
    asked: list[list[int]] = [[], []]

    def comes_again(number: int) -> Callable[[int], bool]:
        def ask(connection: int) -> bool:
            asked[number].append(connection)
            return answer

        return ask

    found = [
        engine.ingest(
            payload, sizes, now, hosts=(7, 8, 9)[: len(parts)], connections=(1, 2, 3)[: len(parts)], journaled=True,
            again=again, comes_again=comes_again(number),
        )
        for number, engine in enumerate(engines)
    ]  # fmt: skip
    assert asked[0] == asked[1]
    assert found[0].acks.tobytes() == found[1].acks.tobytes()
    assert found[0].rows.tobytes() == found[1].rows.tobytes()
    assert state(engines[0]) == state(engines[1])
    for engine in engines:
        engine.recent_errors.clear()


def _flush_both(engines: list[Engine], command: ipc.Flush, now: int) -> None:
    out = [flush_both(engine, command, now) for engine in engines]
    assert str(out[0]) == str(out[1])


def _flush_some(r: random.Random, engines: list[Engine], now: int) -> None:
    _flush_both(engines, flush_all(r.choice([0, 1]), r.choice([10, 60]), now - r.choice([0, 20 * SECOND])), now)


def _flush_all(engines: list[Engine], now: int) -> None:
    for kind, resolution in product((0, 1), (10, 60)):
        _flush_both(engines, flush_all(kind, resolution, now + 300 * SECOND), now)


def _happens(r: random.Random, engines: list[Engine], now: int) -> None:
    """To both engines the same, now and then nothing."""
    match r.choice(["flush", "expire", "shards", "commit", "limit", ""]):
        case "flush":
            _flush_some(r, engines, now)
        case "expire":
            for engine in engines:
                engine.expire(now)
        case "shards":
            owned = r.sample(all_shards(4), r.randint(1, 4))
            for engine in engines:
                engine.set_shards(ipc.Shards(4, 16, owned), now)
        case "commit":
            for kind, resolution in product((0, 1), (10, 60)):
                _flush_both(engines, flush_all(kind, resolution, now), now)
                for engine in engines:
                    engine.commit(ipc.Commit(ListId(kind, resolution * SECOND), [], now))
        case "limit":
            limits = ipc.RuntimeOptions(r.choice([0, 0, 5]), 0)
            for engine in engines:
                engine.set_runtime(limits)

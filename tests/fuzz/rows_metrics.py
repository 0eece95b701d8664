"""Messages of metrics, staged metadatas, tag ids: what aggregators and port 7507 receive; and the engine that applies it."""

from functools import cache
from typing import Any

import numpy as np
from tests.aggregator.engine.engine_calls import NOW, SECOND, engine_of, flush_all, flush_both, options
from tests.aggregator.engine.reference_engine import bits
from tests.fuzz.cliff import laid, room, rows
from tests.fuzz.parser import LEFT, Parser
from tests.m3metrics.test_kernels import from_aggregated_row, from_row, shown
from tests.m3metrics.test_tag_kernels import SKIPPED
from tests.m3metrics.test_tag_kernels import plain as plain_tags
from tests.m3x.protobuf.test_reading import TABLE, run_message

from aggregator import ipc
from aggregator.engine.ingest import shorthand
from aggregator.engine.ingest.shapes import SHAPE, SHAPES, learn, read_as_before
from aggregator.lists import KIND_STANDARD
from m3metrics import codec, kernels
from m3metrics.errors import CodecError, IdError
from m3metrics.ids import decode_tags, encode_tags, readable_id
from m3metrics.metadata import (
    DEFAULT_STAGED_METADATAS,
    ForwardMetadata,
    PipelineMetadata,
    StagedMetadata,
    TimedMetadata,
)
from m3metrics.metric import MetricType
from m3metrics.pipeline import RollupOp, TransformationOp, TransformationType
from m3metrics.policy import StoragePolicy
from m3metrics.rows import AGGREGATED_ROW, METRIC_ROW, ROW_OK
from m3metrics.tag_kernels import MOST_TAGS, read_tags
from m3msg.frames import Message, Metadata, encode_message
from m3msg.kernels import scan_frames
from m3msg.rows import FRAME_ROW, MAX_FRAME
from m3x.protobuf import unmarshal, varint

__all__ = ["METRICS", "PARSERS", "TAGS", "shaped_messages"]

_POLICY = StoragePolicy.parse("10s:2d")
_OPS = (TransformationOp(TransformationType.PER_SECOND), RollupOp(id=b"rolled", aggregation_id=5))
_STAGED = (
    StagedMetadata(
        cutover_ns=NOW,
        tombstoned=True,
        pipelines=(
            PipelineMetadata(
                aggregation_id=1 << 6, storage_policies=(_POLICY, StoragePolicy.parse("1m:40d")), pipeline=_OPS
            ),
            PipelineMetadata(drop_policy=1, resend_enabled=True, traffic_types=3),
        ),
    ),
    StagedMetadata(cutover_ns=1),
)


@cache
def METRICS() -> list[bytes]:
    """One of each kind, with and without the rare fields."""
    ident = encode_tags([(b"__name__", b"requests"), (b"job", b"api")])
    timed: dict[str, Any] = {"metric_type": MetricType.GAUGE, "id": ident, "time_ns": NOW, "annotation": b"note"}
    forward = ForwardMetadata(
        aggregation_id=128,
        storage_policy=_POLICY,
        pipeline=_OPS,
        source_id=7,
        num_forwarded_times=2,
        resend_enabled=True,
        traffic_types=1,
    )
    metrics: list[codec.Metric] = [
        codec.CounterWithMetadatas(id=b"c", value=-5, metadatas=DEFAULT_STAGED_METADATAS),
        codec.CounterWithMetadatas(id=ident, value=1 << 40, annotation=b"note", metadatas=_STAGED, client_time_ns=NOW),
        codec.BatchTimerWithMetadatas(id=b"t", values=(1.0, 2.5, -0.0), metadatas=_STAGED),
        codec.GaugeWithMetadatas(id=b"g", value=1.5, metadatas=DEFAULT_STAGED_METADATAS),
        codec.GaugeWithMetadatas(id=ident, value=float("nan"), metadatas=_STAGED),
        codec.ForwardedMetricWithMetadata(**timed, values=(1.0, 2.0), prev_values=(0.5,), version=3, metadata=forward),
        codec.TimedMetricWithMetadata(
            **timed, value=2.0, metadata=TimedMetadata(aggregation_id=0, storage_policy=_POLICY, traffic_types=1)
        ),
        codec.TimedMetricWithMetadatas(**timed, value=3.0, metadatas=_STAGED),
        codec.TimedMetricWithStoragePolicy(**timed, value=4.0, storage_policy=_POLICY, traffic_types=2),
    ]
    return [codec.encode_metric(metric) for metric in metrics]


@cache
def TAGS() -> list[bytes]:
    """Encoded tags."""
    sets = [
        [(b"a", b"1")],
        [(b"__name__", b"requests"), (b"job", b"api"), (b"instance", b"10.0.0.1:9100")],
        [(b"__g0__", b"servers"), (b"__g1__", b"web"), (b"__g10__", b"load"), (b"__option_id_scheme__", b"graphite")],
        [(SKIPPED, b"x"), (b"b", b""), (b"long" * 40, b"value" * 60)],
        [(b"t%d" % number, b"v") for number in range(MOST_TAGS + 1)],
        [],
    ]
    return [encode_tags(tags) for tags in sets]


def _aggregated() -> list[bytes]:
    named: dict[str, Any] = {"time_ns": NOW, "value": 1.5, "storage_policy": _POLICY}
    metrics = [
        codec.AggregatedMetric(id=TAGS()[1], metric_type=3, traffic_types=0, annotation=b"", **named),
        codec.AggregatedMetric(id=b"x", metric_type=127, traffic_types=9, annotation=b"note", encode_ns=NOW, **named),
    ]
    return [codec.encode_aggregated(metric) for metric in metrics]


def _kernel_row(kernel: Any, dtype: Any, data: bytes) -> Any:
    table = rows(1, dtype)
    table[:] = 0
    kernel(laid(data), np.zeros(1, np.int64), np.array([len(data)]), 1, table)
    return table[0]


def _read_metric(data: bytes) -> Any:
    row = _kernel_row(kernels.decode_metrics, METRIC_ROW, data)
    return shown(from_row(row, data)) if row["status"] == ROW_OK else LEFT


def _read_aggregated(data: bytes) -> Any:
    row = _kernel_row(kernels.decode_aggregated, AGGREGATED_ROW, data)
    return shown(from_aggregated_row(row, data)) if row["status"] == ROW_OK else LEFT


def _plain_metric(data: bytes) -> Any:
    return shown(codec.decode_metric(data))


def _plain_aggregated(data: bytes) -> Any:
    return shown(codec.decode_aggregated(data))


def _written_anew(data: bytes) -> Any:
    """Of what can be read: what is written of it is read as the same."""
    return _plain_metric(codec.encode_metric(codec.decode_metric(data)))


def _stream() -> list[bytes]:
    return [b"".join(map(codec.encode_record, map(codec.decode_metric, METRICS())))]


def _staged() -> list[bytes]:
    return [codec.encode_staged_metadatas(one) for one in (DEFAULT_STAGED_METADATAS, _STAGED, ())]


def _read_staged(data: bytes) -> Any:
    """Whatever of the metadata formats it is taken for."""
    found = []
    for decode in (
        codec.decode_staged_metadatas, codec.decode_forward_metadata, codec.decode_timed_metadata,
        codec.decode_storage_policy, codec.decode_passthrough_policies,
    ):  # fmt: skip
        try:
            found.append(decode(data))
        except CodecError:
            found.append(None)
    if found[0] is not None:
        assert codec.decode_staged_metadatas(codec.encode_staged_metadatas(found[0])) == found[0]
    return found


def _read_tags(data: bytes) -> Any:
    tags = rows((MOST_TAGS + 1) * 4, np.uint64).reshape(-1, 4)
    source, name = laid(data), laid(SKIPPED, "name")
    at = source.ctypes.data
    found = []
    for by_size in (False, True):
        count = read_tags(
            tags, np.uint64(at), np.uint64(len(data)), np.uint64(name.ctypes.data), np.uint64(len(SKIPPED)), by_size
        )
        spans = [[int(number) for number in tag] for tag in tags[: max(count, 0)]]
        parts = [(data[a - at : a - at + n], data[b - at : b - at + m]) for a, n, b, m in spans]
        found.append(None if count < 0 else parts)
    return found


def _plain_tags(data: bytes) -> Any:
    readable_id(data)
    return [plain_tags(data, SKIPPED, by_size) for by_size in (False, True)]


def _tags_again(data: bytes) -> Any:
    """What can be read is written as the bytes that were read."""
    tags = decode_tags(data)
    written = encode_tags(tags)
    assert data[: len(written)] == written
    return tags


def _frame(data: bytes) -> bytes:
    return encode_message(Message(Metadata(1, 1), data))


_NEIGHBOUR = codec.encode_metric(
    codec.CounterWithMetadatas(id=b"neighbour", value=1, metadatas=DEFAULT_STAGED_METADATAS)
)
_WINDOW_INPUTS = 400


class _Engines:
    """One that messages come to, and one that applies what the first has written to its journal."""

    def __init__(self) -> None:
        self.first, self.second = (engine_of(options(), max_series=1 << 18) for _ in range(2))
        self.numbers = np.zeros(1 << 18, np.uint32)
        self.now_ns = NOW
        self.sent = 0

    def apply(self, data: bytes) -> None:
        """Between two samples of another metric; with exactly the room for rows that the engine asks for."""
        payload = laid(_frame(_NEIGHBOUR) + _frame(data) + _frame(_NEIGHBOUR))
        size = len(payload)
        self.first._written = room(size + size // 6 * shorthand.LARGEST_HEAD + 64)
        result = self.first.ingest(payload, np.array([size], np.int64), self.now_ns, journaled=True)
        assert result.messages == 3
        replayed = self.second.replay(laid(result.rows.tobytes(), "journal"), self.numbers, self.now_ns)
        assert replayed.whole
        assert replayed.lost == 0
        self.sent += 2
        self.first.recent_errors.clear()
        self.second.recent_errors.clear()

    def flush(self) -> None:
        """The next window; the other metric has what it was sent."""
        self.now_ns += 10 * SECOND
        command = flush_all(KIND_STANDARD, 10, self.now_ns)
        for engine in (self.first, self.second):
            values, _ = flush_both(engine, command, self.now_ns)
            found = [row for row in values if row[0] == b"stats.counts.neighboursum"]
            assert [row[3] for row in found] == [bits(float(self.sent))], found
            engine.commit(ipc.Commit(command.list_id, [], self.now_ns))
            engine.expire(self.now_ns)
        self.sent = 0


@cache
def _engines() -> _Engines:
    return _Engines()


def _read_engine(data: bytes) -> Any:
    engines = _engines()
    engines.apply(data)
    if engines.sent >= 2 * _WINDOW_INPUTS:
        engines.flush()


@cache
def shaped_messages() -> list[bytes]:
    """Frames of metrics that have a shape."""
    long = b"series" * 12
    timed: dict[str, Any] = {"metric_type": MetricType.GAUGE, "id": long, "time_ns": NOW, "value": 1.5}
    metrics: list[codec.Metric] = [
        codec.CounterWithMetadatas(id=long, value=300, metadatas=_STAGED, client_time_ns=NOW),
        codec.BatchTimerWithMetadatas(id=long, values=(1.0, 2.5, -0.0), metadatas=_STAGED),
        codec.GaugeWithMetadatas(id=long, value=1.5, metadatas=_STAGED),
        codec.TimedMetricWithMetadata(**timed, metadata=TimedMetadata(storage_policy=_POLICY, traffic_types=1)),
        codec.TimedMetricWithMetadatas(**timed, metadatas=_STAGED),
    ]
    return [encode_message(Message(Metadata(300, 5000, NOW), codec.encode_metric(metric))) for metric in metrics]


@cache
def _shapes() -> Any:
    """What was learnt of ``shaped_messages``."""
    table = np.zeros(SHAPES, SHAPE)
    for data in shaped_messages():
        buf = np.frombuffer(data, np.uint8).copy()
        learn(buf, table, *_by_parsers(buf), 0)
    assert np.count_nonzero(table["word"]) == len(shaped_messages())
    return table


def _by_parsers(buf: Any) -> tuple[Any, Any]:
    """FRAME_ROW and METRIC_ROW of one frame. Raises ``ValueError`` where it is none that encoders write."""
    frames, found = np.zeros(1, FRAME_ROW), np.zeros(1, METRIC_ROW)
    count, _, _ = scan_frames(buf, 0, len(buf), MAX_FRAME, frames)
    start = frames["value_at"].astype(np.int64)
    kernels.decode_metrics(buf, start, start + frames["value_size"].astype(np.int64), count, found)
    if count != 1 or found[0]["status"] != ROW_OK:
        raise ValueError("not one that encoders write")
    return frames, found


def _numbers(frames: Any, found: Any) -> list[Any]:
    names = ("shard", "id", "meta_at", "meta_size", "value_at", "value_size")
    return [*(int(frames[0][name]) for name in names), found[0].tobytes()]


def _read_shaped(data: bytes) -> Any:
    """As one that was seen before."""
    frames, found = rows(1, FRAME_ROW, "frames"), rows(1, METRIC_ROW)
    frames[:] = found[:] = 0
    buf = laid(data)
    start = np.uint64(buf.ctypes.data)
    shape = read_as_before(start, start, start + np.uint64(len(buf)), _shapes(), frames, found, 0)
    return LEFT if shape < 0 else _numbers(frames, found)


def _plain_shaped(data: bytes) -> Any:
    return _numbers(*_by_parsers(np.frombuffer(data, np.uint8).copy()))


def _messages() -> list[bytes]:
    fields = [
        b"\x08\x05", b"\x08" + varint((1 << 64) - 1), b"\x12\x03abc", b"\x12" + varint(200) + bytes(200), b"\x18\x05", b"\x1a\x01x",
        b"\x23\x08\x01\x24", b"\x23\x23\x24\x24", b"\x35abcd", b"\x39abcdefgh", b"\x8a\x01\x00",
    ]  # fmt: skip
    return [*fields, b"".join(fields)]


def _read_message(data: bytes) -> Any:
    """By the compiled steps that all kernels are made of."""
    legal, value, start, stop = run_message(laid(data), len(data))
    if not legal:
        raise ValueError("not legal")
    return int(value), data[start:stop]


def _plain_message(data: bytes) -> Any:
    found = unmarshal(TABLE, data)
    return found.get("n", 0), found.get("b", b"")


PARSERS = (
    Parser("protobuf", _messages, _read_message, (ValueError,), _plain_message, kernel=True),
    Parser("metric", METRICS, _read_metric, (CodecError,), _plain_metric, kernel=True),
    Parser("metric-plain", METRICS, _plain_metric, (CodecError,), _written_anew),
    Parser("aggregated", _aggregated, _read_aggregated, (CodecError,), _plain_aggregated, kernel=True),
    Parser("metric-stream", _stream, lambda data: list(map(shown, codec.decode_records(data))), (CodecError,)),
    Parser("staged-metadatas", _staged, _read_staged, ()),
    Parser("tags", TAGS, _read_tags, (), _plain_tags, kernel=True),
    Parser("tags-plain", TAGS, _tags_again, (IdError,)),
    Parser("engine", METRICS, _read_engine, (), kernel=True),
    Parser("shapes", shaped_messages, _read_shaped, (ValueError,), _plain_shaped, kernel=True),
)

"""Messages for benchmarks: encoded once into a byte matrix, in which only the columns that change are written anew.

Every message of a run has the same length, so time of sending, message id, series number and value are fixed columns of an ``(n, length)``
uint8 array.
"""

import secrets
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from m3metrics.aggregation import AggregationType
from m3metrics.codec import encode_metric
from m3metrics.codec.unaggregated import (
    BatchTimerWithMetadatas,
    CounterWithMetadatas,
    ForwardedMetricWithMetadata,
    GaugeWithMetadatas,
    Metric,
    TimedMetricWithMetadatas,
)
from m3metrics.metadata import ForwardMetadata, PipelineMetadata, StagedMetadata
from m3metrics.metric import MetricType
from m3metrics.pipeline import AppliedPipeline, RollupOp, TransformationOp, TransformationType
from m3metrics.policy import StoragePolicy

__all__ = [
    "FORWARDED",
    "ID_SIZE",
    "KINDS",
    "METADATA_SIZE",
    "PIPELINES",
    "ROLLUPS",
    "TIMER_VALUES",
    "Frames",
    "build",
    "digits",
    "tagged_id",
    "varint_columns",
]

KINDS = ("timed", "gauge", "counter", "timer")
FORWARDED = "forwarded"
PIPELINES = ("none", "persecond", "rollup", "persecond-rollup")
TIMER_VALUES = 10
ROLLUPS = 1000
"""Series of a rolled up metric: the sources are spread over them."""
ID_SIZE = 5
"""Varint bytes of an id: with so many, ids do not begin anew for 17 billion messages, which a worker would take for sending again."""
METADATA_SIZE = 13 + ID_SIZE
"""shard (2), id (1 more), sent at (10): constant because shard >= 1, ids have ``ID_SIZE`` bytes and the time has nine."""
_FIRST_ID, _END_ID = 1 << 7 * (ID_SIZE - 1), 1 << 7 * ID_SIZE
_IDS = slice(9, 9 + ID_SIZE)
"""Columns of the id."""
_ID_MARK = b"00000000"
_ROLLUP_MARK = b"99999999"
_SUM, _LAST = 1 << AggregationType.SUM, 1 << AggregationType.LAST
_POLICY_FACTORS = (1, 6, 30)


def tagged_id(number: bytes, name: bytes = b"http_requests_total_something") -> bytes:
    """An encoded tag id of 90 bytes; ``number`` has eight digits."""
    tags = ((b"__name__", name + number), (b"dc", b"sjc1"), (b"host", b"host" + number[4:]))
    parts = b"".join(struct.pack("<H", len(x)) + x for tag in tags for x in tag)
    return struct.pack("<HH", 10101, len(tags)) + parts


def varint_columns(values: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """``values`` as varints of exactly ``width`` bytes: shape ``(n, width)``. They must need that many."""
    columns = np.empty((len(values), width), np.uint8)
    for k in range(width):
        columns[:, k] = (values >> (7 * k)) & 0x7F | (0x80 if k < width - 1 else 0)
    return columns


def digits(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Each number as eight digits: shape ``(n, 8)``."""
    return (numbers[:, None] // 10 ** np.arange(7, -1, -1)[None, :] % 10 + 48).astype(np.uint8)


@dataclass
class Frames:
    """Messages of equal length, ready to be sent."""

    matrix: NDArray[np.uint8]
    """Shape ``(n, length)``: whole frames, length prefix included."""
    stamp_columns: list[int]
    """First column of every nine-byte time that is rewritten before each replay."""
    value_sum: float
    """Sum of all values of one replay."""
    series: NDArray[np.int64]
    """Series number of each message, shape ``(n,)``."""
    values: NDArray[np.float64]
    """Value of each message (timers: sum of its samples), shape ``(n,)``."""
    number_columns: tuple[int, int]
    """Where the eight digits of the series number are in the id, and the last four of them again."""

    value_column: int
    """Where the eight bytes of the value are; of counters two."""

    first_id: int = field(default_factory=lambda: secrets.choice(range(_FIRST_ID, _END_ID // 2)))
    """Message id of the first one in the next replay; begins anywhere in their lower half, and goes on from replay to replay."""

    def stamp(self, now_ns: int) -> None:
        """Writes ids and the time of sending into every message, and the metric's own time where it has one."""
        count = len(self.matrix)
        self.matrix[:, _IDS] = varint_columns(self.first_id + np.arange(count, dtype=np.int64), ID_SIZE)
        self.first_id += count
        if self.first_id + count > _END_ID:
            self.first_id = _FIRST_ID
        stamp = varint_columns(np.array([now_ns]), 9)[0]
        for column in self.stamp_columns:
            self.matrix[:, column : column + 9] = stamp

    def part(self, start: int, count: int) -> "Frames":
        """``count`` of its messages from ``start`` on, fewer at the end; they share their bytes."""
        end = min(start + count, len(self.matrix))
        return Frames(
            self.matrix[start:end], self.stamp_columns, float(self.values[start:end].sum()), self.series[start:end],
            self.values[start:end], self.number_columns, self.value_column, self.first_id,
        )  # fmt: skip

    def name(self, numbers: NDArray[np.int64]) -> None:
        """Gives every message the id of another series, shape ``(n,)``."""
        text = digits(numbers)
        whole, host = self.number_columns
        self.matrix[:, whole : whole + 8] = text
        self.matrix[:, host : host + 4] = text[:, 4:]
        self.series = numbers


def build(
    kind: str,
    series: int,
    count: int,
    resolution_s: int,
    *,
    first: int = 0,
    policies: int = 1,
    pipeline: str = "none",
    series_id: bytes = b"",
) -> Frames:
    """``count`` messages of ``kind``, one for each series from ``first`` on (again from 0 behind the last), in random order.

    Their policies are ``<resolution>s:48h``, then of six and thirty times that resolution. ``pipeline``: what happens to a series after
    aggregation: nothing, PerSecond, Sum over the series of one of ``ROLLUPS`` rollups, or PerSecond and then that. Forwarded metrics of one
    series have a source each. ``series_id``: an id with the same eight digits and four of them as that of ``tagged_id``, instead of it.
    """
    rng = np.random.default_rng(7 + first)
    numbers = first + np.arange(count)
    rng.shuffle(numbers)
    order = numbers % series
    now = time.time_ns()
    encode = _encoder(kind, resolution_s, now, policies, pipeline, series_id or tagged_id(_ID_MARK))
    message = encode(200, 0)
    size = len(message)
    metadata = (
        b"\x08\x01\x10"
        + varint_columns(np.array([_FIRST_ID]), ID_SIZE).tobytes()
        + b"\x18"
        + varint_columns(np.array([now]), 9).tobytes()
    )
    assert len(metadata) == METADATA_SIZE
    body = b"\x0a" + bytes([len(metadata)]) + metadata + b"\x12" + bytes([size & 0x7F | 0x80, size >> 7]) + message
    frame = struct.pack(">I", len(body)) + body
    head = len(frame) - size
    matrix = np.tile(np.frombuffer(frame, np.uint8), (count, 1))
    matrix[:, 7] = 1 + np.arange(count) % 63  # shard
    matrix[:, _IDS] = varint_columns(_FIRST_ID + np.arange(count, dtype=np.int64), ID_SIZE)
    stamps = [_IDS.stop + 1]
    if kind in ("timed", FORWARDED):
        stamps.append(head + message.index(varint_columns(np.array([now]), 9).tobytes()))
    if pipeline.endswith("rollup"):
        at = head + message.index(_ROLLUP_MARK)
        text = digits(order % ROLLUPS)
        matrix[:, at : at + 8] = text
        host = head + message.index(b"host" + _ROLLUP_MARK[4:]) + 4
        matrix[:, host : host + 4] = text[:, 4:]
    if kind == FORWARDED:
        matrix[:, head + _difference(message, encode(200, 1))] = numbers // series % 128
    value_at = head + _difference(message, encode(201, 0))
    if kind == "counter":
        values = rng.integers(128, 1000, count).astype(np.float64)
        matrix[:, value_at : value_at + 2] = varint_columns(values.astype(np.int64), 2)
    else:
        width = TIMER_VALUES if kind == "timer" else 1
        value_at = head + message.index(struct.pack("<d", 200.0))
        numbers_of = rng.random((count, width)) * 100 + 1
        matrix[:, value_at : value_at + 8 * width] = numbers_of.view(np.uint8).reshape(count, 8 * width)
        values = numbers_of.sum(axis=1)
    ident = head + message.index(_ID_MARK), head + message.index(b"host" + _ID_MARK[4:]) + 4
    frames = Frames(matrix, stamps, float(values.sum()), order, values, ident, value_at)
    frames.name(order)
    return frames


def _difference(one: bytes, other: bytes) -> int:
    """Position of the first byte in which two messages of equal length differ."""
    assert len(one) == len(other)
    return next(k for k in range(len(one)) if one[k] != other[k])


def _encoder(
    kind: str, resolution_s: int, now_ns: int, policies: int, pipeline: str, ident: bytes
) -> Callable[[int, int], bytes]:
    """``(value, source) -> message``."""
    wanted = tuple(StoragePolicy.parse(f"{resolution_s * k}s:48h") for k in _POLICY_FACTORS[:policies])
    rollup = RollupOp(tagged_id(_ROLLUP_MARK, b"http_requests_rolled_up"), _SUM)
    per_second = TransformationOp(TransformationType.PER_SECOND)
    ops: dict[str, AppliedPipeline] = {
        "none": (),
        "persecond": (per_second,),
        "rollup": (rollup,),
        "persecond-rollup": (per_second, rollup),
    }
    types = _LAST if kind == "timed" or (kind == "gauge" and pipeline != "none") else 0
    staged = (
        StagedMetadata(
            pipelines=(
                PipelineMetadata(aggregation_id=types, storage_policies=wanted, pipeline=ops[pipeline]),
            )
        ),
    )  # fmt: skip

    def encode(value: int, source: int) -> bytes:
        metric: Metric
        if kind == "counter":
            metric = CounterWithMetadatas(id=ident, value=value, metadatas=staged)
        elif kind == "timer":
            metric = BatchTimerWithMetadatas(id=ident, values=(float(value),) * TIMER_VALUES, metadatas=staged)
        elif kind == "gauge":
            metric = GaugeWithMetadatas(id=ident, value=float(value), metadatas=staged)
        elif kind == "timed":
            metric = TimedMetricWithMetadatas(
                metric_type=MetricType.GAUGE, id=ident, time_ns=now_ns, value=float(value), metadatas=staged
            )
        else:
            metadata = ForwardMetadata(
                aggregation_id=_SUM, storage_policy=wanted[0], source_id=64 + source, num_forwarded_times=1
            )
            metric = ForwardedMetricWithMetadata(
                metric_type=MetricType.GAUGE, id=ident, time_ns=now_ns, values=(float(value),), metadata=metadata
            )
        return encode_metric(metric)

    return encode

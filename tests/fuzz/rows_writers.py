"""Kernels that write, into exactly the room that they ask for: lengths, times and values are cut from the input."""

import math
import struct
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from tests.fuzz.cliff import laid, room
from tests.fuzz.parser import Parser
from tests.m3db.write.series import Point, rows_of
from tests.m3db.write.test_requests import plain_calls

from coordinator.query import kernels as query
from m3db.write import requests
from m3metrics import codec, kernels
from m3metrics.ids import encode_tags
from m3metrics.metadata import DEFAULT_STAGED_METADATAS
from m3metrics.metric import MetricType
from m3metrics.policy import StoragePolicy
from m3metrics.rows import METRIC_TEMPLATE
from m3msg.frames import Message, Metadata, decode_message, encode_message
from m3msg.producer.kernels import encode_rows
from m3msg.producer.rows import COPY_ROW, FRAME_OVERHEAD, QUEUED
from m3x.protobuf import Field, Kind, generated, marshal

__all__ = ["PARSERS"]

_HEAD = struct.Struct("<HBqd")
"""Of a piece: how many bytes belong to it, a kind, a number, a value."""
_NUMBERS = (0, 1, -1, 127, 128, 1 << 31, 1_700_000_000_000_000_000, (1 << 63) - 1, -(1 << 63), (1 << 56) - 1)
_VALUES = (0.0, -0.0, 1.5, float("inf"), 5e-324)
_SIZES = (0, 1, 7, 8, 9, 31, 32, 33, 127, 128, 300)
_MOST_PIECES = 40
_POLICY = StoragePolicy.parse("10s:2d")


@cache
def _seeds() -> list[bytes]:
    pieces = [
        _HEAD.pack(size, k, _NUMBERS[k % len(_NUMBERS)], _VALUES[k % len(_VALUES)])
        + bytes(range(65, 91)) * (size // 26 + 1)
        for k, size in enumerate(_SIZES * 2)
    ]
    cut = [piece[: _HEAD.size + _SIZES[k % len(_SIZES)]] for k, piece in enumerate(pieces)]
    return [b"".join(cut), cut[4], b"".join(cut[5:8]), b"".join(cut[-3:])]


def _pieces(data: bytes) -> list[tuple[bytes, int, int, float]]:
    found: list[tuple[bytes, int, int, float]] = []
    at = 0
    while at + _HEAD.size <= len(data) and len(found) < _MOST_PIECES:
        size, kind, number, value = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        found.append((data[at : at + size], kind, number, 0.0 if math.isnan(value) else value))
        at += size
    return found


def _samples(data: bytes) -> Any:
    """What gauges, counters and timed metrics are written as."""
    pieces = _pieces(data)
    meta = codec.encode_staged_metadatas(DEFAULT_STAGED_METADATAS)
    arena = laid(b"".join(ident for ident, *_ in pieces) + meta, "arena")
    at = np.cumsum([0] + [len(ident) for ident, *_ in pieces])
    templates = np.zeros(len(pieces), METRIC_TEMPLATE)
    for k, (ident, kind, _, _) in enumerate(pieces):
        noted = len(ident) // 2 if kind % 2 else 0
        templates[k] = (at[k], len(ident), at[-1], len(meta), at[k], noted, 1 + kind % 3, 0)
    which, number = np.arange(len(pieces)), np.array([one[2] for one in pieces], np.int64)
    value = np.array([one[3] for one in pieces], np.float64)
    found = []
    for encode, column in (
        (kernels.encode_timed_samples, value),
        (kernels.encode_gauge_samples, value),
        (kernels.encode_counter_samples, number),
    ):
        out, offsets = room(int(kernels.samples_size_bound(templates, which))), np.zeros(len(pieces) + 1, np.int64)
        used = int(encode(arena, templates, which, number, column, out, offsets))
        found.append([out[begin:end].tobytes() for begin, end in pairwise(offsets)])
        assert sum(map(len, found[-1])) == used
    return found


def _plain_samples(data: bytes) -> Any:
    timed, gauges, counters = [], [], []
    for ident, kind, number, value in _pieces(data):
        plain: dict[str, Any] = {"id": ident, "annotation": ident[: len(ident) // 2] if kind % 2 else b""}
        plain["metadatas"] = DEFAULT_STAGED_METADATAS
        metric_type = MetricType(1 + kind % 3)
        timed.append(codec.TimedMetricWithMetadatas(**plain, metric_type=metric_type, time_ns=number, value=value))
        gauges.append(codec.GaugeWithMetadatas(**plain, value=value, client_time_ns=number))
        counters.append(codec.CounterWithMetadatas(**plain, value=number, client_time_ns=number))
    return [[codec.encode_metric(metric) for metric in metrics] for metrics in (timed, gauges, counters)]


def _aggregated(data: bytes) -> Any:
    """With a prefix and a suffix, each at the end of what can be read."""
    policy = laid(codec.aggregated_policy_fields(_POLICY, 3), "policy")
    found = []
    for ident, kind, number, value in _pieces(data):
        first, second = len(ident) // 3, len(ident) // 2
        prefix, middle, suffix = (
            laid(ident[:first], "prefix"),
            laid(ident[first:second], "middle"),
            laid(ident[second:], "suffix"),
        )
        note = laid(ident[:kind], "note")
        out = room(kernels.aggregated_size_bound(len(ident), len(note), len(policy)))
        size = kernels.encode_aggregated(
            out, 0, kind % 128, prefix, 0, len(prefix), middle, 0, len(middle), suffix, 0, len(suffix), number, value,
            note, 0, len(note), policy, 0, len(policy),
        )  # fmt: skip
        found.append(out[:size].tobytes())
    return found


def _plain_aggregated(data: bytes) -> Any:
    return [
        codec.encode_aggregated(
            codec.AggregatedMetric(
                id=ident,
                time_ns=number,
                value=value,
                annotation=ident[:kind],
                storage_policy=_POLICY,
                metric_type=kind % 128,
                traffic_types=3,
            )
        )
        for ident, kind, number, value in _pieces(data)
    ]


def _id(number: int) -> int:
    """Ids of messages begin at 1, and have 56 bits."""
    return abs(number) % ((1 << 56) - 1) + 1


def _frames(data: bytes) -> Any:
    """Messages of a producer, into buffers that take a few of them each."""
    pieces = _pieces(data)
    payload = laid(b"".join(value for value, *_ in pieces), "payload")
    offsets = np.cumsum([0] + [len(value) for value, *_ in pieces]).astype(np.int64)
    copies = np.zeros(len(pieces), COPY_ROW)
    for k, (value, kind, number, _) in enumerate(pieces):
        copies[k]["id"], copies[k]["message"], copies[k]["writer"] = _id(number), k, kind
        copies[k]["size"], copies[k]["state"] = len(value), QUEUED
    found, first = [], 0
    most = max((len(value) for value, *_ in pieces), default=0) + FRAME_OVERHEAD
    while first < len(pieces):
        out = room(most + len(pieces) % 50)
        first, size, _, _ = encode_rows(copies, first, len(pieces), payload, offsets, False, 1 << 60, out, 0, 1 << 40)
        found.append(out[:size].tobytes())
    return b"".join(found)


def _plain_frames(data: bytes) -> Any:
    found = [
        encode_message(Message(Metadata(kind, _id(number), 1 << 60), value)) for value, kind, number, _ in _pieces(data)
    ]
    assert all(decode_message(one[4:]) for one in found)
    return b"".join(found)


_LABEL = generated("Label", Field(1, "name", Kind.BYTES), Field(2, "value", Kind.BYTES))
_SAMPLE = generated("Sample", Field(1, "value", Kind.UINT64), Field(2, "timestamp", Kind.INT64))
_SERIES = generated("TimeSeries", Field(1, "labels", Kind.MESSAGE, _LABEL, repeated=True))
_RESULT = generated("QueryResult", Field(1, "timeseries", Kind.BYTES, repeated=True))


def _tags(ident: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"a", ident), (ident[:5] + b"b", ident[5:])]


def _answer(data: bytes) -> Any:
    """A remote read's answer: a point for each series."""
    pieces = _pieces(data)
    ids = [encode_tags(_tags(ident)) for ident, *_ in pieces]
    arena = laid(b"".join(ids), "arena")
    at = (np.cumsum([0] + [len(one) for one in ids])[:-1]).astype(np.int64)
    offsets, sizes = np.arange(len(ids) + 1), np.zeros(len(ids), np.int64)
    time_ms = np.array([number for _, _, number, _ in pieces], np.int64)
    bits = np.array([value for *_, value in pieces], np.float64).view(np.uint64)
    query.series_sizes(arena, at, offsets, time_ms, bits, sizes)
    out = room(int(sizes.sum()) + 6 * len(ids))
    end = query.put_series(arena, at, offsets, time_ms, bits, sizes, np.arange(len(ids)), out, 0)
    return out[:end].tobytes()


def _plain_answer(data: bytes) -> Any:
    series = []
    for ident, _, number, value in _pieces(data):
        labels = marshal(_SERIES, {"labels": [{"name": name, "value": text} for name, text in _tags(ident)]})
        bits = struct.pack("<d", value)
        point = (b"" if bits == bytes(8) else b"\x09" + bits) + marshal(_SAMPLE, {"timestamp": number})
        series.append(labels + b"\x12" + bytes([len(point)]) + point)
    return marshal(_RESULT, {"timeseries": series})


class _Numpy:
    """numpy as a module sees it; bytes that it makes room for end at an unreadable page."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = float) -> Any:
        return room(shape, "made") if dtype is np.uint8 else np.empty(shape, dtype)


def _calls(data: bytes) -> Any:
    """Batch writes of M3DB: the room is what the caller has worked out."""
    rows = _m3db_rows(data)
    requests.np = _Numpy()  # type: ignore[attr-defined]
    try:
        calls = requests.encode_calls(rows, None, lambda _count: 7, 1234, most_elements=5)
    finally:
        requests.np = np  # type: ignore[attr-defined]
    return bytes(calls.frames)


def _plain_calls(data: bytes) -> Any:
    rows = _m3db_rows(data)
    return b"".join(plain_calls(rows, list(range(len(rows))), 7, 1234, 5))


def _m3db_rows(data: bytes) -> Any:
    pieces = _pieces(data) or [(b"", 0, 0, 0.0)]
    return rows_of(
        [
            Point(encode_tags([(b"a", b"v%d" % (kind % 7))]), number, value, b"n%d" % (kind % 2), kind % 4, ident)
            for ident, kind, number, value in pieces
        ]
    )


PARSERS = (
    Parser("write-samples", _seeds, _samples, plain=_plain_samples, kernel=True),
    Parser("write-aggregated", _seeds, _aggregated, plain=_plain_aggregated, kernel=True),
    Parser("write-frames", _seeds, _frames, plain=_plain_frames, kernel=True),
    Parser("write-read-answer", _seeds, _answer, plain=_plain_answer, kernel=True),
    Parser("write-m3db-calls", _seeds, _calls, plain=_plain_calls, kernel=True),
)

"""Kernels against the plain codec, on generated messages, mutations and random bytes; and that they stay inside their bytes."""

import ctypes
import math
import mmap
import struct
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from m3metrics import codec, kernels
from m3metrics.errors import CodecError
from m3metrics.metadata import (
    DEFAULT_STAGED_METADATAS,
    ForwardMetadata,
    PipelineMetadata,
    StagedMetadata,
    TimedMetadata,
)
from m3metrics.metric import MetricType
from m3metrics.pipeline import RollupOp, TransformationOp, TransformationType
from m3metrics.policy import UNITS, StoragePolicy
from m3metrics.rows import AGGREGATED_ROW, METRIC_ROW, METRIC_TEMPLATE, ROW_OK
from m3x.protobuf import varint

INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)
UINT32 = st.integers(0, 2**32 - 1)
# Lengths on both sides of where a varint grows by a byte.
BYTES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([1, 7, 8, 9, 127, 128, 129, 16383, 16384]).map(
        lambda n: bytes(range(256)) * (n // 256) + b"x" * (n % 256)
    ),
)
DOUBLE = st.floats(width=64)
DOUBLES = st.lists(DOUBLE, max_size=20).map(tuple)
POLICY = st.builds(
    StoragePolicy,
    window_ns=INT64.filter(bool),
    precision_ns=st.sampled_from(list(UNITS.values())),
    retention_ns=INT64.filter(bool),
)
OPS = st.lists(
    st.one_of(
        st.builds(TransformationOp, st.sampled_from(TransformationType)),
        st.builds(RollupOp, id=st.binary(max_size=9), aggregation_id=UINT64),
    ),
    max_size=3,
).map(tuple)
STAGED = st.lists(
    st.builds(
        StagedMetadata,
        cutover_ns=INT64,
        tombstoned=st.booleans(),
        pipelines=st.lists(
            st.builds(
                PipelineMetadata,
                aggregation_id=UINT64,
                storage_policies=st.lists(POLICY, max_size=2).map(tuple),
                pipeline=OPS,
                drop_policy=st.integers(0, 3),
                resend_enabled=st.booleans(),
                traffic_types=UINT64,
            ),
            max_size=2,
        ).map(tuple),
    ),
    max_size=2,
).map(tuple)
STAGED = st.one_of(st.just(DEFAULT_STAGED_METADATAS), STAGED)
UNTIMED: dict[str, Any] = {"id": BYTES, "annotation": st.binary(max_size=9), "metadatas": STAGED}
TIMED: dict[str, Any] = {
    "metric_type": st.sampled_from(MetricType),
    "id": BYTES,
    "time_ns": st.one_of(INT64, st.integers(1_600_000_000_000_000_000, 1_900_000_000_000_000_000)),
    "annotation": st.binary(max_size=9),
}
METRIC = st.one_of(
    st.builds(codec.CounterWithMetadatas, **UNTIMED, value=INT64, client_time_ns=INT64),
    st.builds(codec.BatchTimerWithMetadatas, **UNTIMED, values=DOUBLES, client_time_ns=INT64),
    st.builds(codec.GaugeWithMetadatas, **UNTIMED, value=DOUBLE, client_time_ns=INT64),
    st.builds(
        codec.ForwardedMetricWithMetadata,
        **TIMED,
        values=DOUBLES,
        prev_values=DOUBLES,
        version=UINT32,
        metadata=st.builds(
            ForwardMetadata,
            aggregation_id=UINT64,
            storage_policy=POLICY,
            pipeline=OPS,
            source_id=UINT32,
            num_forwarded_times=st.integers(-(2**31), 2**31 - 1),
            resend_enabled=st.booleans(),
            traffic_types=UINT64,
        ),
    ),
    st.builds(
        codec.TimedMetricWithMetadata,
        **TIMED,
        value=DOUBLE,
        metadata=st.builds(TimedMetadata, aggregation_id=UINT64, storage_policy=POLICY, traffic_types=UINT64),
    ),
    st.builds(codec.TimedMetricWithMetadatas, **TIMED, value=DOUBLE, metadatas=STAGED),
    st.builds(codec.TimedMetricWithStoragePolicy, **TIMED, value=DOUBLE, storage_policy=POLICY, traffic_types=UINT64),
)
AGGREGATED = st.builds(
    codec.AggregatedMetric,
    id=BYTES,
    time_ns=TIMED["time_ns"],
    value=DOUBLE,
    annotation=st.binary(max_size=9),
    storage_policy=POLICY,
    metric_type=st.integers(0, 127),
    traffic_types=UINT64,
)


def pattern(value: float) -> str:
    """Comparable bits: -0.0 is 0.0 on the wire."""
    return "nan" if math.isnan(value) else struct.pack(">d", value + 0.0).hex()


def parts(row: np.void, data: bytes, *fields: str) -> list[bytes]:
    return [data[int(row[f"{name}_at"]) :][: int(row[f"{name}_size"])] for name in fields]


def metric_row(data: bytes, before: bytes = b"", after: bytes = b"") -> np.void:
    buffer = np.frombuffer(before + data + after, np.uint8)
    rows = np.zeros(1, METRIC_ROW)
    at = len(before)
    kernels.decode_metrics(buffer, np.array([at]), np.array([at + len(data)]), 1, rows)
    return rows[0]


def aggregated_row(data: bytes, before: bytes = b"", after: bytes = b"") -> np.void:
    buffer = np.frombuffer(before + data + after, np.uint8)
    rows = np.zeros(1, AGGREGATED_ROW)
    at = len(before)
    kernels.decode_aggregated(buffer, np.array([at]), np.array([at + len(data)]), 1, rows)
    return rows[0]


def shown(metric: codec.Metric | codec.AggregatedMetric) -> dict[str, Any]:
    """A metric's fields with comparable doubles."""
    out = {name: getattr(metric, name) for name in metric.__struct_fields__}
    for name in ("values", "prev_values"):
        if name in out:
            out[name] = [pattern(value) for value in out[name]]
    if isinstance(out.get("value"), float):
        out["value"] = pattern(out["value"])
    return out


def from_row(row: np.void, data: bytes) -> codec.Metric:
    """The metric that a row tells, its metadata read by the plain codec."""
    ident, annotation, meta, values, previous = parts(row, data, "id", "annotation", "meta", "values", "previous")
    doubles = tuple(np.frombuffer(values, "<f8").tolist())
    time_ns, value = int(row["time_ns"]), float(row["value"])
    untimed: dict[str, Any] = {"id": ident, "annotation": annotation, "client_time_ns": time_ns}
    kind = int(row["payload"])
    if kind <= 3:
        assert row["metric_type"] == kind
        metadatas = codec.decode_staged_metadatas(meta)
        if kind == 1:
            return codec.CounterWithMetadatas(**untimed, value=int(row["count"]), metadatas=metadatas)
        if kind == 2:
            return codec.BatchTimerWithMetadatas(**untimed, values=doubles, metadatas=metadatas)
        return codec.GaugeWithMetadatas(**untimed, value=value, metadatas=metadatas)
    timed: dict[str, Any] = {
        "metric_type": MetricType(int(row["metric_type"])),
        "id": ident,
        "annotation": annotation,
        "time_ns": time_ns,
    }
    if kind == 4:
        return codec.ForwardedMetricWithMetadata(
            **timed,
            values=doubles,
            prev_values=tuple(np.frombuffer(previous, "<f8").tolist()),
            version=int(row["version"]),
            metadata=codec.decode_forward_metadata(meta),
        )
    if kind == 5:
        return codec.TimedMetricWithMetadata(**timed, value=value, metadata=codec.decode_timed_metadata(meta))
    if kind == 6:
        return codec.TimedMetricWithMetadatas(**timed, value=value, metadatas=codec.decode_staged_metadatas(meta))
    policy, traffic_types = codec.decode_passthrough_policies(meta)
    return codec.TimedMetricWithStoragePolicy(**timed, value=value, storage_policy=policy, traffic_types=traffic_types)


def from_aggregated_row(row: np.void, data: bytes) -> codec.AggregatedMetric:
    ident, annotation, policy = parts(row, data, "id", "annotation", "policy")
    return codec.AggregatedMetric(
        id=ident,
        time_ns=int(row["time_ns"]),
        value=float(row["value"]),
        annotation=annotation,
        storage_policy=codec.decode_storage_policy(policy),
        metric_type=int(row["metric_type"]),
        traffic_types=int(row["traffic_types"]),
        encode_ns=int(row["encode_ns"]),
    )


def outcome(decode: Any, *arguments: Any) -> Any:
    """What a decoder says: fields, or stage and text of its error."""
    try:
        return shown(decode(*arguments))
    except CodecError as error:
        return error.stage, str(error)


@given(METRIC)
def test_what_the_encoder_writes_is_not_odd(metric: codec.Metric) -> None:
    data = codec.encode_metric(metric)
    row = metric_row(data)
    assert row["status"] == ROW_OK
    assert shown(from_row(row, data)) == shown(codec.decode_metric(data))
    read = shown(metric)
    if row["payload"] == 2:
        read["client_time_ns"] = 0  # written and never read, as in M3
    assert shown(from_row(row, data)) == read


@given(AGGREGATED)
def test_aggregated_what_the_encoder_writes_is_not_odd(metric: codec.AggregatedMetric) -> None:
    data = codec.encode_aggregated(metric)
    row = aggregated_row(data)
    assert row["status"] == ROW_OK
    assert shown(from_aggregated_row(row, data)) == shown(codec.decode_aggregated(data)) == shown(metric)


@st.composite
def mutated(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> bytes:
    """An encoded message with a few bytes changed, cut out or put in; most changes near its start, where the structure is."""
    data = bytearray(draw(messages))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(min(len(data) - 1, draw(st.sampled_from([12, 60, 1 << 20]))), 0)))
        change = draw(st.integers(0, 3))
        if change == 0 and data:
            data[at] = draw(st.integers(0, 255))
        elif change == 1:
            del data[at:]
        elif change == 2:
            data[at:at] = draw(st.binary(min_size=1, max_size=12))
        elif data:
            del data[at]
    return bytes(data)


@given(mutated(METRIC.map(codec.encode_metric)) | st.binary(max_size=64), st.binary(max_size=8), st.binary(max_size=16))
def test_mutations_decode_as_the_plain_codec_says(data: bytes, before: bytes, after: bytes) -> None:
    row = metric_row(data, before, after)
    assert (row["message_at"], row["message_size"]) == (len(before), len(data))
    assert row["status"] == metric_row(data)["status"], "bytes around the message decide nothing"
    if row["status"] == ROW_OK:
        assert outcome(from_row, row, before + data + after) == outcome(codec.decode_metric, data)


@given(
    mutated(AGGREGATED.map(codec.encode_aggregated)) | st.binary(max_size=64),
    st.binary(max_size=8),
    st.binary(max_size=16),
)
def test_aggregated_mutations_decode_as_the_plain_codec_says(data: bytes, before: bytes, after: bytes) -> None:
    row = aggregated_row(data, before, after)
    assert (row["message_at"], row["message_size"]) == (len(before), len(data))
    assert row["status"] == aggregated_row(data)["status"], "bytes around the message decide nothing"
    if row["status"] == ROW_OK:
        assert outcome(from_aggregated_row, row, before + data + after) == outcome(codec.decode_aggregated, data)


@pytest.fixture(scope="module")
def cliff() -> NDArray[np.uint8]:
    """A page of bytes with unreadable memory on both sides: reading outside ends the process."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 3 * page)
    array = np.frombuffer(memory, np.uint8)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for start in (0, 2 * page):
        assert protect(ctypes.c_void_p(array.ctypes.data + start), ctypes.c_size_t(page), 0) == 0
    return array[page : 2 * page]


def read_at_the_cliff(cliff: NDArray[np.uint8], data: bytes) -> None:
    at = len(cliff) - len(data)
    cliff[at:] = np.frombuffer(data, np.uint8)
    for kernel, dtype in ((kernels.decode_metrics, METRIC_ROW), (kernels.decode_aggregated, AGGREGATED_ROW)):
        kernel(cliff, np.array([at]), np.array([len(cliff)]), 1, np.zeros(1, dtype))


MESSAGE = METRIC.map(codec.encode_metric) | AGGREGATED.map(codec.encode_aggregated)


@given(data=MESSAGE.filter(lambda data: len(data) < 2000))
def test_nothing_behind_a_truncated_message_is_read(cliff: NDArray[np.uint8], data: bytes) -> None:
    for end in range(len(data) + 1):
        read_at_the_cliff(cliff, data[:end])


@given(data=mutated(MESSAGE).filter(lambda data: len(data) < mmap.PAGESIZE))
def test_nothing_behind_a_broken_message_is_read(cliff: NDArray[np.uint8], data: bytes) -> None:
    read_at_the_cliff(cliff, data)


def test_unsigned_positions_and_several_messages() -> None:
    messages = [codec.encode_metric(codec.GaugeWithMetadatas(id=b"g%d" % i, value=float(i))) for i in range(5)]
    messages[3] = b"\x08\x63"
    offsets = np.cumsum([0] + [len(message) for message in messages]).astype(np.uint32)
    rows = np.zeros(5, METRIC_ROW)
    buffer = np.frombuffer(b"".join(messages), np.uint8)
    assert kernels.decode_metrics(buffer, offsets[:-1], offsets[1:], 5, rows) == 1
    assert [row["status"] == ROW_OK for row in rows] == [True, True, True, False, True]
    assert rows["value"][[0, 1, 2, 4]].tolist() == [0.0, 1.0, 2.0, 4.0]


ONE = struct.pack("<d", 1.0)
META = b"\x12\x00"
ODD = {
    "no type": (b"\x1a", b"\x0a\x03\x0a\x01t" + META),
    "unpacked doubles": (b"\x08\x02\x1a", b"\x0a\x0c\x0a\x01t\x11" + ONE + META),
    "a packed run of nine bytes": (b"\x08\x02\x1a", b"\x0a\x0e\x0a\x01t\x12\x09" + ONE + b"\x00" + META),
    "unknown field": (b"\x08\x02\x1a", b"\x0a\x05\x0a\x01t\x28\x01" + META),
    "fields out of order": (b"\x08\x02\x1a", META + b"\x0a\x03\x0a\x01t"),
    "metadatas missing": (b"\x08\x02\x1a", b"\x0a\x03\x0a\x01t"),
    "metadatas twice": (b"\x08\x02\x1a", b"\x0a\x03\x0a\x01t" + META + META),
    "metric twice": (b"\x08\x02\x1a", b"\x0a\x03\x0a\x01t\x0a\x03\x0a\x01t" + META),
    "empty payload": (b"\x08\x03\x22", b""),
    "payload of another type": (b"\x08\x01\x1a", b"\x0a\x03\x0a\x01t" + META),
    "type above 7": (b"\x08\x08\x4a", b"\x0a\x03\x0a\x01t" + META),
    "a double cut by the metric's end": (b"\x08\x03\x22", b"\x0a\x08\x11" + ONE[:7] + META),
    "a timed double cut by the metric's end": (b"\x08\x06\x3a", b"\x0a\x08\x21" + ONE[:7] + META),
    "a double without bytes": (b"\x08\x03\x22", b"\x0a\x01\x11" + META),
    "a timed double without bytes": (b"\x08\x06\x3a", b"\x0a\x01\x21" + META),
    "a time cut by the metric's end": (b"\x08\x06\x3a", b"\x0a\x0a\x18" + b"\xff" * 9 + META),
    "a time of eleven bytes": (b"\x08\x06\x3a", b"\x0a\x0c\x18" + b"\xff" * 10 + b"\x01" + META),
    "a length of three bytes cut by the end": (b"\x08\x03\x22", b"\x0a\x02\x0a\xff" + META),
    "an id longer than the metric": (b"\x08\x03\x22", b"\x0a\x03\x0a\x02t" + META),
    "metric type above 3": (b"\x08\x06\x3a", b"\x0a\x05\x08\x04\x12\x01t" + META),
    "metric type in two bytes": (b"\x08\x06\x3a", b"\x0a\x06\x08\x83\x00\x12\x01t" + META),
    "version above 32 bits": (b"\x08\x04\x2a", b"\x0a\x06\x38\x80\x80\x80\x80\x10" + META),
    "previous values of four bytes": (b"\x08\x04\x2a", b"\x0a\x06\x32\x04abcd" + META),
    "passthrough with a third field twice": (b"\x08\x07\x42", b"\x0a\x00" + META + b"\x1a\x00\x1a\x00"),
}


@pytest.mark.parametrize(("head", "payload"), ODD.values(), ids=ODD)
def test_what_no_encoder_writes_is_odd(cliff: NDArray[np.uint8], head: bytes, payload: bytes) -> None:
    data = head + varint(len(payload)) + payload
    read_at_the_cliff(cliff, data)
    row = metric_row(data)
    assert row["status"] != ROW_OK
    assert row["message_size"] == len(data)


def aggregated_bytes(timed: bytes, rest: bytes = b"\x12\x00\x1a\x00", outer: bytes = b"") -> bytes:
    whole = b"\x0a" + varint(len(timed)) + timed + rest
    return b"\x0a" + varint(len(whole)) + whole + outer


ODD_AGGREGATED = {
    "empty": b"",
    "no metric": aggregated_bytes(b"")[:2] + b"\x12\x00",
    "no policy": aggregated_bytes(b"", b""),
    "policies out of order": aggregated_bytes(b"", b"\x1a\x00\x12\x00"),
    "routing twice": aggregated_bytes(b"", b"\x12\x00\x1a\x00\x1a\x00"),
    "unknown field in routing": aggregated_bytes(b"", b"\x12\x00\x1a\x02\x10\x01"),
    "field behind traffic types": aggregated_bytes(b"", b"\x12\x00\x1a\x04\x08\x01\x08\x01"),
    "field behind encode time": aggregated_bytes(b"", outer=b"\x10\x01\x10\x01"),
    "unknown outer field": aggregated_bytes(b"", outer=b"\x18\x01"),
    "metric type in two bytes": aggregated_bytes(b"\x08\x83\x00"),
    "a double cut by the metric's end": aggregated_bytes(b"\x21" + ONE[:7]),
    "a double without bytes": aggregated_bytes(b"\x21", b"\x12\x00"),
    "fields out of order": aggregated_bytes(b"\x18\x01\x12\x01x"),
    "unknown field": aggregated_bytes(b"\x30\x01"),
}


def test_aggregated_bytes_as_an_encoder_writes_them() -> None:
    assert aggregated_row(aggregated_bytes(b"\x12\x01x", outer=b"\x10\x07"))["encode_ns"] == 7


@pytest.mark.parametrize("data", ODD_AGGREGATED.values(), ids=ODD_AGGREGATED)
def test_aggregated_what_no_encoder_writes_is_odd(cliff: NDArray[np.uint8], data: bytes) -> None:
    read_at_the_cliff(cliff, data)
    assert aggregated_row(data)["status"] != ROW_OK


@given(AGGREGATED, st.binary(max_size=9), st.binary(max_size=9))
def test_encode_aggregated(metric: codec.AggregatedMetric, prefix: bytes, suffix: bytes) -> None:
    pieces = [np.frombuffer(b"?" + piece, np.uint8) for piece in (prefix, metric.id, suffix, metric.annotation)]
    policy = codec.aggregated_policy_fields(metric.storage_policy, metric.traffic_types)
    sizes = [len(piece) - 1 for piece in pieces]
    bound = kernels.aggregated_size_bound(sum(sizes[:3]), sizes[3], len(policy))
    out = np.full(bound + 2, 0xEE, np.uint8)
    end = kernels.encode_aggregated(
        out, 1, metric.metric_type, pieces[0], 1, sizes[0], pieces[1], 1, sizes[1], pieces[2], 1, sizes[2],
        metric.time_ns, metric.value, pieces[3], 1, sizes[3], np.frombuffer(policy, np.uint8), 0, len(policy),
    )  # fmt: skip
    whole = codec.encode_aggregated(
        codec.AggregatedMetric(
            id=prefix + metric.id + suffix,
            time_ns=metric.time_ns,
            value=metric.value,
            annotation=metric.annotation,
            storage_policy=metric.storage_policy,
            metric_type=metric.metric_type,
            traffic_types=metric.traffic_types,
        )
    )
    assert out[1:end].tobytes() == whole
    assert out[0] == out[end] == 0xEE
    assert end <= 1 + bound


class Templates:
    """Templates of some series, as a producer holds them."""

    def __init__(self, series: list[tuple[bytes, bytes, bytes, MetricType]]) -> None:
        arena = bytearray(b"?")
        self.rows = np.zeros(len(series), METRIC_TEMPLATE)
        for row, (ident, meta, annotation, kind) in zip(self.rows, series, strict=True):
            for name, content in (("id", ident), ("meta", meta), ("annotation", annotation)):
                row[f"{name}_at"], row[f"{name}_size"] = len(arena), len(content)
                arena += content
            row["metric_type"] = kind
        self.arena = np.frombuffer(bytes(arena), np.uint8)


SERIES = st.tuples(BYTES, STAGED, st.binary(max_size=9), st.sampled_from(MetricType))


@st.composite
def samples(draw: st.DrawFn) -> tuple[list[Any], list[int], list[int], list[float], list[int], list[tuple[float, ...]]]:
    series = draw(st.lists(SERIES, min_size=1, max_size=3))
    which = draw(st.lists(st.integers(0, len(series) - 1), max_size=6))
    n = len(which)

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n))

    return series, which, column(TIMED["time_ns"]), column(DOUBLE), column(INT64), column(DOUBLES)


@given(samples())
def test_encode_samples(drawn: Any) -> None:
    series, which, times, values, counts, batches = drawn
    templates = Templates([(i, codec.encode_staged_metadatas(m), a, k) for i, m, a, k in series])
    index, time_ns = np.array(which, np.int64), np.array(times, np.int64)
    bound = kernels.samples_size_bound(templates.rows, index)
    flat = np.array([value for batch in batches for value in batch], np.float64)
    starts = np.cumsum([0] + [len(batch) for batch in batches]).astype(np.int64)
    shared = (templates.arena, templates.rows, index, time_ns)

    def messages(kernel: Any, *columns: Any) -> list[bytes]:
        out = np.full(bound + flat.nbytes + 1, 0xEE, np.uint8)
        offsets = np.full(len(which) + 1, -1, np.int64)
        used = kernel(*shared, *columns, out, offsets)
        assert offsets[0] == 0
        assert offsets[-1] == used <= bound + flat.nbytes
        assert (out[used:] == 0xEE).all()
        return [out[a:b].tobytes() for a, b in pairwise(offsets)]

    chosen = [series[i] for i in which]
    untimed = [
        {"id": i, "metadatas": m, "annotation": a, "client_time_ns": t}
        for (i, m, a, _), t in zip(chosen, times, strict=True)
    ]
    assert messages(kernels.encode_counter_samples, np.array(counts, np.int64)) == [
        codec.encode_metric(codec.CounterWithMetadatas(**u, value=c)) for u, c in zip(untimed, counts, strict=True)
    ]
    assert messages(kernels.encode_gauge_samples, np.array(values, np.float64)) == [
        codec.encode_metric(codec.GaugeWithMetadatas(**u, value=v)) for u, v in zip(untimed, values, strict=True)
    ]
    assert messages(kernels.encode_timer_samples, flat, starts) == [
        codec.encode_metric(codec.BatchTimerWithMetadatas(**u, values=b)) for u, b in zip(untimed, batches, strict=True)
    ]
    assert messages(kernels.encode_timed_samples, np.array(values, np.float64)) == [
        codec.encode_metric(
            codec.TimedMetricWithMetadatas(metric_type=k, id=i, time_ns=t, value=v, annotation=a, metadatas=m)
        )
        for (i, m, a, k), t, v in zip(chosen, times, values, strict=True)
    ]


@given(samples(), st.lists(st.booleans(), min_size=8, max_size=8))
def test_encode_timed_and_untimed_samples_together(drawn: Any, untimed: list[bool]) -> None:
    series, which, times, _, counts, _ = drawn
    values = [float(count) if abs(count) < 1 << 53 else 0.5 for count in counts]
    templates = Templates([(i, codec.encode_staged_metadatas(m), a, k) for i, m, a, k in series])
    flags = [untimed[row % len(untimed)] for row in range(len(series))]
    templates.rows["untimed"] = flags
    index = np.array(which, np.int64)
    out = np.empty(kernels.samples_size_bound(templates.rows, index) + 8 * len(which), np.uint8)
    offsets = np.zeros(len(which) + 1, np.int64)
    kernels.encode_samples(
        templates.arena, templates.rows, index, np.array(times, np.int64), np.array(values, np.float64), out, offsets
    )
    expected: list[bytes] = []
    for row, time_ns, value in zip(which, times, values, strict=True):
        i, m, a, k = series[row]
        plain: dict[str, Any] = {"id": i, "metadatas": m, "annotation": a, "client_time_ns": time_ns}
        metric: codec.Metric
        if not flags[row]:
            metric = codec.TimedMetricWithMetadatas(
                metric_type=k, id=i, time_ns=time_ns, value=value, annotation=a, metadatas=m
            )
        elif k == 1:
            metric = codec.CounterWithMetadatas(**plain, value=int(value))
        elif k == 2:
            metric = codec.BatchTimerWithMetadatas(**plain, values=(value,))
        else:
            metric = codec.GaugeWithMetadatas(**plain, value=value)
        expected.append(codec.encode_metric(metric))
    assert [out[a:b].tobytes() for a, b in pairwise(offsets)] == expected


WARMED = """
import numpy as np
from m3metrics import kernels
from m3metrics.rows import AGGREGATED_ROW, METRIC_ROW
kernels.warm()
public = [getattr(kernels, name) for name in kernels.__all__]
before = {kernel: len(kernel.signatures) for kernel in public if hasattr(kernel, "signatures")}
for buffer in (np.zeros(9, np.uint8), np.frombuffer(b"123456789", np.uint8)):
    for offsets in (np.array([0, 9]), np.array([0, 9], np.uint32)):
        rows = np.zeros(1, METRIC_ROW)
        kernels.decode_metrics(buffer, offsets[:1], offsets[1:], 1, rows)
        kernels.decode_aggregated(buffer, offsets[:1], offsets[1:], 1, np.zeros(1, AGGREGATED_ROW))
    kernels.shards_of(buffer, rows["id_at"], rows["id_size"], 64, np.zeros(1, np.uint32))
after = {kernel: len(kernel.signatures) for kernel in before}
assert before == after, (before, after)
"""


def test_warm_compiles_what_callers_use() -> None:
    done = subprocess.run([sys.executable, "-c", WARMED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""Payloads as M3 writes them, byte for byte, and what the vectors of ``golden`` leave open."""

import pytest

from m3metrics import codec
from m3metrics.errors import ConvertError, PolicyError, UnrecognizedTypeError
from m3metrics.metadata import DEFAULT_STAGED_METADATAS, ForwardMetadata, TimedMetadata
from m3metrics.metric import MetricType
from m3metrics.pipeline import RollupOp, TransformationOp, TransformationType
from m3metrics.policy import StoragePolicy
from m3x.protobuf import varint

TWO_DAYS = StoragePolicy.parse("10s:2d")
# docs/m3/metrics.md, payload vectors
PAYLOADS = [
    (
        codec.CounterWithMetadatas(id=b"foo", value=5, metadatas=DEFAULT_STAGED_METADATAS),
        "080112170a070a03666f6f1005120c0a0a1a080a060a001a003200",
    ),
    (
        codec.CounterWithMetadatas(id=b"foo", value=-5, client_time_ns=7),
        "080112160a120a03666f6f10fbffffffffffffffff0120071200",
    ),
    (
        codec.BatchTimerWithMetadatas(id=b"foo", values=(1.0, 2.5), metadatas=DEFAULT_STAGED_METADATAS),
        "08021a270a170a03666f6f1210000000000000f03f0000000000000440120c0a0a1a080a060a001a003200",
    ),
    (
        codec.GaugeWithMetadatas(id=b"foo", value=1.5, metadatas=DEFAULT_STAGED_METADATAS),
        "0803221e0a0e0a03666f6f11000000000000f83f120c0a0a1a080a060a001a003200",
    ),
    (
        codec.ForwardedMetricWithMetadata(
            metric_type=MetricType.COUNTER,
            id=b"foo",
            time_ns=10,
            values=(1.0,),
            prev_values=(2.0,),
            annotation=b"a",
            version=9,
            metadata=ForwardMetadata(
                aggregation_id=128,
                storage_policy=TWO_DAYS,
                pipeline=(RollupOp(b"r", 2), TransformationOp(TransformationType.PER_SECOND)),
                source_id=3,
                num_forwarded_times=1,
                resend_enabled=True,
            ),
        ),
        "08042a6a0a2208011203666f6f180a2208000000000000f03f2a016132080000000000000040380912440a0308800112180a0c0880c8afa0251"
        "08094ebdc031208088080f89492a5271a1b0a0d080212001a070a0172120208020a0a0801120208021a0212002003280130013a00",
    ),
    (
        codec.TimedMetricWithMetadata(
            metric_type=MetricType.GAUGE,
            id=b"foo",
            time_ns=10,
            value=1.0,
            metadata=TimedMetadata(storage_policy=TWO_DAYS),
        ),
        "080532340a1208031203666f6f180a21000000000000f03f121e0a0012180a0c0880c8afa025108094ebdc031208088080f89492a5271a00",
    ),
    (
        codec.TimedMetricWithMetadatas(
            metric_type=MetricType.GAUGE, id=b"foo", time_ns=10, value=1.0, metadatas=DEFAULT_STAGED_METADATAS
        ),
        "08063a220a1208031203666f6f180a21000000000000f03f120c0a0a1a080a060a001a003200",
    ),
]


@pytest.mark.parametrize(("metric", "text"), PAYLOADS, ids=lambda value: type(value).__name__)
def test_payloads(metric: codec.Metric, text: str) -> None:
    assert codec.encode_metric(metric).hex() == text
    assert codec.decode_metric(bytes.fromhex(text)) == metric


def test_aggregated_payloads() -> None:
    metric = codec.AggregatedMetric(
        id=b"foo", time_ns=-1, value=-0.0, annotation=b"a", storage_policy=TWO_DAYS, traffic_types=3
    )
    text = "0a330a131203666f6f18ffffffffffffffffff012a016112180a0c0880c8afa025108094ebdc031208088080f89492a5271a020803"
    assert codec.encode_aggregated(metric).hex() == text
    assert codec.decode_aggregated(bytes.fromhex(text)) == metric


def test_client_time_of_a_timer_is_written_and_not_read() -> None:
    timed = codec.BatchTimerWithMetadatas(id=b"t", values=(1.0,), client_time_ns=5)
    assert b"\x20\x05" in codec.encode_metric(timed)
    read = codec.decode_metric(codec.encode_metric(timed))
    assert read == codec.BatchTimerWithMetadatas(id=b"t", values=(1.0,))


def test_type_alone_decides() -> None:
    counter = codec.encode_metric(codec.CounterWithMetadatas(id=b"c", value=1))
    gauge = codec.encode_metric(codec.GaugeWithMetadatas(id=b"g", value=1.0))
    assert codec.decode_metric(counter + gauge) == codec.decode_metric(gauge)


@pytest.mark.parametrize("number", [0, 8, -1, 2**31])
def test_unknown_type(number: int) -> None:
    with pytest.raises(UnrecognizedTypeError):
        codec.decode_metric(b"\x08" + varint(number))


def wrapped(policy: bytes) -> bytes:
    return b"\x12" + varint(len(policy)) + policy


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (b"", "empty resolution proto message"),
        (b"\x0a\x02\x08\x05", "unable to convert from duration to time unit"),
        (b"\x0a\x04\x08\x05\x10\x01", "empty retention proto message"),
    ],
)
def test_policies_that_are_none(policy: bytes, text: str) -> None:
    with pytest.raises(ConvertError, match=f"^{text}$"):
        codec.decode_storage_policy(policy)
    with pytest.raises(ConvertError, match=f"^{text}$"):
        codec.decode_passthrough_policies(wrapped(policy))
    with pytest.raises(ConvertError, match=f"^{text}$"):
        codec.decode_timed_metadata(wrapped(policy))
    with pytest.raises(ConvertError, match=f"^{text}$"):
        codec.decode_forward_metadata(wrapped(policy))


def test_metric_type_out_of_range() -> None:
    good = codec.encode_metric(PAYLOADS[-1][0])
    with pytest.raises(ConvertError, match="metric type"):
        codec.decode_metric(good.replace(b"\x08\x03\x12\x03foo", b"\x08\x04\x12\x03foo"))


def test_what_cannot_be_sent() -> None:
    with pytest.raises(PolicyError, match="time unit"):
        codec.encode_storage_policy(StoragePolicy(1, 2, 3))


def test_policy_fields_are_those_of_the_whole_message() -> None:
    metric = codec.AggregatedMetric(id=b"x", time_ns=1, value=1.0, storage_policy=TWO_DAYS, traffic_types=7)
    fields = codec.aggregated_policy_fields(TWO_DAYS, 7)
    assert codec.encode_aggregated(metric).endswith(fields)
    assert codec.decode_passthrough_policies(fields) == (TWO_DAYS, 7)


def test_records_round_trip() -> None:
    stream = b"".join(codec.encode_record(metric) for metric, _ in PAYLOADS)
    assert list(codec.decode_records(stream)) == [metric for metric, _ in PAYLOADS]
    assert codec.encode_record(PAYLOADS[0][0])[:1] == bytes([2 * 27])

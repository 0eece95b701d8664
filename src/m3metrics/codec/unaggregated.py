"""The seven payloads of ``MetricWithMetadatas`` (docs/m3/metrics.md, messages), which is what reaches an aggregator."""

from collections.abc import Callable
from typing import Any

import msgspec

from m3metrics.codec import metadata as md
from m3metrics.codec.messages import METRIC_WITH_METADATAS
from m3metrics.errors import ConvertError, UnrecognizedTypeError
from m3metrics.metadata import ForwardMetadata, StagedMetadatas, TimedMetadata
from m3metrics.metric import MetricType
from m3metrics.policy import StoragePolicy
from m3x.protobuf import MessageValue, marshal, unmarshal


class CounterWithMetadatas(msgspec.Struct, frozen=True, kw_only=True):
    """Payload 1: an untimed counter."""

    id: bytes
    value: int
    annotation: bytes = b""
    client_time_ns: int = 0
    metadatas: StagedMetadatas = ()


class BatchTimerWithMetadatas(msgspec.Struct, frozen=True, kw_only=True):
    """Payload 2: several values of an untimed timer. Its client time is written and never read, as in M3."""

    id: bytes
    values: tuple[float, ...]
    annotation: bytes = b""
    client_time_ns: int = 0
    metadatas: StagedMetadatas = ()


class GaugeWithMetadatas(msgspec.Struct, frozen=True, kw_only=True):
    """Payload 3: an untimed gauge."""

    id: bytes
    value: float
    annotation: bytes = b""
    client_time_ns: int = 0
    metadatas: StagedMetadatas = ()


class ForwardedMetricWithMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Payload 4: values of a pipeline that goes on at another aggregator. ``prev_values`` run parallel to ``values``."""

    metric_type: MetricType
    id: bytes
    time_ns: int
    values: tuple[float, ...]
    prev_values: tuple[float, ...] = ()
    annotation: bytes = b""
    version: int = 0
    """0: sent for the first time; above: values that replace the previous ones."""
    metadata: ForwardMetadata


class TimedMetricWithMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Payload 5: a value with its time and one policy."""

    metric_type: MetricType
    id: bytes
    time_ns: int
    value: float
    annotation: bytes = b""
    metadata: TimedMetadata


class TimedMetricWithMetadatas(msgspec.Struct, frozen=True, kw_only=True):
    """Payload 6: a value with its time, what a coordinator sends for each sample."""

    metric_type: MetricType
    id: bytes
    time_ns: int
    value: float
    annotation: bytes = b""
    metadatas: StagedMetadatas = ()


class TimedMetricWithStoragePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Payload 7, passthrough: goes to storage as it is."""

    metric_type: MetricType
    id: bytes
    time_ns: int
    value: float
    annotation: bytes = b""
    storage_policy: StoragePolicy
    traffic_types: int = 0


Metric = (
    CounterWithMetadatas
    | BatchTimerWithMetadatas
    | GaugeWithMetadatas
    | ForwardedMetricWithMetadata
    | TimedMetricWithMetadata
    | TimedMetricWithMetadatas
    | TimedMetricWithStoragePolicy
)

_PAYLOADS = {field.number - 1: field.name for field in METRIC_WITH_METADATAS.fields if field.number > 1}
"""``MetricWithMetadatas.type`` → the field that it names."""


def decode_metric(data: bytes) -> Metric:
    """Decodes a MetricWithMetadatas message. Raises ``CodecError``: what M3's ingest server says about the same bytes."""
    values = unmarshal(METRIC_WITH_METADATAS, data)
    kind = values.get("type", 0)
    if kind not in _PAYLOADS:
        raise UnrecognizedTypeError(kind)
    name = _PAYLOADS[kind]
    if name not in values:
        # M3 names a missing payload 6 like a missing payload 5.
        missing = "timed_metric_with_metadata" if kind == 6 else name
        raise ConvertError(f"nil {missing.replace('_', ' ')} proto message")
    return _DECODERS[kind](values[name])


def _counter(payload: MessageValue) -> Metric:
    metric = payload.get("counter", {})
    return CounterWithMetadatas(
        id=metric.get("id", b""),
        annotation=metric.get("annotation", b""),
        value=metric.get("value", 0),
        client_time_ns=metric.get("client_time_nanos", 0),
        metadatas=md.staged_metadatas_from(payload.get("metadatas", {})),
    )


def _batch_timer(payload: MessageValue) -> Metric:
    metric = payload.get("batch_timer", {})
    return BatchTimerWithMetadatas(
        id=metric.get("id", b""),
        annotation=metric.get("annotation", b""),
        values=tuple(metric.get("values", ())),
        metadatas=md.staged_metadatas_from(payload.get("metadatas", {})),
    )


def _gauge(payload: MessageValue) -> Metric:
    metric = payload.get("gauge", {})
    return GaugeWithMetadatas(
        id=metric.get("id", b""),
        annotation=metric.get("annotation", b""),
        value=metric.get("value", 0.0),
        client_time_ns=metric.get("client_time_nanos", 0),
        metadatas=md.staged_metadatas_from(payload.get("metadatas", {})),
    )


def _metric_type(metric: MessageValue) -> MetricType:
    number = metric.get("type", 0)
    if number not in MetricType.__members__.values():
        raise ConvertError(f"unknown metric type in proto: {number}")
    return MetricType(number)


def _forwarded(payload: MessageValue) -> Metric:
    metric = payload.get("metric", {})
    return ForwardedMetricWithMetadata(
        id=metric.get("id", b""),
        annotation=metric.get("annotation", b""),
        metric_type=_metric_type(metric),
        time_ns=metric.get("time_nanos", 0),
        values=tuple(metric.get("values", ())),
        prev_values=tuple(metric.get("prev_values", ())),
        version=metric.get("version", 0),
        metadata=md.forward_metadata_from(payload.get("metadata", {})),
    )


def _timed(payload: MessageValue) -> Metric:
    metric = payload.get("metric", {})
    return TimedMetricWithMetadata(
        id=metric.get("id", b""),
        annotation=metric.get("annotation", b""),
        metric_type=_metric_type(metric),
        time_ns=metric.get("time_nanos", 0),
        value=metric.get("value", 0.0),
        metadata=md.timed_metadata_from(payload.get("metadata", {})),
    )


def _timed_staged(payload: MessageValue) -> Metric:
    metric = payload.get("metric", {})
    return TimedMetricWithMetadatas(
        id=metric.get("id", b""),
        annotation=metric.get("annotation", b""),
        metric_type=_metric_type(metric),
        time_ns=metric.get("time_nanos", 0),
        value=metric.get("value", 0.0),
        metadatas=md.staged_metadatas_from(payload.get("metadatas", {})),
    )


def _passthrough(payload: MessageValue) -> Metric:
    metric = payload.get("timed_metric", {})
    metric_type = _metric_type(metric)
    policy, traffic_types = md.passthrough_from(payload)
    return TimedMetricWithStoragePolicy(
        id=metric.get("id", b""),
        annotation=metric.get("annotation", b""),
        metric_type=metric_type,
        time_ns=metric.get("time_nanos", 0),
        value=metric.get("value", 0.0),
        storage_policy=policy,
        traffic_types=traffic_types,
    )


_DECODERS: dict[int, Callable[[MessageValue], Metric]] = {
    1: _counter,
    2: _batch_timer,
    3: _gauge,
    4: _forwarded,
    5: _timed,
    6: _timed_staged,
    7: _passthrough,
}


def payload_number(metric: Metric) -> int:
    """``MetricWithMetadatas.type`` of that metric."""
    return _ENCODERS[type(metric)][0]


def encode_metric(metric: Metric) -> bytes:
    """The MetricWithMetadatas message that M3 writes for ``metric``. Raises ``PolicyError`` for a precision that is no unit."""
    kind, values = _ENCODERS[type(metric)]
    return marshal(METRIC_WITH_METADATAS, {"type": kind, _PAYLOADS[kind]: values(metric)})


def _untimed_values(metric: CounterWithMetadatas | BatchTimerWithMetadatas | GaugeWithMetadatas) -> MessageValue:
    values: MessageValue = {
        "id": metric.id,
        "annotation": metric.annotation,
        "client_time_nanos": metric.client_time_ns,
    }
    if isinstance(metric, BatchTimerWithMetadatas):
        return values | {"values": metric.values}
    return values | {"value": metric.value}


def timed_values(
    metric: TimedMetricWithMetadata | TimedMetricWithMetadatas | TimedMetricWithStoragePolicy,
) -> MessageValue:
    """Fields of the TimedMetric message inside ``metric``."""
    return {
        "type": metric.metric_type,
        "id": metric.id,
        "time_nanos": metric.time_ns,
        "value": metric.value,
        "annotation": metric.annotation,
    }


def _forwarded_values(metric: ForwardedMetricWithMetadata) -> MessageValue:
    return {
        "metric": {
            "type": metric.metric_type,
            "id": metric.id,
            "time_nanos": metric.time_ns,
            "values": metric.values,
            "annotation": metric.annotation,
            "prev_values": metric.prev_values,
            "version": metric.version,
        },
        "metadata": md.forward_metadata_values(metric.metadata),
    }


_ENCODERS: dict[type[Metric], tuple[int, Callable[[Any], MessageValue]]] = {
    CounterWithMetadatas: (
        1,
        lambda m: {"counter": _untimed_values(m), "metadatas": md.staged_metadatas_values(m.metadatas)},
    ),
    BatchTimerWithMetadatas: (
        2,
        lambda m: {"batch_timer": _untimed_values(m), "metadatas": md.staged_metadatas_values(m.metadatas)},
    ),
    GaugeWithMetadatas: (
        3,
        lambda m: {"gauge": _untimed_values(m), "metadatas": md.staged_metadatas_values(m.metadatas)},
    ),
    ForwardedMetricWithMetadata: (4, _forwarded_values),
    TimedMetricWithMetadata: (
        5,
        lambda m: {"metric": timed_values(m), "metadata": md.timed_metadata_values(m.metadata)},
    ),
    TimedMetricWithMetadatas: (
        6,
        lambda m: {"metric": timed_values(m), "metadatas": md.staged_metadatas_values(m.metadatas)},
    ),
    TimedMetricWithStoragePolicy: (
        7,
        lambda m: {"timed_metric": timed_values(m), **md.passthrough_values(m.storage_policy, m.traffic_types)},
    ),
}

"""``AggregatedMetric``: what an aggregator sends on and a coordinator stores (docs/m3/metrics.md, wrappers)."""

import msgspec

from m3metrics.codec import metadata as md
from m3metrics.codec.messages import AGGREGATED_METRIC
from m3metrics.policy import StoragePolicy
from m3x.protobuf import marshal, unmarshal


class AggregatedMetric(msgspec.Struct, frozen=True, kw_only=True):
    """One value of one window."""

    id: bytes
    """Prefix, id and suffix together."""
    time_ns: int
    value: float
    annotation: bytes = b""
    storage_policy: StoragePolicy
    metric_type: int = 0
    """Any number; an aggregator sends 0."""
    traffic_types: int = 0
    encode_ns: int = 0
    """Deprecated, 0 in what is sent today."""


def decode_aggregated(data: bytes) -> AggregatedMetric:
    """Decodes an AggregatedMetric message. Raises ``CodecError``; only the storage policy's content is checked, as in M3."""
    values = unmarshal(AGGREGATED_METRIC, data)
    whole = values.get("metric", {})
    policy, traffic_types = md.passthrough_from(whole)
    metric = whole.get("timed_metric", {})
    return AggregatedMetric(
        id=metric.get("id", b""),
        time_ns=metric.get("time_nanos", 0),
        value=metric.get("value", 0.0),
        annotation=metric.get("annotation", b""),
        storage_policy=policy,
        metric_type=metric.get("type", 0),
        traffic_types=traffic_types,
        encode_ns=values.get("encode_nanos", 0),
    )


def encode_aggregated(metric: AggregatedMetric) -> bytes:
    """The AggregatedMetric message that M3 writes. Raises ``PolicyError`` for a precision that is no unit."""
    timed = {
        "type": metric.metric_type,
        "id": metric.id,
        "time_nanos": metric.time_ns,
        "value": metric.value,
        "annotation": metric.annotation,
    }
    whole = {"timed_metric": timed, **md.passthrough_values(metric.storage_policy, metric.traffic_types)}
    return marshal(AGGREGATED_METRIC, {"metric": whole, "encode_nanos": metric.encode_ns})

"""What a series is besides its labels: types, source, and the annotation made of them (docs/m3/coordinator.md, annotation)."""

from enum import IntEnum

from m3metrics.metric import MetricType
from m3x.protobuf import varint


class Source(IntEnum):
    """Field 102 of a TimeSeries."""

    PROMETHEUS = 0
    GRAPHITE = 1
    OPEN_METRICS = 2


class PromType(IntEnum):
    """Field 1001 of a TimeSeries, and the header ``Prometheus-Metric-Type``."""

    UNKNOWN = 0
    COUNTER = 1
    GAUGE = 2
    HISTOGRAM = 3
    GAUGE_HISTOGRAM = 4
    SUMMARY = 5
    INFO = 6
    STATESET = 7


_M3_TYPES = (MetricType.GAUGE, MetricType.COUNTER, MetricType.TIMER)
_GRAPHITE_TYPES = {MetricType.COUNTER: 1, MetricType.GAUGE: 2, MetricType.TIMER: 3}


def m3_type_of(number: int) -> MetricType:
    """The metric type of field 101. Raises ``ValueError`` with M3's text."""
    if not 0 <= number < len(_M3_TYPES):
        raise ValueError(f"invalid M3 metric type: {number}")
    return _M3_TYPES[number]


def source_of(number: int) -> Source:
    """The source of field 102. Raises ``ValueError`` with M3's text."""
    if number not in Source.__members__.values():
        raise ValueError(f"invalid source type {number}")
    return Source(number)


def prom_type_of(number: int) -> PromType:
    """The type of field 1001. Raises ``ValueError``."""
    if number not in PromType.__members__.values():
        raise ValueError(f"invalid Prometheus metric type: {number}")
    return PromType(number)


def parse_prom_type(text: str) -> PromType:
    """The type that the header ``Prometheus-Metric-Type`` names, in any case. Raises ``ValueError`` with M3's text."""
    name = text.lower()
    for kind in PromType:
        if kind is not PromType.UNKNOWN and kind.name.lower() == name:
            return kind
    raise ValueError(f"unknown prom metric type {text}")


def handles_value_resets(source: Source, kind: PromType, name: bytes) -> bool:
    """Whether a falling value of the metric means a restart."""
    if source is Source.GRAPHITE:
        return False
    if kind in (PromType.COUNTER, PromType.HISTOGRAM):
        return source is Source.PROMETHEUS or not name.endswith(b"_created")
    if kind is PromType.GAUGE_HISTOGRAM:
        return name.endswith((b"_count", b"_gcount") if source is Source.PROMETHEUS else b"_gcount")
    if kind is PromType.SUMMARY:
        return name.endswith((b"_count", b"_sum"))
    return False


def annotation_of(source: Source, metric_type: MetricType, kind: PromType, name: bytes) -> bytes:
    """The annotation that travels with every sample when ``storeMetricsType`` is set; empty for a metric of unknown type."""
    if source is Source.GRAPHITE:
        return b"\x18\x01\x20" + varint(_GRAPHITE_TYPES[metric_type])
    out = b""
    if kind is not PromType.UNKNOWN:
        out += b"\x08" + varint(kind)
    if handles_value_resets(source, kind, name):
        out += b"\x10\x01"
    return out

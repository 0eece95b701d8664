"""Metric types, and the reserved tag names of M3 (docs/m3/metrics.md, metric types)."""

from enum import IntEnum

from m3metrics.errors import PolicyError

__all__ = [
    "DROP_TIMESTAMP_TAG",
    "GRAPHITE_AGGREGATION_TAG",
    "GRAPHITE_PREFIX_TAG",
    "PROM_SUMMARY_TAG",
    "PROM_TYPES",
    "PROM_TYPE_TAG",
    "QUANTILE_TAG",
    "RESERVED_PREFIX",
    "TYPE_TAG",
    "MetricType",
    "metric_type_text",
    "parse_metric_type",
]

RESERVED_PREFIX = b"__m3"
"""Tags with this prefix are for matching rules; they never reach aggregator or storage."""
TYPE_TAG = b"__m3_type__"
PROM_TYPE_TAG = b"__m3_prom_type__"
GRAPHITE_AGGREGATION_TAG = b"__m3_graphite_aggregation__"
GRAPHITE_PREFIX_TAG = b"__m3_graphite_prefix__"
DROP_TIMESTAMP_TAG = b"__m3_drop_timestamp__"
PROM_SUMMARY_TAG = b"__m3_prom_summary__"
QUANTILE_TAG = b"quantile"
PROM_TYPES = ("unknown", "counter", "gauge", "histogram", "gauge_histogram", "summary", "info", "state_set")
"""Values of ``PROM_TYPE_TAG``."""


class MetricType(IntEnum):
    """``MetricType`` on the wire."""

    UNKNOWN = 0
    COUNTER = 1
    TIMER = 2
    GAUGE = 3


def metric_type_text(number: int) -> str:
    """The type's name; ``unknown type: N`` for a number that is no type."""
    if number in MetricType.__members__.values():
        return MetricType(number).name.lower()
    return f"unknown type: {number}"


def parse_metric_type(text: str) -> MetricType:
    """``counter``, ``timer`` or ``gauge``, in exactly this case. Raises ``PolicyError``."""
    if text in ("counter", "timer", "gauge"):
        return MetricType[text.upper()]
    raise PolicyError(f"invalid metric type: {text!r} (expected counter, timer or gauge)")

"""Requests of OTLP, built by the tables of ``opentelemetry-proto``."""

from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from coordinator.write.decoding import Decoded
from coordinator.write.options import WriteOptions
from coordinator.write.otlp import OTLP

__all__ = ["CUMULATIVE", "DELTA", "MS", "NS", "any_value", "attributes", "decode", "one_metric", "point", "request"]

DELTA, CUMULATIVE = 1, 2
NS = 1_700_000_000_123_456_789
MS = NS // 1_000_000


def any_value(value: Any) -> dict[str, Any]:
    """An ``AnyValue``."""
    if value is None:
        return {}
    if isinstance(value, list):
        return {"array_value": {"values": [any_value(one) for one in value]}}
    if isinstance(value, dict):
        return {"kvlist_value": {"values": attributes(value)}}
    kind = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value", bytes: "bytes_value"}
    return {kind[type(value)]: value}


def attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    """``KeyValue`` of each."""
    return [{"key": name, "value": any_value(value)} for name, value in values.items()]


def point(
    value: float | None = None, at: dict[str, Any] | None = None, time_ns: int = NS, **more: Any
) -> dict[str, Any]:
    """A data point; ``value``: of a NumberDataPoint."""
    if value is not None:
        more["as_int" if isinstance(value, int) else "as_double"] = value
    return {"time_unix_nano": time_ns, "attributes": attributes(at or {}), **more}


def request(
    *metrics: dict[str, Any], resource: dict[str, Any] | None = None, scope: dict[str, Any] | None = None
) -> Any:
    """Metrics of one scope of one resource."""
    of_scope = {"scope": scope or {}, "metrics": list(metrics)}
    of_resource = {"resource": {"attributes": attributes(resource or {})}, "scope_metrics": [of_scope]}
    return ExportMetricsServiceRequest(resource_metrics=[of_resource])  # type: ignore[list-item]


def one_metric(name: str = "m", unit: str = "", **data: Any) -> Any:
    """A request of one metric."""
    return request({"name": name, "unit": unit, **data})


def decode(message: Any, sender: OTLP | None = None) -> Decoded:
    """What comes of it."""
    options = WriteOptions(dialect="application/x-protobuf")
    return (sender or OTLP()).decode(message.SerializeToString(), options)

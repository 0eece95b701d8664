"""Namespaces: their options as a node has them, what times it takes, and the registry in the KV that names them."""

import time
from dataclasses import dataclass, field

from m3x.golang import go_duration
from m3x.protobuf import Field, Kind, Message, marshal

__all__ = ["HOUR_NS", "MINUTE_NS", "REGISTRY_KEY", "SECOND_NS", "Namespace", "encode_registry"]

SECOND_NS = 10**9
MINUTE_NS, HOUR_NS = 60 * SECOND_NS, 3600 * SECOND_NS
REGISTRY_KEY = "m3db.node.namespaces"
"""Behind ``_kv/{environment}/``."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace; times in ns. ``resolution_ns``: 0 for one of values that are not aggregated."""

    name: str
    retention_ns: int = 48 * HOUR_NS
    resolution_ns: int = 0
    block_ns: int = 2 * HOUR_NS
    buffer_past_ns: int = 10 * MINUTE_NS
    buffer_future_ns: int = 2 * MINUTE_NS
    future_retention_ns: int = 0
    cold_writes: bool = False
    index_block_ns: int = field(default=0)
    """0: as ``block_ns``."""
    ready: bool = True
    downsample_all: bool | None = True
    """None: the registry says nothing of it."""

    def refusal(self, series_id: bytes, timestamp_ns: int, now_ns: int) -> str | None:
        """Why a node whose clock is at ``now_ns`` does not take a point of that time; None: it does."""
        past = _whole_second(now_ns - self.buffer_past_ns)
        future = _whole_second(now_ns + self.buffer_future_ns)
        if past <= timestamp_ns < future:
            return None
        if not self.cold_writes:
            if timestamp_ns < past:
                return _far("past", "", "past_limit", series_id, timestamp_ns, past)
            return _far("future", "", "future_limit", series_id, timestamp_ns, future)
        out = " and out of retention"
        if timestamp_ns < now_ns - self.retention_ns:
            return _far("past", out, "retention_past_limit", series_id, timestamp_ns, now_ns - self.retention_ns)
        if timestamp_ns >= max(now_ns + self.future_retention_ns, future):
            return _far(
                "future", out, "retention_future_limit", series_id, timestamp_ns, now_ns + self.future_retention_ns
            )
        return None


def _whole_second(time_ns: int) -> int:
    return time_ns // SECOND_NS * SECOND_NS


def _far(way: str, out: str, limit_name: str, series_id: bytes, timestamp_ns: int, limit_ns: int) -> str:
    return (
        f"datapoint too far in {way}{out}: id={series_id.decode('utf-8', 'surrogateescape')}, "
        f"off_by={go_duration(abs(timestamp_ns - limit_ns))}, timestamp={_text(timestamp_ns)}, {limit_name}={_text(limit_ns)}, "
        f"timestamp_unix_nanos={timestamp_ns}, {limit_name}_unix_nanos={limit_ns}"
    )


def _text(time_ns: int) -> str:
    try:
        return time.strftime("%d %b %y %H:%M +0000", time.gmtime(time_ns // SECOND_NS))
    except (OverflowError, ValueError, OSError):
        return f"{time_ns} ns"


# The registry: numbers and names are facts of the format.

_RETENTION = Message(
    "namespace.RetentionOptions",
    (
        Field(1, "retention_period_nanos", Kind.INT64),
        Field(2, "block_size_nanos", Kind.INT64),
        Field(3, "buffer_future_nanos", Kind.INT64),
        Field(4, "buffer_past_nanos", Kind.INT64),
        Field(5, "block_data_expiry", Kind.BOOL),
        Field(6, "block_data_expiry_after_not_access_period_nanos", Kind.INT64),
        Field(7, "future_retention_period_nanos", Kind.INT64),
    ),
)
_INDEX = Message("namespace.IndexOptions", (Field(1, "enabled", Kind.BOOL), Field(2, "block_size_nanos", Kind.INT64)))
_DOWNSAMPLE = Message("namespace.DownsampleOptions", (Field(1, "all", Kind.BOOL),))
_ATTRIBUTES = Message(
    "namespace.AggregatedAttributes",
    (Field(1, "resolution_nanos", Kind.INT64), Field(2, "downsample_options", Kind.MESSAGE, _DOWNSAMPLE)),
)
_AGGREGATION = Message(
    "namespace.Aggregation",
    (Field(1, "aggregated", Kind.BOOL), Field(2, "attributes", Kind.MESSAGE, _ATTRIBUTES)),
)
_AGGREGATIONS = Message(
    "namespace.AggregationOptions", (Field(1, "aggregations", Kind.MESSAGE, _AGGREGATION, repeated=True),)
)
_STAGING = Message("namespace.StagingState", (Field(1, "status", Kind.INT32),))
_OPTIONS = Message(
    "namespace.NamespaceOptions",
    (
        Field(1, "bootstrap_enabled", Kind.BOOL),
        Field(2, "flush_enabled", Kind.BOOL),
        Field(3, "writes_to_commit_log", Kind.BOOL),
        Field(4, "cleanup_enabled", Kind.BOOL),
        Field(5, "repair_enabled", Kind.BOOL),
        Field(6, "retention_options", Kind.MESSAGE, _RETENTION),
        Field(7, "snapshot_enabled", Kind.BOOL),
        Field(8, "index_options", Kind.MESSAGE, _INDEX),
        Field(10, "cold_writes_enabled", Kind.BOOL),
        Field(13, "aggregation_options", Kind.MESSAGE, _AGGREGATIONS),
        Field(14, "staging_state", Kind.MESSAGE, _STAGING),
    ),
)
_REGISTRY = Message("namespace.Registry", (Field(1, "namespaces", Kind.MESSAGE, _OPTIONS, map_key=Kind.STRING),))
_INITIALIZING, _READY = 1, 2


def encode_registry(namespaces: list[Namespace]) -> bytes:
    """The value of the registry."""
    return marshal(_REGISTRY, {"namespaces": {one.name: _options(one) for one in namespaces}})


def _options(one: Namespace) -> dict[str, object]:
    aggregation: dict[str, object] = {"aggregated": one.resolution_ns > 0}
    if one.resolution_ns:
        down = None if one.downsample_all is None else {"all": one.downsample_all}
        aggregation["attributes"] = {"resolution_nanos": one.resolution_ns, "downsample_options": down}
    return {
        **dict.fromkeys(("bootstrap_enabled", "flush_enabled", "writes_to_commit_log", "cleanup_enabled"), True),
        "snapshot_enabled": True,
        "retention_options": {
            "retention_period_nanos": one.retention_ns,
            "block_size_nanos": one.block_ns,
            "buffer_future_nanos": one.buffer_future_ns,
            "buffer_past_nanos": one.buffer_past_ns,
            "block_data_expiry": True,
            "future_retention_period_nanos": one.future_retention_ns,
        },
        "index_options": {"enabled": True, "block_size_nanos": one.index_block_ns or one.block_ns},
        "cold_writes_enabled": one.cold_writes,
        "aggregation_options": {"aggregations": [aggregation]},
        "staging_state": {"status": _READY if one.ready else _INITIALIZING},
    }

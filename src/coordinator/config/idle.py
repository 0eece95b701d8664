"""Sections of M3's coordinator that have no effect here: their keys and types, so that a file is judged as M3 judges it.

docs/compatibility.md, "Configuration", says what holds instead.
"""

from typing import Literal

import msgspec

from coordinator.config.cluster import NamespaceConfig
from m3x.config import Duration, EmptyIsDefault, Natural, Rate, Section, Time


class LocalConfig(Section, frozen=True, kw_only=True):
    """``local``."""

    namespaces: list[NamespaceConfig] = []


class FilterConfig(Section, frozen=True, kw_only=True):
    """``filter``."""

    read: str = ""
    write: str = ""
    complete_tags: str = ""


class RemoteConfig(Section, frozen=True, kw_only=True):
    """``rpc.remotes[]``."""

    name: str = ""
    remote_listen_addresses: list[str] = []
    error_behavior: Literal["fail", "warn"] | None = None


class RPCConfig(Section, frozen=True, kw_only=True):
    """``rpc``."""

    enabled: bool = False
    listen_address: str = ""
    remotes: list[RemoteConfig] = []
    remote_listen_addresses: list[str] = []
    error_behavior: Literal["fail", "warn"] | None = None
    reflection_enabled: bool = False


class HTTPConfig(Section, frozen=True, kw_only=True):
    """``http``."""

    enable_h2c: bool = msgspec.field(name="enableH2C", default=False)


class TagFilterConfig(Section, frozen=True, kw_only=True):
    """``tagOptions.filters[]``."""

    values: list[str] = []
    name: str = ""


class WorkerPoolConfig(Section, frozen=True, kw_only=True):
    """``readWorkerPoolPolicy``."""

    grow: bool = False
    size: int = 0
    shards: int = 0
    kill_probability: Rate = 0.0


class MatcherCacheConfig(Section, frozen=True, kw_only=True):
    """``matcher.cache``."""

    capacity: int = 0


class LoggingMiddlewareConfig(Section, frozen=True, kw_only=True):
    """``middleware.logging``."""

    threshold: Duration = Duration(0)
    disabled: bool = False


class QueryClassificationConfig(Section, frozen=True, kw_only=True):
    """``metrics.queryEndpointsClassification``."""

    results_buckets: list[int] = []
    duration_buckets: list[Duration] = []


class MetricsMiddlewareConfig(Section, frozen=True, kw_only=True):
    """``middleware.metrics``."""

    query_endpoints_classification: QueryClassificationConfig | None = None
    label_endpoints_classification: QueryClassificationConfig | None = None
    add_status_to_latencies: bool = False


class PrometheusMiddlewareConfig(Section, frozen=True, kw_only=True):
    """``middleware.prometheus``."""

    resolution_multiplier: int = 0


class MiddlewareConfig(Section, frozen=True, kw_only=True):
    """``middleware``."""

    logging: LoggingMiddlewareConfig | None = None
    metrics: MetricsMiddlewareConfig | None = None
    prometheus: PrometheusMiddlewareConfig | None = None


class ConsolidationConfig(Section, frozen=True, kw_only=True):
    """``query.consolidation``."""

    match_type: EmptyIsDefault[Literal["ids", "tags"]] = "ids"


class PrometheusConvertConfig(Section, frozen=True, kw_only=True):
    """``query.prometheus.convert``."""

    resolution_threshold_for_counter_normalization: Duration = Duration(0)
    value_decrease_tolerance: float = 0.0
    value_decrease_tolerance_until: Time | None = None


class PrometheusQueryConfig(Section, frozen=True, kw_only=True):
    """``query.prometheus``."""

    max_samples_per_query: int = 0
    convert: PrometheusConvertConfig | None = None


class StringMatchConfig(Section, frozen=True, kw_only=True):
    """``restrictTags.match[]``."""

    name: str = ""
    type: str = ""
    value: str = ""


class RestrictTagsConfig(Section, frozen=True, kw_only=True):
    """``query.restrictTags``."""

    match: list[StringMatchConfig] = []
    strip: list[str] = []


class ResultOptionsConfig(Section, frozen=True, kw_only=True):
    """``resultOptions``."""

    keep_nans: bool = False


class ExperimentalConfig(Section, frozen=True, kw_only=True):
    """``experimental``."""

    enabled: bool = False


class MultiProcessConfig(Section, frozen=True, kw_only=True):
    """``multiProcess``."""

    enabled: bool = False
    count: Natural = 0
    per_cpu: Rate = msgspec.field(name="perCPU", default=0.0)
    go_max_procs: int = 0

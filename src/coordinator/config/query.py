"""``query`` and ``limits``: what holds for queries that do not say otherwise (docs/m3/coordinator.md, limits of queries)."""

from coordinator.config.idle import ConsolidationConfig, PrometheusQueryConfig, RestrictTagsConfig
from m3x.config import Duration, Float32, Meaningless, Section

__all__ = ["LimitsConfig", "PerQueryLimitsConfig", "QueryConfig"]

_MAX_TIMEOUT_S = 600


class QueryConfig(Section, frozen=True):
    """``query``."""

    timeout: Duration = Duration(30_000_000_000)
    """Of what a query asks M3DB's nodes for."""
    default_engine: Meaningless[str] = None
    consolidation: Meaningless[ConsolidationConfig] = None
    prometheus: Meaningless[PrometheusQueryConfig] = None
    restrict_tags: Meaningless[RestrictTagsConfig] = None
    require_labels_endpoint_start_end_time: Meaningless[bool] = None
    require_series_endpoint_start_end_time: Meaningless[bool] = None

    def __post_init__(self) -> None:
        if not 0 < self.timeout.seconds <= _MAX_TIMEOUT_S:
            raise ValueError(f"timeout must be positive, and at most {_MAX_TIMEOUT_S}s; found {self.timeout}")


class PerQueryLimitsConfig(Section, frozen=True):
    """``limits.perQuery``: of each namespace of M3DB that a query asks; 0: the default."""

    max_fetched_series: int = 0
    """100,000 by default."""
    max_fetched_docs: int = 0
    """None by default."""
    max_fetched_range: Duration = Duration(0)
    """None by default."""
    require_exhaustive: bool = True
    """Whether a query beyond a limit is refused, or answered in part."""
    instance_multiple: Meaningless[Float32] = None
    max_metric_metadata_stats: Meaningless[int] = None


class LimitsConfig(Section, frozen=True):
    """``limits``."""

    per_query: PerQueryLimitsConfig = PerQueryLimitsConfig()

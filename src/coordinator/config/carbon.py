"""``carbon.ingester``: the carbon listener and its rules (docs/m3/coordinator.md, carbon)."""

import msgspec

from coordinator.config.query import LimitsConfig
from m3metrics.sections import AggregationName
from m3x.config import Address, Duration, Meaningless, Section, parse_address


class AggregationConfig(Section, frozen=True):
    """``rules[].aggregation``: whether and how values of a window are combined; mean unless said otherwise."""

    enabled: bool = True
    type: AggregationName = AggregationName("mean")


class CarbonPolicyConfig(Section, frozen=True):
    """``rules[].policies[]``: must name an aggregated namespace exactly."""

    resolution: Duration
    retention: Duration


class CarbonRuleConfig(Section, frozen=True):
    """One rule: which paths, what becomes of them. Neither ``pattern`` nor ``contains``: every path."""

    pattern: str = ""
    """A regular expression that is searched for anywhere in the path."""
    contains: str = ""
    """Plain text that the path contains."""
    continue_: bool = msgspec.field(name="continue", default=False)
    """Whether the rules below are tried too after a match."""
    aggregation: AggregationConfig = AggregationConfig()
    policies: list[CarbonPolicyConfig] = []


class CarbonRewriteConfig(Section, frozen=True):
    """``rewrite``."""

    cleanup: bool = False
    """Repair paths: superfluous dots, characters that Graphite does not take."""


class CarbonIngesterConfig(Section, frozen=True):
    """``carbon.ingester``."""

    listen_address: Address = "0.0.0.0:7204"
    max_concurrency: Meaningless[int] = None
    rewrite: CarbonRewriteConfig = CarbonRewriteConfig()
    rules: list[CarbonRuleConfig] | None = None
    """None: one rule for everything, mean, all aggregated namespaces."""

    def __post_init__(self) -> None:
        parse_address(self.listen_address)


class CarbonConfig(Section, frozen=True):
    """``carbon``: without ``ingester`` there is no carbon listener."""

    ingester: CarbonIngesterConfig | None = None
    limits_find: Meaningless[LimitsConfig] = None
    limits_render: Meaningless[LimitsConfig] = None
    aggregate_namespaces_all_data: Meaningless[bool] = None
    shift_time_start: Meaningless[Duration] = None
    shift_time_end: Meaningless[Duration] = None
    shift_steps_start: Meaningless[int] = None
    shift_steps_end: Meaningless[int] = None
    shift_steps_start_when_at_resolution_boundary: Meaningless[int] = None
    shift_steps_end_when_at_resolution_boundary: Meaningless[int] = None
    shift_steps_start_when_end_at_resolution_boundary: Meaningless[int] = None
    shift_steps_end_when_start_at_resolution_boundary: Meaningless[int] = None
    render_partial_start: Meaningless[bool] = None
    render_partial_end: Meaningless[bool] = None
    render_series_all_nans: Meaningless[bool] = msgspec.field(name="renderSeriesAllNaNs", default=None)
    compile_escape_all_not_only_quotes: Meaningless[bool] = None
    find_results_include_both_expandable_and_leaf: Meaningless[bool] = None

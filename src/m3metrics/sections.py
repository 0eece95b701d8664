"""Parts of configuration files that name storage policies and aggregation types, or say how late samples may be: the same in both
services."""

from collections.abc import Iterator, Sequence
from typing import Literal

from m3metrics.aggregation import AggregationType, is_valid_for, parse_type
from m3metrics.metric import MetricType
from m3metrics.past_limits import PastLimits
from m3metrics.policy import StoragePolicy
from m3x.config import Duration, Meaningless, Section, Text
from m3x.pools import BucketizedPoolConfig, ObjectPoolConfig

__all__ = [
    "AggregationName",
    "AggregationTypesConfig",
    "BufferPastLimitConfig",
    "PolicyText",
    "Transform",
    "past_limits_of",
]

Transform = Literal["noop", "empty", "suffix"]


class AggregationName(Text):
    """``Sum``, in any case."""

    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        try:
            parse_type(text)
        except ValueError as error:
            raise ValueError(f"{error} (expected one of {', '.join(kind.text for kind in AggregationType)})") from None


class PolicyText(Text):
    """``10s:48h``."""

    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        try:
            StoragePolicy.parse(text)
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}; write it like 10s:48h") from None


class AggregationTypesConfig(Section, frozen=True, kw_only=True):
    """``aggregationTypes``: what metrics without aggregation types of their own get, and how the types show in their names."""

    default_counter_aggregation_types: list[AggregationName] = []
    default_timer_aggregation_types: list[AggregationName] = []
    default_gauge_aggregation_types: list[AggregationName] = []
    counter_transform_fn_type: Transform = "noop"
    timer_transform_fn_type: Transform = "noop"
    gauge_transform_fn_type: Transform = "noop"
    aggregation_types_pool: Meaningless[ObjectPoolConfig] = None
    quantiles_pool: Meaningless[BucketizedPoolConfig] = None

    def problems(self) -> Iterator[tuple[str, str]]:
        for key, kind, names in (
            ("defaultCounterAggregationTypes", MetricType.COUNTER, self.default_counter_aggregation_types),
            ("defaultTimerAggregationTypes", MetricType.TIMER, self.default_timer_aggregation_types),
            ("defaultGaugeAggregationTypes", MetricType.GAUGE, self.default_gauge_aggregation_types),
        ):
            for index, name in enumerate(names):
                if not is_valid_for(kind, parse_type(name)):
                    yield f"{key}[{index}]", f"{name} is not possible for this metric type"


class BufferPastLimitConfig(Section, frozen=True, kw_only=True):
    """``bufferPastLimits[]``; what is left out is zero, as in M3."""

    resolution: Duration = Duration(0)
    buffer_past: Duration = Duration(0)

    def __post_init__(self) -> None:
        if min(self.resolution, self.buffer_past) < 0:
            raise ValueError("resolution and bufferPast must not be negative")


def past_limits_of(given: Sequence[BufferPastLimitConfig]) -> PastLimits | None:
    """What ``bufferPastLimits`` says; None: nothing."""
    limits = tuple((int(one.resolution), int(one.buffer_past)) for one in given)
    return PastLimits(limits) if limits else None

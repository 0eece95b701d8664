"""``downsample.rules`` (docs/m3/coordinator.md, rules in the file): mapping and rollup rules as they are written.

M3 finds some mistakes when it starts and logs others; here all of them are found when the file is read, with line and key.
``coordinator.downsample.rule_file`` makes a rule set of it.
"""

from collections.abc import Iterator, Sequence

from m3metrics.filters import FilterError, compile_filter
from m3metrics.pipeline import TransformationType
from m3metrics.rules import RollupRuleOp, RulesError
from m3metrics.sections import AggregationName
from m3x.config import Duration, Section, Text

__all__ = [
    "AggregateConfig",
    "MappingRuleConfig",
    "RollupConfig",
    "RollupRuleConfig",
    "RulePolicyConfig",
    "RuleTagConfig",
    "RulesConfig",
    "StepConfig",
    "TransformConfig",
]

TRANSFORMATIONS = {kind.text: kind for kind in TransformationType}


class FilterText(Text):
    """``app:nginx* env:prod``."""

    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        try:
            compile_filter(text)
        except FilterError as error:
            raise ValueError(
                f"{error} (expected items tag:pattern separated by spaces, like app:nginx* env:prod)"
            ) from None


class TransformationName(Text):
    """``PerSecond``, in exactly this case."""

    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        if text not in TRANSFORMATIONS:
            raise ValueError(f"invalid transformation type: {text} (expected one of {', '.join(TRANSFORMATIONS)})")


class MetricName(Text):
    """A name, which may hold ``{{ .MetricName }}`` once."""

    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        if not text:
            raise ValueError("the new metric needs a name; {{ .MetricName }} in it stands for the old one")
        try:
            RollupRuleOp.create(text.encode(), ())
        except RulesError as error:
            raise ValueError(str(error)) from None


class RulePolicyConfig(Section, frozen=True):
    """``{resolution: 1m, retention: 48h}``."""

    resolution: Duration
    retention: Duration

    def __post_init__(self) -> None:
        if self.resolution <= 0 or self.retention <= 0:
            raise ValueError("resolution and retention must be longer than zero")


class RuleTagConfig(Section, frozen=True):
    """A tag that the rule adds."""

    name: str = ""
    value: str = ""


class MappingRuleConfig(Section, frozen=True):
    """How metrics that match are aggregated and kept."""

    filter: FilterText = FilterText()
    aggregations: list[AggregationName] = []
    storage_policies: list[RulePolicyConfig] = []
    drop: bool = False
    tags: list[RuleTagConfig] = []
    name: str = ""

    def __post_init__(self) -> None:
        if self.drop and self.storage_policies:
            raise ValueError("drop and storagePolicies exclude each other: remove one of them")
        if not self.drop and not self.storage_policies:
            raise ValueError(
                "storagePolicies is required: name at least one {resolution, retention}, or set drop: true"
            )


class RollupConfig(Section, frozen=True):
    """``rollup``: a new metric with some of the tags."""

    metric_name: MetricName
    group_by: list[str] = []
    exclude_by: list[str] = []
    aggregations: list[AggregationName] = []

    def __post_init__(self) -> None:
        if self.group_by and self.exclude_by:
            raise ValueError("groupBy and excludeBy exclude each other: remove one of them")


class AggregateConfig(Section, frozen=True):
    """``aggregate``."""

    type: AggregationName


class TransformConfig(Section, frozen=True):
    """``transform``."""

    type: TransformationName


class StepConfig(Section, frozen=True):
    """An element of ``transforms``."""

    rollup: RollupConfig | None = None
    aggregate: AggregateConfig | None = None
    transform: TransformConfig | None = None

    def __post_init__(self) -> None:
        if sum(step is not None for step in (self.rollup, self.aggregate, self.transform)) != 1:
            raise ValueError("expected exactly one of rollup, aggregate, transform in each element of transforms")


class RollupRuleConfig(Section, frozen=True):
    """What is made of metrics that match."""

    filter: FilterText = FilterText()
    transforms: list[StepConfig] = []
    storage_policies: list[RulePolicyConfig] = []
    name: str = ""
    tags: list[RuleTagConfig] = []

    def __post_init__(self) -> None:
        if not self.transforms:
            raise ValueError("transforms is required: at least one of rollup, aggregate, transform")


class RulesConfig(Section, frozen=True):
    """``downsample.rules``; where the key is there, rules in KV are not looked at."""

    mapping_rules: list[MappingRuleConfig] = []
    rollup_rules: list[RollupRuleConfig] = []

    def problems(self) -> Iterator[tuple[str, str]]:
        for key, names in (
            ("mappingRules", [rule.name for rule in self.mapping_rules]),
            ("rollupRules", [rule.name for rule in self.rollup_rules]),
        ):
            yield from _names_taken_twice(key, names)


def _names_taken_twice(key: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if name and name in seen:
            text = f"{name!r} is the name of {key}[{seen[name]}] already; give each rule its own name, or none"
            yield f"{key}[{index}].name", text
        seen.setdefault(name, index)

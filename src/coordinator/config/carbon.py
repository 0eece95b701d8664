"""``carbon.ingester``: the carbon listener and its rules (docs/m3/coordinator.md, carbon)."""

import re
from collections.abc import Iterator, Sequence

import msgspec

from coordinator.config.cluster import Namespace
from coordinator.config.query import LimitsConfig
from m3metrics.policy import format_duration
from m3metrics.sections import AggregationName
from m3x.config import Address, Duration, Meaningless, Section, parse_address
from m3x.tls import ServerTLSConfig

_POSIX_CLASSES = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "ascii": "\\x00-\\x7F", "blank": "\\t ", "cntrl": "\\x00-\\x1F\\x7F", "digit": "0-9",
    "graph": "!-~", "lower": "a-z", "print": " -~", "punct": "!-/:-@\\[-`{-~", "space": "\\t\\n\\v\\f\\r ", "upper": "A-Z",
    "word": "0-9A-Za-z_", "xdigit": "0-9A-Fa-f",
}  # fmt: skip


class AggregationConfig(Section, frozen=True):
    """``rules[].aggregation``: whether and how values of a window are combined; mean unless said otherwise."""

    enabled: bool = True
    type: AggregationName = AggregationName("mean")


class CarbonPolicyConfig(Section, frozen=True):
    """``rules[].policies[]``: must name an aggregated namespace exactly."""

    resolution: Duration
    retention: Duration

    @property
    def named(self) -> str:
        """As policies are written: ``10s:6h``."""
        return f"{format_duration(int(self.resolution))}:{format_duration(int(self.retention))}"


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

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.pattern and self.contains:
            yield "contains", "pattern and contains exclude each other"
        try:
            compiled_pattern(self.pattern)
        except re.error as error:
            yield "pattern", f"{self.pattern!r} cannot be compiled: {error}"
        named = [policy.named for policy in self.policies]
        for index, name in enumerate(named):
            if name in named[:index]:
                yield f"policies[{index}]", f"the policy {name} is given twice"
        if not self.aggregation.enabled and len({policy.resolution for policy in self.policies}) > 1:
            yield "policies", "without aggregation all policies must have one resolution"


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
    tls: ServerTLSConfig = ServerTLSConfig()
    """Not a key of M3; the keys in it are those of its listeners."""

    def __post_init__(self) -> None:
        parse_address(self.listen_address)
        if self.tls.mode == "permissive":
            raise ValueError("tls.mode of carbon is disabled or enforced; give plain lines a coordinator of their own")


class CarbonConfig(Section, frozen=True):
    """``carbon``: without ``ingester`` there is no carbon listener."""

    ingester: CarbonIngesterConfig | None = None
    limits_find: LimitsConfig | None = None
    """Of Graphite's ``find``, and of ``render``, in the place of ``limits``."""
    limits_render: LimitsConfig | None = None
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


def policy_problems(rule: CarbonRuleConfig, namespaces: Sequence[Namespace] | None) -> Iterator[tuple[str, str]]:
    """Policies of a rule that have no place in storage, by path below the rule. ``namespaces``: None: not known."""
    if namespaces is None:
        return
    known = {(n.resolution_ns, n.retention_ns): n for n in namespaces if n.aggregated}
    for index, policy in enumerate(rule.policies):
        found = known.get((int(policy.resolution), int(policy.retention)))
        if found is None:
            listed = ", ".join(f"{format_duration(one)}:{format_duration(two)}" for one, two in sorted(known)) or "none"
            text = f"there is no aggregated namespace {policy.named}; there are: {listed}"
            yield f"policies[{index}]", text
        elif found.read_only and not rule.aggregation.enabled:
            text = f"the namespace of {policy.named} is readOnly, so that nothing can be written to it"
            yield f"policies[{index}]", text


def compiled_pattern(text: str) -> re.Pattern[str]:
    """A Go regular expression, as far as Python's syntax says the same. Raises ``re.error``."""
    translated = re.sub(r"\[:(\^?)(\w+):\]", _posix_class, text).replace(r"\z", r"\Z")
    return re.compile(translated, re.ASCII)


def _posix_class(match: re.Match[str]) -> str:
    inverted, name = match.groups()
    content = _POSIX_CLASSES.get(name)
    return content if content is not None and not inverted else match.group()

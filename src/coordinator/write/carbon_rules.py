"""Carbon rules: which paths become which aggregations or direct writes (docs/m3/coordinator.md, carbon)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.config.carbon import CarbonIngesterConfig, CarbonRuleConfig, compiled_pattern, policy_problems
from coordinator.config.cluster import Namespace
from coordinator.config.coordinator import CoordinatorConfig
from coordinator.downsample import Downsampler, RulesInEffect
from coordinator.downsample.policies import PolicyJudge, override, policy_of
from m3metrics.aggregation import parse_type
from m3metrics.ids import Tags
from m3metrics.metadata import StagedMetadatas
from m3metrics.policy import StoragePolicy
from m3x.config import Places

_CLEAN = re.compile(rb"[0-9A-Za-z.\-_:#]")


class CarbonRulesError(ValueError):
    """The rules cannot work with the namespaces; the text says which rule and why."""


@dataclass(frozen=True, slots=True)
class CarbonRule:
    """A compiled rule."""

    pattern: re.Pattern[str] | None
    """None: matches every path."""
    contains: str
    go_on: bool
    metadatas: StagedMetadatas | None
    """What the aggregators shall do; None: written directly to ``policies``."""
    policies: tuple[StoragePolicy, ...]

    def matches(self, path: str) -> bool:
        """Whether the rule applies to the path."""
        if self.contains:
            return self.contains in path
        return self.pattern is None or self.pattern.search(path) is not None


def rules_in(config: CoordinatorConfig, namespaces: Sequence[Namespace] | None = None) -> list[CarbonRule]:
    """The carbon rules of a coordinator's file; none where it takes no carbon lines. Raises ``CarbonRulesError``.

    Lines have no answer, so that a rule which nothing could ever come of is an error: aggregation without aggregators. ``namespaces``:
    those that there are now; None: those of the file, or not known.
    """
    ingester = config.carbon.ingester
    if ingester is None:
        return []
    if namespaces is None and config.knows_namespaces:
        namespaces = config.namespaces
    rules = compile_rules(ingester, namespaces)
    if not config.takes_samples or namespaces is None:
        return []
    downsampler = Downsampler.of(config, RulesInEffect(), 0)
    downsampler.set_namespaces(namespaces)
    obstacle = downsampler.obstacle
    aggregating = [index for index, rule in enumerate(rules) if rule.metadatas is not None]
    if aggregating and obstacle is not None:
        where = "carbon.ingester" if ingester.rules is None else f"carbon.ingester.rules[{aggregating[0]}]"
        raise CarbonRulesError(f"{where}: the rule aggregates, but {obstacle}")
    return rules


def compile_rules(config: CarbonIngesterConfig, namespaces: Sequence[Namespace] | None) -> list[CarbonRule]:
    """The rules of the file; of unknown ``namespaces`` (None) all that they ask for are taken to be there.

    Raises ``CarbonRulesError`` where M3 would log an error and ignore all of them.
    """
    rules = [CarbonRuleConfig(pattern=".*")] if config.rules is None else config.rules
    return [_compile(index, rule, config.rules is None, namespaces) for index, rule in enumerate(rules)]


def unstored(rules: Sequence[CarbonRule], judge: PolicyJudge, places: Places) -> list[str]:
    """Policies of rules whose values do not come to storage when the aggregators give them back (read-only namespaces), one line each."""
    return [
        places.named(f"carbon.ingester.rules[{index}]", f"the rule asks for {policy}: {reason}")
        for index, rule in enumerate(rules)
        if rule.metadatas is not None
        for policy in rule.policies
        if (reason := judge(policy))
    ]


def _compile(
    index: int, rule: CarbonRuleConfig, all_policies: bool, namespaces: Sequence[Namespace] | None
) -> CarbonRule:
    for relative, text in [*rule.problems(), *policy_problems(rule, namespaces)]:
        where = f"carbon.ingester.rules[{index}]"
        raise CarbonRulesError(f"{f'{where}.{relative}' if relative else where}: {text}")
    known = {policy_of(n.resolution_ns, n.retention_ns) for n in namespaces or () if n.aggregated}
    asked = [policy_of(int(one.resolution), int(one.retention)) for one in rule.policies]
    policies = sorted(known if all_policies else asked, key=lambda policy: (policy.window_ns, policy.retention_ns))
    aggregated = rule.aggregation.enabled
    metadatas = override(parse_type(rule.aggregation.type), policies) if aggregated else None
    pattern = None if rule.pattern in {"", ".*"} else compiled_pattern(rule.pattern)
    return CarbonRule(pattern, rule.contains, rule.continue_, metadatas, tuple(policies))


def matching(rules: Sequence[CarbonRule], path: bytes) -> list[CarbonRule]:
    """The rules that apply to a path, up to the first one that does not go on."""
    text = path.decode(errors="replace")
    found = []
    for rule in rules:
        if rule.matches(text):
            found.append(rule)
            if not rule.go_on:
                break
    return found


def clean_path(path: bytes) -> bytes:
    """``rewrite.cleanup``: no leading, trailing or repeated dots; each run of other bytes becomes ``_`` unless one stands there."""
    out = bytearray()
    for index in range(len(path)):
        byte = path[index : index + 1]
        if byte == b".":
            if out and out[-1:] != b".":
                out += byte
        elif _CLEAN.match(byte):
            out += byte
        elif out[-1:] != b"_":
            out += b"_"
    return bytes(out.rstrip(b"."))


def tags_of(path: bytes) -> Tags:
    """``a.b.c`` → ``__g0__=a …``. Raises ``ValueError`` with M3's text."""
    if not path:
        raise ValueError("cannot generate tags from empty name")
    if b".." in path:
        raise ValueError(f"carbon metric: {path.decode(errors='replace')} has duplicate separator")
    return [(b"__g%d__" % index, part) for index, part in enumerate(path.removesuffix(b".").split(b"."))]

"""What changed carbon rules would make of the paths that a running coordinator knows: aggregated, stored as they come, or neither."""

from collections import Counter
from collections.abc import Iterable, Sequence

from coordinator.config.carbon import CarbonIngesterConfig, CarbonRuleConfig
from coordinator.downsample.dry_run import Changes
from coordinator.downsample.explain import pipeline, pipeline_line
from coordinator.write.carbon_rules import CarbonRule, clean_path, matching, tags_of

__all__ = ["CarbonDryRun", "kept_lines"]


def kept_lines(rules: Sequence[CarbonRule], path: bytes, *, cleanup: bool) -> list[str]:
    """What becomes of a path, a line each: ``a.b: Mean at 10s:6h``, or ``a.b: as it comes at 10s:6h``. Empty: no rule keeps it."""
    if cleanup:
        path = clean_path(path)
    try:
        tags_of(path)
    except ValueError:
        return []
    shown, lines = path.decode(errors="replace"), []
    for rule in matching(rules, path):
        if rule.metadatas is None:
            lines += [f"{shown}: as it comes at {policy}" for policy in rule.policies]
            continue
        for stage in rule.metadatas:
            lines += [f"{shown}: {pipeline_line(pipeline(one))}" for one in stage.pipelines]
    return lines


class CarbonDryRun:
    """Counts over paths; ``ingester``: the changed section, None: the file takes no carbon lines; ``rules``: made of it."""

    def __init__(self, ingester: CarbonIngesterConfig | None, rules: Sequence[CarbonRule]) -> None:
        self._names = _names(ingester)
        self._cleanup = ingester is not None and ingester.rewrite.cleanup
        self._rules = rules
        self.paths = 0
        self.unmatched = 0
        self.changes = Changes("path", "paths")
        self._matched = Counter[int]()

    def take(self, path: bytes, before: Iterable[str]) -> None:
        """One more path, as it was sent; ``before``: what becomes of it now."""
        self.paths += 1
        applying = matching(self._rules, clean_path(path) if self._cleanup else path)
        self._matched.update(number for number, rule in enumerate(self._rules) if any(rule is one for one in applying))
        self.unmatched += not applying
        self.changes.take(before, kept_lines(self._rules, path, cleanup=self._cleanup))

    def text(self) -> str:
        """For people; empty where there is nothing to say."""
        if not self.paths and not self._names:
            return ""
        out = ["", f"{self.paths} path{'' if self.paths == 1 else 's'} of carbon", ""]
        for number, name in enumerate(self._names):
            count = self._matched[number]
            matched = {0: "no path matches", 1: "1 path matches"}.get(count, f"{count} paths match")
            out.append(f"carbon rule {name}: {matched}")
        if self.unmatched:
            out.append(f"no carbon rule matches: {self.unmatched} of the paths, which are not kept")
        return "\n".join([*out, "", *self.changes.lines()]) + "\n"


def _names(ingester: CarbonIngesterConfig | None) -> list[str]:
    """What the rules are called."""
    if ingester is None:
        return []
    return ["for every path"] if ingester.rules is None else [_name(n, rule) for n, rule in enumerate(ingester.rules)]


def _name(number: int, rule: CarbonRuleConfig) -> str:
    wanted = f"contains {rule.contains!r}" if rule.contains else f"pattern {rule.pattern!r}"
    return f"{number} ({wanted})" if rule.contains or rule.pattern else f"{number} (every path)"

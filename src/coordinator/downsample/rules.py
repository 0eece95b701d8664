"""The rules in effect on this coordinator, by namespace. Filled once from the file, or kept up to date from KV."""

from m3metrics.filters import TagsFilter
from m3metrics.rules import ActiveRuleSet, RuleSet, ineffective
from m3metrics.rules.active import NEVER_NS


class RulesInEffect:
    """``version`` grows with every change; between cutovers of one version matching gives the same results."""

    def __init__(self) -> None:
        self.version = 0
        self._active: dict[bytes, ActiveRuleSet] = {}

    def warnings(self) -> list[str]:
        """Parts of rules that can never have an effect, one line each."""
        return [
            f"{text} (rules of namespace {namespace.decode(errors='replace')!r})"
            for namespace, active in self._active.items()
            for text in ineffective(active.rule_set)
        ]

    def put(self, namespace: str, rule_set: RuleSet) -> None:
        """Sets the rules of a namespace."""
        self._active[namespace.encode("utf-8", "surrogateescape")] = ActiveRuleSet(rule_set)
        self.version += 1

    def remove(self, namespace: str) -> None:
        """No rules for a namespace."""
        if self._active.pop(namespace.encode("utf-8", "surrogateescape"), None) is not None:
            self.version += 1

    def of(self, namespace: bytes) -> ActiveRuleSet | None:
        """The rules of a namespace; None: metrics are mapped as if no rule matched."""
        return self._active.get(namespace)

    def filters(self, time_ns: int) -> list[TagsFilter]:
        """The filters of all rules in effect, those of deleted ones included."""
        return [
            snapshot.filter
            for active in self._active.values()
            for snapshots in active.in_effect(time_ns)
            for snapshot in snapshots
        ]

    def span(self, time_ns: int) -> tuple[int, int]:
        """``[from, until)`` around ``time_ns`` without a cutover inside."""
        begin, end = 0, NEVER_NS
        for active in self._active.values():
            end = min(end, active.next_cutover_ns(time_ns))
            begin = max([begin, *(cutover for cutover in active.cutovers_ns if cutover <= time_ns)])
        return begin, end

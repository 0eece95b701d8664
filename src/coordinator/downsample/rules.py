"""The rules in effect on this coordinator, by namespace. Filled once from the file, or kept up to date from KV."""

from coordinator.downsample.policies import PolicyJudge
from m3metrics.filters import TagsFilter
from m3metrics.policy import StoragePolicy
from m3metrics.rules import ActiveRuleSet, Ineffective, RuleSet, asked_policies, ineffective
from m3metrics.rules.active import NEVER_NS
from m3x.config import Places

_SECTION = "downsample.rules"


class RulesInEffect:
    """``version`` grows with every change; between cutovers of one version matching gives the same results.

    ``judge`` says which storage policies have no place, for ``warnings``.
    """

    def __init__(self, judge: PolicyJudge = lambda _: "") -> None:
        self.version = 0
        self._judge = judge
        self._active: dict[bytes, ActiveRuleSet] = {}
        self._places: dict[str, Places | None] = {}
        self._warnings: dict[str, list[str]] = {}

    def warnings(self) -> list[str]:
        """Parts of rules that have no effect, one line each."""
        return [line for lines in self._warnings.values() for line in lines]

    def warnings_of(self, namespace: str) -> list[str]:
        """Those of one namespace."""
        return self._warnings.get(namespace, [])

    def put(self, namespace: str, rule_set: RuleSet, places: Places | None = None) -> None:
        """Sets the rules of a namespace. ``places``: they are those of the file (``downsample.rules``)."""
        self._active[_key(namespace)] = ActiveRuleSet(rule_set)
        self._places[namespace] = places
        self._warnings[namespace] = [_warning(part, namespace, places) for part in ineffective(rule_set, self._judge)]
        self.version += 1

    def judge_with(self, judge: PolicyJudge) -> None:
        """Other storage policies have a place from now on."""
        self._judge = judge
        for namespace, places in self._places.items():
            rule_set = self._active[_key(namespace)].rule_set
            self._warnings[namespace] = [_warning(part, namespace, places) for part in ineffective(rule_set, judge)]

    def changed(self, namespace: str, rule_set: RuleSet) -> "RulesInEffect":
        """These rules with others for one namespace."""
        other = RulesInEffect(self._judge)
        for active in self._active.values():
            other.put(active.rule_set.namespace, active.rule_set)
        other.put(namespace, rule_set)
        return other

    def remove(self, namespace: str) -> None:
        """No rules for a namespace."""
        self._warnings.pop(namespace, None)
        self._places.pop(namespace, None)
        if self._active.pop(_key(namespace), None) is not None:
            self.version += 1

    def asking_for(self, policy: StoragePolicy) -> list[str]:
        """The rules that ask for a storage policy, as they are called in messages; each once."""
        found = {
            f"{asked.rule} of namespace {namespace.decode(errors='replace')!r}": None
            for namespace, active in self._active.items()
            for asked in asked_policies(active.rule_set)
            if asked.policy.equivalent(policy)
        }
        return list(found)

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

    def names(self, time_ns: int) -> list[tuple[str, str]]:
        """Kinds (mapping, rollup) and names of the rules in effect, without those of deleted ones."""
        return [
            (kind, snapshot.name)
            for active in self._active.values()
            for kind, snapshots in zip(("mapping", "rollup"), active.in_effect(time_ns), strict=True)
            for snapshot in snapshots
            if not snapshot.tombstoned
        ]

    def span(self, time_ns: int) -> tuple[int, int]:
        """``[from, until)`` around ``time_ns`` without a cutover inside."""
        begin, end = 0, NEVER_NS
        for active in self._active.values():
            end = min(end, active.next_cutover_ns(time_ns))
            begin = max([begin, *(cutover for cutover in active.cutovers_ns if cutover <= time_ns)])
        return begin, end


def _key(namespace: str) -> bytes:
    return namespace.encode("utf-8", "surrogateescape")


def _warning(part: Ineffective, namespace: str, places: Places | None) -> str:
    if places is not None:
        return places.named(f"{_SECTION}.{part.path}", part.text)
    return f"{part.text} (rules of namespace {namespace!r})"

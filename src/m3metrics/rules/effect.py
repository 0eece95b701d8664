"""Which storage policies rules ask for, and which parts of them have no effect."""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from m3metrics.policy import StoragePolicy
from m3metrics.rules.model import AggregateOp, MappingRule, MappingSnapshot, RollupRule, RollupSnapshot, RuleSet

__all__ = ["AskedPolicy", "Ineffective", "asked_policies", "ineffective"]


class AskedPolicy(msgspec.Struct, frozen=True):
    """A storage policy that a rule asks for."""

    rule: str
    """``rollup rule 'by code'``."""
    path: str
    """Where it stands in a file of rules: ``rollupRules[0].storagePolicies[1]``."""
    policy: StoragePolicy


class Ineffective(msgspec.Struct, frozen=True):
    """A part of a rule that never has an effect."""

    path: str
    """As of ``AskedPolicy``."""
    text: str


def asked_policies(rule_set: RuleSet) -> Iterator[AskedPolicy]:
    """The storage policies of all rules that are not deleted, as of their last snapshots."""
    for path, snapshot in _live(rule_set):
        if isinstance(snapshot, MappingSnapshot):
            kind, policies = "mapping", snapshot.storage_policies
        else:
            kind, policies = (
                "rollup",
                tuple(policy for target in snapshot.targets for policy in target.storage_policies),
            )
        for index, policy in enumerate(policies):
            yield AskedPolicy(f"{kind} rule {snapshot.name!r}", f"{path}.storagePolicies[{index}]", policy)


def ineffective(rule_set: RuleSet, refusal: Callable[[StoragePolicy], str] = lambda _: "") -> list[Ineffective]:
    """What M3 loads without a word and what then has no effect, or not the one that was meant: filters that match nothing, targets that
    are skipped for every metric, storage policies whose values have no place, rules that have their id, name or all that they ask for
    in common with one before.

    ``refusal`` says why values of a policy are not stored; empty: they are.
    """
    found = [*_repeated(rule_set)]
    for path, snapshot in _live(rule_set):
        kind = "rollup" if isinstance(snapshot, RollupSnapshot) else "mapping"
        for reason in snapshot.filter.impossible():
            found.append(Ineffective(f"{path}.filter", f"{kind} rule {snapshot.name!r} can never match: {reason}"))
        for target in snapshot.targets if isinstance(snapshot, RollupSnapshot) else ():
            for index, op in enumerate(target.ops):
                if index and isinstance(op, AggregateOp):
                    text = f"rollup rule {snapshot.name!r} has no effect: aggregate is possible as the first operation only"
                    found.append(Ineffective(f"{path}.transforms[{index}]", text))
                    break
    for asked in asked_policies(rule_set):
        if reason := refusal(asked.policy):
            found.append(Ineffective(asked.path, f"{asked.rule} asks for {asked.policy}: {reason}"))
    return found


def _repeated(rule_set: RuleSet) -> Iterator[Ineffective]:
    ids: dict[str, str] = {}
    names: dict[tuple[str, str], str] = {}
    mapping: list[tuple[str, MappingSnapshot]] = []
    for path, snapshot in _live(rule_set):
        key, index = path.removesuffix("]").split("[")
        kind = key.removesuffix("Rules")
        rules: Sequence[MappingRule | RollupRule] = (
            rule_set.mapping_rules if kind == "mapping" else rule_set.rollup_rules
        )
        ident, called = rules[int(index)].uuid, f"{kind} rule {snapshot.name!r}"
        if rule_set.version and ident in ids:
            text = f"{called} has the id {ident} of {ids[ident]}; whoever changes a rule by this id changes one of them"
            yield Ineffective(path, text)
        ids.setdefault(ident, called)
        if (kind, snapshot.name) in names:
            yield Ineffective(
                path, f"{called} has the name of {names[kind, snapshot.name]}; figures and texts do not tell them apart"
            )
        names.setdefault((kind, snapshot.name), path)
        if isinstance(snapshot, MappingSnapshot):
            pipeline = snapshot.pipeline()
            for other, before in mapping:
                if before.filter.text == snapshot.filter.text and pipeline.same(before.pipeline()):
                    text = f"{called} has no effect: rule {before.name!r} ({other}) has the same filter and asks for the same"
                    yield Ineffective(path, text)
                    break
            mapping.append((path, snapshot))


def _live(rule_set: RuleSet) -> Iterator[tuple[str, MappingSnapshot | RollupSnapshot]]:
    """Last snapshots of the rules that are not deleted, with their places."""
    every: list[tuple[str, Sequence[MappingRule | RollupRule]]] = [
        ("mappingRules", rule_set.mapping_rules),
        ("rollupRules", rule_set.rollup_rules),
    ]
    for key, rules in every:
        for index, rule in enumerate(rules):
            if rule.snapshots and not rule.snapshots[-1].tombstoned:
                yield f"{key}[{index}]", rule.snapshots[-1]

"""rulepb messages → rule sets, with M3's checks (docs/m3/metrics.md, rule messages).

Messages come decoded (``m3cluster.proto``): dictionaries from field name to value. Where the older fields (``policies``, ``targets``) are
filled they win over the newer ones, as in M3.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from m3metrics.aggregation import AggregationType, aggregation_id_text, compress
from m3metrics.codec.metadata import storage_policy_from
from m3metrics.errors import ConvertError, PolicyError
from m3metrics.filters import FilterError, compile_filter
from m3metrics.ids import Tag
from m3metrics.pipeline import TransformationOp, TransformationType
from m3metrics.policy import StoragePolicy
from m3metrics.rules.model import (
    AggregateOp,
    MappingRule,
    MappingSnapshot,
    Namespace,
    RollupRule,
    RollupRuleOp,
    RollupSnapshot,
    RollupTarget,
    RuleOp,
    RulesError,
    RuleSet,
    check_mapping,
    check_rollup,
)

__all__ = ["namespaces_from", "rule_set_from"]

Values = Mapping[str, Any]


def rule_set_from(message: Values, version: int = 0) -> RuleSet:
    """A ``rulepb.RuleSet``. Raises ``RulesError`` naming the rule."""
    _check_lists(message)
    return RuleSet(
        namespace=message["namespace"],
        uuid=message["uuid"],
        version=version,
        tombstoned=message["tombstoned"],
        cutover_ns=message["cutover_nanos"],
        mapping_rules=tuple(
            MappingRule(rule["uuid"], tuple(_mapping_snapshot(s) for s in rule["snapshots"]))
            for rule in message["mapping_rules"]
        ),
        rollup_rules=tuple(
            RollupRule(rule["uuid"], tuple(_rollup_snapshot(s) for s in rule["snapshots"]))
            for rule in message["rollup_rules"]
        ),
    )


def namespaces_from(message: Values) -> list[Namespace]:
    """A ``rulepb.Namespaces``. Raises ``RulesError`` for a name that occurs twice."""
    result: dict[str, Namespace] = {}
    for namespace in message["namespaces"]:
        name, snapshots = namespace["name"], namespace["snapshots"]
        if name in result:
            raise RulesError(f"the namespace {name!r} is listed twice")
        if snapshots:
            result[name] = Namespace(name, snapshots[-1]["tombstoned"], snapshots[-1]["for_ruleset_version"])
        else:
            result[name] = Namespace(name, True, 0)
    return list(result.values())


def _check_lists(message: Values) -> None:
    """Raises ``RulesError`` for ``null`` among the messages of a list, as JSON may have it. Of storage policies M3 has words of its own."""
    for name, found in message.items():
        for one in found if isinstance(found, list) else (found,):
            if isinstance(one, Mapping):
                _check_lists(one)
            elif one is None and isinstance(found, list) and name != "storage_policies":
                raise RulesError(f"null among the {name} of a rule set")


def _named(snapshot: Values, kind: str, error: Exception) -> RulesError:
    return RulesError(f"{kind} rule {snapshot['name']!r}: {error}")


def _mapping_snapshot(snapshot: Values) -> MappingSnapshot:
    try:
        if snapshot["policies"]:
            aggregation_id, policies = _older_policies(snapshot["policies"])
        elif snapshot["storage_policies"]:
            aggregation_id = _aggregation_id(snapshot["aggregation_types"])
            policies = _policies(snapshot["storage_policies"])
        else:
            aggregation_id, policies = 0, ()
        # As in M3 before the filter is looked at.
        check_mapping(policies, snapshot["drop_policy"], tombstoned=snapshot["tombstoned"])
        return MappingSnapshot(
            name=snapshot["name"],
            cutover_ns=snapshot["cutover_nanos"],
            tombstoned=snapshot["tombstoned"],
            filter=compile_filter(snapshot["filter"]),
            aggregation_id=aggregation_id,
            storage_policies=policies,
            drop_policy=snapshot["drop_policy"],
            tags=_tags(snapshot["tags"]),
        )
    except (RulesError, FilterError, PolicyError, ConvertError) as error:
        raise _named(snapshot, "mapping", error) from error


def _rollup_snapshot(snapshot: Values) -> RollupSnapshot:
    try:
        if snapshot["targets"]:
            targets = tuple(_older_target(target) for target in snapshot["targets"])
        else:
            targets = tuple(_target(target) for target in snapshot["targets_v2"])
        check_rollup(targets, tombstoned=snapshot["tombstoned"])
        return RollupSnapshot(
            name=snapshot["name"],
            cutover_ns=snapshot["cutover_nanos"],
            tombstoned=snapshot["tombstoned"],
            filter=compile_filter(snapshot["filter"]),
            targets=targets,
            keep_original=snapshot["keep_original"],
            tags=_tags(snapshot["tags"]),
        )
    except (RulesError, FilterError, PolicyError, ConvertError) as error:
        raise _named(snapshot, "rollup", error) from error


def _tags(tags: Sequence[Values]) -> tuple[Tag, ...]:
    return tuple((tag["name"], tag["value"]) for tag in tags)


def _policy(values: Values | None) -> StoragePolicy:
    if values is None:
        raise ConvertError("nil storage policy proto message")
    return storage_policy_from({key: value or {} for key, value in values.items()})


def _policies(values: Sequence[Values]) -> tuple[StoragePolicy, ...]:
    return tuple(_policy(policy) for policy in values)


def _older_policies(values: Sequence[Values]) -> tuple[int, tuple[StoragePolicy, ...]]:
    """Aggregation id and storage policies of ``policypb.Policy`` messages."""
    first: int | None = None
    policies = set()
    for policy in values:
        policies.add(_policy(policy["storage_policy"]))
        aggregation_id = _aggregation_id(policy["aggregation_types"])
        if first is None:
            first = aggregation_id
        if aggregation_id != first:
            ids = f"ID1={aggregation_id_text(first)}, ID2={aggregation_id_text(aggregation_id)}"
            raise RulesError(f"more than one aggregation ID in legacy policies list proto: {ids}")
    return first or 0, tuple(sorted(policies, key=StoragePolicy.by_resolution))


def _aggregation_id(numbers: Sequence[int]) -> int:
    return compress(map(_aggregation_type, numbers))


def _aggregation_type(number: int) -> AggregationType:
    if number not in AggregationType.__members__.values():
        raise RulesError(f"invalid aggregation type from proto: {number or 'UNKNOWN'}")
    return AggregationType(number)


def _older_target(target: Values) -> RollupTarget:
    aggregation_id, policies = _older_policies(target["policies"])
    op = RollupRuleOp.create(_raw(target["name"]), map(_raw, target["tags"]), aggregation_id)
    return RollupTarget((op,), policies)


def _target(target: Values) -> RollupTarget:
    pipeline = target["pipeline"]
    if pipeline is None:
        raise RulesError("nil pipeline proto message")
    return RollupTarget(
        tuple(_op(op) for op in pipeline["ops"]), _policies(target["storage_policies"]), target["resend_enabled"]
    )


_OPS = {1: "aggregation", 2: "transformation", 3: "rollup"}


def _op(op: Values) -> RuleOp:
    name = _OPS.get(op["type"])
    if name is None:
        raise RulesError(f"unknown op type in proto: {op['type'] or 'UNKNOWN'}")
    content = op[name]
    if content is None:
        raise RulesError(f"nil {name} op proto message")
    if name == "aggregation":
        return AggregateOp(_aggregation_type(content["type"]))
    if name == "transformation":
        number = content["type"]
        if number not in TransformationType.__members__.values():
            raise RulesError(f"unknown transformation type in proto: {number}")
        return TransformationOp(TransformationType(number))
    return RollupRuleOp.create(
        _raw(content["new_name"]),
        map(_raw, content["tags"]),
        _aggregation_id(content["aggregation_types"]),
        exclude=content["type"] == 1,
    )


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

"""Why a metric becomes what it becomes: which rules match it, which do not and for what reason, and what is sent in the end."""

import re
from collections.abc import Sequence
from typing import Any

from coordinator.downsample.appender import Decision, Downsampler, of_the_metric
from m3metrics.aggregation import decompress
from m3metrics.errors import IdError, MetricsError
from m3metrics.ids import NAME_TAG, Tags, coordinator_tags, decode_tags, matching_tags
from m3metrics.metadata import DropResult, PipelineMetadata, StagedMetadatas
from m3metrics.metric import MetricType
from m3metrics.pipeline import RollupOp
from m3metrics.policy import drop_policy_text
from m3metrics.rules import MappingSnapshot, MatchedPipeline, RollupRuleOp, RollupSnapshot
from m3metrics.rules.rollup import TargetError, apply_target

MOST_NEAR_MISSES = 10
"""Rules that do not match, in the text; those with the fewest reasons are shown."""

_METRIC = re.compile(r"\s*+([^{}\s]*+)\s*+(?:\{(.*)\}\s*+)?", re.DOTALL)
_PAIR = re.compile(r'\s*+([^=,{}"\s]++)\s*+=~?\s*+(?:"((?:[^"\\]|\\.)*+)"|([^,"]*+))\s*+(?:,|$)', re.DOTALL)

Document = dict[str, Any]


class MetricTextError(ValueError):
    """The text is no metric; the message says what is expected."""


def parse_metric(text: str) -> Tags:
    """``name{label="value",other=value}``: the tags, name included. Raises ``MetricTextError``."""
    match = _METRIC.fullmatch(text)
    pairs = (match[2] or "").strip() if match else ""
    if match is None or not (match[1] or pairs):
        raise MetricTextError(f'{text!r} is not a metric; write it like requests_total{{host="a",code="200"}}')
    tags = [(NAME_TAG, match[1].encode())] if match[1] else []
    at = 0
    while at < len(pairs):
        pair = _PAIR.match(pairs, at)
        if pair is None:
            raise MetricTextError(f'cannot read {pairs[at:]!r}; labels are written like host="a",code="200"')
        value = re.sub(r"\\(.)", r"\1", pair[2]) if pair[2] is not None else pair[3].rstrip()
        tags.append((pair[1].encode(), value.encode()))
        at = pair.end()
    return tags


def explain(
    downsampler: Downsampler, tags: Tags, metric_type: MetricType = MetricType.GAUGE, prom_type: str = "unknown"
) -> Document:
    """The whole story as a JSON document. Raises ``IdError`` for tags that cannot be an id."""
    matched = matching_tags(tags, metric_type.name.lower(), prom_type)
    namespace = downsampler.namespace_of(matched)
    active = downsampler.rules.of(namespace)
    mapping, rollup = active.in_effect(downsampler.now_ns) if active is not None else ((), ())
    decision = downsampler.decide(matched)
    own = coordinator_tags(matched)
    obstacle = downsampler.obstacle
    sent = [
        *(_sent(i, m, rollup=False) for i, m in (of_the_metric(own, decision.pipelines) if tags else ())),
        *(_sent(ident, metadatas, rollup=True) for ident, metadatas in decision.rollups),
    ]
    return {
        "metric": _metric_text(tags),
        "matchedBy": {_text(name): _text(value) for name, value in matched},
        "namespace": _text(namespace),
        "ruleSetVersion": active.rule_set.version if active is not None else None,
        "enabled": downsampler.enabled,
        "rules": [*_mapping_rules(mapping, matched), *(_rollup(snapshot, matched) for snapshot in rollup)],
        "drop": _drop_text(decision),
        "withoutTimestamp": decision.drop_timestamp,
        "sent": sent if obstacle is None else [],
        "unsent": obstacle or (None if sent else decision.unsent.text),
    }


def _mapping_rules(snapshots: Sequence[MappingSnapshot], matched: Tags) -> list[Document]:
    rules: list[Document] = []
    before: list[tuple[str, MatchedPipeline]] = []
    for snapshot in snapshots:
        rule = _rule("mapping", snapshot, matched)
        rules.append(rule)
        if not rule["matches"]:
            continue
        asked = snapshot.pipeline()
        rule["asks"] = pipeline(asked.metadata)
        first = next((name for name, other in before if asked.same(other)), None)
        if first is not None:
            rule["ignored"] = (
                f"rule {first!r} asks for the same; of such rules only the first counts, also if their tags differ"
            )
        before.append((snapshot.name, asked))
    return rules


def _rollup(snapshot: RollupSnapshot, matched: Tags) -> Document:
    rule = _rule("rollup", snapshot, matched)
    if rule["matches"]:
        rule["targets"] = [_target(snapshot, index, matched) for index in range(len(snapshot.targets))]
    return rule


def _rule(kind: str, snapshot: MappingSnapshot | RollupSnapshot, matched: Tags) -> Document:
    reasons = snapshot.filter.mismatches(dict(reversed(matched)))
    if snapshot.tombstoned:
        reasons = ["the rule was deleted", *reasons]
    rule: Document = {"kind": kind, "name": snapshot.name, "filter": snapshot.filter.text, "matches": not reasons}
    if reasons:
        rule["because"] = reasons
    if snapshot.tags:
        rule["tags"] = {_text(name): _text(value) for name, value in snapshot.tags}
    return rule


def _target(snapshot: RollupSnapshot, index: int, matched: Tags) -> Document:
    try:
        applied = apply_target(snapshot.targets[index], matched, snapshot.tags)
    except TargetError as error:
        return {"skipped": str(error)}
    target = pipeline(applied.metadata)
    if applied.rollup_id is not None:
        target["metric"] = id_text(applied.rollup_id)
    present = {name for name, _ in matched}
    missing = [
        _text(tag)
        for op in snapshot.targets[index].ops
        if isinstance(op, RollupRuleOp) and not op.exclude
        for tag in op.tags
        if tag not in present
    ]
    if missing:
        target["without"] = missing
    return target


def _sent(ident: bytes, metadatas: StagedMetadatas, *, rollup: bool) -> Document:
    return {
        "metric": id_text(ident),
        "id": ident.hex(),
        "rolledUp": rollup,
        "pipelines": [pipeline(one) for stage in metadatas for one in stage.pipelines],
    }


def pipeline(metadata: PipelineMetadata) -> Document:
    """What a pipeline asks for."""
    try:
        types = [kind.text for kind in decompress(metadata.aggregation_id)]
    except MetricsError:
        types = [f"unknown ({metadata.aggregation_id:#x})"]
    document: Document = {
        "aggregations": types or "those of the metric type",
        "storagePolicies": [str(policy) for policy in metadata.storage_policies] or "the aggregators' defaults",
    }
    if metadata.pipeline:
        document["then"] = [
            f"rollup to {id_text(op.id)}" if isinstance(op, RollupOp) else op.type.text for op in metadata.pipeline
        ]
    if metadata.drop_policy:
        document["drop"] = drop_policy_text(metadata.drop_policy)
    return document


def _drop_text(decision: Decision) -> str:
    return {
        DropResult.NONE: "no drop rule matches",
        DropResult.APPLIED: "dropped: the metric itself is not sent (its rollups are)",
        DropResult.REMOVED_INEFFECTIVE: "a drop rule matches, but another rule keeps the metric; it is not mapped automatically",
    }[decision.drop_result]


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _metric_text(tags: Sequence[tuple[bytes, bytes]]) -> str:
    name = next((_text(value) for tag, value in tags if tag == NAME_TAG), "")
    labels = [f'{_text(tag)}="{_text(value)}"' for tag, value in tags if tag != NAME_TAG]
    return name + ("{" + ",".join(labels) + "}" if labels else "")


def id_text(ident: bytes) -> str:
    """An id as metrics are written."""
    try:
        return _metric_text(decode_tags(ident))
    except IdError:
        return ident.hex()


def render(document: Document) -> str:
    """The document for people."""
    out = [document["metric"], ""]
    rules = document["rules"]
    matching = [rule for rule in rules if rule["matches"]]
    version = document["ruleSetVersion"]
    of = f"namespace {document['namespace']}" + (f", version {version}" if version else "")
    out.append(f"{len(matching)} of {len(rules)} rules match ({of}):")
    for rule in matching:
        out.append(f"  {rule['kind']} rule {rule['name']!r}, filter {rule['filter']!r}")
        for part in [rule["asks"]] if "asks" in rule else rule["targets"]:
            out.append(f"    {pipeline_line(part)}")
        if "ignored" in rule:
            out.append(f"    ignored: {rule['ignored']}")
    misses = sorted((rule for rule in rules if not rule["matches"]), key=lambda rule: len(rule["because"]))
    if misses:
        out.append(f"do not match{', nearest first' if len(misses) > MOST_NEAR_MISSES else ''}:")
        for rule in misses[:MOST_NEAR_MISSES]:
            out.append(f"  {rule['kind']} rule {rule['name']!r}: {'; '.join(rule['because'])}")
        if len(misses) > MOST_NEAR_MISSES:
            out.append(f"  … and {len(misses) - MOST_NEAR_MISSES} more")
    out += [f"{document['drop']}.", ""]
    if document["withoutTimestamp"]:
        out.append("Samples are sent without their timestamps.")
    if document["unsent"] is not None:
        out.append(f"Nothing is sent to the aggregators: {document['unsent']}.")
    for sent in document["sent"]:
        out.append(f"sent{' rolled up' if sent['rolledUp'] else ''}: {sent['metric']}")
        out += [f"  {pipeline_line(pipeline)}" for pipeline in sent["pipelines"]]
    return "\n".join(out) + "\n"


def pipeline_line(part: Document) -> str:
    """A document of ``pipeline``, or of a target, as text."""
    if "skipped" in part:
        return f"skipped: {part['skipped']}"
    if "drop" in part:
        return str(part["drop"])
    listed = [
        ", ".join(part[key]) if isinstance(part[key], list) else part[key]
        for key in ("aggregations", "storagePolicies")
    ]
    line = f"{listed[0]} at {listed[1]}"
    if "metric" in part:
        line = f"rollup to {part['metric']}: {line}"
    line += "".join(f", then {step}" for step in part.get("then", ()))
    # M3 notices only a missing tag that sorts before the metric's last one.
    return line + "".join(f"; grouped without {tag}, which the metric does not have" for tag in part.get("without", ()))

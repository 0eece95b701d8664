"""The order of the checks, and the report."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

from m3ctl.answers import Placement
from m3ctl.cluster import AGGREGATOR, COORDINATOR, Cluster
from m3ctl.doctor.finding import Finding
from m3ctl.doctor.flushing import check_flushing
from m3ctl.doctor.instances import check_instances, check_leaders, check_output_endpoints
from m3ctl.doctor.set_up import (
    check_aggregators,
    check_coordinator,
    check_environment,
    check_kv,
    check_output,
    check_sinks,
    check_topic,
)
from m3ctl.leaders import ShardSetState
from m3ctl.report import Report

__all__ = ["Aggregation", "check_aggregation", "doctor", "lines_of"]


class Aggregation(NamedTuple):
    """What ``check_aggregation`` has seen."""

    findings: list[Finding]
    placement: Placement | None
    """None: no instance is placed."""
    sets: list[ShardSetState]


_MARKS = {"ok": "ok", "problem": "PROBLEM", "note": "note", "unknown": "unknown"}


def doctor(cluster: Cluster, *, topics: tuple[str, str], wait_s: float) -> Report:
    """All checks; ``topics``: the one to the aggregators and the one from them. What depends on a failed check is left out."""
    return _report(_findings(cluster, topics, wait_s))


def _findings(cluster: Cluster, topics: tuple[str, str], wait_s: float) -> list[Finding]:
    found = check_coordinator(cluster)
    if found[0].status == "problem":
        return found
    found += check_sinks(cluster)
    found += check_kv(cluster)
    if any(one.check == "KV" and one.status == "problem" for one in found):
        return found
    seen = check_aggregation(cluster, topics)
    found += seen.findings
    return found if seen.placement is None else found + check_flushing(cluster, seen.sets, wait_s)


def check_aggregation(cluster: Cluster, topics: tuple[str, str]) -> Aggregation:
    """The aggregators, what leads to them, and what leads from them; whether flush times advance is left out."""
    found = check_environment(cluster, topics)
    findings, answer = check_aggregators(cluster)
    found += findings
    found += check_output(cluster)
    found += check_topic(cluster, topics[0], (AGGREGATOR, "REPLICATED"), answer)
    found += check_topic(cluster, topics[1], (COORDINATOR, "SHARED"), answer)
    found += check_output_endpoints(cluster)
    if answer is None or not answer.placement.instances:
        return Aggregation(found, None, [])
    found += check_instances(cluster, answer.placement)
    findings, sets = check_leaders(cluster, answer.placement)
    return Aggregation(found + findings, answer.placement, sets)


def _report(findings: Sequence[Finding]) -> Report:
    counts = Counter(one.status for one in findings)
    report = Report({"findings": [asdict(one) for one in findings]}, problems_shown=True)
    report.problems = [f"{one.check}: {one.text}" for one in findings if one.status == "problem"]
    report.blocks += lines_of(findings)
    shown = ", ".join(f"{counts[status]} {status}" for status in counts)
    report.blocks.append(f"found: {shown}")
    return report


def lines_of(findings: Sequence[Finding]) -> list[str]:
    """Findings as text: a line for each, and one for its fix."""
    width = max((len(one.check) for one in findings), default=0)
    lines = []
    for one in findings:
        lines.append(f"{_MARKS[one.status]:<8} {one.check:<{width}}  {one.text}")
        if one.fix:
            lines.append(f"{'':<8} {'':<{width}}  fix: {one.fix}")
    return lines

"""The order of the checks, and the report."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

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
from m3ctl.report import Report

__all__ = ["doctor", "lines_of"]

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
    found += check_environment(cluster, topics)
    findings, answer = check_aggregators(cluster)
    found += findings
    found += check_output(cluster)
    found += check_topic(cluster, topics[0], (AGGREGATOR, "REPLICATED"), answer)
    found += check_topic(cluster, topics[1], (COORDINATOR, "SHARED"), answer)
    found += check_output_endpoints(cluster)
    if answer is None or not answer.placement.instances:
        return found
    found += check_instances(cluster, answer.placement)
    findings, sets = check_leaders(cluster, answer.placement)
    found += findings
    return found + check_flushing(cluster, sets, wait_s)


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

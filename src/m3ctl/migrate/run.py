"""The order of the looks, and the report."""

from collections.abc import Sequence
from dataclasses import asdict

from m3cluster.flush_times import ShardSetFlushTimes
from m3cluster.kv import Etcd
from m3ctl import kv
from m3ctl.client import CtlError
from m3ctl.cluster import AGGREGATOR, COORDINATOR, Settings
from m3ctl.doctor.finding import Finding, ok, problem
from m3ctl.doctor.flushing import check_flushing
from m3ctl.doctor.run import check_aggregation, lines_of
from m3ctl.flush_times import lists_of
from m3ctl.leaders import ShardSetState
from m3ctl.migrate.safety import Facts, check
from m3ctl.migrate.steps import Step, aggregator_steps, coordinator_steps
from m3ctl.migrate.stored import StoredCluster
from m3ctl.migrate.whose import aggregators, coordinators
from m3ctl.report import Report

__all__ = ["migrate"]


def migrate(
    cluster: StoredCluster, *, topics: tuple[str, str], back: bool, wait_s: float, ours_in_file: Sequence[str] = ()
) -> Report:
    """Says whether a process may be exchanged now (problems: what stands against it), and the steps.

    ``topics``: the one to the aggregators and the one from them; ``back``: ours by M3's; ``wait_s``: so long it is watched whether flush
    times advance; ``ours_in_file``: sections of the cluster's file that M3 refuses.
    """
    report = Report({"direction": "back" if back else "here", "environment": cluster.settings.environment})
    try:
        kv.check(cluster.settings)
    except CtlError as error:
        return _told(
            report, [problem("KV", str(error), "name the KV that the cluster uses: --etcd, or --config FILE")], []
        )
    seen = check_aggregation(cluster, topics)
    found = [ok("KV", f"{kv.where(cluster.settings)} answers"), *seen.findings]
    if seen.placement is None:
        return _told(report, found, [])
    sets = seen.sets
    whose = aggregators(cluster, [member.target for one in sets for member in one.members])
    found += check_flushing(cluster, sets, wait_s)
    facts = Facts(
        now_ns=cluster.now_ns(),
        placement=seen.placement,
        sets=sets,
        whose=whose,
        back=back,
        knows_etcd=isinstance(cluster.settings.kv, Etcd),
        ours_in_file=ours_in_file,
    )
    found += _read(cluster, facts, sets)
    found += check(facts)
    stores = coordinators(cluster)
    report.data["processes"] = [
        *({"service": AGGREGATOR, "instance": ident, "runs": runs} for ident, runs in whose.items()),
        *({"service": COORDINATOR, "instance": ident, "runs": runs} for ident, runs in stores.items()),
    ]
    steps = [*aggregator_steps(sets, whose, back=back), *coordinator_steps(stores, back=back)]
    return _told(report, found, steps)


def _read(cluster: StoredCluster, facts: Facts, sets: Sequence[ShardSetState]) -> list[Finding]:
    """Completes ``facts`` with what only the KV has."""
    settings: Settings = cluster.settings
    numbers = [one.number for one in sets if one.number]
    try:
        facts.candidates = kv.candidates(settings, numbers)
        stored: dict[int, tuple[ShardSetFlushTimes, int]] = kv.flush_times(settings, numbers)
        facts.times = {number: times for number, (times, _) in stored.items()}
        source = kv.where(settings)
        facts.lists = [row for number, times in facts.times.items() for row in lists_of(number, times, source)]
        facts.unusable_rules = cluster.unusable_rules()
    except CtlError as error:
        return [problem("KV", str(error), "this release cannot go on from it: leave M3's processes where they are")]
    return []


def _told(report: Report, findings: Sequence[Finding], steps: Sequence[Step]) -> Report:
    report.problems = [f"{one.check}: {one.text}" for one in findings if one.status == "problem"]
    report.problems_shown = True
    safe = not report.problems
    report.data |= {
        "safe": safe,
        "findings": [asdict(one) for one in findings],
        "steps": [{"number": number, **asdict(step)} for number, step in enumerate(steps, 1)],
    }
    report.blocks += lines_of(findings)
    for number, step in enumerate(steps, 1):
        shard_set = f", {step.role} of shard set {step.shard_set}" if step.shard_set else ""
        report.blocks.append(f"\nstep {number}: {step.service} {step.instance} ({step.runs}{shard_set})")
        report.blocks += [f"  {action.kind + ':':<10} {action.text}" for action in step.actions]
    report.blocks.append("")
    if not steps and safe:
        report.blocks.append("nothing is left to exchange")
    elif safe:
        report.blocks.append(
            f"it is safe now: begin with step 1 ({steps[0].instance}), and look again before each further one"
        )
    else:
        count = len(report.problems)
        what = (
            "1 problem (above); look again when it is"
            if count == 1
            else f"{count} problems (above); look again when they are"
        )
        report.blocks.append(f"it is NOT safe now: {what} gone")
    return report

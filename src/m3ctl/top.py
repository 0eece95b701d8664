"""``m3ctl top``: what goes from where to where, how fast, and what waits, in every service of a cluster."""

from dataclasses import dataclass

import msgspec

from m3ctl.answers import Flow, Step
from m3ctl.client import CtlError, ask_all
from m3ctl.cluster import AGGREGATOR, Cluster, Missing, Target
from m3ctl.report import Report, Table, clock

__all__ = ["show_top"]


@dataclass(frozen=True, slots=True)
class _Row:
    """One edge."""

    service: str
    lane: str
    source: str
    edge: Step
    target: str
    trouble: str


def show_top(cluster: Cluster) -> Report:
    """One look at the coordinator and every aggregator. Raises nothing for those that do not answer."""
    report = Report()
    rows: list[_Row] = []
    answers: list[tuple[str, Flow | CtlError | None]] = [
        ("coordinator", ask_all(cluster.flow, [None])[0]),
        *_aggregators(cluster, report),
    ]
    for service, answer in answers:
        if isinstance(answer, CtlError):
            report.problems.append(str(answer))
        elif answer is None:
            report.notes.append(f"{service} does not say what goes through it: it is M3's own, or older than /flow")
        else:
            rows += _rows(service, answer)
    table = Table(("service", "from", "rate>", "", "to", "waits", "trouble"))
    table.rows += [
        (row.service, row.source, _rate(row.edge), f"{row.edge.unit}/s", row.target, row.edge.waiting, row.trouble)
        for row in rows
    ]
    report.blocks += [f"as of {clock(cluster.now_ns())}", table]
    report.data = {
        "edges": [
            {
                "service": row.service, "lane": row.lane, "from": row.source, "to": row.target, "rate": row.edge.rate,
                "unit": row.edge.unit, "waiting": row.edge.waiting, "trouble": row.trouble,
            }
            for row in rows
        ],
        "services": {name: msgspec.to_builtins(flow) for name, flow in answers if isinstance(flow, Flow)},
    }  # fmt: skip
    report.problems += [f"{row.service}, {row.source} to {row.target}: {row.trouble}" for row in rows if row.trouble]
    return report


def _aggregators(cluster: Cluster, report: Report) -> list[tuple[str, Flow | CtlError | None]]:
    try:
        targets: list[Target] = cluster.targets(cluster.placement(AGGREGATOR).placement)
    except Missing as error:
        report.notes.append(str(error))
        targets = cluster.targets(None)
    except CtlError as error:
        report.problems.append(str(error))
        targets = cluster.targets(None)
    return list(zip((target.id for target in targets), ask_all(cluster.flow, targets), strict=True))


def _rows(service: str, flow: Flow) -> list[_Row]:
    rows = []
    for lane in flow.lanes:
        for before, edge, after in zip(lane.steps, lane.steps[1:], lane.steps[2:], strict=False):
            if edge.kind == "edge":
                trouble = "; ".join(filter(None, (edge.trouble, after.trouble)))
                rows.append(_Row(service, lane.name, before.name, edge, after.name, trouble))
    return rows


def _rate(edge: Step) -> str:
    return "-" if edge.rate is None else f"{edge.rate:,.1f}" if edge.rate < 10 else f"{edge.rate:,.0f}"

"""``m3ctl top``: what goes from where to where, how fast, and what waits, in every service of a cluster; who is busy, and with what."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from m3ctl.answers import Flow, Loads, Step
from m3ctl.client import CtlError, ask_all
from m3ctl.cluster import AGGREGATOR, Cluster, Missing, Target
from m3ctl.report import Report, Table, clock
from m3metrics.traffic import TrafficReport, merged_traffic

__all__ = ["show_top"]

_SHOWN = 5
"""Names of each kind."""


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
    targets = _targets(cluster, report)
    answers: list[tuple[str, Flow | CtlError | None]] = [
        ("coordinator", ask_all(cluster.flow, [None])[0]),
        *zip((target.id for target in targets), ask_all(cluster.flow, targets), strict=True),
    ]
    # Those that do not answer are named already.
    answering = [target for target, (_, answer) in zip(targets, answers[1:], strict=True) if isinstance(answer, Flow)]
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
    loads = [
        (target.id, found)
        for target, found in zip(answering, ask_all(cluster.loads, answering), strict=True)
        if isinstance(found, Loads)
    ]
    traffic = merged_traffic(found for found in ask_all(cluster.traffic, answering) if isinstance(found, TrafficReport))
    report.blocks += ["", _processes(loads)] if loads else []
    report.blocks += ["", _names(traffic)] if traffic.samples or traffic.refused else []
    report.data = {
        "processes": {name: msgspec.to_builtins(found.processes) for name, found in loads},
        "names": msgspec.to_builtins(traffic),
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


def _targets(cluster: Cluster, report: Report) -> list[Target]:
    """The aggregators."""
    try:
        return cluster.targets(cluster.placement(AGGREGATOR).placement)
    except Missing as error:
        report.notes.append(str(error))
    except CtlError as error:
        report.problems.append(str(error))
    return cluster.targets(None)


def _processes(found: Sequence[tuple[str, Loads]]) -> Table:
    """How busy the front and each worker are."""
    table = Table(("aggregator", "process", "cpu>", "waits>", "unacked>"))
    for service, loads in found:
        for one in loads.processes:
            share = "-" if one.cpu_share is None else f"{100 * one.cpu_share:.0f} %"
            table.rows.append((service, one.name, share, _kib(one.waiting_bytes), _kib(one.unacked_bytes)))
    return table


def _names(traffic: TrafficReport) -> Table:
    """What sends most, costs most, keeps most for quantiles, is refused most."""
    table = Table(("names, by a sample", "", "a second>", "why"))
    for title, rates, shown in (
        ("most samples", traffic.samples, _amount),
        ("most updates", traffic.updates, _amount),
        ("most timer bytes", traffic.timer_bytes, _kib),
    ):
        table.rows += [(title, one.name, shown(one.per_second), "") for one in rates[:_SHOWN]]
    table.rows += [("most refused", one.name, _amount(one.per_second), one.reason) for one in traffic.refused[:_SHOWN]]
    return table


def _rows(service: str, flow: Flow) -> list[_Row]:
    rows = []
    for lane in flow.lanes:
        for before, edge, after in zip(lane.steps, lane.steps[1:], lane.steps[2:], strict=False):
            if edge.kind == "edge":
                trouble = "; ".join(filter(None, (edge.trouble, after.trouble)))
                rows.append(_Row(service, lane.name, before.name, edge, after.name, trouble))
    return rows


def _rate(edge: Step) -> str:
    return "-" if edge.rate is None else _amount(edge.rate)


def _amount(value: float) -> str:
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def _kib(value: float) -> str:
    return f"{value / 1024:,.1f} KiB" if value else "0"

"""What would be written, and the report."""

from collections.abc import Callable, Sequence

from m3ctl.bench import aggregators, coordinator
from m3ctl.bench.load import Load, Result
from m3ctl.client import CtlError
from m3ctl.cluster import AGGREGATOR, Cluster
from m3ctl.report import Report, Table
from m3metrics.policy import StoragePolicy

__all__ = ["bench"]


def bench(
    cluster: Cluster,
    service: str,
    load: Load,
    *,
    policy: StoragePolicy,
    instance: str,
    check: bool,
    wait_s: float,
    agreed: bool,
    warn: Callable[[str], None],
) -> Report:
    """Sends the load to the aggregators or the ``coordinator``. Raises ``CtlError``.

    ``policy`` and ``instance`` (only series of its shards) are of aggregators, ``check`` (what came back) is of coordinators. Unless
    whoever asks has ``agreed`` it is only said what would be written.
    """
    if service == "coordinator":
        where = f"to {cluster.settings.coordinator} by remote write; its rules say what is aggregated, and kept for how long"
        shares: aggregators.Shares = {}
        placement = None
    else:
        placement = cluster.placement(AGGREGATOR).placement
        shares = aggregators.share(load, placement, instance)
        where = f"of policy {policy} to {', '.join(shares)} over m3msg; what comes of them is stored as everything of that policy"
    warning = (
        f"this WRITES {load.total} samples ({load.rate:g} a second for {load.seconds:g} s) of {load.sent_series} new series "
        f"{load.prefix}{{m3ctl_run={load.run}}} {where}"
    )
    if not agreed:
        raise CtlError(f"{warning}; say --yes if that is meant")
    warn(f"warning: {warning}")
    report = Report({"service": service, "prefix": load.prefix, "run": load.run, "series": load.sent_series})
    if placement is None:
        results = [coordinator.send(load, cluster)]
    else:
        report.data["policy"] = str(policy)
        results = aggregators.send(load, shares, placement, policy, wait_s)
    _tell(report, results)
    report.data["cameBack"] = None
    if check:
        found = coordinator.came_back(load, cluster, wait_s)
        report.data["cameBack"] = found.as_data(load)
        report.blocks.append(
            f"came back: {found.points} points of {len(found.series)} of {load.sent_series} series, the last sample of {len(found.whole)}"
        )
        if len(found.series) < load.sent_series:
            report.problems.append(
                f"{load.sent_series - len(found.series)} of {load.sent_series} series are not in the store after {wait_s:g} s (--wait): is "
                "a longer wait needed, does a rule drop them?"
            )
        if found.strange:
            report.notes.append(
                f"{found.strange} points have values that were not sent: rules that sum or average make such"
            )
    return report


def _tell(report: Report, results: Sequence[Result]) -> None:
    table = Table(("to", "sent>", "acked>", "refused>", "unacked>", "acked/s>", "ack p50>", "ack p99>", "last error"))
    for one in results:
        data = one.as_data()
        table.rows.append(
            (
                one.target,
                str(one.sent),
                str(one.acked),
                str(one.refused),
                str(data["unacked"]),
                f"{data['rate']:,}",
                _ms(one.quantile_s(0.5)),
                _ms(one.quantile_s(0.99)),
                one.error or "-",
            )
        )
        if one.acked < one.sent:
            why = f" ({one.error})" if one.error else ""
            report.problems.append(
                f"{one.target}: {one.sent - one.acked} of {one.sent} samples are not acknowledged{why}"
            )
    report.blocks.append(table)
    report.data["targets"] = [one.as_data() for one in results]


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:,.1f} ms"

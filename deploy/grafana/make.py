"""Writes the dashboards beside this file: ``python deploy/grafana/make.py``.

A row is a title and panels; a panel a title, a unit, and expressions with their legends.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

A, F, C, P = "m3aggregator_aggregator_", "m3aggregator_front_", "coordinator_", "coordinator_producer_"


class Panel(NamedTuple):
    """A time series; ``unit`` is Grafana's."""

    title: str
    unit: str
    shown: tuple[tuple[str, str], ...]
    about: str = ""


class Row(NamedTuple):
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def refused() -> str:
    """Refused samples by instance and reason: the three counters have the same labels, so they are told apart before they are added."""
    kinds = ("Untimed", "Timed", "Forwarded")
    counters = (
        f'label_replace(rate({A}add{kind}_errors{{$where}}[5m]), "category", "{kind}", "", "")' for kind in kinds
    )
    return f"sum by (instance, reason) ({' or '.join(counters)})"


def p99(name: str, by: str) -> str:
    """The 99th percentile of a histogram."""
    return f"histogram_quantile(0.99, sum by ({by}, le) (rate({name}_bucket{{$where}}[5m])))"


OVERVIEW = (
    Row(
        "Is it well?",
        (
            Panel(
                "Processes",
                "short",
                (('up{job=~"m3aggregator|m3coordinator"}', "{{job}} {{instance}}"),),
                "1: it answers",
            ),
            Panel(
                "State of election",
                "short",
                ((f"{A}election_manager_election_state", "{{instance}}"),),
                "3 leads, 1 follows",
            ),
            Panel(
                "Lag of flushes",
                "s",
                (("max by (list) (m3:list_lag_seconds:min)", "{{list}}"),),
                "how far flush times are behind the clock",
            ),
        ),
    ),
    Row(
        "From senders to stores",
        (
            Panel(
                "Samples a second",
                "short",
                (
                    ("sum(m3:coordinator_samples:rate5m)", "sent on by coordinators"),
                    ("sum(m3:aggregator_samples:rate5m)", "taken by aggregators"),
                ),
                "each replica takes each sample",
            ),
            Panel("Values a second", "short", (("sum by (output) (m3:aggregator_output:rate5m)", "{{output}}"),)),
            Panel(
                "Acks, 99 of 100", "s", (("m3:ack_latency_seconds:p99", "{{instance}} → {{consumer_service_name}}"),)
            ),
        ),
    ),
    Row(
        "What goes wrong",
        (
            Panel(
                "Refused by aggregators", "short", (("sum by (reason) (m3:aggregator_refused:rate5m)", "{{reason}}"),)
            ),
            Panel(
                "Not kept by coordinators",
                "short",
                ((f"sum by (reason) (rate({C}samples_not_kept[5m]))", "{{reason}}"),),
            ),
            Panel("Failed writes", "percentunit", (("m3:coordinator_writes_failed:ratio5m", "{{instance}}"),)),
            Panel(
                "Dropped messages",
                "short",
                (
                    (f"sum by (reason) (rate({A}flush_handler_message_dropped[5m]))", "output: {{reason}}"),
                    (f"sum by (reason) (rate({P}message_dropped[5m]))", "samples: {{reason}}"),
                ),
            ),
        ),
    ),
)
AGGREGATOR = (
    Row(
        "Samples",
        (
            Panel(
                "Taken a second",
                "short",
                tuple(
                    (f"sum by (instance) (rate({A}{kind}{{$where}}[5m]))", f"{{{{instance}}}} {kind}")
                    for kind in ("counters", "gauges", "timers", "timed", "forwarded")
                ),
            ),
            Panel("Refused", "short", ((refused(), "{{instance}} {{reason}}"),)),
            Panel(
                "From reading to written, 99 of 100",
                "s",
                tuple(
                    (p99(f"{A}{kind}_success_latency", "instance"), f"{{{{instance}}}} {kind}")
                    for kind in ("addUntimed", "addTimed", "addForwarded")
                ),
            ),
            Panel(
                "Metrics",
                "short",
                (
                    (f"{A}engine_entries{{$where}}", "{{instance}} known"),
                    (f"rate({A}map_new_entries{{$where}}[5m])", "{{instance}} new a second"),
                ),
            ),
        ),
    ),
    Row(
        "Election and flushes",
        (
            Panel(
                "State",
                "short",
                ((f"{A}election_manager_election_state{{$where}}", "{{instance}}"),),
                "3 leads, 1 follows",
            ),
            Panel("Lag by list", "s", ((f"{A}list_lag_seconds{{$where}}", "{{instance}} {{list}} of {{shard_set}}"),)),
            Panel(
                "Flushes, 99 of 100",
                "s",
                (
                    (
                        p99(f"{A}list_flush_duration", "instance, list_type, resolution"),
                        "{{instance}} {{list_type}} {{resolution}}",
                    ),
                ),
            ),
            Panel(
                "Values",
                "short",
                (
                    (f"rate({A}list_flush_metric_consume_success{{$where}}[5m])", "{{instance}} put out"),
                    (f"rate({A}list_flush_metric_discarded{{$where}}[5m])", "{{instance}} thrown away"),
                ),
            ),
        ),
    ),
    Row(
        "Output",
        (
            Panel(
                "Waits for consumers", "bytes", ((f"{A}forwarder_waiting_bytes{{$where}}", "{{instance}} {{output}}"),)
            ),
            Panel(
                "Age of what waits",
                "s",
                (
                    (f"{A}forwarder_age_seconds{{$where}}", "{{instance}} {{output}}"),
                    (f"{A}flush_handler_queue_age_seconds{{$where}}", "{{instance}} unacked"),
                ),
            ),
            Panel(
                "Acks, 99 of 100",
                "s",
                (
                    (
                        p99(f"{A}flush_handler_message_consume_latency", "instance, consumer_service_name"),
                        "{{instance}} → {{consumer_service_name}}",
                    ),
                ),
            ),
            Panel("Lost", "short", ((f"rate({A}forwarder_lost{{$where}}[5m])", "{{instance}} {{output}}"),)),
        ),
    ),
    Row(
        "Processes",
        (
            Panel(
                "CPU",
                "percentunit",
                (("rate(process_cpu_seconds_total{$where}[5m])", "{{instance}}"),),
                "all of an instance; 100 % is one core",
            ),
            Panel(
                "Memory",
                "bytes",
                (
                    ("process_resident_memory_bytes{$where}", "{{instance}}"),
                    (f"{A}engine_memory_bytes{{$where}}", "{{instance}} tables"),
                    (f"{A}engine_window_bytes{{$where}}", "{{instance}} windows"),
                ),
            ),
            Panel("Journal", "bytes", ((f"{A}worker_journal_bytes{{$where}}", "{{instance}} {{worker}}"),)),
            Panel(
                "Waits for workers",
                "bytes",
                (
                    (f"{F}waiting_bytes{{$where}}", "{{instance}} {{worker}}"),
                    (f"{F}unacked_bytes{{$where}}", "{{instance}} {{worker}} unacked"),
                ),
            ),
        ),
    ),
)
COORDINATOR = (
    Row(
        "Writes",
        (
            Panel(
                "Requests a second",
                "short",
                (
                    (f"sum by (instance, handler) (rate({C}write_success{{$where}}[5m]))", "{{instance}} {{handler}}"),
                    (f"sum by (instance, code) (rate({C}write_errors{{$where}}[5m]))", "{{instance}} {{code}}"),
                ),
            ),
            Panel(
                "Samples a second",
                "short",
                ((f"sum by (instance) (rate({C}ingest_samples{{$where}}[5m]))", "{{instance}}"),),
            ),
            Panel(
                "Answers, 99 of 100",
                "s",
                (
                    (p99(f"{C}write_batch_latency", "instance"), "{{instance}}"),
                    (p99(f"{C}ingest_latency", "instance"), "{{instance}} age of samples"),
                ),
            ),
            Panel(
                "Not kept",
                "short",
                ((f"sum by (instance, reason) (rate({C}samples_not_kept{{$where}}[5m]))", "{{instance}} {{reason}}"),),
            ),
        ),
    ),
    Row(
        "To the aggregators",
        (
            Panel("Waits for acks", "short", ((f"{P}queue_size{{$where}}", "{{instance}} messages"),)),
            Panel("Age of what waits", "s", ((f"{P}queue_age_seconds{{$where}}", "{{instance}}"),)),
            Panel("Acks, 99 of 100", "s", ((p99(f"{P}message_consume_latency", "instance"), "{{instance}}"),)),
            Panel(
                "Dropped",
                "short",
                ((f"sum by (instance, reason) (rate({P}message_dropped{{$where}}[5m]))", "{{instance}} {{reason}}"),),
            ),
        ),
    ),
    Row(
        "From the aggregators into stores",
        (
            Panel(
                "Values a second",
                "short",
                (
                    (f"rate({C}ingest_success{{$where}}[5m])", "{{instance}} stored"),
                    (f"rate({C}ingest_error{{$where}}[5m])", "{{instance}} not stored"),
                ),
            ),
            Panel("Queues of sinks", "short", ((f"{C}sink_depth_values{{$where}}", "{{instance}} {{sink}}"),)),
            Panel("Age of queues of sinks", "s", ((f"{C}sink_age_seconds{{$where}}", "{{instance}} {{sink}}"),)),
            Panel(
                "Queries",
                "short",
                (
                    (f"sum by (instance, source) (rate({C}fetch_success{{$where}}[5m]))", "{{instance}} {{source}}"),
                    (f"sum by (instance, code) (rate({C}fetch_errors{{$where}}[5m]))", "{{instance}} {{code}}"),
                ),
            ),
        ),
    ),
    Row(
        "Process",
        (
            Panel(
                "CPU",
                "percentunit",
                (("rate(process_cpu_seconds_total{$where}[5m])", "{{instance}}"),),
                "100 % is one core",
            ),
            Panel("Memory", "bytes", (("process_resident_memory_bytes{$where}", "{{instance}}"),)),
        ),
    ),
)
DASHBOARDS = {
    "overview": ("M3 aggregation tier: overview", "", OVERVIEW),
    "aggregator": ("M3 aggregation tier: aggregators", "m3aggregator", AGGREGATOR),
    "coordinator": ("M3 aggregation tier: coordinators", "m3coordinator", COORDINATOR),
}
"""File → title, job whose instances may be chosen, rows."""
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_HEIGHT = 8


def dashboard(name: str) -> dict[str, Any]:
    """The document of one dashboard, for Grafana 9 and later."""
    title, job, rows = DASHBOARDS[name]
    panels: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        panels.append(
            {
                "id": len(panels) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": [],
                "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
            }
        )  # fmt: skip
        width = 24 // len(row.panels)
        for k, panel in enumerate(row.panels):
            place = {"h": _HEIGHT, "w": width, "x": k * width, "y": y + 1}
            panels.append(_panel(len(panels) + 1, panel, job, place))
        y += 1 + _HEIGHT
    variables: list[dict[str, Any]] = [
        {"name": "datasource", "label": "Source", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0}
    ]
    if job:
        query = f'label_values(up{{job="{job}"}}, instance)'
        variables.append(
            {
                "name": "instance", "label": "Instance", "type": "query", "datasource": _SOURCE, "query": query, "refresh": 2,
                "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}, "sort": 1, "hide": 0,
            }
        )  # fmt: skip
    return {
        "uid": f"m3-{name}", "title": title, "tags": ["m3"], "schemaVersion": 37, "version": 1, "editable": True,
        "timezone": "browser", "refresh": "30s", "time": {"from": "now-3h", "to": "now"}, "graphTooltip": 1,
        "links": [{"type": "dashboards", "tags": ["m3"], "title": "M3", "asDropdown": False, "includeVars": False, "keepTime": True}],
        "templating": {"list": variables}, "annotations": {"list": []}, "panels": panels,
    }  # fmt: skip


def _panel(number: int, panel: Panel, job: str, place: dict[str, int]) -> dict[str, Any]:
    where = f'job="{job}", instance=~"$instance"' if job else ""
    targets = [
        {
            "refId": chr(ord("A") + k), "datasource": _SOURCE, "expr": expression.replace("{$where}", f"{{{where}}}" if where else ""),
            "legendFormat": legend,
        }
        for k, (expression, legend) in enumerate(panel.shown)
    ]  # fmt: skip
    return {
        "id": number, "type": "timeseries", "title": panel.title, "description": panel.about, "datasource": _SOURCE,
        "gridPos": place, "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": {"lineWidth": 1, "fillOpacity": 5}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
    }  # fmt: skip


def text_of(name: str) -> str:
    """What the file of a dashboard holds: a line for each panel."""
    document = dashboard(name)
    panels = ",\n".join(json.dumps(panel, ensure_ascii=False) for panel in document.pop("panels"))
    return json.dumps(document, ensure_ascii=False)[:-1] + f', "panels": [\n{panels}\n]}}\n'


if __name__ == "__main__":
    for one in DASHBOARDS:
        (Path(__file__).parent / f"{one}.json").write_text(text_of(one))

"""``/``: what is wrong, the way of the data through this coordinator, which aggregator holds which shards, the last hour."""

import math
import time
from collections.abc import Mapping
from html import escape

from msgspec.structs import astuple

from coordinator.pages.shown import Shown
from coordinator.sinks.status import SinkStatus
from m3cluster.placement.holding import holder
from m3cluster.placement.model import Placement
from m3cluster.topic import ServiceID
from m3metrics.growth import GrowthReport
from m3msg.producer import ProducerStatus
from m3x.clock import wall_ns
from m3x.pages import (
    Chart,
    Edge,
    Holder,
    Lane,
    Line,
    Stage,
    amount,
    bullets,
    chart,
    flow,
    frame,
    growth,
    shard_map,
    size,
    table,
)

__all__ = ["FIGURES", "LINKS", "aggregators", "lanes", "render"]

_HTTP, _CARBON = "ingest_samples", "ingest_carbon_success"
_SENT, _ACKED, _BUFFERED = "producer_message_enqueue", "producer_message_acked", "producer_byte_buffered"
_BACK, _BACK_CONNECTIONS = "ingest_m3msg_metric_accepted", "ingest_m3msg_consumer_open_connections"
_ROWS, _SERIES = "store_rows", "store_series"
_WRITES, _ERRORS = "write_success", "write_errors"
_REFUSED = {
    "requests refused": (_ERRORS,),
    "samples beyond limits": ("write_limited_samples", "write_limited_series"),
    "carbon lines malformed": ("ingest_carbon_malformed",),
    "aggregated values refused": ("ingest_m3msg_ingest_refused", "ingest_m3msg_metric_dropped"),
    "messages dropped": ("producer_message_dropped",),
}
FIGURES = (
    _HTTP, _CARBON, _SENT, _ACKED, _BUFFERED, _BACK, _BACK_CONNECTIONS, _ROWS, _SERIES, _WRITES,
    "sink_delivered", *(name for names in _REFUSED.values() for name in names),
)  # fmt: skip
"""What is kept for it."""
LINKS = {
    "explain a metric": "explain",
    "stored series": "graph",
    "try rules": "rules",
    "/ready": "ready",
    "/routes": "routes",
}


def render(shown: Shown, leaders: Mapping[int, str], grown: GrowthReport) -> str:
    """The whole page; ``leaders``: shard set → id of who leads it, as far as known; ``grown``: of all processes."""
    reasons, problems = shown.reasons(), shown.problems()
    state = "takes samples" if not reasons else "does not take samples"
    badge = f'<span class="state{"" if not reasons else " not"}">{state}</span>'
    found = aggregators(shown)
    held = (
        shard_map(_holders(found[1], leaders)) if found is not None else "<p>No placement of aggregators is known.</p>"
    )
    charts = "".join(map(chart, _charts(shown)))
    sinks = _status(shown)
    body = f"""{bullets("What keeps samples out", reasons, "missing")}{bullets("What is wrong", problems, "missing")}
{bullets("Worth knowing", shown.notes(), "notes")}
<h2>The way of the data</h2>{flow(lanes(shown))}
<h2>Which aggregator holds which shards</h2>{held}
{_sinks(sinks)}<h2>The last hour</h2><div class="charts">{charts}</div>
<h2>Which names grow</h2>{growth([*map(astuple, grown.metric_names)], [*map(astuple, grown.label_names)])}"""
    names = ", ".join(shown.namespaces()) or "none"
    line = f"m3coordinator, as of {time.strftime('%H:%M:%S', time.gmtime())} UTC; namespaces: {names}"
    return frame(f"coordinator: {state} – m3coordinator", "coordinator", badge, line, body, LINKS)


def aggregators(shown: Shown) -> tuple[ServiceID, Placement] | None:
    """The first service that messages go to, with its placement; None: there is none."""
    placements = {} if shown.producer is None else shown.producer.topology.placements
    return next(((service, found) for service, found in placements.items() if found is not None), None)


def lanes(shown: Shown) -> list[Lane]:
    """Samples go to the aggregators; aggregated values come back and go to every sink."""
    history, sinks = shown.history, _status(shown)
    samples = history.rate(_HTTP, _CARBON)
    here = Stage("this coordinator", [f"{amount(history.rate(_WRITES))} requests/s"])
    found = []
    if shown.producer is not None:
        status = shown.producer.status()
        buffered = _known(history.now(_BUFFERED))
        waiting = f"{size(buffered)} unacked" if buffered else ""
        found.append(
            Lane(
                f"Samples, topic {status.topic}",
                [
                    Stage("senders", ["remote write, OTLP, Influx, JSON, carbon"]),
                    Edge(samples, "samples"),
                    here,
                    Edge(history.rate(_SENT), waiting=waiting),
                    _consumers(status, history.rate(_ACKED)),
                ],
            )
        )
    else:
        found.append(Lane("Samples", [Stage("senders"), Edge(samples, "samples"), here]))
    ingest = Stage("ingest server", [f"{amount(_known(history.now(_BACK_CONNECTIONS)))} connections"])
    back: list[Stage | Edge] = [Stage("aggregators"), Edge(history.rate(_BACK), "values"), ingest]
    if not sinks:
        stored = Stage("embedded store", [f"{amount(_known(history.now(_SERIES)))} series"])
        return [*found, Lane("Aggregated values", [*back, Edge(history.rate(_ROWS), "rows"), stored])]
    return [*found, *(Lane(f"Aggregated values, sink {one.name}", [*back, *_way_to(one)]) for one in sinks)]


def _status(shown: Shown) -> list[SinkStatus]:
    return shown.hub.status() if shown.hub is not None else []


def _way_to(sink: SinkStatus) -> list[Stage | Edge]:
    waiting = f"the oldest waits for {sink.age_s:.0f} s" if sink.age_s >= 1 else ""
    return [
        Edge(sink.rate_in, "values"),
        Stage("queue", [f"{amount(sink.waiting_values)} values", size(sink.disk_bytes)], "full" if sink.full else ""),
        Edge(sink.rate_out, "values", waiting),
        Stage(sink.name, [f"{amount(sink.delivered)} delivered"], sink.error),
    ]


def _consumers(status: ProducerStatus, acks: float) -> Stage:
    instances = [one for service in status.services for one in service.instances]
    away = [one.instance for one in instances if not one.connected]
    return Stage(
        ", ".join(service.name for service in status.services) or "no consumer",
        [f"{len(instances) - len(away)} of {len(instances)} reached", f"{amount(acks)} acks/s"],
        "; ".join([*status.problems, *([f"not reached: {', '.join(away[:3])}"] if away else [])]),
    )


def _holders(placement: Placement, leaders: Mapping[int, str]) -> list[Holder]:
    now_ns = wall_ns()
    ordered = sorted(placement.instances, key=lambda one: (one.shard_set_id, one.id))
    return [holder(one, placement.num_shards, leaders.get(one.shard_set_id), now_ns) for one in ordered]


def _sinks(sinks: list[SinkStatus]) -> str:
    if not sinks:
        return ""
    rows = (
        (
            escape(one.name),
            amount(one.rate_in),
            amount(one.rate_out),
            amount(one.waiting_values),
            f"{one.age_s:.0f} s",
            amount(sum(one.refused.values())),
            amount(one.dropped),
        )
        for one in sinks
    )
    heads = ("sink", "values/s in", "out", "waiting", "oldest", "refused", "dropped")
    return f"<h2>Sinks</h2>{table(heads, rows)}"


def _charts(shown: Shown) -> list[Chart]:
    history = shown.history
    return [
        Chart("Samples a second", [Line("over HTTP", history.rates(_HTTP)), Line("carbon", history.rates(_CARBON))]),
        Chart(
            "Messages to the aggregators a second",
            [Line("sent", history.rates(_SENT)), Line("acked", history.rates(_ACKED))],
        ),
        Chart(
            "Aggregated values a second",
            [
                Line("taken", history.rates(_BACK)),
                Line("stored in the embedded store", history.rates(_ROWS)),
                Line("delivered by sinks", history.rates("sink_delivered")),
            ],
        ),
        Chart("Refused a second", [Line(name, history.rates(*names)) for name, names in _REFUSED.items()]),
        Chart("Waiting for the aggregators", [Line("unacked", history.values(_BUFFERED))], shown=size),
    ]


def _known(value: float) -> float:
    """0 for what has not been counted yet."""
    return 0.0 if math.isnan(value) else value

"""The page at ``/``: what ``/ready`` and ``/shards`` say, for people, with the way of the data and the last hour."""

import math
import time
from html import escape

from msgspec.structs import astuple

from aggregator.http.source import BUSY, ListRow, Load, ShardRow, StatusSource
from m3metrics.growth import GrowthReport
from m3metrics.traffic import TrafficReport
from m3x.clock import wall_ns
from m3x.pages import bullets, chart, facts, flow, frame, growth, shard_map, size, table, traffic

__all__ = ["render"]

_LINKS = {"/ready": "ready", "/shards": "shards", "/status": "status"}


def render(source: StatusSource) -> str:
    """The whole page."""
    found, role, now_ns = source.readiness(), source.election_state(), wall_ns()
    ready, shards = "ready" if found.ready else "not ready", source.shards()
    badges = (
        f'<span class="state{"" if found.ready else " not"}">{ready}</span> '
        f'<span class="state role{" leader" if role == "leader" else ""}">{escape(role)}</span>'
    )
    charts = "".join(map(chart, source.charts()))
    body = f"""{bullets("What is missing", found.reasons, "missing")}{bullets("Worth knowing", found.notes, "notes")}
<h2>The way of the data</h2>{flow(source.flow())}
<h2>Who holds which shards</h2>{shard_map(source.holders())}
<h2>Lists</h2>{_lists(source.lists(), now_ns)}
<h2>The last hour</h2><div class="charts">{charts}</div>
<h2>Which names send and cost most</h2>{_traffic(source.traffic())}
<h2>Which names grow</h2>{_growth(source.growth())}
<h2>Processes</h2>{_workers(shards, source.loads(), now_ns)}
<h2>Instance</h2>{facts(source.facts())}
<details><summary>Shards, one by one</summary>{_shards(shards, now_ns)}</details>"""
    return frame(
        f"{source.instance_id}: {role}, {ready} – m3aggregator",
        source.instance_id,
        badges,
        f"m3aggregator, as of {_clock(now_ns)} UTC (as all times here)",
        body,
        _LINKS,
    )


def _growth(report: GrowthReport) -> str:
    return growth([*map(astuple, report.metric_names)], [*map(astuple, report.label_names)])


def _traffic(report: TrafficReport) -> str:
    samples, updates, timer_bytes = (
        [(one.name, one.per_second) for one in rates] for rates in (report.samples, report.updates, report.timer_bytes)
    )
    return traffic(report.messages, report.looked_at, samples, updates, timer_bytes, [*map(astuple, report.refused)])


def _lists(rows: list[ListRow], now_ns: int) -> str:
    if not rows:
        return "<p>None yet: a list comes to be with the first metric of its resolution.</p>"
    return table(
        ("list", "shards", "flushed through", "lag", "newest shard"),
        (
            (
                escape(row.name),
                str(row.shards),
                _clock(row.flushed_through_ns),
                _age(row.flushed_through_ns, now_ns),
                _clock(row.newest_flushed_through_ns),
            )
            for row in rows
        ),
    )


def _workers(rows: list[ShardRow], loads: list[Load], now_ns: int) -> str:
    """One row per process: how busy it is, what waits for it, and what the shards of a worker hold together."""
    by_worker: dict[int, list[ShardRow]] = {load.worker: [] for load in loads}
    for row in rows:
        by_worker.setdefault(row.worker, []).append(row)
    if not by_worker:
        return "<p>None: this instance owns no shards.</p>"
    of = {load.worker: load for load in loads}
    return table(
        ("process", "CPU", "waits", "unacked", "shards", "entries", "windows", "last flush", "age"),
        ((*_load(number, of.get(number), group), *_held(group, now_ns)) for number, group in sorted(by_worker.items())),
    )


def _load(number: int, load: Load | None, group: list[ShardRow]) -> tuple[str, ...]:
    worker = _worker(group[0]) if group else str(number)
    name = "front" if number < 0 and load is not None else f"worker {worker}"
    if load is None:
        return name, "–", "–", "–"
    share = "–" if math.isnan(load.cpu_share) else f"{100 * load.cpu_share:.0f} %"
    busy = f"<b>{share}</b>" if load.cpu_share >= BUSY else share
    if load.worker < 0:
        return name, busy, "", ""
    return name, busy, size(load.waiting_bytes), size(load.unacked_bytes)


def _held(group: list[ShardRow], now_ns: int) -> tuple[str, ...]:
    if not group:
        return "", "", "", "", ""
    newest = max(row.last_flush_ns for row in group)
    entries, windows = sum(row.entries for row in group), max(row.open_windows for row in group)
    return str(len(group)), f"{entries:,}", str(windows), _clock(newest), _age(newest, now_ns)


def _shards(rows: list[ShardRow], now_ns: int) -> str:
    if not rows:
        return "<p>This instance owns no shards.</p>"
    return table(
        ("shard", "state", "worker", "entries", "windows", "last flush", "age", "flushed through"),
        (
            (
                str(row.shard),
                _state(row, now_ns),
                _worker(row),
                f"{row.entries:,}",
                str(row.open_windows),
                _clock(row.last_flush_ns),
                _age(row.last_flush_ns, now_ns),
                _clock(row.flushed_through_ns),
            )
            for row in rows
        ),
        (0, 1),
    )


def _state(row: ShardRow, now_ns: int) -> str:
    left_s = (row.cutover_ns - now_ns) / 1e9
    return f"{escape(row.state)}, cut over in {left_s:.0f} s" if left_s > 0 else escape(row.state)


def _worker(row: ShardRow) -> str:
    if row.worker < 0:
        return "–"
    return str(row.worker) if row.worker_up else f"<span class='down'>{row.worker} down</span>"


def _clock(ns: int) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(ns / 1e9)) if ns else "never"


def _age(ns: int, now_ns: int) -> str:
    return f"{max(now_ns - ns, 0) / 1e9:.1f} s" if ns else "–"

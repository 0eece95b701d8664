"""The page at ``/``: what ``/ready`` and ``/shards`` say, for people. No scripts, nothing loaded from elsewhere; fits a phone."""

import time
from collections.abc import Iterable
from html import escape

from aggregator.http.source import ListRow, ShardRow, StatusSource
from m3x.clock import wall_ns
from m3x.version import VERSION

__all__ = ["render"]

_REFRESH_S = 5
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 1.5rem auto; max-width: 64rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin: 1.8rem 0 .3rem; }
.state { font-size: .85rem; font-weight: 600; padding: .1rem .6rem; border-radius: 1rem; color: #fff; background: #23703f; }
.state.not { background: #b3402c; } .state.role { background: #5b6470; } .state.leader { background: #1f5fa8; }
.badges { display: inline-flex; gap: .35rem; vertical-align: .15em; } .quiet { opacity: .7; }
.missing { border-left: 4px solid #b3402c; padding-left: .8rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; } tr:hover { background: #8881; }
th, td { text-align: right; padding: .2rem .8rem; border-bottom: 1px solid #8884; white-space: nowrap; }
th { font-weight: 600; } th:first-child, td:first-child { padding-left: 0; }
td.text, th.text, td.what { text-align: left; } td.what { opacity: .8; } .facts td { white-space: normal; overflow-wrap: anywhere; }
ul { margin: .3rem 0; padding-left: 1.2rem; } li { margin: .2rem 0; } .down { color: #b3402c; font-weight: 600; }
@media (prefers-color-scheme: dark) { .down { color: #ff8a75; } }
@media (max-width: 40rem) { body { margin-top: .8rem; padding: 0 .7rem; } th, td { padding: .2rem .5rem; } }
"""


def render(source: StatusSource) -> str:
    """The whole page."""
    found, role, now_ns = source.readiness(), source.election_state(), wall_ns()
    ready = "ready" if found.ready else "not ready"
    name, shards = escape(source.instance_id), source.shards()
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="{_REFRESH_S}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: {escape(role)}, {ready} – m3aggregator</title><style>{_STYLE}</style></head>
<body><h1>{name} <span class="badges"><span class="state{"" if found.ready else " not"}">{ready}</span>
<span class="state role{" leader" if role == "leader" else ""}">{escape(role)}</span></span></h1>
<p class="quiet">m3aggregator {VERSION}, as of {_clock(now_ns)} UTC (as all times here); refreshes every {_REFRESH_S} s</p>
{_bullets("What is missing", found.reasons, "missing")}{_bullets("Worth knowing", found.notes, "notes")}
<h2>Lists</h2>{_lists(source.lists(), now_ns)}
<h2>Workers</h2>{_workers(shards, now_ns)}
<h2>Instance</h2><table class="facts">{"".join(_fact(*fact) for fact in source.facts())}</table>
<h2>Shards</h2>{_shards(shards, now_ns)}
<p><a href="ready">/ready</a> · <a href="shards">/shards</a> · <a href="status">/status</a></p></body></html>
"""


def _bullets(title: str, lines: Iterable[str], kind: str) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="{kind}"><h2>{title}</h2><ul>{items}</ul></div>' if items else ""


def _fact(what: str, value: str) -> str:
    return f'<tr><td class="what">{escape(what)}</td><td class="text">{escape(value)}</td></tr>'


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]], left: frozenset[int] = frozenset({0})) -> str:
    """Cells are HTML already; the columns in ``left`` hold text, the others figures."""

    def cells(tag: str, row: Iterable[str]) -> str:
        return "".join(f"<{tag}{' class=text' if i in left else ''}>{cell}</{tag}>" for i, cell in enumerate(row))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{cells("th", heads)}</tr>{body}</table></div>'


def _lists(rows: list[ListRow], now_ns: int) -> str:
    if not rows:
        return "<p>None yet: a list comes to be with the first metric of its resolution.</p>"
    return _table(
        ("list", "shards", "flushed through", "age", "newest shard"),
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


def _workers(rows: list[ShardRow], now_ns: int) -> str:
    """One row per worker: what its shards hold together."""
    by_worker: dict[int, list[ShardRow]] = {}
    for row in rows:
        by_worker.setdefault(row.worker, []).append(row)
    if not by_worker:
        return "<p>None: this instance owns no shards.</p>"
    return _table(
        ("worker", "shards", "entries", "windows", "last flush", "age"),
        (
            (
                _worker(group[0]),
                f"{len(group)}",
                f"{sum(row.entries for row in group):,}",
                str(max(row.open_windows for row in group)),
                _clock(newest := max(row.last_flush_ns for row in group)),
                _age(newest, now_ns),
            )
            for _, group in sorted(by_worker.items())
        ),
    )


def _shards(rows: list[ShardRow], now_ns: int) -> str:
    if not rows:
        return "<p>This instance owns no shards.</p>"
    return _table(
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
        frozenset({0, 1}),
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

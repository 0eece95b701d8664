"""The page at ``/``: what ``/ready`` and ``/shards`` say, for people. No scripts, nothing loaded from elsewhere."""

import time
from collections.abc import Iterable
from html import escape

from aggregator.http.app import ListRow, ShardRow, StatusSource

__all__ = ["render"]

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.state { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; color: #fff; background: #2a7d4f; }
.state.not { background: #b3402c; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; } td.text, th.text { text-align: left; }
li { margin: .2rem 0; } .down { color: #b3402c; font-weight: 600; }
"""


def render(source: StatusSource) -> str:
    """The whole page."""
    found = source.readiness()
    state = f'<span class="state{"" if found.ready else " not"}">{"ready" if found.ready else "not ready"}</span>'
    name = escape(source.instance_id)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{name} – m3aggregator</title><style>{_STYLE}</style></head>
<body><h1>{name} {state}</h1>
<p>This instance is <b>{escape(source.election_state())}</b> of its shard set.</p>
{_bullets("What is missing", found.reasons)}{_bullets("Worth knowing", found.notes)}
<h2>Instance</h2><table>{"".join(_fact(*fact) for fact in source.facts())}</table>
<h2>Lists</h2>{_lists(source.lists())}
<h2>Shards</h2>{_shards(source.shards())}
<p><a href="ready">/ready</a> · <a href="shards">/shards</a> · <a href="status">/status</a></p></body></html>
"""


def _bullets(title: str, lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if items else ""


def _fact(what: str, value: str) -> str:
    return f'<tr><td>{escape(what)}</td><td class="text">{escape(value)}</td></tr>'


def _lists(rows: list[ListRow]) -> str:
    if not rows:
        return "<p>None yet: a list comes to be with the first metric of its resolution.</p>"
    body = "".join(
        f"<tr><td>{escape(row.name)}</td><td>{row.shards}</td><td>{_clock(row.flushed_through_ns)}</td></tr>"
        for row in rows
    )
    return f"<table><tr><th>list</th><th>shards</th><th>flushed through</th></tr>{body}</table>"


def _shards(rows: list[ShardRow]) -> str:
    if not rows:
        return "<p>This instance owns no shards.</p>"
    body = "".join(
        f"<tr><td>{row.shard}</td>{_worker(row)}<td class='text'>{escape(row.state)}</td><td>{row.entries}</td>"
        f"<td>{row.open_windows}</td><td>{_clock(row.last_flush_ns)}</td><td>{row.lag_ns / 1e9:.1f} s</td></tr>"
        for row in rows
    )
    return (
        '<table><tr><th>shard</th><th>worker</th><th class="text">state</th><th>entries</th><th>open windows</th>'
        f"<th>last flush</th><th>lag</th></tr>{body}</table>"
    )


def _worker(row: ShardRow) -> str:
    return f"<td>{row.worker}</td>" if row.worker_up else f"<td class='down'>{row.worker} down</td>"


def _clock(ns: int) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(ns / 1e9)) + " UTC" if ns else "never"

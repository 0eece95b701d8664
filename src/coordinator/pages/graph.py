"""``/graph``: stored series as lines, and which there are."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from coordinator.matchers import Matcher
from coordinator.pages.shown import Shown
from coordinator.query import QueryError, Selection, parse_selector
from coordinator.query.graphite import GlobError, graphite_path, is_path, path_matchers
from m3metrics.ids import NAME_TAG
from m3x.clock import wall_ns
from m3x.pages import Chart, Line, chart, frame

__all__ = ["render"]

_LINKS = {"the way of the data": ".", "explain a metric": "explain"}
_SPANS = {"15m": 900, "1h": 3600, "6h": 21_600, "24h": 86_400, "7d": 604_800}
_MOST_LINES = 6
_POINTS = 360
_MOST_NAMES = 300
_FIRST_PART = b"__g0__"
"""The tag of the first part of a carbon path."""


async def render(shown: Shown, asked: Mapping[str, str]) -> tuple[int, str]:
    """Status and page. ``asked``: ``query`` (a selector) and ``over`` (one of the spans)."""
    text, over = asked.get("query", ""), asked.get("over", "1h")
    span_s = _SPANS.get(over, 3600)
    status, found = 200, ""
    if shown.source is None:
        found = "<p>This coordinator has no store that it can read.</p>"
    else:
        try:
            found = await (_lines(shown, text, span_s, over) if text.strip() else _names(shown, span_s, over))
        except QueryError as error:
            status, found = 400, f'<p class="trouble" role="alert">{escape(str(error))}</p>'
    spans = "".join(f"<option{' selected' if one == over else ''}>{one}</option>" for one in _SPANS)
    body = (
        f'<form action="graph"><label class="long">series<input name="query" value="{escape(text)}" required '
        f'placeholder=\'requests_total{{host="a"}}\'></label><label>over<select name="over">{spans}</select></label>'
        f"<button>show</button></form>{found}"
    )
    line = 'Aggregated series of the store, by a selector such as up{job="api"}, or by a carbon path such as shop.*.orders.'
    return status, frame("Stored series – m3coordinator", "Stored series", "", line, body, _LINKS)


async def _lines(shown: Shown, text: str, span_s: int, over: str) -> str:
    assert shown.source is not None
    matchers = _matchers(text.strip())
    end_ms = wall_ns() // 10**6
    start_ms = end_ms - span_s * 1000
    selection = await shown.source.select(matchers, start_ms, end_ms, shown.read_options)
    if not len(selection):
        return "<p>No series that matches has a value in that time.</p>"
    order = selection.order_by_labels()
    lines = [Line(_name(selection, i), _grid(selection, i, start_ms, end_ms)) for i in order[:_MOST_LINES]]
    more = f"<p>The first {_MOST_LINES} of {len(order)} series.</p>" if len(order) > _MOST_LINES else ""
    return chart(Chart(text.strip(), lines, f"the last {over}", shown=_shown)) + more


def _matchers(text: str) -> Sequence[Matcher]:
    """Of a selector, or of a path, which no selector can be: it has a dot. Raises ``QueryError``."""
    if "." in text and not set(text) & set('{}"') and is_path(text):
        try:
            return path_matchers(text)
        except GlobError as error:
            raise QueryError(str(error)) from error
    return parse_selector(text).matchers


async def _names(shown: Shown, span_s: int, over: str) -> str:
    """What is stored, as links to its lines."""
    assert shown.source is not None
    end_ms = wall_ns() // 10**6
    lists = []
    for tag, title in ((NAME_TAG, "Metrics"), (_FIRST_PART, "Carbon paths by their first part")):
        listing = await shown.source.label_values(tag, [], end_ms - span_s * 1000, end_ms, shown.read_options)
        texts = [text.decode(errors="replace") for text in listing.texts]
        if not texts:
            continue
        links = "".join(f"<li>{_link(tag, text, over)}</li>" for text in texts[:_MOST_NAMES])
        more = f"<p>And {len(texts) - _MOST_NAMES:,} more.</p>" if len(texts) > _MOST_NAMES else ""
        lists.append(f'<h2>{title}</h2><ul class="names">{links}</ul>{more}')
    return (
        "".join(lists) or f"<p>Nothing is stored of the last {over}. A window is here some seconds after its end.</p>"
    )


def _link(tag: bytes, text: str, over: str) -> str:
    value = text.replace("\\", "\\\\").replace('"', '\\"')
    query = f'{{{tag.decode()}="{value}"}}'
    return f'<a href="graph?query={quote(query)}&amp;over={over}">{escape(text)}</a>'


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:g}"


def _name(selection: Selection, i: int) -> str:
    if (path := graphite_path(selection.tags(i))) is not None:
        return path
    tags = [(name.decode(errors="replace"), value.decode(errors="replace")) for name, value in selection.tags(i)]
    labels = ",".join(f'{name}="{value}"' for name, value in tags if name != "__name__")
    return dict(tags).get("__name__", "") + (f"{{{labels}}}" if labels else "")


def _grid(selection: Selection, i: int, start_ms: int, end_ms: int) -> NDArray[np.float64]:
    """The points of a series on a grid over the time: of several in one place the newest; places up to two windows after a point have it
    too."""
    first, last = int(selection.offsets[i]), int(selection.offsets[i + 1])
    step_ms = max((end_ms - start_ms) / _POINTS, 1.0)
    grid = np.full(_POINTS, np.nan)
    places = np.minimum(((selection.time_ms[first:last] - start_ms) / step_ms).astype(np.int64), _POINTS - 1)
    grid[places] = selection.values[first:last]
    held = int(min(2 * max(int(selection.windows_ms[i]), 10_000) / step_ms, _POINTS))
    known = np.where(np.isnan(grid), -1, np.arange(_POINTS))
    before = np.maximum.accumulate(known)
    return np.where((before >= 0) & (np.arange(_POINTS) - before <= held), grid[np.maximum(before, 0)], np.nan)

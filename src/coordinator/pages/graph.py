"""``/graph``: stored series as lines."""

import math
from collections.abc import Mapping
from html import escape

import numpy as np
from numpy.typing import NDArray

from coordinator.pages.shown import Shown
from coordinator.query import QueryError, Selection, parse_selector
from m3x.clock import wall_ns
from m3x.pages import Chart, Line, chart, frame

__all__ = ["render"]

_LINKS = {"the way of the data": ".", "explain a metric": "explain"}
_SPANS = {"15m": 900, "1h": 3600, "6h": 21_600, "24h": 86_400, "7d": 604_800}
_MOST_LINES = 6
_POINTS = 360


async def render(shown: Shown, asked: Mapping[str, str]) -> tuple[int, str]:
    """Status and page. ``asked``: ``query`` (a selector) and ``over`` (one of the spans)."""
    text, over = asked.get("query", ""), asked.get("over", "1h")
    span_s = _SPANS.get(over, 3600)
    status, found = 200, ""
    if shown.source is None:
        found = "<p>This coordinator has no store that it can read.</p>"
    elif text.strip():
        try:
            found = await _lines(shown, text, span_s, over)
        except QueryError as error:
            status, found = 400, f'<p class="trouble" role="alert">{escape(str(error))}</p>'
    spans = "".join(f"<option{' selected' if one == over else ''}>{one}</option>" for one in _SPANS)
    body = (
        f'<form action="graph"><label class="long">series<input name="query" value="{escape(text)}" required '
        f'placeholder=\'requests_total{{host="a"}}\'></label><label>over<select name="over">{spans}</select></label>'
        f"<button>show</button></form>{found}"
    )
    line = 'Aggregated series of the store; a selector such as up{job="api"}.'
    return status, frame("Stored series – m3coordinator", "Stored series", "", line, body, _LINKS)


async def _lines(shown: Shown, text: str, span_s: int, over: str) -> str:
    assert shown.source is not None
    selector = parse_selector(text)
    end_ms = wall_ns() // 10**6
    start_ms = end_ms - span_s * 1000
    selection = await shown.source.select(selector.matchers, start_ms, end_ms, shown.read_options)
    if not len(selection):
        return "<p>No series that matches has a value in that time.</p>"
    order = selection.order_by_labels()
    lines = [Line(_name(selection, i), _grid(selection, i, start_ms, end_ms)) for i in order[:_MOST_LINES]]
    more = f"<p>The first {_MOST_LINES} of {len(order)} series.</p>" if len(order) > _MOST_LINES else ""
    return chart(Chart(text.strip(), lines, f"the last {over}", shown=_shown)) + more


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:g}"


def _name(selection: Selection, i: int) -> str:
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

"""Figures over time as lines in SVG, drawn by the server."""

import math
from collections.abc import Callable, Sequence
from html import escape

import msgspec
import numpy as np
from numpy.typing import NDArray

from m3x.pages.history import EVERY_S
from m3x.pages.texts import amount

__all__ = ["Chart", "Line", "chart"]

_WIDTH, _HEIGHT = 720, 120
_MOST_POINTS = 360
_LEAST_POINTS = 24
_KINDS = 6
"""Colours, and kinds of strokes, that the style has."""


class Line(msgspec.Struct, frozen=True):
    """One line. ``values``: float64, oldest first, evenly spaced; NaN where nothing is known."""

    name: str
    values: NDArray[np.float64]


class Chart(msgspec.Struct, frozen=True):
    """A chart of lines that are equally long. ``over``: what time they cover, in words, or how far apart two values are, in seconds (those
    of a ``History``): then it begins with the first value that is known. ``shown``: how values are written."""

    title: str
    lines: Sequence[Line]
    over: str | float = EVERY_S
    shown: Callable[[float], str] = amount


def chart(chart: Chart) -> str:
    """The figure with its legend, which has the newest and the highest value of every line, for those who do not see it."""
    whole = [line.values for line in chart.lines]
    over = chart.over if isinstance(chart.over, str) else ""
    if not isinstance(chart.over, str):
        whole = _known(whole)
        over = _last_of(len(whole[0]) * chart.over)
    lines = [(line.name, _thinned(values)) for line, values in zip(chart.lines, whole, strict=True)]
    known = [values[~np.isnan(values)] for _, values in lines]
    everything = np.concatenate([np.zeros(1), *known])
    low, high = float(everything.min()), float(everything.max())
    span = (high - low) or 1.0
    drawn = "".join(_path(values, low, span, i % _KINDS) for i, (_, values) in enumerate(lines))
    legend = "".join(
        f'<li class="k{i % _KINDS}"><b>{escape(name)}</b> now {_last(values, chart.shown)}, at most {_most(values, chart.shown)}</li>'
        for i, (name, values) in enumerate(lines)
    )
    title = escape(f"{chart.title}, {over}")
    return (
        f'<figure class="chart"><figcaption>{escape(chart.title)} <span class="quiet">{escape(over)}</span></figcaption>'
        f'<div class="plot"><span class="top">{escape(chart.shown(high))}</span>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{title}">'
        f'<path class="grid" d="M0 .5H{_WIDTH}M0 {_HEIGHT / 2}H{_WIDTH}M0 {_HEIGHT - 0.5}H{_WIDTH}"/>{drawn}</svg>'
        f'<span class="bottom">{escape(chart.shown(low))}</span></div><ul class="legend">{legend}</ul></figure>'
    )


def _known(lines: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Without the points at the beginning at which no line has a value."""
    known: NDArray[np.bool_] = np.any(~np.isnan(np.array(lines)), axis=0)
    first = min(int(known.argmax()) if known.any() else len(known), max(len(known) - _LEAST_POINTS, 0))
    return [values[first:] for values in lines]


def _last_of(seconds: float) -> str:
    """``the last 5 minutes``; ``the last hour``."""
    minutes = max(round(seconds / 60), 1)
    if minutes == 1:
        return "the last minute"
    return "the last hour" if minutes == 60 else f"the last {minutes} minutes"


def _thinned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most so many points as can be seen: the highest of each group, so that peaks stay."""
    group = -(-len(values) // _MOST_POINTS)
    if group <= 1:
        return values
    padded = np.concatenate([np.full(-len(values) % group, np.nan), values]).reshape(-1, group)
    highest = np.where(np.isnan(padded), -np.inf, padded).max(axis=1)
    return np.where(np.isinf(highest), np.nan, highest)


def _path(values: NDArray[np.float64], low: float, span: float, kind: int) -> str:
    """Lines between points that follow each other; a point between two gaps is a dash."""
    step = _WIDTH / max(len(values) - 1, 1)
    pieces, pen = [], "M"
    for i, value in enumerate(values.tolist()):
        if math.isnan(value):
            pen = "M"
            continue
        y = _HEIGHT - 2 - (value - low) / span * (_HEIGHT - 4)
        pieces.append(f"{pen}{i * step:.1f} {y:.1f}" + ("h.1" if pen == "M" else ""))
        pen = "L"
    return f'<path class="k{kind}" d="{"".join(pieces)}"/>' if pieces else ""


def _last(values: NDArray[np.float64], shown: Callable[[float], str]) -> str:
    return escape(shown(float(values[-1]))) if len(values) else "–"


def _most(values: NDArray[np.float64], shown: Callable[[float], str]) -> str:
    known = values[~np.isnan(values)]
    return escape(shown(float(known.max()))) if len(known) else "–"

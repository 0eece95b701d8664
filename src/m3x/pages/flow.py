"""The way of the data: lanes of stages, and between them what goes from one to the next; as a picture, and as JSON (``/flow``).

A lane is an ordered list: side by side where there is room, below each other on a phone, and read out in order.
"""

from collections.abc import Iterable
from html import escape

import msgspec

from m3x.pages.texts import amount

__all__ = ["Edge", "Lane", "Stage", "flow"]


class Stage(msgspec.Struct, frozen=True, tag="stage", tag_field="kind"):
    """A place that data comes through. ``trouble``: what is wrong with it now; empty: nothing."""

    name: str
    lines: list[str] = []
    trouble: str = ""


class Edge(msgspec.Struct, frozen=True, tag="edge", tag_field="kind"):
    """What goes from the stage before to the one behind. ``waiting``: what stands in the queue, in words; empty: nothing does."""

    rate: float
    """A second; NaN (in JSON null): not known."""
    unit: str = "messages"
    waiting: str = ""
    trouble: str = ""


class Lane(msgspec.Struct, frozen=True):
    """One way, from its source to its end: stages with an edge between any two."""

    name: str
    steps: list[Stage | Edge]


def flow(lanes: Iterable[Lane]) -> str:
    """The picture."""
    return f'<div class="flow">{"".join(map(_lane, lanes))}</div>'


def _lane(lane: Lane) -> str:
    steps = "".join(_edge(step) if isinstance(step, Edge) else _stage(step) for step in lane.steps)
    return (
        f'<section><h3>{escape(lane.name)}</h3><ol class="lane" aria-label="{escape(lane.name)}">{steps}</ol></section>'
    )


def _stage(stage: Stage) -> str:
    lines = "".join(f"<span>{escape(line)}</span>" for line in stage.lines)
    trouble = f'<span class="trouble">{escape(stage.trouble)}</span>' if stage.trouble else ""
    return f'<li class="stage{" bad" if stage.trouble else ""}"><b>{escape(stage.name)}</b>{lines}{trouble}</li>'


def _edge(edge: Edge) -> str:
    moving = " moving" if edge.rate > 0 else ""
    waiting = f"<span>{escape(edge.waiting)}</span>" if edge.waiting else ""
    trouble = f'<span class="trouble">{escape(edge.trouble)}</span>' if edge.trouble else ""
    return (
        f'<li class="edge{moving}{" bad" if edge.trouble else ""}"><span><b>{amount(edge.rate)}</b> {escape(edge.unit)}/s</span>'
        f'<i aria-hidden="true"></i>{waiting}{trouble}</li>'
    )

"""Which names send most, cost most, are refused most: what a sample of the messages says."""

from collections.abc import Callable, Sequence
from html import escape

from m3x.pages.tables import table
from m3x.pages.texts import amount, size

__all__ = ["traffic"]

_SHOWN = 10

Rate = tuple[str, float]
"""A metric name, and how many a second."""
Refused = tuple[str, str, float]
"""A metric name, why, and how many a second."""


def traffic(
    messages: int,
    looked_at: int,
    samples: Sequence[Rate],
    updates: Sequence[Rate],
    timer_bytes: Sequence[Rate],
    refused: Sequence[Refused],
) -> str:
    """A table of each that there is, the most first; a sentence where there is none."""
    if not samples and not refused:
        return "<p>No samples so far.</p>"
    tables = [
        _rates("By rate", "samples/s", samples, amount),
        _rates("By cost: samples × aggregations", "updates/s", updates, amount),
    ]
    if timer_bytes:
        tables.append(_rates("By timers: samples kept for quantiles", "a second", timer_bytes, size))
    if refused:
        rows = [(escape(name), escape(reason), amount(rate)) for name, reason, rate in refused[:_SHOWN]]
        tables.append(table(("metric name", "why", "messages/s"), rows, (0, 1), caption="By refusals"))
    part = f", one of {amount(messages / looked_at)}" if looked_at else ""
    return (
        f'<p class="quiet">Estimated from {amount(looked_at)} of {amount(messages)} messages since the start{part}; rates of the last '
        f'minutes.</p><div class="charts">{"".join(tables)}</div>'
    )


def _rates(caption: str, unit: str, rates: Sequence[Rate], shown: Callable[[float], str]) -> str:
    rows = [(escape(name), shown(rate)) for name, rate in rates[:_SHOWN]]
    return table(("metric name", unit), rows, caption=caption)

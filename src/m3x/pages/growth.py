"""Which metric and label names grow: what new series have in common."""

from collections.abc import Sequence
from html import escape

from m3x.pages.tables import table
from m3x.pages.texts import amount

__all__ = ["growth"]

_SHOWN = 10

Name = tuple[str, int, int]
"""A metric name, its new series since it was noticed, and how many come a minute."""
Label = tuple[str, int, int, int]
"""A label name, new series that have it, different values among them, and how many series come a minute."""


def growth(names: Sequence[Name], labels: Sequence[Label]) -> str:
    """Two tables, the fastest growing first; a sentence where nothing is new."""
    if not names:
        return "<p>No new series so far.</p>"
    of_names = [(escape(name), amount(per_minute), amount(series)) for name, series, per_minute in names[:_SHOWN]]
    of_labels = [
        (escape(name), amount(per_minute), amount(series), amount(values))
        for name, series, values, per_minute in labels[:_SHOWN]
    ]
    return (
        '<div class="charts">'
        + table(("metric name", "new series a minute", "since noticed"), of_names)
        + table(("label name", "new series a minute", "since noticed", "values"), of_labels)
        + "</div>"
    )

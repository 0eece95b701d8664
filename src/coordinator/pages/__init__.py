"""Pages of port 7201 for people: the way of the data (``/``), why a metric becomes what it becomes (``/explain``), what changed rules would
make of live series (``/rules``), stored series as lines (``/graph``). None of them is a call of M3, whose coordinator has no pages.

``routes`` is the entry; ``overview``, ``explain``, ``rules`` and ``graph`` render one page each from what ``Shown`` (``shown``) gives them;
``leaders`` asks the KV who leads.
"""

from coordinator.pages.overview import FIGURES
from coordinator.pages.routes import page_routes
from coordinator.pages.shown import Shown

__all__ = ["FIGURES", "Shown", "page_routes"]

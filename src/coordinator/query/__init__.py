"""Reading back over HTTP: Prometheus' query API for selectors and constants, remote read, Graphite's render and find, our own window feed.

Open ``routes`` first: ``query_routes(source)``; then ``source``: what every handler asks, whatever kind of store answers (``embedded``,
``m3db``). One module per API (``prometheus``, and ``about`` of what it tells beside data; ``remote_read``, ``graphite``, ``windows``);
``selector`` and ``constants`` understand PromQL, ``parameters`` the request, ``rendering`` writes JSON; ``kernels`` are the compiled
loops, ``errors`` what is refused. Imports ``coordinator.config``, ``coordinator.matchers``, ``coordinator.store``, ``m3db``,
``m3metrics`` and ``m3x`` only.
"""

from coordinator.query.embedded import EmbeddedSource
from coordinator.query.errors import QueryError
from coordinator.query.routes import query_routes, unreadable_routes
from coordinator.query.selector import Selector, parse_selector
from coordinator.query.source import ReadOptions, Selection, Source

__all__ = [
    "EmbeddedSource",
    "QueryError",
    "ReadOptions",
    "Selection",
    "Selector",
    "Source",
    "parse_selector",
    "query_routes",
    "unreadable_routes",
]

"""Reading back over HTTP: Prometheus' query API for plain selectors, remote read, Graphite's render and find, and our own window feed.

Open ``routes`` first: ``query_routes(store)``. One module per API (``prometheus``, ``remote_read``, ``graphite``, ``windows``);
``selector`` understands PromQL, ``parameters`` the request, ``rendering`` writes JSON; ``kernels`` are the compiled loops, ``errors`` what
is refused. Imports ``coordinator.store``, ``m3metrics``
and ``m3x`` only.
"""

from coordinator.query.errors import QueryError
from coordinator.query.routes import query_routes
from coordinator.query.selector import Selector, parse_selector

__all__ = ["QueryError", "Selector", "parse_selector", "query_routes"]

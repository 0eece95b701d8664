"""The admin HTTP API: placements and topics (docs/m3/cluster.md, admin HTTP).

``routes``     ``admin_routes``: all routes (open this first)
``placement``  placement handlers
``topic``      topic handlers
``kvstore``    ``/api/v1/kvstore``; ``environments`` what else there is
``context``    what handlers work on: the store, where it is asked, time and chance
``requests``   the bodies as tables
``health``     ``/health``
``answers``    what all of them share: headers, errors, M3's JSON

May import ``m3cluster`` and ``m3x``.
"""

from coordinator.api.answers import not_found
from coordinator.api.routes import admin_routes, routes_route

__all__ = ["admin_routes", "not_found", "routes_route"]

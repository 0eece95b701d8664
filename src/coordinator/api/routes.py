"""All routes of the admin API."""

import json
import random
from collections.abc import Callable, Collection, Sequence

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from coordinator.api.answers import Methods
from coordinator.api.context import MINUTE_NS, AdminContext
from coordinator.api.environments import EnvironmentHandlers
from coordinator.api.health import health_handler
from coordinator.api.kvstore import KVStoreHandlers
from coordinator.api.placement import SERVICES, PlacementHandlers
from coordinator.api.topic import TopicHandlers
from m3cluster.keys import DEFAULT_ENVIRONMENT, DEFAULT_ZONE
from m3cluster.kv import Store
from m3x.clock import monotonic_ns, wall_ns

__all__ = ["admin_routes", "routes_route"]


def admin_routes(
    store: Store,
    *,
    environment: str = DEFAULT_ENVIRONMENT,
    zone: str = DEFAULT_ZONE,
    zones: Collection[str] = (DEFAULT_ZONE,),
    window_ns: Callable[[], int] = lambda: MINUTE_NS,
    clock: Callable[[], int] = wall_ns,
    rng: random.Random | None = None,
    kv_environment: str = "",
) -> list[Route]:
    """Routes for a Starlette application.

    ``environment`` and ``zone`` are the defaults of the placement routes (topics always default to M3's own), ``zones`` the zones that the
    store stands for, ``window_ns`` the largest resolution in nanoseconds, ``clock`` Unix nanoseconds, ``rng`` the chance in placements,
    ``kv_environment`` the environment of ``/api/v1/kvstore`` (empty: ``environment``).
    """
    context = AdminContext(store, environment, zone, zones, window_ns, clock, rng, kv_environment)
    topics = TopicHandlers(context)
    routes = [
        Route("/health", Methods({"GET": health_handler(clock, monotonic_ns)})),
        Route("/api/v1/topic/init", Methods({"POST": topics.init})),
        Route(
            "/api/v1/topic",
            Methods(
                {
                    "GET": topics.get,
                    "POST": topics.add,
                    "PUT": topics.update,
                    "DELETE": topics.delete,
                }
            ),
        ),
        Route("/api/v1/kvstore", Methods({"POST": KVStoreHandlers(context).update})),
        Route("/api/v1/environments", Methods({"GET": EnvironmentHandlers(context).get})),
    ]
    for service in SERVICES:
        routes += _placement_routes(context, service)
    return routes


def _placement_routes(context: AdminContext, service: str) -> list[Route]:
    base = f"/api/v1/services/{service}/placement"
    handlers = PlacementHandlers(context, service)
    return [
        # Every one of these is an instance's id to DELETE, as in M3.
        Route(f"{base}/init", Methods({"POST": handlers.init, "DELETE": handlers.delete_one})),
        Route(f"{base}/remove", Methods({"POST": handlers.remove, "DELETE": handlers.delete_one})),
        Route(f"{base}/replace", Methods({"POST": handlers.replace, "DELETE": handlers.delete_one})),
        Route(f"{base}/set", Methods({"POST": handlers.set, "DELETE": handlers.delete_one})),
        Route(f"{base}/{{id}}", Methods({"DELETE": handlers.delete_one})),
        Route(base, Methods({"GET": handlers.get, "POST": handlers.add, "DELETE": handlers.delete})),
    ]


def routes_route(routes: Sequence[BaseRoute]) -> Route:
    """``GET /routes``: the paths that are served, as M3 lists its own (docs/m3/cluster.md, other routes)."""
    paths = list(dict.fromkeys(route.path for route in routes if isinstance(route, Route)))

    async def listed(_request: Request) -> Response:
        return PlainTextResponse(json.dumps({"routes": [*paths, "/routes"]}, separators=(",", ":")) + "\n")

    return Route("/routes", Methods({"GET": listed}))

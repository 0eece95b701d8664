"""All routes of the admin API."""

import random
from collections.abc import Callable, Collection

from starlette.routing import Route

from coordinator.api.answers import Methods, not_yet
from coordinator.api.health import health_handler
from coordinator.api.placement import SERVICES, AdminContext, PlacementHandlers
from coordinator.api.topic import TopicHandlers
from m3cluster.keys import DEFAULT_ENVIRONMENT, DEFAULT_ZONE
from m3cluster.kv import Store
from m3x.clock import monotonic_ns, wall_ns

__all__ = ["admin_routes"]


def admin_routes(
    store: Store,
    *,
    environment: str = DEFAULT_ENVIRONMENT,
    zone: str = DEFAULT_ZONE,
    zones: Collection[str] = (DEFAULT_ZONE,),
    window_ns: int = 60 * 1_000_000_000,
    clock: Callable[[], int] = wall_ns,
    rng: random.Random | None = None,
) -> list[Route]:
    """Routes for a Starlette application.

    ``environment`` and ``zone`` are the defaults of the placement routes (topics always default to M3's own), ``zones`` the zones that the
    store stands for, ``window_ns`` the largest resolution in nanoseconds, ``clock`` Unix nanoseconds, ``rng`` the chance in placements.
    """
    context = AdminContext(store, environment, zone, zones, window_ns, clock, rng)
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
                    "PUT": not_yet("replacing the consumer services of a topic"),
                    "DELETE": not_yet("deleting a topic"),
                }
            ),
        ),
        Route("/api/v1/kvstore", Methods({"POST": not_yet("the kvstore route")})),
    ]
    for service in SERVICES:
        routes += _placement_routes(context, service)
    return routes


def _placement_routes(context: AdminContext, service: str) -> list[Route]:
    base = f"/api/v1/services/{service}/placement"
    handlers = PlacementHandlers(context, service)
    return [
        Route(f"{base}/init", Methods({"POST": handlers.init, "DELETE": not_yet("removing an instance")})),
        Route(
            base,
            Methods(
                {
                    "GET": handlers.get,
                    "POST": not_yet("adding instances to a placement"),
                    "DELETE": not_yet("deleting a placement"),
                }
            ),
        ),
        *(
            Route(f"{base}/{path}", Methods({"POST": not_yet(what), "DELETE": not_yet("removing an instance")}))
            for path, what in (
                ("remove", "removing instances from a placement"),
                ("replace", "replacing instances of a placement"),
                ("set", "setting a placement"),
            )
        ),
        Route(f"{base}/{{id}}", Methods({"DELETE": not_yet("removing an instance")})),
    ]

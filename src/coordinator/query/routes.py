"""All read routes of the coordinator."""

from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from coordinator.query.errors import QueryError
from coordinator.query.graphite import Graphite
from coordinator.query.prometheus import LOOKBACK_MS, PrometheusAPI
from coordinator.query.remote_read import RemoteRead
from coordinator.query.rendering import error_body
from coordinator.query.source import Source
from coordinator.query.windows import Windows
from coordinator.store import Store
from m3x.log import logger

__all__ = ["query_routes"]

_log = logger(__name__)

Handler = Callable[[Request], Awaitable[Response]]


def query_routes(source: Source, lookback_ms: int = LOOKBACK_MS, *, watched: Store | None = None) -> list[Route]:
    """Routes over ``source`` (docs/m3/coordinator.md, routes), to be served on the event loop that owns it.

    ``watched``: the embedded store whose windows ``/api/v1/windows`` tells.
    """
    prometheus, remote = PrometheusAPI(source, lookback_ms), RemoteRead(source)
    graphite, windows = Graphite(source), Windows(watched)
    both = ["GET", "POST"]
    routes = [
        Route(f"{prefix}/api/v1/{name}", _guarded(handler), methods=both)
        for prefix in ("", "/prometheus", "/m3query")
        for name, handler in (("query", prometheus.query), ("query_range", prometheus.query_range))
    ]
    return [
        *routes,
        Route("/api/v1/labels", _guarded(prometheus.labels), methods=both),
        Route("/api/v1/label/{name}/values", _guarded(prometheus.label_values), methods=["GET"]),
        Route("/api/v1/series", _guarded(prometheus.series), methods=both),
        Route("/api/v1/prom/remote/read", _guarded(remote.post), methods=["POST"]),
        Route("/api/v1/prom/remote/read", _guarded(remote.get), methods=["GET"]),
        Route("/api/v1/graphite/render", _guarded(graphite.render), methods=both),
        Route("/api/v1/graphite/metrics/find", _guarded(graphite.find), methods=both),
        Route("/api/v1/windows", _guarded(windows.get), methods=["GET"]),
    ]


def _guarded(handler: Handler) -> Handler:
    """Turns what a handler raises into Prometheus' error answer."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except QueryError as error:
            if error.status >= 500:
                _log.error_limited("a query failed", path=request.url.path, error=str(error))
            return _error(error)
        except ClientDisconnect:
            # Nobody is there to read it; the server drops the answer.
            return Response(status_code=499)

    return answer


def _error(error: QueryError) -> Response:
    return Response(error_body(error), status_code=error.status, media_type="application/json")

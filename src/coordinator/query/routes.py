"""All read routes of the coordinator."""

import time
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from coordinator.query.about import AboutAPI
from coordinator.query.errors import QueryError
from coordinator.query.graphite import Graphite
from coordinator.query.prometheus import LOOKBACK_MS, MAX_STEPS, PrometheusAPI
from coordinator.query.remote_read import RemoteRead
from coordinator.query.rendering import error_body
from coordinator.query.source import ReadOptions, Source
from coordinator.query.windows import Windows
from coordinator.store import Store
from m3x.instrument import Registry, Scope
from m3x.log import logger

__all__ = ["POST_PATHS", "query_routes", "unreadable_routes"]

_log = logger(__name__)

Handler = Callable[[Request], Awaitable[Response]]


_DEFAULTS = ReadOptions()
_BOTH = ["GET", "POST"]
_PREFIXES = ("", "/prometheus", "/m3query")
_PROMETHEUS = (
    ("query", "query", _BOTH),
    ("query_range", "query_range", _BOTH),
    ("labels", "labels", _BOTH),
    ("label/{name}/values", "label_values", ["GET"]),
    ("series", "series", _BOTH),
    ("query_exemplars", "exemplars", _BOTH),
    ("format_query", "format", _BOTH),
    ("metadata", "metadata", ["GET"]),
    ("rules", "rules", ["GET"]),
    ("alerts", "alerts", ["GET"]),
    ("status/buildinfo", "buildinfo", ["GET"]),
)
"""Prometheus' own calls: path below ``/api/v1``, name of the handler, methods."""
_PATHS = (
    *((f"{prefix}/api/v1/{path}", name, methods) for prefix in _PREFIXES for path, name, methods in _PROMETHEUS),
    ("/api/v1/prom/remote/read", "remote_read", ["POST"]),
    ("/api/v1/prom/remote/read", "remote_read_one", ["GET"]),
    *((f"/api/v1/graphite/render{slash}", "render", _BOTH) for slash in ("", "/")),
    *((f"/api/v1/graphite/metrics/find{slash}", "find", _BOTH) for slash in ("", "/")),
    ("/api/v1/windows", "windows", ["GET"]),
)  # fmt: skip
"""Path, name of the handler, methods (docs/m3/coordinator.md, routes)."""
POST_PATHS = frozenset(path for path, _, methods in _PATHS if "POST" in methods)
"""Those that are read with POST as well, or with nothing else."""


def query_routes(
    source: Source,
    lookback_ms: int = LOOKBACK_MS,
    *,
    defaults: ReadOptions = _DEFAULTS,
    find_defaults: ReadOptions | None = None,
    render_defaults: ReadOptions | None = None,
    watched: Store | None = None,
    scope: Scope | None = None,
) -> list[Route]:
    """Routes over ``source``, to be served on the event loop that owns it.

    ``defaults``: what holds for requests that do not say otherwise, those of Graphite's calls in ``find_defaults`` and ``render_defaults``;
    ``watched``: the embedded store whose windows are told. ``scope``: where queries are counted.
    """
    prometheus, remote = PrometheusAPI(source, defaults, lookback_ms), RemoteRead(source, defaults)
    about, windows = AboutAPI(), Windows(watched)
    if scope is not None:
        scope.gauge("max-datapoints", MAX_STEPS)
    return _routes(
        {
            "query": prometheus.query,
            "query_range": prometheus.query_range,
            "labels": prometheus.labels,
            "label_values": prometheus.label_values,
            "series": prometheus.series,
            "exemplars": about.exemplars,
            "format": about.format,
            "metadata": about.metadata,
            "rules": about.rules,
            "alerts": about.alerts,
            "buildinfo": about.buildinfo,
            "remote_read": remote.post,
            "remote_read_one": remote.get,
            "render": Graphite(source, render_defaults or defaults).render,
            "find": Graphite(source, find_defaults or defaults).find,
            "windows": windows.get,
        }.__getitem__,
        scope,
    )


def unreadable_routes(why: str) -> list[Route]:
    """The same routes of a coordinator without a store that can be read: ``why`` says where the data is."""

    async def refuse(_request: Request) -> Response:
        raise QueryError(why, kind="execution", status=500)

    return _routes(lambda _name: refuse)


def _routes(handler: Callable[[str], Handler], scope: Scope | None = None) -> list[Route]:
    counted = Registry().scope() if scope is None else scope.sub("fetch")
    return [
        Route(path, _guarded(handler(name), counted.tagged(source=name)), methods=methods)
        for path, name, methods in _PATHS
    ]


def _guarded(handler: Handler, scope: Scope) -> Handler:
    """Turns what a handler raises into Prometheus' error answer; counts answers."""

    async def answer(request: Request) -> Response:
        began_s = time.monotonic()
        try:
            response = await handler(request)
            scope.count("success")
            scope.observe("success-latency", time.monotonic() - began_s)
            return response
        except QueryError as error:
            scope.tagged(code=str(error.status)).count("errors")
            if error.kind == "internal":
                _log.error_limited("a query failed", path=request.url.path, error=str(error))
            return _error(error)
        except ClientDisconnect:
            # Nobody is there to read it; the server drops the answer.
            return Response(status_code=499)

    return answer


def _error(error: QueryError) -> Response:
    return Response(error_body(error), status_code=error.status, media_type="application/json")

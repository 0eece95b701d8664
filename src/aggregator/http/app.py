"""Routes of port 6001 (docs/m3/aggregation.md, HTTP port).

M3's own three have M3's bodies to the byte: JSON and a newline; a wrong method is 400 and a failed resignation 500, both with ``null``.

| path | answer |
|---|---|
| ``/status`` | M3's, and ``"problems": [...]`` beside ``"status"`` while something is wrong with the set-up |
| ``/ready`` | 200 or 503: ``{"ready", "reasons", "notes"}``; reasons say what is missing and what to do, notes what is worth knowing |
| ``/shards`` | ``{"instanceId", "shards", "lists"}``: per shard worker, state, entries, windows, flush, lag; per list its flush time |
| ``/flow`` | ``{"instanceId", "lanes"}``: the way of the data (``m3x.pages.Lane``) |
| ``/status/growth`` | ``{"newSeries", "metricNames", "labelNames"}``: which names new series have, the fastest growing first |
| ``/status/traffic`` | ``{"messages", "lookedAt", "samples", "updates", "timerBytes", "refused"}``: names with most, by a sample |
| ``/status/load`` | ``{"instanceId", "processes"}``: CPU and queue of the front and of each worker |
| ``/`` | all of it as a page |
| ``/-/…`` | ``m3x.live_config`` |
| ``/debug/…`` | ``m3x.diagnosis`` |
"""

from collections.abc import Sequence

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from aggregator.http.page import render
from aggregator.http.source import StatusSource
from m3x.access import Right, RightOf
from m3x.instrument import Registry
from m3x.log import logger
from m3x.pages import HEADERS

__all__ = ["create_app", "rights"]

log = logger(__name__)


def create_app(
    source: StatusSource, registry: Registry, metrics_path: str | None = None, more: Sequence[BaseRoute] = ()
) -> Starlette:
    """The application; ``metrics_path``: also serve the Prometheus page there (M3 without an address of its own for it); ``more``: routes
    that every service has."""

    async def health(request: Request) -> Response:
        return _json({"state": "OK"}) if request.method == "GET" else _json(None, 400)

    async def status(request: Request) -> Response:
        if request.method != "GET":
            return _json(None, 400)
        flush = {"electionState": source.election_state(), "canLead": source.can_lead()}
        problems = source.set_up_problems()
        # M3's body to the byte as long as nothing is wrong.
        return _json({"status": {"flushStatus": flush}} | ({"problems": problems} if problems else {}))

    async def resign(request: Request) -> Response:
        if request.method != "POST":
            return _json(None, 400)
        try:
            await source.resign()
        except Exception as error:
            log.error("resigning failed", error=str(error) or type(error).__name__)
            return _json(None, 500)
        return _json({"state": "OK"})

    async def ready(_request: Request) -> Response:
        found = source.readiness()
        return _json(found, 200 if found.ready else 503)

    async def shards(_request: Request) -> Response:
        return _json({"instanceId": source.instance_id, "shards": source.shards(), "lists": source.lists()})

    async def flow(_request: Request) -> Response:
        return _json({"instanceId": source.instance_id, "lanes": source.flow()})

    async def growth(_request: Request) -> Response:
        return _json(source.growth())

    async def traffic(_request: Request) -> Response:
        return _json(source.traffic())

    async def load(_request: Request) -> Response:
        return _json({"instanceId": source.instance_id, "processes": source.loads()})

    async def page(_request: Request) -> Response:
        return HTMLResponse(render(source), headers=HEADERS)

    async def metrics(_request: Request) -> Response:
        return PlainTextResponse(registry.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    any_method = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
    routes: list[BaseRoute] = [
        Route("/health", health, methods=any_method),
        Route("/status", status, methods=any_method),
        Route("/resign", resign, methods=any_method),
        Route("/ready", ready),
        Route("/shards", shards),
        Route("/flow", flow),
        Route("/status/growth", growth),
        Route("/status/traffic", traffic),
        Route("/status/load", load),
        Route("/", page),
        *more,
    ]
    if metrics_path is not None:
        routes.insert(0, Route(metrics_path, metrics))
    return Starlette(routes=routes)


def rights(metrics_path: str | None = None) -> RightOf:
    """Which right each call needs (``m3x.access``); ``metrics_path``: as of ``create_app``."""
    nobodys = {"/health", "/ready", "/-/healthy", "/-/ready", metrics_path}

    def right_of(method: str, path: str) -> Right:
        if path.startswith(("/resign", "/debug")) or method not in ("GET", "HEAD", "OPTIONS"):
            return Right.ADMIN
        return Right.NONE if path in nobodys else Right.READS

    return right_of


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value) + b"\n", status, media_type="application/json")

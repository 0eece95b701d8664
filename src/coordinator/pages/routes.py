"""The routes of the pages."""

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from coordinator.pages import explain, graph, overview
from coordinator.pages.leaders import Leaders
from coordinator.pages.rules import PATH, RulesPage
from coordinator.pages.shown import Shown
from m3metrics.growth import merged
from m3x.pages import HEADERS

__all__ = ["page_routes"]


def page_routes(shown: Shown) -> list[Route]:
    """``/``, ``/explain``, ``/graph``, ``/rules``, and ``/flow``: the way of the data, ``{"lanes": [...]}`` (``m3x.pages.Lane``)."""
    leaders, trying = Leaders(shown.store, shown.environment), RulesPage(shown)

    async def overview_page(_request: Request) -> Response:
        leading: dict[int, str] = {}
        if (found := overview.aggregators(shown)) is not None:
            service, placement = found
            leading = await leaders.of(service, {one.shard_set_id for one in placement.instances})
        return HTMLResponse(
            overview.render(shown, leading, merged(one.report for one in await shown.grown())), headers=HEADERS
        )

    async def flow(_request: Request) -> Response:
        body = msgspec.json.encode({"lanes": overview.lanes(shown)})
        return Response(body + b"\n", media_type="application/json")

    async def explain_page(request: Request) -> Response:
        status, text = await explain.render(shown, leaders, request.query_params)
        return HTMLResponse(text, status, headers=HEADERS)

    async def graph_page(request: Request) -> Response:
        status, text = await graph.render(shown, request.query_params)
        return HTMLResponse(text, status, headers=HEADERS)

    async def rules_page(request: Request) -> Response:
        status, text = await trying.render(request)
        return HTMLResponse(text, status, headers=HEADERS)

    return [
        Route("/", overview_page, methods=["GET"]),
        Route("/flow", flow, methods=["GET"]),
        Route("/explain", explain_page, methods=["GET"]),
        Route("/graph", graph_page, methods=["GET"]),
        Route(PATH, rules_page, methods=["GET", "POST"]),
    ]

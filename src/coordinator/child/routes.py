"""``/aggregator``: the pages of the aggregator inside, as it serves them itself (``aggregator.http``)."""

import aiohttp
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from coordinator.child.watching import Watching
from m3x.pages import HEADERS

__all__ = ["child_routes"]

_PAGES = ("ready", "shards", "status", "health", "metrics")


def child_routes(watching: Watching) -> list[Route]:
    """The page itself under ``/aggregator/``, so that its links work, and what it links to."""

    async def page(request: Request) -> Response:
        path = request.url.path.removeprefix("/aggregator")
        try:
            answer = await watching.get(path)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return PlainTextResponse("\n".join(watching.reasons) + "\n", 503)
        return Response(answer.body, answer.status, HEADERS, media_type=answer.content_type)

    async def moved(_request: Request) -> Response:
        return RedirectResponse("/aggregator/")

    return [
        Route("/aggregator", moved),
        Route("/aggregator/", page),
        *(Route(f"/aggregator/{name}", page) for name in _PAGES),
    ]

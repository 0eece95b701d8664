"""``GET /api/v1/sinks``: every sink that has a queue, and the queues that have no sink. Not a call of M3; ``m3ctl doctor`` reads it."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from coordinator.sinks.hub import Hub, Orphan
from coordinator.sinks.status import SinkStatus

__all__ = ["PATH", "SinksAnswer", "sinks_route"]

PATH = "/api/v1/sinks"


class SinksAnswer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The document."""

    sinks: list[SinkStatus]
    queues_without_sink: list[Orphan]


def sinks_route(hub: Hub) -> Route:
    """The route."""

    async def sinks(_request: Request) -> Response:
        answer = SinksAnswer(sinks=hub.status(), queues_without_sink=list(hub.orphans))
        return Response(msgspec.json.encode(answer) + b"\n", media_type="application/json")

    return Route(PATH, sinks, methods=["GET"])

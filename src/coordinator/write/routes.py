"""The routes of all writes over HTTP: a path and a sender for each protocol; and the way past them."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from coordinator.config.coordinator import OTLPConfig
from coordinator.write import influx, json_write, otlp
from coordinator.write.remote_write import REMOTE_WRITE_PATH, RemoteWriter
from coordinator.write.sender import Sender, WayIn
from m3x.instrument import Scope

__all__ = ["remote_write_routes", "sender_routes", "writes_first"]

ASGI = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]
_DEFAULT = OTLPConfig()


def remote_write_routes(writer: RemoteWriter) -> list[Route]:
    """The route of remote write."""
    return [_route_of(REMOTE_WRITE_PATH, writer, None)]


def sender_routes(writer: RemoteWriter, scope: Scope, config: OTLPConfig = _DEFAULT) -> list[Route]:
    """``scope``: of the coordinator; the figures of each protocol have its tag ``handler``."""
    senders: dict[str, Sender] = {
        influx.PATH: influx.Influx(),
        json_write.PATH: json_write.JSONWrite(),
        otlp.PATH: otlp.OTLP(
            otlp.Promotion(frozenset(config.promote_resource_attributes), config.promote_scope_metadata)
        ),
    }
    return [
        _route_of(path, writer, WayIn(sender, scope.tagged(handler=sender.handler))) for path, sender in senders.items()
    ]


def writes_first(app: ASGI, writer: RemoteWriter) -> ASGI:
    """``app``, which has the route of remote write among others, but those writes go to ``writer`` past it: to look for a route, and to be
    ready for errors that a writer never raises, costs as much as hundreds of samples."""

    async def first(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == REMOTE_WRITE_PATH:
            response = await writer.handle(Request(scope, receive, send))
            await response(scope, receive, send)
        else:
            await app(scope, receive, send)

    return first


def _route_of(path: str, writer: RemoteWriter, way: WayIn | None) -> Route:
    """A route of writes; ``way`` None: those of remote write."""

    async def write(request: Request) -> Response:
        return await writer.handle(request, way)

    return Route(path, write, methods=["POST"])

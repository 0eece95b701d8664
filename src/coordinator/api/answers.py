"""Requests and answers as M3's admin API has them (docs/m3/cluster.md, admin HTTP): headers, status codes, JSON, dispatch by method."""

import json
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from m3cluster.keys import DEFAULT_ENVIRONMENT, DEFAULT_ZONE
from m3cluster.kv import KeyNotFoundError, KVError, VersionMismatchError
from m3cluster.placement import InvalidPlacementError, PlacementError, PlacementExistsError, VersionNotKeptError
from m3cluster.proto import DecodeError, JSONError, Message, MessageValue, render_json
from m3cluster.proto.jsonpb import escape_html, sound
from m3cluster.topic import TopicError
from m3x.log import logger

__all__ = ["APIError", "Handler", "Methods", "body_of", "header", "message_answer", "not_found"]

log = logger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

MAX_BODY_BYTES = 32 << 20
CORS = {
    "Access-Control-Allow-Headers": "accept, content-type, authorization",
    "Access-Control-Allow-Methods": "POST, GET, OPTIONS, PUT, DELETE",
    "Access-Control-Allow-Origin": "*",
}


class APIError(Exception):
    """An answer with a status of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Methods:
    """An endpoint that answers some methods of one path; any other one, HEAD and OPTIONS included, is 405 with an empty body."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request (ASGI). No request raises out of here."""
        request = Request(scope, receive)
        handler = self._handlers.get(request.method)
        if handler is None:
            response = Response(status_code=405)
        else:
            response = await _guarded(handler, request)
            response.headers.update(CORS)
        await response(scope, receive, send)


async def _guarded(handler: Handler, request: Request) -> Response:
    try:
        return await handler(request)
    except ClientDisconnect:
        return error_answer(499, "context canceled")
    except Exception as error:
        status, text = _status_of(error)
        if status is None:
            log.error("an admin request failed", exception=error, method=request.method, path=request.url.path)
            return error_answer(500, f"internal error: {type(error).__name__}: {error}")
        return error_answer(status, text)


def _status_of(error: Exception) -> tuple[int | None, str]:
    """Status and text that M3 gives to an error; None for what nobody has foreseen."""
    text = str(error)
    if isinstance(error, APIError):
        return error.status, text
    if isinstance(error, JSONError | InvalidPlacementError):
        return 400, text
    if isinstance(error, PlacementExistsError):
        return 409, text
    if isinstance(error, VersionNotKeptError):
        return 501, text
    if isinstance(error, DecodeError):
        return 500, error.reason
    if isinstance(error, KeyNotFoundError):
        return 500, "key not found"
    if isinstance(error, VersionMismatchError):
        return 500, "key is not at the specified version"
    if isinstance(error, PlacementError | TopicError | KVError):
        return 500, text
    return None, text


def error_answer(status: int, message: str) -> Response:
    """M3's error envelope."""
    text = sound(json.dumps({"status": "error", "error": message}, separators=(",", ":"), ensure_ascii=False))
    return Response(escape_html(text) + "\n", status_code=status, media_type="application/json")


def message_answer(table: Message, value: MessageValue) -> Response:
    """A message as M3's JSON."""
    return Response(render_json(table, value), media_type="application/json")


def header(request: Request, name: str, default: str) -> str:
    """A request header without spaces around it; an empty one counts as absent."""
    return request.headers.get(name, "").strip() or default


def environment_of(request: Request, default: str = DEFAULT_ENVIRONMENT) -> str:
    """``Cluster-Environment-Name``."""
    return header(request, "Cluster-Environment-Name", default)


def zone_of(request: Request, default: str = DEFAULT_ZONE) -> str:
    """``Cluster-Zone-Name``."""
    return header(request, "Cluster-Zone-Name", default)


async def body_of(request: Request) -> bytes:
    """The request's body; raises ``APIError`` for one that no admin request needs."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise APIError(400, f"the request body is larger than {MAX_BODY_BYTES >> 20} MiB")
    return bytes(body)


async def not_found(_request: Request, _error: Exception) -> Response:
    """M3's 404; for ``Starlette(exception_handlers={404: not_found})``, with ``router.redirect_slashes`` off."""
    return PlainTextResponse("404 page not found\n", status_code=404)

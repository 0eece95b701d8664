"""``/api/v1/kvstore``: values of runtime options in KV (docs/m3/cluster.md, other routes)."""

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coordinator.api.answers import APIError, body_of
from coordinator.api.context import AdminContext
from coordinator.api.requests import QUERY_LIMITS
from m3cluster.keys import kv_key
from m3cluster.kv import KeyNotFoundError
from m3cluster.proto import JSONError, Message, decode, encode, parse_json, render_json
from m3cluster.proto.jsonpb import escape_html, first_value
from m3cluster.proto.messages import INT64_PROTO, STRING_PROTO

__all__ = ["KVStoreHandlers"]

TABLES: dict[str, Message] = {
    "m3db.node.encoders-per-block-limit": INT64_PROTO,
    "m3db.client.write-consistency-level": STRING_PROTO,
    "m3db.query.limits": QUERY_LIMITS,
}
"""The keys that may be written. M3 also takes ``m3db.node.namespaces``, which only means something to its database."""


class KVStoreHandlers:
    """The handler of ``/api/v1/kvstore``. It knows the coordinator's own environment only, whatever the headers say."""

    def __init__(self, context: AdminContext) -> None:
        self._context = context

    async def update(self, request: Request) -> Response:
        """``POST``: shows what is stored and what would be, and stores it with ``"commit": true``."""
        body = _object(await body_of(request))
        name, value = body.get("key") or "", body.get("value")
        if name not in TABLES:
            raise APIError(500, f"unsupported kvstore key {name}")
        table = TABLES[name]
        try:
            message = parse_json(table, json.dumps(value))
        except JSONError as error:
            raise APIError(500, str(error)) from error
        key = kv_key(self._context.kv_environment or self._context.environment, name)
        try:
            current = await self._context.store.get(key)
            old = _without_defaults(json.loads(render_json(table, decode(table, current.data))))
        except KeyNotFoundError:
            old = {}
        version = 0
        if body.get("commit") is True:
            version = await self._context.store.set(key, encode(table, message))
        answer = {"key": name, "old": old, "new": value, "version": version}
        text = json.dumps(answer, separators=(",", ":"), ensure_ascii=False)
        return Response(escape_html(text), media_type="application/json")


def _object(text: bytes) -> dict[str, Any]:
    """The body's fields; raises ``APIError`` with the texts of Go's plain JSON reader."""
    try:
        first_value(text)
        value = json.loads(text)
    except JSONError as error:
        reason = "unexpected end of JSON input" if str(error) in ("EOF", "unexpected EOF") else str(error)
        raise APIError(400, reason) from error
    except ValueError as error:
        raise APIError(400, f"the request body is not one JSON object: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict) or not isinstance(value.get("key") or "", str):
        raise APIError(400, "the request body is not a JSON object with a text as its key")
    return value


def _without_defaults(value: Any) -> Any:
    """A message's JSON without the fields that are not set."""
    if not isinstance(value, dict):
        return value
    unset = ("", "0", 0, None, False)
    return {name: _without_defaults(item) for name, item in value.items() if item not in unset}

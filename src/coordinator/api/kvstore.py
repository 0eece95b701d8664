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
from m3cluster.proto.jsonpb import escape_html, kind_of, only_value, sound
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
        document = await body_of(request)
        body = _fields(document)
        name = body["key"]
        if name not in TABLES:
            raise APIError(500, f"unsupported kvstore key {name}")
        if "value" not in body:
            raise APIError(500, "EOF")
        value = json.loads(document.decode(errors="replace"))[body["value"]]
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
        if body["commit"]:
            version = await self._context.store.set(key, encode(table, message))
        answer = {"key": name, "old": old, "new": value, "version": version}
        text = sound(json.dumps(answer, separators=(",", ":"), ensure_ascii=False))
        return Response(escape_html(text), media_type="application/json")


def _fields(text: bytes) -> dict[str, Any]:
    """``key``, ``commit``, and under ``value`` how that is spelt; any spelling counts, as with Go's plain JSON reader.

    Raises ``APIError`` with its texts.
    """
    try:
        document = only_value(text)
    except JSONError as error:
        reason = "unexpected end of JSON input" if str(error) in ("EOF", "unexpected EOF") else str(error)
        raise APIError(400, reason) from error
    if document is not None and not isinstance(document, dict):
        raise APIError(400, f"json: cannot unmarshal {kind_of(document)} into Go value of type database.KeyValueUpdate")
    found: dict[str, Any] = {"key": "", "commit": False}
    for spelling, value in (document or {}).items():
        name = spelling.lower()
        if name == "value":
            found["value"] = spelling
        elif name in ("key", "commit") and value is not None:
            kind = "string" if name == "key" else "bool"
            if kind_of(value) != kind:
                raise APIError(
                    400,
                    f"json: cannot unmarshal {kind_of(value)} into Go struct field KeyValueUpdate.{name} of type {kind}",
                )
            found[name] = sound(value) if name == "key" else value
    return found


def _without_defaults(value: Any) -> Any:
    """A message's JSON without the fields that are not set."""
    if not isinstance(value, dict):
        return value
    unset = ("", "0", 0, None, False)
    return {name: _without_defaults(item) for name, item in value.items() if item not in unset}

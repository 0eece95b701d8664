"""Message tables ↔ JSON text as Go's jsonpb reads and writes it (docs/m3/cluster.md, admin HTTP).

Reading is strict as there: an unknown field, a fraction for an integer, an unknown enum text are errors with Go's texts. Both the proto
name and the lowerCamelCase name are accepted (the latter wins), numbers may be quoted, only the first JSON value of the text counts.
Writing: compact, every field in order of declaration, 64-bit integers as strings, enums as names, absent messages ``null``.
"""

import base64
import json
import math
import re
from typing import Any

from m3x.golang import GO_NAN
from m3x.protobuf import Field, Kind, Message, MessageValue

__all__ = ["JSONError", "first_value", "kind_of", "only_value", "parse_json", "render_json", "sound"]


class JSONError(ValueError):
    """The text is not the expected message; the message is Go's where it has one."""


class _Number(str):
    """A JSON number as written."""


def _invalid(text: str) -> Any:
    raise JSONError(f"invalid character {text[:1]!r} looking for beginning of value")


_DECODER = json.JSONDecoder(parse_int=_Number, parse_float=_Number, parse_constant=_invalid)


def first_value(text: str | bytes) -> Any:
    """The first JSON value of a request body, numbers kept as written; raises ``JSONError`` with Go's texts."""
    return _first(text)[0]


def only_value(text: str | bytes) -> Any:
    """The JSON value that a body consists of, as Go's plain reader takes it; raises ``JSONError``, also for what is behind it."""
    value, rest = _first(text)
    if rest:
        raise JSONError(f"invalid character {_quoted(rest[0])} after top-level value")
    return value


def _first(text: str | bytes) -> tuple[Any, str]:
    """The first value, and what comes behind it and its white space."""
    if isinstance(text, bytes):
        # Go takes what is not UTF-8 for U+FFFD.
        text = text.decode(errors="replace")
    body = text.lstrip(" \t\r\n")
    if not body:
        raise JSONError("EOF")
    try:
        value, end = _DECODER.raw_decode(body)
        return value, body[end:].lstrip(" \t\r\n")
    except RecursionError:
        raise JSONError("exceeded max depth") from None
    except json.JSONDecodeError as error:
        raise JSONError(_go_text(body, error)) from error


def _go_text(body: str, error: json.JSONDecodeError) -> str:
    """What Go says about the same mistake, as near as the position allows."""
    at = error.pos
    if error.msg.startswith("Invalid control character"):
        return f"invalid character {_quoted(body[at])} in string literal"
    if error.msg.startswith("Invalid \\escape") and at + 1 < len(body):
        return f"invalid character {_quoted(body[at + 1])} in string escape code"
    while at < len(body) and body[at] in " \t\r\n":
        at += 1
    if at >= len(body) or "Unterminated string" in error.msg:
        return "unexpected EOF"
    where = {
        "Expecting value": "looking for beginning of value",
        "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
        "Expecting ':' delimiter": "after object key",
        "Illegal trailing comma before end of object": "looking for beginning of object key string",
        "Illegal trailing comma before end of array": "looking for beginning of value",
    }.get(error.msg)
    if error.msg == "Expecting ',' delimiter":
        where = "after object key:value pair" if body[:at].count("{") > body[:at].count("}") else "after array element"
    return f"invalid character {_quoted(body[at])} {where}" if where else f"{error.msg} at character {error.pos}"


def _quoted(character: str) -> str:
    if character == "'":
        return r"'\''"
    return f"'{character}'" if character.isprintable() else repr(character)


def parse_json(table: Message, text: str | bytes) -> MessageValue:
    """The message of a request body, every field present. ``null`` is the message with no field set. Raises ``JSONError``."""
    return _parse_message(table, first_value(text))


def _parse_message(table: Message, value: Any) -> MessageValue:
    message = table.defaults()
    if value is None:
        return message
    if not isinstance(value, dict):
        raise JSONError(f"json: cannot unmarshal {kind_of(value)} into Go value of type map[string]json.RawMessage")
    left = dict(value)
    for field in table.fields:
        raw, found = None, False
        for name in (field.name, field.json_name):
            if name in left:
                raw, found = left.pop(name), True
        if found and raw is not None:
            message[field.name] = _parse_field(field, raw)
    if left:
        raise JSONError(f"unknown field {json.dumps(min(left))} in {table.name}")
    return message


def _parse_field(field: Field, raw: Any) -> Any:
    if field.map_key is not None:
        if not isinstance(raw, dict):
            raise JSONError(f"json: cannot unmarshal {kind_of(raw)} into Go value of type map[string]json.RawMessage")
        text_key = field.map_key is Kind.STRING
        return {
            key if text_key else _integer(field.map_key, _Number(key)): _parse_item(field, item)
            for key, item in raw.items()
        }
    if field.repeated:
        if not isinstance(raw, list):
            raise JSONError(f"json: cannot unmarshal {kind_of(raw)} into Go value of type []json.RawMessage")
        return [_parse_item(field, item) for item in raw]
    return _parse_value(field, raw)


def _parse_item(field: Field, raw: Any) -> Any:
    """An element of a list or map: ``null`` is the zero value, which is None for a message."""
    return field.zero() if raw is None else _parse_value(field, raw)


def _parse_value(field: Field, raw: Any) -> Any:
    if field.kind is Kind.MESSAGE:
        if field.wrapper:
            (inner,) = field.message.fields
            return {inner.name: _parse_value(inner, raw)}
        return _parse_message(field.message, raw)
    if field.kind is Kind.ENUM:
        if isinstance(raw, str) and not isinstance(raw, _Number):
            if raw not in field.enum.numbers:
                raise JSONError(f'unknown value "{raw}" for enum {field.enum.name}')
            return field.enum.numbers[raw]
        return _integer(Kind.INT32, raw)
    if field.kind is Kind.STRING:
        if isinstance(raw, str) and not isinstance(raw, _Number):
            return sound(raw)
        raise JSONError(f"json: cannot unmarshal {kind_of(raw)} into Go value of type string")
    if field.kind is Kind.BOOL:
        if isinstance(raw, bool):
            return raw
        raise JSONError(f"json: cannot unmarshal {kind_of(raw)} into Go value of type bool")
    if field.kind is Kind.DOUBLE:
        return _double(raw)
    if field.kind is Kind.BYTES:
        return _bytes(raw)
    return _integer(field.kind, raw)


_WHOLE = re.compile(r"-?[0-9]{1,20}")
"""A longer text cannot be in range, and int() of a huge one is slow on purpose."""
_LIMITS = {
    Kind.INT32: (-(1 << 31), (1 << 31) - 1),
    Kind.INT64: (-(1 << 63), (1 << 63) - 1),
    Kind.UINT32: (0, (1 << 32) - 1),
}


def _as_number(raw: Any, go_type: str) -> _Number:
    """A number, bare or quoted, as written."""
    if isinstance(raw, _Number):
        return raw
    if isinstance(raw, str):
        if not raw.strip(" \t\r\n"):
            raise JSONError("unexpected end of JSON input")
        inner = first_value(raw)
        if isinstance(inner, _Number):
            return inner
        raw = inner
    raise JSONError(f"json: cannot unmarshal {kind_of(raw)} into Go value of type {go_type}")


def _integer(kind: Kind, raw: Any) -> int:
    text = _as_number(raw, kind.value)
    low, high = _LIMITS[kind]
    if _WHOLE.fullmatch(text) and low <= int(text) <= high:
        return int(text)
    raise JSONError(f"json: cannot unmarshal number {text} into Go value of type {kind.value}")


def _double(raw: Any) -> float:
    if raw == "NaN" and not isinstance(raw, _Number):
        return GO_NAN
    if raw in ("Infinity", "-Infinity") and not isinstance(raw, _Number):
        return float(raw)
    return float(_as_number(raw, "float64"))


def _bytes(raw: Any) -> bytes:
    """Base64 with padding."""
    if not isinstance(raw, str) or isinstance(raw, _Number):
        raise JSONError(f"json: cannot unmarshal {kind_of(raw)} into Go value of type []uint8")
    try:
        return base64.b64decode(raw, validate=True)
    except ValueError as error:
        raise JSONError(f"illegal base64 data: {error}") from error


def kind_of(value: Any) -> str:
    """What Go calls a JSON value in its errors."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, _Number):
        return "number"
    if isinstance(value, str):
        return "string"
    if isinstance(value, dict):
        return "object"
    return "array" if isinstance(value, list) else "null"


def render_json(table: Message, value: MessageValue) -> str:
    """The JSON text of a message: compact, all fields, no newline. ``<``, ``>`` and ``&`` are escaped as Go does."""
    text = json.dumps(_render_message(table, value), separators=(",", ":"), ensure_ascii=False)
    return escape_html(text)


def sound(text: str) -> str:
    """Half a surrogate pair, which JSON can have (``"\\ud800"``), is U+FFFD to Go."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def escape_html(text: str) -> str:
    """Go's JSON encoder writes these characters as escapes."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _render_message(table: Message, value: MessageValue) -> dict[str, Any]:
    return {field.json_name: _render_field(field, value.get(field.name)) for field in table.fields}


def _render_field(field: Field, value: Any) -> Any:
    if value is None:
        value = field.default()
    if field.map_key is not None:
        return {str(key): _render_value(field, value[key]) for key in sorted(value, key=str)}
    if field.repeated:
        return [_render_value(field, item) for item in value]
    return _render_value(field, value)


def _render_value(field: Field, value: Any) -> Any:
    if field.kind is Kind.MESSAGE:
        if value is None:
            return None
        if field.wrapper:
            (inner,) = field.message.fields
            return _render_value(inner, value.get(inner.name, inner.default()))
        return _render_message(field.message, value)
    if field.kind is Kind.INT64:
        return str(value)
    if field.kind is Kind.BYTES:
        return base64.b64encode(value).decode()
    if field.kind is Kind.ENUM:
        return field.enum.names.get(value, value)
    if field.kind is Kind.DOUBLE and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if field.kind is Kind.DOUBLE and value.is_integer() and abs(value) < 1e21:
        return int(value)
    return value

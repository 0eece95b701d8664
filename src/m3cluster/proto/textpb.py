"""Messages as Go prints them (protobuf's compact text format): M3's error texts of topics contain it (docs/m3/cluster.md, topic API)."""

import math
from typing import Any

from m3x.golang import go_float
from m3x.protobuf import Field, Kind, Message, MessageValue

__all__ = ["render_text"]

_ESCAPES = {ord(c): e for c, e in {"\n": r"\n", "\r": r"\r", "\t": r"\t", '"': r"\"", "\\": r"\\"}.items()}


def render_text(table: Message, value: MessageValue) -> str:
    """The fields that are set, each with a blank behind it: ``name:"a" filters:<is_default:true > ``. For messages without maps."""
    parts = []
    for field in table.fields:
        found = value.get(field.name, field.default())
        items = found if field.repeated else [] if found == field.zero() else [found]
        parts += [f"{field.name}:{_text(field, item)} " for item in items]
    return "".join(parts)


def _text(field: Field, value: Any) -> str:
    if field.kind is Kind.MESSAGE:
        return f"<{render_text(field.message, value or {})}>"
    if field.kind is Kind.ENUM:
        return str(field.enum.names.get(value, value))
    if field.kind is Kind.BOOL:
        return str(value).lower()
    if field.kind is Kind.DOUBLE:
        return go_float(value) if math.isfinite(value) else str(value)
    if field.kind in (Kind.STRING, Kind.BYTES):
        return _quoted(value.encode() if isinstance(value, str) else value)
    return str(value)


def _quoted(data: bytes) -> str:
    """Byte by byte: what is not printable ASCII in octal."""
    return '"' + "".join(_ESCAPES.get(b, chr(b) if 0x20 <= b < 0x7F else f"\\{b:03o}") for b in data) + '"'

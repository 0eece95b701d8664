"""Numbers and attribute values as texts, as Go has them: labels of one metric are the same, whoever translates it."""

import base64
import json
import math
from decimal import Decimal
from typing import Any

__all__ = ["number_text", "value_text"]

_LINE_ENDS = str.maketrans({"\u2028": "\\u2028", "\u2029": "\\u2029"})
"""Of JavaScript: Go escapes them in JSON."""


def number_text(number: float) -> str:
    """Without exponent and with as few digits as tell it apart: what ``le`` and ``quantile`` have."""
    if math.isfinite(number):
        return format(Decimal(repr(number)), "f").removesuffix(".0")
    return "NaN" if math.isnan(number) else "+Inf" if number > 0 else "-Inf"


def value_text(value: Any) -> str:
    """An ``AnyValue``; lists and maps as JSON, bytes in base64; empty for nothing, and for what has no JSON."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        text: str = value.string_value
        return text
    if kind == "int_value":
        return str(value.int_value)
    if kind == "bool_value":
        return "true" if value.bool_value else "false"
    if kind == "double_value":
        return _double_text(value.double_value)
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    try:
        return "" if kind is None else _json(value)
    except _NoJSONError:
        return ""


def _double_text(number: float) -> str:
    """As JSON has numbers in Go: an exponent for what is very small or large."""
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if number == 0 or math.isnan(number) or 1e-6 <= abs(number) < 1e21:
        return number_text(number)
    return repr(number).replace("e-0", "e-")


class _NoJSONError(ValueError):
    """JSON has no NaN and no infinity."""


def _json(value: Any) -> str:
    """A value, within a list or a map or one of them. Raises ``_NoJSONError``."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return f"[{','.join(_json(one) for one in value.array_value.values)}]"
    if kind == "kvlist_value":
        values = {one.key: one.value for one in value.kvlist_value.values}
        return f"{{{','.join(f'{_quoted(name)}:{_json(values[name])}' for name in sorted(values))}}}"
    if kind == "string_value":
        return _quoted(value.string_value)
    if kind == "double_value" and not math.isfinite(value.double_value):
        raise _NoJSONError
    if kind == "bytes_value":
        return _quoted(value_text(value)) if value.bytes_value else "null"
    return "null" if kind is None else value_text(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).translate(_LINE_ENDS)

"""Numbers and attribute values as texts, as Go has them: labels of one metric are the same, whoever translates it."""

import base64
import json
import math
from decimal import Decimal
from typing import Any

__all__ = ["number_text", "value_text"]

_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def number_text(number: float) -> str:
    """Without exponent and with as few digits as tell it apart: what ``le`` and ``quantile`` have."""
    if math.isfinite(number):
        return format(Decimal(repr(number)), "f").removesuffix(".0")
    return "NaN" if math.isnan(number) else "+Inf" if number > 0 else "-Inf"


def value_text(value: Any) -> str:
    """An ``AnyValue``; lists and maps as JSON, bytes in base64, nothing as nothing."""
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
    return "" if kind is None else _json_text(_plain(value))


def _double_text(number: float) -> str:
    """As JSON has numbers in Go: an exponent for what is very small or large."""
    if number == 0 or not math.isfinite(number) or 1e-6 <= abs(number) < 1e21:
        return number_text(number)
    return repr(number).replace("e-0", "e-")


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(one) for one in value.array_value.values]
    if kind == "kvlist_value":
        return {one.key: _plain(one.value) for one in value.kvlist_value.values}
    if kind == "double_value":
        number = value.double_value
        if not math.isfinite(number):
            return number_text(number)
        return int(number) if number.is_integer() and abs(number) < 1e21 else number
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return None if kind is None else getattr(value, kind)


def _json_text(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).translate(_HTML)

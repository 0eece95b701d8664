"""What a scalar of YAML means to M3's reader: YAML 1.1 with the numbers of Go (docs/m3/aggregation.md, loading).

M3 writes what it has merged anew before it reads it again, so that ``1.50`` for a text is ``1.5``, ``0x10`` is ``16`` and ``yes`` is
``true``: ``go_text`` is how a value is written then.
"""

import base64
import binascii
import math
import re
from typing import Any

from m3x.golang import go_float

__all__ = ["PLAIN", "QUOTED", "go_text", "value_of"]

PLAIN, QUOTED = "plain", "quoted"
"""What stands for the tag of a scalar that has none."""

_STANDARD = "tag:yaml.org,2002:"
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_INTEGER = re.compile(
    r"([-+]?)(?:0[xX](?P<hex>[0-9a-fA-F]+)|0[bB](?P<binary>[01]+)|0[oO]?(?P<octal>[0-7]+)|(?P<decimal>0|[1-9][0-9]*))"
)
_BASES = {"hex": 16, "binary": 2, "octal": 8, "decimal": 10}
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


def value_of(text: str, tag: str) -> Any:
    """None, bool, int, float or str. ``tag``: ``PLAIN``, ``QUOTED``, or the tag as it is written. Raises ``ValueError``."""
    if tag == PLAIN:
        return _plain(text)
    kind = tag.removeprefix(_STANDARD)
    if kind in (tag, "str"):
        return text
    if kind == "binary":
        try:
            return base64.b64decode(text, validate=False).decode("utf-8", "surrogateescape")
        except binascii.Error:
            raise ValueError("!!binary is not followed by base64") from None
    value = _plain(text)
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    expected = {"bool": bool, "int": int, "float": float, "null": type(None), "timestamp": str}.get(kind)
    if expected is None or type(value) is expected:
        return value if expected is not None else text
    raise ValueError(f"what follows !!{kind} cannot be read as such")


def go_text(value: Any) -> str:
    """A scalar's value as M3 writes it before it reads it again; of None it is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return ".nan"
        return go_float(value) if math.isfinite(value) else ".inf" if value > 0 else "-.inf"
    return str(value)


def _plain(text: str) -> Any:
    value = _once(text)
    return _once(go_text(value)) if isinstance(value, float) and math.isfinite(value) else value


def _once(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if text[0] == ".":
        return _float(text)
    bare = text.replace("_", "")
    if found := _INTEGER.fullmatch(bare):
        base = found.lastgroup or "decimal"
        number = int(found[base], _BASES[base])
        number = -number if found[1] == "-" else number
        if -(1 << 63) <= number < 1 << 63 or (not found[1] and 0 <= number < 1 << 64):
            return number
    number_or_text = _float(bare)
    return text if isinstance(number_or_text, str) else number_or_text


def _float(text: str) -> float | str:
    if not _FLOAT.fullmatch(text):
        return text
    number = float(text)
    return number if math.isfinite(number) else text

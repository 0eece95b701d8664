"""One carbon line, plainly: the authority on what ``kernels.carbon_lines`` leaves alone (docs/m3/metrics.md, carbon lines)."""

import math
import re
import struct

_DECIMAL = re.compile(r"[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][+-]?[\d_]+)?", re.ASCII)
_HEXADECIMAL = re.compile(r"[+-]?0[xX][0-9a-fA-F_]*\.?[0-9a-fA-F_]*[pP][+-]?\d+", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NAN: float = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000001))[0]
"""The NaN of M3's platform, so that what is sent is the same to the bit."""


class CarbonLineError(ValueError):
    """A line that cannot be taken; ``reason`` is one of a few words, for counting."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def parse_line(line: bytes) -> tuple[bytes, float, int]:
    """``name value seconds`` without the line end. Raises ``CarbonLineError`` with M3's text."""
    name, _, rest = line.partition(b" ")
    if not name:
        raise CarbonLineError("malformed", "invalid line")
    try:
        name.decode()
        text = rest.decode()
    except UnicodeDecodeError:
        raise CarbonLineError("not_utf8", "not valid UTF8 string") from None
    value_text, _, time_text = text.lstrip(" ").partition(" ")
    time_text = time_text.lstrip(" ")
    if not value_text or not time_text or " " in time_text:
        raise CarbonLineError("malformed", "invalid line")
    return name, parse_value(value_text), _seconds(time_text)


def parse_value(text: str) -> float:
    """The number as Go reads it. Raises ``CarbonLineError``."""
    lowered = text.lower()
    if lowered in {"nan", "-nan"}:
        return _NAN
    if lowered.lstrip("+-") in {"inf", "infinity"} and len(lowered) - len(lowered.lstrip("+-")) <= 1:
        return float(lowered)
    try:
        if _HEXADECIMAL.fullmatch(text):
            return float.fromhex(text.replace("_", ""))
        if not _DECIMAL.fullmatch(text):
            raise ValueError
        value = float(text)
    except OverflowError:
        value = math.inf
    except ValueError:
        raise CarbonLineError("bad_value", f'strconv.ParseFloat: parsing "{text}": invalid syntax') from None
    if math.isinf(value):
        raise CarbonLineError("bad_value", f'strconv.ParseFloat: parsing "{text}": value out of range')
    return value


def _seconds(text: str) -> int:
    problem = "invalid syntax"
    if _INTEGER.fullmatch(text):
        # Longer texts are out of range, and Python would refuse to convert very long ones.
        if len(text.lstrip("+-0")) <= 19 and -(1 << 63) <= int(text) < 1 << 63:
            return int(text)
        problem = "value out of range"
    raise CarbonLineError("bad_timestamp", f'invalid timestamp {text}: strconv.ParseInt: parsing "{text}": {problem}')

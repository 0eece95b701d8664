"""One carbon line, plainly: the authority on what ``kernels.carbon_lines`` leaves alone (docs/m3/metrics.md, carbon lines)."""

import math
import re
import struct

from m3x.golang import parse_int64

_DECIMAL = re.compile(r"[+-]?(\d[\d_]*+(?:\.[\d_]*+)?|\.\d[\d_]*+)([eE][+-]?[\d_]++)?", re.ASCII)
_HEXADECIMAL = re.compile(r"[+-]?0[xX][0-9a-fA-F_]*+(?:\.[0-9a-fA-F_]*+)?[pP][+-]?\d++", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_FRACTION = re.compile(r"[+-]?(\d++(?:\.\d*+)?|\.\d++)([eE][+-]?\d++)?", re.ASCII)
_NAN: float = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000001))[0]
"""The NaN of M3's platform, so that what is sent is the same to the bit."""
_SHOWN = 40
"""Characters of a word that an error shows."""


class CarbonLineError(ValueError):
    """A line that cannot be taken; ``reason`` is one of a few words, for counting."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def parse_line(line: bytes) -> tuple[bytes, float, int]:
    """``path value seconds`` without the line end. Raises ``CarbonLineError``.

    Parted by blanks and tabs, with any number of them in front and behind; seconds may have a fraction, which is cut off: all as carbon
    itself reads lines (docs/compatibility.md, Graphite).
    """
    try:
        line.decode()
    except UnicodeDecodeError:
        raise CarbonLineError("not_utf8", "the line is not valid UTF-8") from None
    words = line.split()
    if len(words) != 3:
        raise CarbonLineError("malformed", f"expected three words, path value seconds; there are {len(words)}")
    path, value, seconds = words
    return path, parse_value(value.decode()), _seconds(seconds.decode())


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
        raise CarbonLineError("bad_value", f"the value {text[:_SHOWN]!r} is not a number") from None
    if math.isinf(value):
        raise CarbonLineError("bad_value", f"the value {text[:_SHOWN]!r} is beyond what 64 bits hold")
    return value


def _seconds(text: str) -> int:
    problem = "is not a number of Unix seconds"
    if _INTEGER.fullmatch(text):
        if (seconds := parse_int64(text)) is not None:
            return seconds
        problem = "is beyond what 64 bits hold"
    elif _FRACTION.fullmatch(text):
        if abs(fraction := float(text)) < 1 << 63:
            return int(fraction)
        problem = "is beyond what 64 bits hold"
    raise CarbonLineError("bad_timestamp", f"the time {text[:_SHOWN]!r} {problem}")

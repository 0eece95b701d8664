"""Values as Go writes, reads and rounds them, where M3's answers, keys and windows show it."""

import struct
from datetime import UTC, datetime
from decimal import Decimal

__all__ = ["GO_NAN", "SECOND_NS", "YEAR_ONE_NS", "go_duration", "go_float", "go_time", "parse_bool", "parse_int64"]

SECOND_NS = 1_000_000_000
GO_NAN: float = struct.unpack(">d", bytes.fromhex("7ff8000000000001"))[0]
"""``math.NaN()``, which has a bit that other makers of NaN leave out."""
YEAR_ONE_NS = 62_135_596_800 * SECOND_NS
"""From 0001-01-01T00:00Z to the Unix epoch: Go truncates times from there."""

_BOOLEANS = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "FALSE", "false", "False"), False
)


def parse_bool(text: str) -> bool:
    """What Go's ``strconv.ParseBool`` makes of a text. Raises ``ValueError`` with its words."""
    if text not in _BOOLEANS:
        raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return _BOOLEANS[text]


def parse_int64(text: str) -> int | None:
    """The number of an optional sign and decimal digits, of which there may be any number; None: it does not fit into 64 bits.

    Python refuses to convert very many digits, zeros in front of them included.
    """
    magnitude = int(text.lstrip("+-").lstrip("0")[:20] or "0")
    number = -magnitude if text.startswith("-") else magnitude
    return number if -(1 << 63) <= number < 1 << 63 else None


def go_duration(duration_ns: int) -> str:
    """A duration as Go prints it: ``1h2m3.5s``, ``1.5ms``, ``250ns``."""
    if duration_ns == 0:
        return "0s"
    sign, rest = ("-", -duration_ns) if duration_ns < 0 else ("", duration_ns)
    if rest < SECOND_NS:
        for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
            if rest < size * 1000:
                return f"{sign}{_fraction(rest, size)}{unit}"
    minutes, rest = divmod(rest, 60 * SECOND_NS)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{_fraction(rest, SECOND_NS)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else f"{sign}{seconds}"


def _fraction(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    digits = str(part).rjust(len(str(unit)) - 1, "0").rstrip("0") if part else ""
    return f"{whole}.{digits}" if digits else str(whole)


def go_time(unix_ns: int) -> str:
    """A time as Go prints it: ``2026-01-02 03:04:05.6 +0000 UTC``."""
    seconds, nanos = divmod(unix_ns, SECOND_NS)
    digits = f".{nanos:09d}".rstrip("0") if nanos else ""
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}{digits} +0000 UTC"


def go_float(value: float) -> str:
    """A finite number as Go prints it in its shortest form: ``1.5``, ``100000``, ``1e+06``, ``1e-05``."""
    if value == 0:
        return "-0" if str(value).startswith("-") else "0"
    sign, numerals, exponent = Decimal(repr(value)).normalize().as_tuple()
    return ("-" if sign else "") + _shortest("".join(map(str, numerals)), int(exponent))


def _shortest(digits: str, exponent: int) -> str:
    """``digits`` times ten to the power of ``exponent``."""
    power = exponent + len(digits) - 1
    if not -4 <= power < 6:
        head = f"{digits[0]}.{digits[1:]}" if len(digits) > 1 else digits
        return f"{head}e{'-' if power < 0 else '+'}{abs(power):02d}"
    if power < 0:
        return f"0.{'0' * (-power - 1)}{digits}"
    whole, part = digits[: power + 1].ljust(power + 1, "0"), digits[power + 1 :]
    return f"{whole}.{part}" if part else whole

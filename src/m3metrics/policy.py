"""Durations, resolutions, storage policies and drop policies as text (docs/m3/metrics.md, policies).

A storage policy says how often a metric is aggregated and how long it is kept: ``10s:2d``, or ``1m@1s:40d`` where the precision of
its timestamps is not the largest unit of the window.
"""

from enum import IntEnum
from typing import Self

import msgspec

from m3metrics.errors import PolicyError

__all__ = [
    "UNITS",
    "DropPolicy",
    "Resolution",
    "StoragePolicy",
    "drop_policy_text",
    "format_duration",
    "max_unit",
    "parse_drop_policy",
    "parse_duration",
    "same_policies",
]

UNITS: dict[str, int] = {
    "y": 365 * 86_400_000_000_000,
    "d": 86_400_000_000_000,
    "h": 3_600_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "ns": 1,
}
"""Time units as text and ns, largest first; a precision is one of these."""

_UNIT_NUMBERS = {"s": 1, "ms": 2, "us": 3, "ns": 4, "m": 5, "h": 6, "d": 7, "y": 8}
_UNIT_TEXT = {ns: text for text, ns in UNITS.items()}
_PARSE_UNITS = UNITS | {"min": UNITS["m"], "w": 7 * UNITS["d"], "mon": 30 * UNITS["d"]}
_DIGITS = 1000
"""Of a number, so many at a time."""


def parse_duration(text: str) -> int:
    """Nanoseconds of a text like ``1h30m``, ``2d`` or ``6mon1w``; no decimals, no spaces, wraps at 64 bits. Raises ``PolicyError``."""
    if not text:
        raise PolicyError("duration empty")
    rest = text.removeprefix("-")
    total = 0
    at = 0
    while at < len(rest):
        digits = at
        while at < len(rest) and "0" <= rest[at] <= "9":
            at += 1
        if at == digits:
            raise PolicyError(f"could not parse duration: duration='{rest}', err='no value'")
        letters = at
        while at < len(rest) and not "0" <= rest[at] <= "9":
            at += 1
        if at == letters:
            raise PolicyError(f"could not parse duration: duration='{rest}', err='no unit'")
        unit = rest[letters:at]
        if unit not in _PARSE_UNITS:
            raise PolicyError(f"could not parse duration: duration='{rest}', err_unknown_unit='{unit}'")
        total += _wrapped(rest[digits:letters]) * _PARSE_UNITS[unit]
    if rest != text:
        total = -total
    return (total + (1 << 63)) % (1 << 64) - (1 << 63)


def _wrapped(digits: str) -> int:
    """The number that they are modulo 2^64; Python refuses to convert very many digits at once."""
    number = 0
    for at in range(0, len(digits), _DIGITS):
        some = digits[at : at + _DIGITS]
        number = (number * 10 ** len(some) + int(some)) % (1 << 64)
    return number


def format_duration(ns: int) -> str:
    """The text M3 prints: ``1m10s``, ``1y35d``; ``0s`` for zero. Weeks and months are never used.

    The least number of 64 bits has no positive counterpart, and M3 prints nothing but its sign.
    """
    if ns == 0:
        return "0s"
    if ns == -(1 << 63):
        return "-"
    out = "-" if ns < 0 else ""
    left = abs(ns)
    for unit, size in UNITS.items():
        count, left = divmod(left, size)
        if count:
            out += f"{count}{unit}"
    return out


def max_unit(ns: int) -> tuple[int, str]:
    """``ns`` as a whole number of the largest unit that divides it: ``(70, "s")`` for 70 s, ``(0, "ns")`` for 0."""
    for unit, size in UNITS.items():
        if size <= abs(ns) and ns % size == 0:
            return ns // size, unit
    return ns, "ns"


def unit_of(ns: int) -> str:
    """The unit that lasts exactly ``ns``. Raises ``PolicyError`` where there is none."""
    if ns not in _UNIT_TEXT:
        raise PolicyError("unable to convert from duration to time unit")
    return _UNIT_TEXT[ns]


class Resolution(msgspec.Struct, frozen=True, order=True):
    """A window and the precision of its timestamps, both in ns; the precision is one of ``UNITS``."""

    window_ns: int
    precision_ns: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """``<window>`` or ``<window>@<precision>``. Raises ``PolicyError``."""
        window, at, precision = text.partition("@")
        window_ns = parse_duration(window)
        if not at:
            return cls(window_ns, UNITS[max_unit(window_ns)[1]])
        precision_ns = parse_duration(precision)
        unit_of(precision_ns)
        return cls(window_ns, precision_ns)

    def __str__(self) -> str:
        text = format_duration(self.window_ns)
        if UNITS[max_unit(self.window_ns)[1]] != self.precision_ns:
            text += f"@1{unit_of(self.precision_ns)}"
        return text


class StoragePolicy(msgspec.Struct, frozen=True):
    """A resolution and a retention, in ns. Equality counts the precision, ``equivalent`` does not."""

    window_ns: int
    precision_ns: int
    retention_ns: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """``<resolution>:<retention>``. Raises ``PolicyError``."""
        if text.count(":") != 1:
            raise PolicyError("invalid storage policy string")
        resolution, _, retention = text.partition(":")
        parsed = Resolution.parse(resolution)
        return cls(parsed.window_ns, parsed.precision_ns, parse_duration(retention))

    @property
    def resolution(self) -> Resolution:
        """Window and precision."""
        return Resolution(self.window_ns, self.precision_ns)

    @property
    def precision_unit(self) -> str:
        """Unit of timestamps, a key of ``UNITS``."""
        return unit_of(self.precision_ns)

    def equivalent(self, other: "StoragePolicy") -> bool:
        """Same window and retention; the precision does not matter (docs/m3/metrics.md, storage policies)."""
        return (self.window_ns, self.retention_ns) == (other.window_ns, other.retention_ns)

    def by_resolution(self) -> tuple[int, int, int]:
        """Sort key: window ascending, retention descending, number of the precision unit ascending."""
        return self.window_ns, -self.retention_ns, _UNIT_NUMBERS[self.precision_unit]

    def by_retention(self) -> tuple[int, int, int]:
        """Sort key: retention, window, number of the precision unit, all ascending."""
        return self.retention_ns, self.window_ns, _UNIT_NUMBERS[self.precision_unit]

    def __str__(self) -> str:
        return f"{self.resolution}:{format_duration(self.retention_ns)}"


def same_policies(a: tuple[StoragePolicy, ...], b: tuple[StoragePolicy, ...]) -> bool:
    """M3's equality of lists: same length, and every policy of ``a`` occurs in ``b`` (order does not matter)."""
    return len(a) == len(b) and all(policy in b for policy in a)


class DropPolicy(IntEnum):
    """Whether a metric is dropped (docs/m3/metrics.md, drop policies)."""

    NONE = 0
    MUST = 1
    IF_ONLY_MATCH = 2


_DROP_TEXT = {
    "drop_none": DropPolicy.NONE,
    "drop_must": DropPolicy.MUST,
    "drop_if_only_match": DropPolicy.IF_ONLY_MATCH,
}


def parse_drop_policy(text: str) -> DropPolicy:
    """The policy of that text; the empty text is ``NONE``. Raises ``PolicyError``."""
    if not text:
        return DropPolicy.NONE
    if text not in _DROP_TEXT:
        raise PolicyError(f"invalid drop policy: {text!r} (expected one of {', '.join(_DROP_TEXT)})")
    return _DROP_TEXT[text]


def drop_policy_text(number: int) -> str:
    """The text of a policy number as it came from the wire; unknown numbers print as ``drop_none``."""
    return next((text for text, policy in _DROP_TEXT.items() if policy == number), "drop_none")

"""What sections are made of: durations, addresses, numbers of a size, texts with a form.

A section is a subclass of ``Section`` whose fields carry the types ``str``, ``bool``, ``int``, ``float``, ``Duration``, enums,
``Literal``, ``Text``, other sections, ``list`` or ``dict`` of these, unions with ``None``, or ``Meaningless`` for keys that M3 has and we
accept without effect.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, ClassVar, TypeVar

import msgspec

__all__ = [
    "Address",
    "Bounds",
    "ConfigError",
    "Duration",
    "EmptyIsDefault",
    "Float32",
    "Int32",
    "Meaningless",
    "Natural",
    "Nonzero",
    "Rate",
    "Section",
    "Text",
    "Time",
    "Unsigned",
    "Unsigned8",
    "Unsigned16",
    "Unsigned32",
    "check_listeners",
    "parse_address",
]

T = TypeVar("T")

_UNITS_NS = {
    "ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60 * 1_000_000_000, "h": 3600 * 1_000_000_000,
}  # fmt: skip
_DURATION = re.compile(r"(?=\.?[0-9])([0-9]*+)(?:\.([0-9]*+))?(ns|us|µs|μs|ms|s|m|h)")
_LONGEST_NS = (1 << 63) - 1
_ALL_INTERFACES = {"0.0.0.0", "::"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[-+]\d\d:\d\d)")


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` has one line per problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def _fraction(digits: str, unit_ns: int) -> int:
    """What digits behind a point are of a unit, as Go computes it: with those that fit into 63 bits."""
    zeros = len(digits) - len(digits.lstrip("0"))
    counted = digits[zeros : zeros + 19]
    if int(counted or "0") > _LONGEST_NS + 1:
        counted = counted[:-1]
    return int(int(counted or "0") * (unit_ns / 10 ** (zeros + len(counted))))


class Duration(int):
    """A span of time in nanoseconds, written in YAML as Go writes it: ``10s``, ``1h30m``, ``500ms``; a bare number is nanoseconds."""

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Raises ``ValueError`` for anything but an optional sign and one or more ``<number><unit>``, or ``0``."""
        sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
        if rest == "0":
            return cls(0)
        total, position = 0, 0
        while part := _DURATION.match(rest, position):
            whole, fraction, unit = part.groups()
            # Longer ones are too long in any unit, and Python would refuse to convert very long ones.
            total += int(whole.lstrip("0")[:20] or "0") * _UNITS_NS[unit]
            if fraction:
                total += _fraction(fraction, _UNITS_NS[unit])
            position = part.end()
        if position != len(rest) or not rest:
            raise ValueError(f"{text!r} is not a duration; write it like 10s, 1m30s, 500ms or 48h (days have no unit)")
        if total > _LONGEST_NS:
            raise ValueError(f"{text!r} is too long a duration; the longest is some 292 years, 2562047h")
        return cls(sign * total)

    @property
    def seconds(self) -> float:
        """As floating seconds, for timers."""
        return self / 1_000_000_000

    def __str__(self) -> str:
        return f"{self.seconds:g}s"

    __repr__ = __str__


class Text(str):
    """A text with a form of its own; subclasses say in ``check`` what it has to be."""

    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        """Raises ``ValueError`` that says what was expected."""


class Time(Text):
    """A time like ``2020-01-02T03:04:05Z``."""

    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        if not _TIME.fullmatch(text):
            raise ValueError(f"{text!r} is not a time; write it like 2020-01-02T03:04:05Z")
        try:
            datetime.fromisoformat(text)
        except ValueError as error:
            raise ValueError(f"{text!r} is not a time: {error}") from None


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a number may be, both ends included; it stands in ``Annotated``."""

    least: int
    most: int


Address = Annotated[str, "address"]
"""``host:port``; some keys take ``unix:PATH`` too."""

Meaningless = Annotated[T | None, "meaningless"]
"""A key of M3 that has no meaning here: its value has to be one that M3 would take, and the key is listed once at debug level."""

EmptyIsDefault = Annotated[T, "empty is default"]
"""A choice for which an empty text stands for the default."""

Nonzero = Annotated[T, "nonzero"]
"""Must not be empty, zero or false."""

Float32 = Annotated[float, "float32"]
Rate = Annotated[float, Bounds(0, 1)]
"""A part of 1."""
Int32 = Annotated[int, Bounds(-(1 << 31), (1 << 31) - 1)]
Natural = Annotated[int, Bounds(0, (1 << 63) - 1)]
Unsigned = Annotated[int, Bounds(0, (1 << 64) - 1)]
Unsigned8 = Annotated[int, Bounds(0, (1 << 8) - 1)]
Unsigned16 = Annotated[int, Bounds(0, (1 << 16) - 1)]
Unsigned32 = Annotated[int, Bounds(0, (1 << 32) - 1)]


class Section(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all configuration sections: YAML keys are the field names in camelCase. ``__post_init__`` may raise ``ValueError``."""

    former: ClassVar[Mapping[str, str]] = {}
    """Keys that M3 had once: what to write instead."""

    def problems(self) -> Iterable[tuple[str, str]]:
        """What is wrong with single keys (``rules[2].pattern``, or empty for the section itself): their paths below it, and texts."""
        return ()

    def refuse_negative(self, *fields: str) -> None:
        """Raises ``ValueError`` with the keys of those of the fields of this section that are below zero."""
        keys = {one.name: one.encode_name for one in msgspec.structs.fields(self)}
        if negative := [keys[name] for name in fields if getattr(self, name) < 0]:
            raise ValueError(f"{', '.join(negative)} must not be negative")


def parse_address(text: str) -> tuple[str, int]:
    """``host:port`` → ``(host, port)``; an empty host is all interfaces, brackets around an IPv6 address are removed."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address; expected host:port")
    return host.strip("[]") or "0.0.0.0", int(port)


def check_address(text: str) -> None:
    """Raises ``ValueError`` for what cannot be listened on or called: neither ``host:port`` nor ``unix:PATH`` (``m3x.endpoints``)."""
    if not text.startswith("unix:"):
        parse_address(text)


def check_listeners(addresses: Mapping[str, str]) -> None:
    """``addresses``: those that one process listens on, by their keys; empty ones do not count. Raises ``ValueError`` naming the keys of
    two that are the same."""
    seen: list[tuple[str, str, int]] = []
    for key, text in addresses.items():
        if not text:
            continue
        host, port = parse_address(text)
        for other, other_host, other_port in seen:
            if port == other_port != 0 and (host == other_host or {host, other_host} & _ALL_INTERFACES):
                raise ValueError(f"{other} and {key} must differ: both listen on port {port}")
        seen.append((key, host, port))

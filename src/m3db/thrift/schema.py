"""What a table of a Thrift struct is made of (docs/m3/m3db_wire.md, thrift)."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Field", "Kind", "ListOf", "MapOf", "Struct", "StructValue", "Type"]

StructValue = dict[str, Any]
"""A struct: Thrift field name → value. Strings are bytes, since nothing makes sure that they are text; enums are numbers."""


class Kind(enum.IntEnum):
    """The type of a value, numbered as on the wire."""

    BOOL = 2
    BYTE = 3
    DOUBLE = 4
    I16 = 6
    I32 = 8
    """Enums too."""
    I64 = 10
    BINARY = 11
    """Strings too."""
    STRUCT = 12
    MAP = 13
    SET = 14
    LIST = 15


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list; its value is a Python list."""

    element: "Type"


@dataclass(frozen=True, slots=True)
class MapOf:
    """A map; its value is a dict, written in the order that it has."""

    key: Kind
    value: "Type"


@dataclass(frozen=True, slots=True)
class Field:
    """One field. ``type`` may be a function that returns a struct, for structs that contain each other.

    An optional field that has its ``default`` is not written, and one that is absent is read as that; without a ``default`` an absent
    field is absent in the value too. Required fields are always written.
    """

    number: int
    name: str
    type: "Type"
    required: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct: name, and its fields in ascending order of number."""

    name: str
    fields: tuple[Field, ...] = ()
    by_number: dict[int, Field] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_number", {one.number: one for one in self.fields})


Type = Kind | ListOf | MapOf | Struct | Callable[[], Struct]
"""Of a value: a number, bytes, or what is made of them."""

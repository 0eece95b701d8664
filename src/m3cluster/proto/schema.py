"""What a message table is made of."""

import enum
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Enum", "Field", "Kind", "Message", "MessageValue"]

MessageValue = dict[str, Any]
"""A message: proto field name → value."""


class Kind(enum.Enum):
    """The type of a field's values."""

    INT32 = "int32"
    INT64 = "int64"
    UINT32 = "uint32"
    BOOL = "bool"
    DOUBLE = "float64"
    STRING = "string"
    BYTES = "bytes"
    ENUM = "enum"
    MESSAGE = "message"


@dataclass(frozen=True)
class Enum:
    """An enumeration: full name and the numbers of its names."""

    name: str
    numbers: dict[str, int]
    names: dict[int, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", {number: name for name, number in self.numbers.items()})


@dataclass(frozen=True)
class Field:
    """One field.

    ``of`` is the ``Message`` or ``Enum`` of fields of those kinds; ``map_key`` makes it a map whose values are of ``kind``; ``wrapper``
    marks a google.protobuf wrapper message, which JSON writes as the bare value.
    """

    number: int
    name: str
    kind: Kind
    of: "Message | Enum | None" = None
    repeated: bool = False
    map_key: Kind | None = None
    wrapper: bool = False
    json_name: str = ""

    def __post_init__(self) -> None:
        if not self.json_name:
            head, *rest = self.name.split("_")
            object.__setattr__(self, "json_name", head + "".join(part[:1].upper() + part[1:] for part in rest))

    @property
    def message(self) -> "Message":
        """The table of a field of kind ``MESSAGE``."""
        if not isinstance(self.of, Message):
            raise TypeError(f"field {self.name} is of kind {self.kind.value}, not a message")
        return self.of

    @property
    def enum(self) -> Enum:
        """The enumeration of a field of kind ``ENUM``."""
        if not isinstance(self.of, Enum):
            raise TypeError(f"field {self.name} is of kind {self.kind.value}, not an enum")
        return self.of

    def default(self) -> Any:
        """The value of an absent field."""
        if self.map_key is not None:
            return {}
        if self.repeated:
            return []
        return _DEFAULTS[self.kind]


_DEFAULTS: dict[Kind, Any] = {
    Kind.INT32: 0,
    Kind.INT64: 0,
    Kind.UINT32: 0,
    Kind.BOOL: False,
    Kind.DOUBLE: 0.0,
    Kind.STRING: "",
    Kind.BYTES: b"",
    Kind.ENUM: 0,
    Kind.MESSAGE: None,
}


@dataclass(frozen=True)
class Message:
    """A message: full name (as Go's errors print it) and fields in order of their declaration."""

    name: str
    fields: tuple[Field, ...]
    by_number: dict[int, Field] = field(init=False, repr=False)
    ascending: tuple[Field, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ascending = tuple(sorted(self.fields, key=lambda f: f.number))
        object.__setattr__(self, "ascending", ascending)
        object.__setattr__(self, "by_number", {f.number: f for f in ascending})

    def defaults(self) -> MessageValue:
        """The message with no field set."""
        return {f.name: f.default() for f in self.fields}

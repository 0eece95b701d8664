"""What a message table is made of, and the rules that a family of messages is read and written by."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["GENERATED", "DecodeError", "Enum", "Field", "Kind", "Message", "MessageValue", "Rules", "generated"]

MessageValue = dict[str, Any]
"""A message: proto field name → value."""


class DecodeError(ValueError):
    """Bytes that are not the expected message. ``reason`` is the text that Go gives for it."""

    def __init__(self, message: str, reason: str, detail: str = "") -> None:
        super().__init__(f"cannot read {message}: {reason}{f' ({detail})' if detail else ''}")
        self.reason = reason


class Kind(enum.Enum):
    """The type of a field's values; the text is what Go calls it."""

    INT32 = "int32"
    INT64 = "int64"
    UINT32 = "uint32"
    UINT64 = "uint64"
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


_VARINT, _FIXED64, _BYTES = 0, 1, 2
_DEFAULTS: dict[Kind, Any] = {
    Kind.INT32: 0,
    Kind.INT64: 0,
    Kind.UINT32: 0,
    Kind.UINT64: 0,
    Kind.BOOL: False,
    Kind.DOUBLE: 0.0,
    Kind.STRING: "",
    Kind.BYTES: b"",
    Kind.ENUM: 0,
    Kind.MESSAGE: None,
}


@dataclass(frozen=True)
class Field:
    """One field.

    ``of`` is the ``Message`` or ``Enum`` of fields of those kinds; ``map_key`` makes it a map whose values are of ``kind``;
    ``embedded`` is a message that Go holds by value, so that it is always written; ``wrapper`` marks a google.protobuf wrapper
    message, which JSON writes as the bare value. ``wire_type`` is that of one value, ``packs`` whether several may be packed
    together; ``entry`` has key and value of a map by number.
    """

    number: int
    name: str
    kind: Kind
    of: "Message | Enum | None" = None
    repeated: bool = False
    embedded: bool = False
    map_key: Kind | None = None
    wrapper: bool = False
    json_name: str = ""
    wire_type: int = field(init=False, repr=False)
    packs: bool = field(init=False, repr=False)
    entry: "dict[int, Field]" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.json_name:
            head, *rest = self.name.split("_")
            object.__setattr__(self, "json_name", head + "".join(part[:1].upper() + part[1:] for part in rest))
        sized = self.map_key is not None or self.kind in (Kind.MESSAGE, Kind.STRING, Kind.BYTES)
        wire_type = _BYTES if sized else _FIXED64 if self.kind is Kind.DOUBLE else _VARINT
        object.__setattr__(self, "wire_type", wire_type)
        object.__setattr__(self, "packs", self.repeated and not sized)
        entry = {}
        if self.map_key is not None:
            entry = {1: Field(1, self.name, self.map_key), 2: Field(2, self.name, self.kind, self.of)}
        object.__setattr__(self, "entry", entry)

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
        return [] if self.repeated else self.zero()

    def zero(self) -> Any:
        """The zero value of the field's kind, None for a message."""
        return _DEFAULTS[self.kind]


@dataclass(frozen=True, slots=True)
class Rules:
    """What differs between families of messages; the defaults are those of KV values and of the admin API (``m3cluster.proto``)."""

    groups: bool = False
    """Unknown groups are skipped, as any other unknown field; else they are an illegal wire type."""
    merge: bool = False
    """A message field that occurs again merges into the first one; else it replaces it."""
    wire_type_first: bool = False
    """A wrong wire type is seen before the content is read; else a broken content is."""
    narrow_numbers: bool = False
    """A field number is the low 32 bits of the tag; else all of them, and 2^29 or more is not legal."""
    negative_lengths: bool = False
    """A length of 2^63 or more is negative; else it is one that does not fit."""
    odd_runs: bool = False
    """Packed doubles are read on to the end of the last one; else their size must divide by eight."""
    odd_entries: bool = False
    """The wire types of a map entry's key and value are not looked at, and their contents may reach beyond the entry; else an entry is
    read as a message of its own."""
    defaults: bool = True
    """Every field of the table is in what is read; else only what was there."""
    ranges: bool = True
    """Numbers outside their type's range are refused on writing; else their low 64 bits are written."""
    error: Callable[[str, str, str], Exception] = DecodeError
    """The error for ``(message, reason, detail)``; ``reason`` is the text that Go gives for it."""


GENERATED = Rules(
    groups=True,
    merge=True,
    wire_type_first=True,
    narrow_numbers=True,
    negative_lengths=True,
    odd_runs=True,
    odd_entries=True,
    defaults=False,
    ranges=False,
)
"""gogo/protobuf's generated ``Unmarshal`` and ``Marshal``, which metrics, m3msg and Prometheus' messages go through in M3."""


@dataclass(frozen=True)
class Message:
    """A message: full name (as Go's errors print it), fields in order of their declaration, and the rules of its family."""

    name: str
    fields: tuple[Field, ...]
    rules: Rules = field(default=Rules(), repr=False)
    by_number: dict[int, Field] = field(init=False, repr=False)
    ascending: tuple[Field, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ascending = tuple(sorted(self.fields, key=lambda f: f.number))
        object.__setattr__(self, "ascending", ascending)
        object.__setattr__(self, "by_number", {f.number: f for f in ascending})

    def defaults(self) -> MessageValue:
        """The message with no field set."""
        return {f.name: f.default() for f in self.fields}


def generated(name: str, *fields: Field, rules: Rules = GENERATED) -> Message:
    """A message that generated code reads and writes."""
    return Message(name, fields, rules)

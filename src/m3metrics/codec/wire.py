"""Protobuf as M3's generated code reads and writes it: messages described by tables of fields, values in dictionaries.

Reading follows gogo/protobuf's generated ``Unmarshal``, errors and their order included:

* a known field with another wire type is an error, an unknown field is skipped (groups too);
* scalars and bytes that occur again replace, sub-messages that occur again merge, repeated ones append;
* varints have at most ten bytes, bits beyond the field's width are dropped; enums are not checked;
* packed and unpacked doubles are both read.

Writing follows its ``Marshal``: ascending field numbers; zero, empty and ``-0.0`` are left out; a ``MESSAGE`` is always there, a
``POINTER`` where its value is not None (reference/metrics.md §1, reference/m3msg.md §2).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from m3metrics.errors import UnmarshalError

__all__ = ["Field", "Kind", "Message", "marshal", "read_varint", "unmarshal", "varint"]

Values = dict[str, Any]
"""Field name → value. Absent: zero."""

_MASK64 = (1 << 64) - 1
_DOUBLE = struct.Struct("<d")


class Kind(Enum):
    """How a field looks on the wire and what its absence means."""

    INT64 = auto()
    UINT64 = auto()
    INT32 = auto()
    """Enums too."""
    UINT32 = auto()
    BOOL = auto()
    DOUBLE = auto()
    BYTES = auto()
    DOUBLES = auto()
    """Repeated, packed when written."""
    MESSAGE = auto()
    """By value: always written."""
    POINTER = auto()
    """Written when set."""
    MESSAGES = auto()
    """Repeated."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message."""

    name: str
    """The key in ``Values``; in ``CamelCase`` the name that errors show."""
    kind: Kind
    message: "Message | None" = None


@dataclass(frozen=True, slots=True)
class Message:
    """A message by its fields: number → field, ascending."""

    name: str
    fields: dict[int, Field]


_WIRE_TYPE = {
    Kind.INT64: 0,
    Kind.UINT64: 0,
    Kind.INT32: 0,
    Kind.UINT32: 0,
    Kind.BOOL: 0,
    Kind.DOUBLE: 1,
    Kind.BYTES: 2,
    Kind.DOUBLES: 2,
    Kind.MESSAGE: 2,
    Kind.POINTER: 2,
    Kind.MESSAGES: 2,
}


def varint(value: int) -> bytes:
    """``value`` as a protobuf varint; negative numbers as 64-bit two's complement."""
    value &= _MASK64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The unsigned 64-bit varint at ``data[at:end]`` and the position after it. Raises ``UnmarshalError``."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise UnmarshalError("unexpected EOF")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK64, at
    raise UnmarshalError("proto: integer overflow")


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


_NARROW: dict[Kind, Callable[[int], int | bool]] = {
    Kind.INT64: lambda value: _signed(value, 64),
    Kind.UINT64: lambda value: value,
    Kind.INT32: lambda value: _signed(value, 32),
    Kind.UINT32: lambda value: value & 0xFFFFFFFF,
    Kind.BOOL: bool,
}


def _length(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Reads a length: the positions where its bytes begin and end."""
    raw, at = read_varint(data, at, end)
    size = _signed(raw, 64)
    if size < 0:
        raise UnmarshalError("proto: negative length found during unmarshaling")
    if at + size > end:
        raise UnmarshalError("unexpected EOF")
    return at, at + size


def _skip(data: bytes, at: int, end: int) -> int:
    """The position after the unknown field whose tag is at ``at``."""
    depth = 0
    while True:
        tag, at = read_varint(data, at, end)
        wire_type = tag & 7
        if wire_type == 0:
            _, at = read_varint(data, at, end)
        elif wire_type == 1:
            at += 8
        elif wire_type == 2:
            raw, at = read_varint(data, at, end)
            size = _signed(raw, 64)
            if size < 0:
                raise UnmarshalError("proto: negative length found during unmarshaling")
            at += size
        elif wire_type == 3:
            depth += 1
        elif wire_type == 4:
            depth -= 1
        elif wire_type == 5:
            at += 4
        else:
            raise UnmarshalError(f"proto: illegal wireType {wire_type}")
        if depth <= 0:
            break
    if at > end:
        raise UnmarshalError("unexpected EOF")
    return at


def _doubles(data: bytes, at: int, end: int, wire_type: int, into: list[float]) -> int:
    """Appends the doubles at ``at``, packed or one unpacked; the position after them.

    Like the generated code, a packed run whose size is no multiple of eight is read on to the end of the last double.
    """
    if wire_type == 1:
        stop = at + 1
    else:
        at, stop = _length(data, at, end)
    while at < stop:
        if at + 8 > end:
            raise UnmarshalError("unexpected EOF")
        into.append(_DOUBLE.unpack_from(data, at)[0])
        at += 8
    return at


def unmarshal(message: Message, data: bytes, into: Values | None = None, at: int = 0, end: int | None = None) -> Values:
    """Reads ``data[at:end]`` as ``message``, merging into ``into`` if given. Raises ``UnmarshalError`` with gogo's error text."""
    values: Values = {} if into is None else into
    if end is None:
        end = len(data)
    while at < end:
        start = at
        tag, at = read_varint(data, at, end)
        number = _signed(tag >> 3, 32)
        wire_type = tag & 7
        if wire_type == 4:
            raise UnmarshalError(f"proto: {message.name}: wiretype end group for non-group")
        if number <= 0:
            raise UnmarshalError(f"proto: {message.name}: illegal tag {number} (wire type {tag})")
        field = message.fields.get(number)
        if field is None:
            at = _skip(data, start, end)
            continue
        if wire_type != _WIRE_TYPE[field.kind] and not (field.kind is Kind.DOUBLES and wire_type == 1):
            raise UnmarshalError(f"proto: wrong wireType = {wire_type} for field {_camel(field.name)}")
        if field.kind is Kind.DOUBLES:
            at = _doubles(data, at, end, wire_type, values.setdefault(field.name, []))
        else:
            at = _read(field, data, at, end, values)
    return values


def _read(field: Field, data: bytes, at: int, end: int, values: Values) -> int:
    """Reads one field behind its tag into ``values``; the position after it."""
    kind = field.kind
    if kind in _NARROW:
        raw, at = read_varint(data, at, end)
        values[field.name] = _NARROW[kind](raw)
        return at
    if kind is Kind.DOUBLE:
        if at + 8 > end:
            raise UnmarshalError("unexpected EOF")
        values[field.name] = _DOUBLE.unpack_from(data, at)[0]
        return at + 8
    at, stop = _length(data, at, end)
    if kind is Kind.BYTES:
        values[field.name] = data[at:stop]
        return stop
    assert field.message is not None
    if kind is Kind.MESSAGES:
        values.setdefault(field.name, []).append(unmarshal(field.message, data, None, at, stop))
    else:
        unmarshal(field.message, data, values.setdefault(field.name, {}), at, stop)
    return stop


def marshal(message: Message, values: Values) -> bytes:
    """``values`` as the bytes that M3's encoder writes for ``message``."""
    out = bytearray()
    for number, field in message.fields.items():
        value = values.get(field.name)
        tag = varint(number << 3 | _WIRE_TYPE[field.kind])
        kind = field.kind
        if kind is Kind.MESSAGES:
            assert field.message is not None
            for item in value or ():
                _put(out, tag, marshal(field.message, item))
        elif kind is Kind.MESSAGE or (kind is Kind.POINTER and value is not None):
            assert field.message is not None
            _put(out, tag, marshal(field.message, value or {}))
        elif not value:
            continue
        elif kind is Kind.BYTES:
            _put(out, tag, value)
        elif kind is Kind.DOUBLES:
            _put(out, tag, struct.pack(f"<{len(value)}d", *value))
        elif kind is Kind.DOUBLE:
            out += tag + _DOUBLE.pack(value)
        else:
            out += tag + varint(int(value))
    return bytes(out)


def _put(out: bytearray, tag: bytes, content: bytes) -> None:
    out += tag
    out += varint(len(content))
    out += content


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))

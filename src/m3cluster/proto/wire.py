"""Message tables ↔ protobuf bytes, laid out as Go's generated code lays them out.

Writing: fields in ascending order, proto3 defaults left out, a present message always written (``52 00`` for an empty one), map entries
in order of key with key *and* value always written, repeated scalars packed. Reading: any field order, packed or not, the last value of a
field wins, unknown fields are skipped.
"""

import struct
from collections.abc import Iterator
from typing import Any

from m3cluster.proto.schema import Field, Kind, Message, MessageValue

__all__ = ["DecodeError", "decode", "encode"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MASK32, _MASK64 = (1 << 32) - 1, (1 << 64) - 1
_MAX_DEPTH = 32


class DecodeError(ValueError):
    """Bytes that are not the expected message. ``reason`` is the text that Go gives for it."""

    def __init__(self, message: str, reason: str, detail: str = "") -> None:
        super().__init__(f"cannot read {message}: {reason}{f' ({detail})' if detail else ''}")
        self.reason = reason


def encode(table: Message, value: MessageValue) -> bytes:
    """The bytes of a message. Absent keys stand for defaults; numbers outside their type's range raise ``ValueError``."""
    out = bytearray()
    for field in table.ascending:
        _put_field(out, field, value.get(field.name))
    return bytes(out)


def decode(table: Message, data: bytes) -> MessageValue:
    """The message with every field of the table present. Raises ``DecodeError``."""
    return _decode(table, bytes(data), 0)


def _put_varint(out: bytearray, value: int) -> None:
    value &= _MASK64
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def _put_tag(out: bytearray, number: int, wire_type: int) -> None:
    _put_varint(out, number << 3 | wire_type)


def _put_sized(out: bytearray, number: int, data: bytes | bytearray) -> None:
    _put_tag(out, number, _BYTES)
    _put_varint(out, len(data))
    out += data


_RANGES = {
    Kind.INT32: (-(1 << 31), (1 << 31) - 1),
    Kind.INT64: (-(1 << 63), (1 << 63) - 1),
    Kind.UINT32: (0, _MASK32),
    Kind.ENUM: (-(1 << 31), (1 << 31) - 1),
    Kind.BOOL: (0, 1),
}


def _put_number(out: bytearray, field: Field, kind: Kind, value: Any) -> None:
    """The bare value of a scalar kind."""
    if kind is Kind.DOUBLE:
        out += struct.pack("<d", value)
        return
    low, high = _RANGES[kind]
    if not low <= value <= high:
        raise ValueError(f"{field.name}: {value} is outside {low}..{high}")
    _put_varint(out, int(value))


def _put_value(out: bytearray, number: int, field: Field, kind: Kind, value: Any) -> None:
    """Tag and value of one non-repeated value, default or not."""
    if kind is Kind.MESSAGE:
        _put_sized(out, number, encode(field.message, value))
    elif kind is Kind.STRING:
        _put_sized(out, number, value.encode())
    elif kind is Kind.BYTES:
        _put_sized(out, number, value)
    else:
        _put_tag(out, number, _FIXED64 if kind is Kind.DOUBLE else _VARINT)
        _put_number(out, field, kind, value)


def _put_field(out: bytearray, field: Field, value: Any) -> None:
    if field.map_key is not None:
        for key, item in sorted((value or {}).items()):
            entry = bytearray()
            _put_value(entry, 1, field, field.map_key, key)
            _put_value(entry, 2, field, field.kind, item)
            _put_sized(out, field.number, entry)
    elif field.repeated:
        if not value:
            return
        if field.kind in (Kind.MESSAGE, Kind.STRING, Kind.BYTES):
            for item in value:
                _put_value(out, field.number, field, field.kind, item)
            return
        packed = bytearray()
        for item in value:
            _put_number(packed, field, field.kind, item)
        _put_sized(out, field.number, packed)
    elif value is not None and value != field.default():
        _put_value(out, field.number, field, field.kind, value)


def _varint(table: Message, data: bytes, at: int) -> tuple[int, int]:
    """Value and position behind a varint."""
    value = shift = 0
    while True:
        if at >= len(data):
            raise DecodeError(table.name, "unexpected EOF", f"truncated at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & _MASK64, at
        shift += 7
        if shift >= 70:
            raise DecodeError(table.name, "proto: integer overflow", f"varint longer than 10 bytes at byte {at}")


def _records(table: Message, data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Number, wire type and raw value of each field; groups and unknown wire types are errors."""
    at = 0
    while at < len(data):
        tag, at = _varint(table, data, at)
        number, wire_type = tag >> 3, tag & 7
        if number == 0 or number > (1 << 29) - 1:
            short = table.name.rpartition(".")[2]
            reason = f"proto: {short}: illegal tag {number} (wire type {wire_type})"
            raise DecodeError(table.name, reason, f"before byte {at}")
        if wire_type == _VARINT:
            value, at = _varint(table, data, at)
            yield number, wire_type, value
            continue
        if wire_type == _BYTES:
            size, at = _varint(table, data, at)
        elif wire_type in (_FIXED64, _FIXED32):
            size = 8 if wire_type == _FIXED64 else 4
        else:
            raise DecodeError(table.name, f"proto: illegal wireType {wire_type}", f"field {number}, before byte {at}")
        if size > len(data) - at:
            raise DecodeError(
                table.name, "unexpected EOF", f"field {number} has {size} bytes, {len(data) - at} are left"
            )
        yield number, wire_type, data[at : at + size]
        at += size


def _number(kind: Kind, raw: int) -> int | bool:
    if kind is Kind.BOOL:
        return raw != 0
    if kind is Kind.UINT32:
        return raw & _MASK32
    if kind is Kind.INT64:
        return raw - (1 << 64) if raw >> 63 else raw
    raw &= _MASK32
    return raw - (1 << 32) if raw >> 31 else raw


def _wrong_type(table: Message, field: Field, wire_type: int) -> DecodeError:
    camel = "".join(part[:1].upper() + part[1:] for part in field.name.split("_"))
    return DecodeError(table.name, f"proto: wrong wireType = {wire_type} for field {camel}")


def _value(table: Message, field: Field, kind: Kind, wire_type: int, raw: int | bytes, *, depth: int) -> Any:
    """One value of ``kind``, read from its raw form."""
    if kind is Kind.DOUBLE:
        if wire_type != _FIXED64 or isinstance(raw, int):
            raise _wrong_type(table, field, wire_type)
        return struct.unpack("<d", raw)[0]
    if kind in (Kind.MESSAGE, Kind.STRING, Kind.BYTES):
        if wire_type != _BYTES or isinstance(raw, int):
            raise _wrong_type(table, field, wire_type)
        if kind is Kind.MESSAGE:
            return _decode(field.message, raw, depth + 1)
        if kind is Kind.BYTES:
            return raw
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise DecodeError(table.name, f"field {field.name} is not UTF-8", str(error)) from error
    if not isinstance(raw, int):
        raise _wrong_type(table, field, wire_type)
    return _number(kind, raw)


def _packed(table: Message, field: Field, raw: bytes) -> Iterator[Any]:
    at = 0
    while at < len(raw):
        if field.kind is Kind.DOUBLE:
            if len(raw) - at < 8:
                raise DecodeError(table.name, "unexpected EOF", f"packed field {field.name}")
            yield struct.unpack_from("<d", raw, at)[0]
            at += 8
        else:
            value, at = _varint(table, raw, at)
            yield _number(field.kind, value)


def _map_entry(table: Message, field: Field, raw: bytes, depth: int) -> tuple[Any, Any]:
    assert field.map_key is not None
    key: Any = "" if field.map_key is Kind.STRING else 0
    value: Any = None
    for number, wire_type, part in _records(table, raw):
        if number == 1:
            key = _value(table, field, field.map_key, wire_type, part, depth=depth)
        elif number == 2:
            value = _value(table, field, field.kind, wire_type, part, depth=depth)
    if value is None:
        value = field.message.defaults() if field.kind is Kind.MESSAGE else Field(2, "value", field.kind).default()
    return key, value


def _decode(table: Message, data: bytes, depth: int) -> MessageValue:
    if depth > _MAX_DEPTH:
        raise DecodeError(table.name, "message nested too deeply")
    message = table.defaults()
    for number, wire_type, raw in _records(table, data):
        field = table.by_number.get(number)
        if field is None:
            continue
        if field.map_key is not None:
            if isinstance(raw, int) or wire_type != _BYTES:
                raise _wrong_type(table, field, wire_type)
            key, value = _map_entry(table, field, raw, depth)
            message[field.name][key] = value
        elif field.repeated:
            scalar = field.kind not in (Kind.MESSAGE, Kind.STRING, Kind.BYTES)
            if scalar and wire_type == _BYTES and not isinstance(raw, int):
                message[field.name].extend(_packed(table, field, raw))
            else:
                message[field.name].append(_value(table, field, field.kind, wire_type, raw, depth=depth))
        else:
            message[field.name] = _value(table, field, field.kind, wire_type, raw, depth=depth)
    return message

"""Thrift structs ↔ bytes in plain Python: the authority that the kernels are tested against (docs/m3/m3db_wire.md, thrift).

Writing: ascending field numbers, as Go's generated code does. Reading: any order; unknown fields, and known ones of another type, are
skipped; what must be there is asked for at the end of the struct. Bounded: a list or map announces at most as many elements as bytes are
left, and structs are nested ``MAX_DEPTH`` deep at most.
"""

import struct
from typing import Any

from m3db.errors import ThriftError
from m3db.thrift.schema import Field, Kind, ListOf, MapOf, Struct, StructValue, Type

__all__ = ["MAX_DEPTH", "marshal", "unmarshal"]

MAX_DEPTH = 32

_STOP = 0
_FIELD = struct.Struct(">bh")
_LENGTH = struct.Struct(">i")
_LIST = struct.Struct(">bi")
_MAP = struct.Struct(">bbi")
_NUMBERS = {
    Kind.BOOL: struct.Struct(">?"),
    Kind.BYTE: struct.Struct(">b"),
    Kind.DOUBLE: struct.Struct(">d"),
    Kind.I16: struct.Struct(">h"),
    Kind.I32: struct.Struct(">i"),
    Kind.I64: struct.Struct(">q"),
}


def marshal(table: Struct, values: StructValue) -> bytes:
    """The bytes of a struct. Raises ``ThriftError`` for values that it cannot have."""
    out = bytearray()
    try:
        _put_struct(out, table, values)
    except (struct.error, TypeError, AttributeError) as error:
        raise ThriftError(f"cannot write {table.name}: {error}") from error
    return bytes(out)


def unmarshal(table: Struct, data: bytes | memoryview) -> StructValue:
    """Reads ``data``, all of it, as a struct. Raises ``ThriftError``."""
    data = bytes(data)
    try:
        values, at = _struct(table, data, 0, 0)
    except ThriftError as error:
        raise ThriftError(f"cannot read {table.name}: {error}") from None
    if at != len(data):
        raise ThriftError(f"cannot read {table.name}: {len(data) - at} bytes behind its end")
    return values


def _resolved(of: Type) -> Kind | ListOf | MapOf | Struct:
    return of if isinstance(of, Kind | ListOf | MapOf | Struct) else of()


def _kind(of: Type) -> Kind:
    if isinstance(of, Kind):
        return of
    return Kind.LIST if isinstance(of, ListOf) else Kind.MAP if isinstance(of, MapOf) else Kind.STRUCT


def _put_struct(out: bytearray, table: Struct, values: StructValue) -> None:
    for field in table.fields:
        value = values.get(field.name)
        if value is None:
            if field.required:
                raise ThriftError(f"cannot write {table.name}: {field.name} is required")
            continue
        if field.required or field.default is None or value != field.default:
            out += _FIELD.pack(_kind(field.type), field.number)
            _put(out, field.type, value)
    out.append(_STOP)


def _put(out: bytearray, of: Type, value: Any) -> None:
    of = _resolved(of)
    if isinstance(of, Struct):
        _put_struct(out, of, value)
    elif isinstance(of, ListOf):
        out += _LIST.pack(_kind(of.element), len(value))
        for item in value:
            _put(out, of.element, item)
    elif isinstance(of, MapOf):
        out += _MAP.pack(of.key, _kind(of.value), len(value))
        for key, item in value.items():
            _put(out, of.key, key)
            _put(out, of.value, item)
    elif of is Kind.BINARY:
        out += _LENGTH.pack(len(value))
        out += value
    else:
        out += _NUMBERS[of].pack(value)


def _take(data: bytes, at: int, size: int) -> int:
    """The position behind ``size`` bytes."""
    if size < 0:
        raise ThriftError(f"a length of {size} at byte {at}")
    if size > len(data) - at:
        raise ThriftError(f"{size} bytes expected at byte {at}, {len(data) - at} are left")
    return at + size


def _struct(table: Struct, data: bytes, at: int, depth: int) -> tuple[StructValue, int]:
    _check_depth(depth)
    values: StructValue = {}
    while True:
        kind, number, at = _field(data, at)
        if kind == _STOP:
            break
        field = table.by_number.get(number)
        if field is None or _kind(field.type) != kind:
            at = _skip(kind, data, at, depth)
        else:
            values[field.name], at = _value(field.type, data, at, depth)
    for field in table.fields:
        if field.name not in values:
            _fill_in(table, field, values)
    return values, at


def _field(data: bytes, at: int) -> tuple[int, int, int]:
    """Type and number of the field at ``at``, and where its value begins; of the end of a struct, type 0."""
    end = _take(data, at, 1)
    if data[at] == _STOP:
        return _STOP, 0, end
    end = _take(data, at, _FIELD.size)
    kind, number = _FIELD.unpack_from(data, at)
    return kind, number, end


def _fill_in(table: Struct, field: Field, values: StructValue) -> None:
    """What is read in place of an absent field."""
    if field.required:
        raise ThriftError(f"required field {field.name} of {table.name} is not set")
    if field.default is not None:
        values[field.name] = field.default


def _value(of: Type, data: bytes, at: int, depth: int) -> tuple[Any, int]:
    of = _resolved(of)
    if isinstance(of, Struct):
        return _struct(of, data, at, depth + 1)
    if isinstance(of, ListOf):
        return _list(of, data, at, depth + 1)
    if isinstance(of, MapOf):
        return _map(of, data, at, depth + 1)
    if of is Kind.BINARY:
        start = _take(data, at, _LENGTH.size)
        end = _take(data, start, _LENGTH.unpack_from(data, at)[0])
        return data[start:end], end
    if of is Kind.BOOL:
        return data[at : at + 1] == b"\x01", _take(data, at, 1)
    number = _NUMBERS[of]
    end = _take(data, at, number.size)
    return number.unpack_from(data, at)[0], end


def _list(of: ListOf, data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    _check_depth(depth)
    start = _take(data, at, _LIST.size)
    kind, count = _LIST.unpack_from(data, at)
    _check_count(count, 1, data, start)
    if count and kind != _kind(of.element):
        raise ThriftError(f"a list of type {kind} at byte {at}, expected {_kind(of.element)}")
    items, at = [], start
    for _ in range(count):
        item, at = _value(of.element, data, at, depth)
        items.append(item)
    return items, at


def _map(of: MapOf, data: bytes, at: int, depth: int) -> tuple[dict[Any, Any], int]:
    _check_depth(depth)
    start = _take(data, at, _MAP.size)
    key_kind, value_kind, count = _MAP.unpack_from(data, at)
    _check_count(count, 2, data, start)
    if count and (key_kind, value_kind) != (of.key, _kind(of.value)):
        raise ThriftError(f"a map of types {key_kind} and {value_kind} at byte {at}")
    items, at = {}, start
    for _ in range(count):
        key, at = _value(of.key, data, at, depth)
        items[key], at = _value(of.value, data, at, depth)
    return items, at


def _skip(kind: int, data: bytes, at: int, depth: int) -> int:
    """The position behind a value of any type."""
    _check_depth(depth)
    if kind == Kind.STRUCT:
        while True:
            inner, _, at = _field(data, at)
            if inner == _STOP:
                return at
            at = _skip(inner, data, at, depth + 1)
    if kind in (Kind.LIST, Kind.SET):
        start = _take(data, at, _LIST.size)
        element, count = _LIST.unpack_from(data, at)
        return _skip_all((element,), count, data, start, depth + 1)
    if kind == Kind.MAP:
        start = _take(data, at, _MAP.size)
        *kinds, count = _MAP.unpack_from(data, at)
        return _skip_all(tuple(kinds), count, data, start, depth + 1)
    if kind == Kind.BINARY:
        start = _take(data, at, _LENGTH.size)
        return _take(data, start, _LENGTH.unpack_from(data, at)[0])
    if kind not in _NUMBERS:
        raise ThriftError(f"unknown type {kind} before byte {at}")
    return _take(data, at, _NUMBERS[Kind(kind)].size)


def _skip_all(kinds: tuple[int, ...], count: int, data: bytes, at: int, depth: int) -> int:
    _check_count(count, len(kinds), data, at)
    for _ in range(count):
        for kind in kinds:
            at = _skip(kind, data, at, depth)
    return at


def _check_count(count: int, least: int, data: bytes, at: int) -> None:
    """An element has at least one byte, so more of them than that cannot be there."""
    if count < 0 or count * least > len(data) - at:
        raise ThriftError(f"{count} elements announced at byte {at}, {len(data) - at} bytes are left")


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ThriftError(f"nested more than {MAX_DEPTH} deep")

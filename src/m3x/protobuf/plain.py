"""Message tables ↔ protobuf bytes in plain Python: the authority that the kernels are tested against.

Both follow Go's generated code. Reading: any field order, packed or not, at most ten bytes a varint of which the low 64 bits count, bits
beyond a field's width are dropped, enums are not checked, unknown fields are skipped. Writing: ascending field numbers; zero, empty and
``-0.0`` are left out, an embedded message never; map entries in order of key, key *and* value always written; repeated scalars packed. What
differs between families of messages is in their ``Rules``.
"""

import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

from m3x.protobuf.schema import Field, Kind, Message, MessageValue, Rules

__all__ = ["WireError", "marshal", "read_varint", "unmarshal", "varint"]

_VARINT, _FIXED64, _BYTES, _START, _END, _FIXED32 = range(6)
_SIZES = {_FIXED64: 8, _FIXED32: 4}
_MASK32, _MASK64 = (1 << 32) - 1, (1 << 64) - 1
_MAX_NUMBER = (1 << 29) - 1
_MAX_DEPTH = 32
_DOUBLE = struct.Struct("<d")
_RANGES = {
    Kind.INT32: (-(1 << 31), (1 << 31) - 1),
    Kind.INT64: (-(1 << 63), (1 << 63) - 1),
    Kind.UINT32: (0, _MASK32),
    Kind.UINT64: (0, _MASK64),
    Kind.ENUM: (-(1 << 31), (1 << 31) - 1),
    Kind.BOOL: (0, 1),
}


class WireError(ValueError):
    """Bytes that break the wire format: Go's text, and where."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def varint(value: int) -> bytes:
    """``value`` as a protobuf varint; negative numbers as 64-bit two's complement."""
    value &= _MASK64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int, end: int, start: int = 0) -> tuple[int, int]:
    """The unsigned 64-bit varint at ``data[at:end]`` and the position after it.

    Raises ``WireError``, which counts positions from ``start``.
    """
    if at < end and data[at] < 0x80:
        return data[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise WireError("unexpected EOF", f"truncated at byte {at - start}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK64, at
    raise WireError("proto: integer overflow", f"varint longer than 10 bytes at byte {at - start}")


def unmarshal(message: Message, data: bytes) -> MessageValue:
    """Reads ``data`` as ``message``. Raises the error of the message's rules."""
    data = bytes(data)
    return _read(message, data, 0, len(data), None, 0)


def marshal(message: Message, values: MessageValue) -> bytes:
    """The bytes of a message. Absent keys stand for defaults; raises ``ValueError`` for numbers that its rules refuse."""
    out = bytearray()
    rules = message.rules
    for field in message.ascending:
        value = values.get(field.name)
        if field.map_key is not None:
            for key, item in sorted((value or {}).items()):
                entry = bytearray()
                _put(entry, field.entry[1], key, rules)
                _put(entry, field.entry[2], item, rules)
                _put_sized(out, field, entry)
        elif field.packs:
            if value:
                packed = bytearray()
                for item in value:
                    packed += _number_bytes(field, item, rules)
                _put_sized(out, field, packed)
        elif field.repeated:
            for item in value or ():
                _put(out, field, item, rules)
        elif value or field.embedded or (field.kind is Kind.MESSAGE and value is not None):
            _put(out, field, value, rules)
    return bytes(out)


_tag = cache(varint)


def _put(out: bytearray, field: Field, value: Any, rules: Rules) -> None:
    """Tag and value of one field, default or not."""
    kind = field.kind
    if kind is Kind.MESSAGE:
        _put_sized(out, field, marshal(field.message, value or {}))
    elif kind is Kind.BYTES:
        _put_sized(out, field, value)
    elif kind is Kind.STRING:
        _put_sized(out, field, value.encode())
    else:
        out += _tag(field.number << 3 | field.wire_type)
        out += _number_bytes(field, value, rules)


def _put_sized(out: bytearray, field: Field, content: bytes | bytearray) -> None:
    out += _tag(field.number << 3 | _BYTES)
    out += varint(len(content))
    out += content


def _number_bytes(field: Field, value: Any, rules: Rules) -> bytes:
    """The bare value of a number."""
    if field.kind is Kind.DOUBLE:
        return _DOUBLE.pack(value)
    if rules.ranges:
        low, high = _RANGES[field.kind]
        if not low <= value <= high:
            raise ValueError(f"{field.name}: {value} is outside {low}..{high}")
    return varint(int(value))


def _read(message: Message, data: bytes, start: int, end: int, into: MessageValue | None, depth: int) -> MessageValue:
    """Reads ``data[start:end]``, merging into ``into`` if given."""
    rules = message.rules
    values = into if into is not None else message.defaults() if rules.defaults else {}
    try:
        if depth > _MAX_DEPTH:
            raise WireError("message nested too deeply")
        for field, wire, at, stop in _fields(message, message.by_number, data, start, end):
            name = field.name
            if field.map_key is not None:
                if rules.odd_entries:
                    key, value = _odd_entry(message, field, data, at, stop, end, depth)
                else:
                    key, value = _map_entry(message, field, data, at, stop, depth)
                values.setdefault(name, {})[key] = value
            elif field.packs and wire == _BYTES:
                values.setdefault(name, []).extend(_packed(field, data, at, stop))
            elif field.repeated:
                values.setdefault(name, []).append(_value(field, data, at, stop, depth))
            elif rules.merge and field.kind is Kind.MESSAGE:
                values[name] = _read(field.message, data, at, stop, values.get(name), depth + 1)
            else:
                values[name] = _value(field, data, at, stop, depth)
    except WireError as error:
        raise rules.error(message.name, error.reason, error.detail) from None
    return values


def _fields(
    message: Message, known: dict[int, Field], data: bytes, start: int, end: int
) -> Iterator[tuple[Field, int, int, int]]:
    """The known fields: field, wire type, and where its content is; for a varint, in place of the position, its value."""
    rules = message.rules
    at = start
    while at < end:
        tag, at = read_varint(data, at, end, start)
        wire, number = tag & 7, tag >> 3
        if wire == _END or not 0 < number <= _MAX_NUMBER:
            number = _number(message, tag, at - start)
        field = known.get(number)
        if field is None:
            at = _content(rules, data, at, end, start, number, wire)[1]
            continue
        fits = wire == field.wire_type or (field.packs and wire == _BYTES)
        if fits or not rules.wire_type_first:
            first, at = _content(rules, data, at, end, start, number, wire)
        if not fits:
            camel = "".join(part[:1].upper() + part[1:] for part in field.name.split("_"))
            raise WireError(f"proto: wrong wireType = {wire} for field {camel}")
        if wire == _BYTES and field.packs and field.kind is Kind.DOUBLE and rules.odd_runs:
            at = _run_end(data, first, at, end)
        yield field, wire, first, at


def _number(message: Message, tag: int, at: int) -> int:
    """The field number of a tag that is out of the ordinary."""
    if message.rules.narrow_numbers:
        number, shown = _signed(tag >> 3, 32), tag
        legal = number > 0
    else:
        number, shown = tag >> 3, tag & 7
        legal = 0 < number <= _MAX_NUMBER
    short = message.name.rpartition(".")[2]
    if message.rules.groups and tag & 7 == _END:
        raise WireError(f"proto: {short}: wiretype end group for non-group")
    if not legal:
        raise WireError(f"proto: {short}: illegal tag {number} (wire type {shown})", f"before byte {at}")
    return number


def _content(rules: Rules, data: bytes, at: int, end: int, start: int, number: int, wire: int) -> tuple[int, int]:
    """Where the content behind a tag begins, or its value if it is a varint, and where it ends."""
    if wire == _VARINT:
        return read_varint(data, at, end, start)
    if wire == _BYTES:
        size, at = read_varint(data, at, end, start)
        if size >> 63 and rules.negative_lengths:
            raise WireError("proto: negative length found during unmarshaling")
    elif wire in _SIZES:
        size = _SIZES[wire]
    elif wire == _START and rules.groups:
        return at, _group_end(rules, data, at, end, start)
    else:
        raise WireError(f"proto: illegal wireType {wire}", f"field {number}, before byte {at - start}")
    if size > end - at:
        raise WireError("unexpected EOF", f"field {number} has {size} bytes, {end - at} are left")
    return at, at + size


def _group_end(rules: Rules, data: bytes, at: int, end: int, start: int) -> int:
    """The position after the group whose first field is at ``at``."""
    depth = 1
    while depth:
        tag, at = read_varint(data, at, end, start)
        wire = tag & 7
        if wire in (_START, _END):
            depth += 1 if wire == _START else -1
        else:
            at = _content(rules, data, at, end, start, tag >> 3, wire)[1]
    return at


def _run_end(data: bytes, at: int, stop: int, end: int) -> int:
    """Where the last of the packed doubles in ``data[at:stop]`` ends."""
    last = at + (stop - at + 7 & -8)
    if last > end:
        raise WireError("unexpected EOF")
    return last


def _map_entry(message: Message, field: Field, data: bytes, at: int, stop: int, depth: int) -> tuple[Any, Any]:
    key: Any = "" if field.map_key is Kind.STRING else 0
    value: Any = None
    for part, _, first, after in _fields(message, field.entry, data, at, stop):
        if part.number == 1:
            key = _value(part, data, first, after, depth)
        else:
            value = _value(part, data, first, after, depth)
    return key, field.zero() if value is None else value


def _odd_entry(
    message: Message, field: Field, data: bytes, at: int, stop: int, end: int, depth: int
) -> tuple[Any, Any]:
    """An entry of a map as generated code reads it (``Rules.odd_entries``)."""
    key: Any = "" if field.map_key is Kind.STRING else 0
    value: Any = field.zero()
    while at < stop:
        begin = at
        tag, at = read_varint(data, at, end, begin)
        part = field.entry.get(_signed(tag >> 3, 32))
        if part is None:
            at = _content(message.rules, data, at, end, begin, tag >> 3, tag & 7)[1]
            if at > stop:
                raise WireError("unexpected EOF", f"an entry of {field.name} ends inside a field")
            continue
        first, at = _content(message.rules, data, at, end, begin, part.number, part.wire_type)
        if part.number == 2:
            value = _value(part, data, first, at, depth)
        elif part.kind is Kind.STRING:
            # Nobody reads it: what has a name says so itself.
            key = data[first:at].decode(errors="surrogateescape")
        else:
            key = _value(part, data, first, at, depth)
    return key, value


def _value(field: Field, data: bytes, at: int, stop: int, depth: int) -> Any:
    """One value; ``at`` is a varint's value, else where the content begins."""
    kind = field.kind
    if kind is Kind.BYTES:
        return data[at:stop]
    if kind is Kind.DOUBLE:
        return _DOUBLE.unpack_from(data, at)[0]
    if kind is Kind.MESSAGE:
        return _read(field.message, data, at, stop, None, depth + 1)
    if kind is not Kind.STRING:
        return _narrow(kind, at)
    try:
        return data[at:stop].decode()
    except UnicodeDecodeError as error:
        raise WireError(f"field {field.name} is not UTF-8", str(error)) from error


def _packed(field: Field, data: bytes, at: int, stop: int) -> Iterator[Any]:
    start = at
    if field.kind is Kind.DOUBLE:
        if stop - at & 7:
            raise WireError("unexpected EOF", f"packed field {field.name}")
        yield from struct.unpack_from(f"<{(stop - at) // 8}d", data, at)
        return
    while at < stop:
        value, at = read_varint(data, at, stop, start)
        yield _narrow(field.kind, value)


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _narrow(kind: Kind, value: int) -> int | bool:
    """A varint's 64 bits as a number of ``kind``."""
    if kind is Kind.UINT64:
        return value
    if kind is Kind.INT64:
        return _signed(value, 64)
    if kind is Kind.UINT32:
        return value & _MASK32
    if kind is Kind.BOOL:
        return value != 0
    return _signed(value, 32)

"""Thrift's binary values on the side of a node: structs declared as data, a reader with the errors of Go's generated code, a writer.

A struct is fields of ``u8`` type, ``i16`` id, value, and a zero byte; there is no envelope. The reader does what generated Go does: it
reads a field that it knows as the type that is declared, whatever type is written, and skips fields that it does not know. What no careful
client sends is noted: unknown fields, other types, fields that come twice or in another order, a default that need not be written.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lab.m3db.judge import Judge

__all__ = [
    "BINARY",
    "BOOL",
    "DOUBLE",
    "I32",
    "I64",
    "STRING",
    "Field",
    "ListOf",
    "MapOf",
    "Struct",
    "ThriftError",
    "read",
    "write",
]

_STOP, _BOOL, _BYTE, _DOUBLE, _I16, _I32, _I64, _BINARY, _STRUCT, _MAP, _SET, _LIST = (
    0, 2, 3, 4, 6, 8, 10, 11, 12, 13, 14, 15,
)  # fmt: skip
_FIXED = {_BOOL: 1, _BYTE: 1, _DOUBLE: 8, _I16: 2, _I32: 4, _I64: 8}
_MAX_DEPTH = 64


class ThriftError(Exception):
    """Bytes that are not the struct; ``clean``: they ended before a single byte, which Go takes for something else."""

    def __init__(self, text: str, *, clean: bool = False) -> None:
        super().__init__(text)
        self.clean = clean


@dataclass(frozen=True, slots=True)
class Scalar:
    """A type without parts."""

    name: str
    wire: int


BOOL, DOUBLE, I32, I64 = Scalar("bool", _BOOL), Scalar("double", _DOUBLE), Scalar("i32", _I32), Scalar("i64", _I64)
BINARY, STRING = Scalar("binary", _BINARY), Scalar("string", _BINARY)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list."""

    of: "Type"


@dataclass(frozen=True, slots=True)
class MapOf:
    """A map of strings to strings."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field. ``default``: the value of an optional field that Go leaves out."""

    id: int
    name: str
    type: "Type"
    required: bool = True
    default: Any = None


@dataclass(frozen=True)
class Struct:
    """A struct; ``name`` as Go's errors print it."""

    name: str
    fields: tuple[Field, ...]
    by_id: dict[int, Field] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_id", {one.id: one for one in self.fields})


Type = Scalar | ListOf | MapOf | Struct
Value = dict[str, Any]


def read(table: Struct, data: bytes, judge: Judge) -> Value:
    """The struct that ``data`` begins with; ``"_rest"`` of it: the number of bytes behind it. Raises ``ThriftError``."""
    reader = _Reader(data, judge)
    value = reader.struct(table, depth=0)
    value["_rest"] = len(data) - reader.at
    return value


class _Reader:
    def __init__(self, data: bytes, judge: Judge) -> None:
        self._data, self._judge = data, judge
        self.at = 0
        self._scratch = bytearray(8)
        """Go reads numbers into one buffer; of a number that ends too early the rest is what was there before."""

    def struct(self, table: Struct, depth: int) -> Value:
        found: Value = {}
        last = 0
        while True:
            kind, number, broken = self._field_begin()
            if broken is not None:
                raise ThriftError(f"*rpc.{table.name} field {number} read error: {broken}", clean=broken.clean)
            if kind == _STOP:
                break
            one = table.by_id.get(number)
            if one is None:
                self._judge.note(f"{table.name}: field {number}, which is not known")
                self._skip(kind, depth)
                continue
            self._check(table, one, kind, found, last)
            last = number
            found[one.name] = self._value(one, one.type, depth)
            if one.default is not None and found[one.name] == one.default:
                self._judge.note(f"{table.name}: {one.name} is written though it has its default")
        for one in table.fields:
            if one.name not in found:
                if one.required:
                    self._judge.note(f"{table.name}: {one.name} is missing")
                    raise ThriftError(f"Required field {one.name[:1].upper()}{one.name[1:]} is not set")
                found[one.name] = one.default
        return found

    def _check(self, table: Struct, one: Field, kind: int, found: Value, last: int) -> None:
        if kind != _wire(one.type):
            self._judge.note(f"{table.name}: {one.name} of type {kind}, not {_wire(one.type)}")
        if one.name in found:
            self._judge.note(f"{table.name}: {one.name} occurs twice")
        elif one.id < last:
            self._judge.note(f"{table.name}: {one.name} is not in order")

    def _field_begin(self) -> tuple[int, int, ThriftError | None]:
        try:
            kind = self._number(1)
            if kind == _STOP:
                return kind, 0, None
        except ThriftError as error:
            return 0, 0, error
        try:
            return kind, _signed(self._number(2), 16), None
        except ThriftError as error:
            return 0, _signed(int.from_bytes(self._scratch[:2], "big"), 16), error

    def _value(self, one: Field, kind: Type, depth: int) -> Any:
        if isinstance(kind, Struct):
            try:
                return self.struct(kind, depth + 1)
            except ThriftError as error:
                raise ThriftError(f"*rpc.{kind.name} error reading struct: {error}", clean=error.clean) from None
        try:
            if isinstance(kind, Scalar):
                return self._scalar(kind)
        except ThriftError as error:
            raise ThriftError(f"error reading field {one.id}: {error}", clean=error.clean) from None
        if isinstance(kind, MapOf):
            return self._map(one)
        try:
            element, count = self._number(1), _signed(self._number(4), 32)
            if count < 0:
                raise ThriftError("negative size")
        except ThriftError as error:
            raise ThriftError(f"error reading list begin: {error}", clean=error.clean) from None
        if element != _wire(kind.of) and count:
            self._judge.note(f"{one.name}: elements of type {element}, not {_wire(kind.of)}")
        return [self._value(one, kind.of, depth) for _ in range(count)]

    def _map(self, one: Field) -> dict[str, str]:
        key, value, count = self._number(1), self._number(1), _signed(self._number(4), 32)
        if count and (key, value) != (_BINARY, _BINARY):
            self._judge.note(f"{one.name}: a map of types {key} and {value}")
        return {self._scalar(STRING): self._scalar(STRING) for _ in range(count)}

    def _scalar(self, kind: Scalar) -> Any:
        if kind is BINARY:
            return self._bytes()
        if kind is STRING:
            return self._bytes().decode("utf-8", "surrogateescape")
        raw = self._number(_FIXED[kind.wire])
        if kind is BOOL:
            if raw > 1:
                self._judge.note(f"a bool of {raw}")
            return raw == 1
        if kind is DOUBLE:
            # As bits: there are many kinds of NaN.
            return raw
        return _signed(raw, 32 if kind is I32 else 64)

    def _bytes(self) -> bytes:
        size = _signed(self._number(4), 32)
        if size < 0:
            raise ThriftError("negative size")
        found = self._data[self.at : self.at + size]
        if len(found) < size:
            raise ThriftError("unexpected EOF" if found else "EOF")
        self.at += size
        return found

    def _number(self, size: int) -> int:
        found = self._data[self.at : self.at + size]
        self._scratch[: len(found)] = found
        self.at += len(found)
        if len(found) < size:
            raise ThriftError("unexpected EOF" if found else "EOF", clean=size == 1)
        return int.from_bytes(found, "big")

    def _skip(self, kind: int, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ThriftError("depth limit exceeded")
        if kind in _FIXED:
            self._number(_FIXED[kind])
        elif kind == _BINARY:
            self._bytes()
        elif kind == _STRUCT:
            while inner := self._number(1):
                self._number(2)
                self._skip(inner, depth + 1)
        elif kind == _MAP:
            key, value = self._number(1), self._number(1)
            for _ in range(_signed(self._number(4), 32)):
                self._skip(key, depth + 1)
                self._skip(value, depth + 1)
        elif kind in (_SET, _LIST):
            element = self._number(1)
            for _ in range(_signed(self._number(4), 32)):
                self._skip(element, depth + 1)
        # Of a type that there is not Go skips nothing.


def write(table: Struct, value: Value) -> bytes:
    """The bytes of a struct; ``None`` is a field that is not there."""
    out = bytearray()
    _write_struct(out, table, value)
    return bytes(out)


def _write_struct(out: bytearray, table: Struct, value: Value) -> None:
    for one in table.fields:
        content = value.get(one.name)
        if content is None or (not one.required and content == one.default):
            continue
        out += struct.pack(">Bh", _wire(one.type), one.id)
        _write_value(out, one.type, content)
    out.append(_STOP)


def _write_value(out: bytearray, kind: Type, value: Any) -> None:
    if isinstance(kind, Struct):
        _write_struct(out, kind, value)
    elif isinstance(kind, ListOf):
        elements: Sequence[Any] = value
        out += struct.pack(">Bi", _wire(kind.of), len(elements))
        for element in elements:
            _write_value(out, kind.of, element)
    elif isinstance(kind, MapOf):
        out += struct.pack(">BBi", _BINARY, _BINARY, len(value))
        for pair in value.items():
            for text in pair:
                _write_value(out, STRING, text)
    elif kind in (BINARY, STRING):
        data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
        out += struct.pack(">i", len(data)) + data
    elif kind is BOOL:
        out.append(bool(value))
    elif kind is DOUBLE:
        out += struct.pack(">Q", value)
    else:
        out += struct.pack(">i" if kind is I32 else ">q", value)


def _wire(kind: Type) -> int:
    if isinstance(kind, Scalar):
        return kind.wire
    return _STRUCT if isinstance(kind, Struct) else _LIST if isinstance(kind, ListOf) else _MAP


def _signed(value: int, width: int) -> int:
    return value - (1 << width) if value >> (width - 1) else value

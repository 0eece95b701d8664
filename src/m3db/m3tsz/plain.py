"""The plain reader of m3tsz: the authority for the compiled one (docs/m3/m3db_reading.md, m3tsz streams)."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from m3db.m3tsz.format import MARKER, MARKER_BITS, MAX_MULTIPLIER, UNIT_NS, StreamEnd, StreamError, Unit, first_unit

__all__ = ["Point", "bits_at", "read_points"]

_U64 = (1 << 64) - 1


class Point(NamedTuple):
    """A value of a series; ``bits`` are those of its double, ``annotation`` is empty where the point carries none."""

    time_ns: int
    bits: int
    unit: int
    annotation: bytes = b""

    @property
    def value(self) -> float:
        return _double(self.bits)


def read_points(stream: bytes) -> Iterator[Point]:
    """The points of a stream (head and tail together). Raises ``StreamError`` behind the last good one, unless the stream is whole."""
    return _Reader(stream).points()


def bits_at(data: bytes, at: int, count: int) -> int:
    """``count`` bits from bit ``at`` on, the most significant first; those behind the end are missing, not zero."""
    last = at + count
    word = int.from_bytes(data[at // 8 : (last + 7) // 8], "big")
    return word >> (-last % 8) & ((1 << count) - 1)


class _Reader:
    """One stream, a point at a time. Names of fields as on the page."""

    def __init__(self, stream: bytes) -> None:
        self._data = stream
        self._size = 8 * len(stream)
        self._at = 0
        self._unit = 0
        self._scheme: int | None = None
        """The unit whose coding applies: that of the last valid one."""
        self._changed = False
        self._time = 0
        self._delta = 0
        self._is_float = False
        self._int = 0.0
        self._significant = 0
        self._multiplier = 0
        self._bits = 0
        self._xor = 0

    def points(self) -> Iterator[Point]:
        self._time = _signed(self._read(64), 64)
        self._unit = first_unit(self._time)
        self._scheme = self._unit or None
        first = True
        while True:
            annotation = self._markers()
            if annotation is None:
                return
            self._read_time()
            if first:
                self._first_value()
            else:
                self._next_value()
            first = False
            yield Point(self._time, self._value(), self._unit, annotation)

    def _read(self, count: int) -> int:
        if count > self._size - self._at:
            raise StreamError(StreamEnd.TRUNCATED)
        self._at += count
        return bits_at(self._data, self._at - count, count)

    def _markers(self) -> bytes | None:
        """Reads markers as far as there are any: the annotation of the next point; None at the end marker."""
        annotation = b""
        while self._size - self._at >= MARKER_BITS:
            opcode, which = divmod(bits_at(self._data, self._at, MARKER_BITS), 4)
            if opcode != MARKER or which == 3:
                break
            self._at += MARKER_BITS
            if which == 0:
                return None
            if which == 1:
                annotation = self._annotation()
            else:
                self._read_unit()
        return annotation

    def _annotation(self) -> bytes:
        zigzag = 0
        for shift in range(0, 70, 7):
            byte = self._read(8)
            if shift == 63 and byte > 1:
                raise StreamError(StreamEnd.ANNOTATION)
            zigzag |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        size = ((zigzag >> 1) ^ -(zigzag & 1)) + 1
        if not 0 < size < 1 << 63:
            raise StreamError(StreamEnd.ANNOTATION)
        if 8 * size > self._size - self._at:
            raise StreamError(StreamEnd.TRUNCATED)
        return self._read(8 * size).to_bytes(size, "big")

    def _read_unit(self) -> None:
        unit = self._read(8)
        if unit != self._unit and Unit.NONE < unit <= Unit.YEAR:
            self._changed = True
            self._scheme = unit
        self._unit = unit

    def _read_time(self) -> None:
        if self._changed and not Unit.NONE < self._unit <= Unit.YEAR:
            raise StreamError(StreamEnd.NO_UNIT)
        if self._changed:
            self._delta = _signed(self._delta + self._read(64), 64)
        else:
            self._delta = _signed(self._delta + self._delta_of_delta(), 64)
        self._time = _signed(self._time + self._delta, 64)
        if self._changed:
            self._delta = 0
            self._changed = False

    def _delta_of_delta(self) -> int:
        if self._scheme is None:
            raise StreamError(StreamEnd.NO_UNIT)
        if not self._read(1) or self._scheme >= len(UNIT_NS):
            return 0
        size = 32 if self._scheme <= Unit.MILLISECOND else 64
        for shorter in (7, 9, 12):
            if not self._read(1):
                size = shorter
                break
        count = _signed(self._read(size), size)
        return count * UNIT_NS[self._unit] if self._unit < len(UNIT_NS) else 0

    def _first_value(self) -> None:
        if self._read(1):
            self._full_float()
        else:
            self._shape()
            self._difference()

    def _next_value(self) -> None:
        if self._read(1):
            if self._is_float:
                self._next_float()
            else:
                self._difference()
        elif not self._read(1):
            if self._read(1):
                self._full_float()
            else:
                self._shape()
                self._difference()
                self._is_float = False

    def _full_float(self) -> None:
        self._bits = self._xor = self._read(64)
        self._is_float = True

    def _next_float(self) -> None:
        if not self._read(1):
            self._xor = 0
            return
        if self._read(1):
            leading, size = self._read(6), self._read(6) + 1
            trailing = 64 - leading - size
            meaningful = self._read(size)
            self._xor = meaningful << trailing if trailing >= 0 else 0
        else:
            leading = 64 - self._xor.bit_length()
            trailing = (self._xor & -self._xor).bit_length() - 1 if self._xor else 0
            self._xor = self._read(64 - leading - trailing) << trailing
        self._bits ^= self._xor

    def _shape(self) -> None:
        if self._read(1):
            self._significant = self._read(6) + 1 if self._read(1) else 0
        if self._read(1):
            self._multiplier = self._read(3)
            if self._multiplier > MAX_MULTIPLIER:
                raise StreamError(StreamEnd.MULTIPLIER)

    def _difference(self) -> None:
        add = self._read(1)
        difference = float(self._read(self._significant))
        self._int += difference if add else -difference

    def _value(self) -> int:
        """The bits of the current value."""
        if self._is_float:
            return self._bits
        value = self._int / 10**self._multiplier if self._multiplier else self._int
        number: int = struct.unpack(">Q", struct.pack(">d", value))[0]
        return number


def _signed(value: int, size: int) -> int:
    """The lowest ``size`` bits as two's complement."""
    value &= (1 << size) - 1
    return value - (1 << size) if value >> (size - 1) else value


def _double(bits: int) -> float:
    value: float = struct.unpack(">d", struct.pack(">Q", bits & _U64))[0]
    return value

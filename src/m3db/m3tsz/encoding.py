"""The plain encoder of m3tsz, with the bytes that M3 writes (docs/m3/m3db_reading.md, writing a stream).

For tests and for nodes that are played: clients only ever read streams.
"""

import math
import struct

from m3db.m3tsz.format import MARKER, MARKER_BITS, MAX_MULTIPLIER, UNIT_NS, Unit, first_unit

__all__ = ["EncodeError", "Encoder"]

_MAX_INT = float(1 << 63)
_MAX_SCALED = 1e13
"""Values from here on are not scaled to whole numbers."""
_SHRINK_BY, _SHRINK_AFTER = 3, 5
"""Fewer bits are taken when this many less would have done, this often in a row."""


class EncodeError(ValueError):
    """A point that cannot be written; as in M3, bits of it may stand in the stream already."""


class Encoder:
    """Points of one series, in the order in which they are added, as one stream."""

    def __init__(self, start_ns: int) -> None:
        self._bits = _Bits()
        self._times = _Times(self._bits, start_ns)
        self._values = _Values(self._bits)
        self._count = 0

    def add(self, time_ns: int, value: float, unit: int = Unit.SECOND, annotation: bytes = b"") -> None:
        """One point. Raises ``EncodeError``."""
        self._times.write(time_ns, unit, annotation)
        if self._count:
            self._values.write(value)
        else:
            self._values.write_first(value)
        self._count += 1

    def __len__(self) -> int:
        """The number of points."""
        return self._count

    def segment(self) -> tuple[bytes, bytes]:
        """Head and tail as a node gives them: the tail has the last byte of the points and the end marker. Both empty without points."""
        return self._bits.split()

    def stream(self) -> bytes:
        """Head and tail together."""
        head, tail = self.segment()
        return head + tail


class _Bits:
    """Bits that become bytes, the most significant first."""

    def __init__(self) -> None:
        self._whole = bytearray()
        self._rest = 0
        self._count = 0

    def write(self, value: int, count: int) -> None:
        """The lowest ``count`` bits of ``value``."""
        self._rest = self._rest << count | (value & ((1 << count) - 1))
        self._count += count
        if self._count >= 8:
            left = self._count % 8
            self._whole += (self._rest >> left).to_bytes(self._count // 8, "big")
            self._rest &= (1 << left) - 1
            self._count = left

    def split(self) -> tuple[bytes, bytes]:
        """All bytes but the last; the last with an end marker."""
        head, last, count = bytes(self._whole), self._rest, self._count
        if not count:
            if not head:
                return b"", b""
            head, last, count = head[:-1], head[-1], 8
        size = count + MARKER_BITS
        tail = (last << MARKER_BITS | MARKER << 2) << (-size % 8)
        return head, tail.to_bytes((size + 7) // 8, "big")


class _Times:
    def __init__(self, bits: _Bits, start_ns: int) -> None:
        self._bits = bits
        self._unit: int = first_unit(start_ns)
        self._previous = start_ns
        self._delta = 0
        self._annotation = b""
        self._started = False

    def write(self, time_ns: int, unit: int, annotation: bytes) -> None:
        if not self._started:
            self._bits.write(self._previous, 64)
        if annotation and annotation != self._annotation:
            self._write_annotation(annotation)
        changed = unit != self._unit and Unit.NONE < unit <= Unit.YEAR
        if changed:
            self._bits.write(MARKER << 2 | 2, MARKER_BITS)
            self._bits.write(unit, 8)
            self._unit = unit
        delta = _wrapped(time_ns - self._previous)
        self._previous = time_ns
        before, self._delta = self._delta, 0 if changed else delta
        if changed:
            self._bits.write(delta - before, 64)
        else:
            self._write_delta(_wrapped(delta - before), unit)
        self._started = True

    def _write_annotation(self, annotation: bytes) -> None:
        self._bits.write(MARKER << 2 | 1, MARKER_BITS)
        size = 2 * (len(annotation) - 1)
        while size >= 0x80:
            self._bits.write(size | 0x80, 8)
            size >>= 7
        self._bits.write(size, 8)
        self._bits.write(int.from_bytes(annotation, "big"), 8 * len(annotation))
        self._annotation = annotation

    def _write_delta(self, delta_of_delta: int, unit: int) -> None:
        if not Unit.NONE < unit < len(UNIT_NS):
            raise EncodeError("unrecognized time unit")
        nanoseconds = UNIT_NS[unit]
        count = abs(delta_of_delta) // nanoseconds * (1 if delta_of_delta >= 0 else -1)
        short = unit <= Unit.MILLISECOND
        if short and not -(1 << 31) <= count < 1 << 31:
            raise EncodeError(f"deltaOfDelta value {count} {Unit(unit).short} overflows 32 bits")
        if count == 0:
            self._bits.write(0, 1)
            return
        for prefix, size in ((0b10, 7), (0b110, 9), (0b1110, 12)):
            if -(1 << (size - 1)) <= count < 1 << (size - 1):
                self._bits.write(prefix, prefix.bit_length())
                self._bits.write(count, size)
                return
        self._bits.write(0b1111, 4)
        self._bits.write(count, 32 if short else 64)


class _Values:
    def __init__(self, bits: _Bits) -> None:
        self._bits = bits
        self._is_float = False
        self._int = 0.0
        self._multiplier = 0
        self._significant = 0
        self._most_of_fewer = 0
        self._fewer = 0
        self._float = 0
        self._xor = 0

    def write_first(self, value: float) -> None:
        whole, multiplier = _whole(value, 0)
        if whole is None:
            self._bits.write(1, 1)
            self._write_full(_pattern(value))
            return
        self._bits.write(0, 1)
        self._int = whole
        difference = _unsigned(abs(whole))
        self._write_shape(difference.bit_length(), multiplier, False)
        self._write_difference(difference, whole >= 0)

    def write(self, value: float) -> None:
        whole, multiplier = _whole(value, self._multiplier)
        if whole is None:
            self._write_float(_pattern(value), 0)
            return
        difference = self._int - whole
        if difference >= _MAX_INT or difference <= -_MAX_INT:
            # As in M3, which stores the scaled number as if it were the value.
            self._write_float(_pattern(whole), multiplier)
        elif difference == 0 and not self._is_float and multiplier == self._multiplier:
            self._bits.write(0b01, 2)
        else:
            self._write_int(whole, multiplier, difference)

    def _write_float(self, pattern: int, multiplier: int) -> None:
        if not self._is_float:
            self._bits.write(0b001, 3)
            self._write_full(pattern)
            self._multiplier = multiplier
        elif pattern == self._float:
            self._bits.write(0b01, 2)
        else:
            self._bits.write(1, 1)
            self._write_xor(self._float ^ pattern)
            self._float = pattern

    def _write_full(self, pattern: int) -> None:
        self._bits.write(pattern, 64)
        self._float = self._xor = pattern
        self._is_float = True

    def _write_xor(self, xor: int) -> None:
        """Of two different patterns."""
        leading, trailing = _zeros(xor)
        around, behind = _zeros(self._xor)
        self._xor = xor
        if leading >= around and trailing >= behind:
            self._bits.write(0b10, 2)
            self._bits.write(xor >> behind, 64 - around - behind)
            return
        size = 64 - leading - trailing
        self._bits.write(0b11, 2)
        self._bits.write(leading, 6)
        self._bits.write(size - 1, 6)
        self._bits.write(xor >> trailing, size)

    def _write_int(self, whole: float, multiplier: int, difference: float) -> None:
        size = _unsigned(abs(difference))
        significant = self._new_significant(size.bit_length())
        if multiplier > self._multiplier or significant != self._significant or self._is_float:
            self._bits.write(0b000, 3)
            self._write_shape(significant, multiplier, self._is_float)
            self._is_float = False
        else:
            self._bits.write(1, 1)
        self._write_difference(size, difference < 0)
        self._int = whole

    def _write_shape(self, significant: int, multiplier: int, from_float: bool) -> None:
        if significant == self._significant:
            self._bits.write(0, 1)
        elif significant:
            self._bits.write(0b11, 2)
            self._bits.write(significant - 1, 6)
        else:
            self._bits.write(0b10, 2)
        self._significant = significant
        if multiplier > self._multiplier or (from_float and multiplier == self._multiplier):
            self._bits.write(1, 1)
            self._bits.write(multiplier, 3)
            self._multiplier = multiplier
        else:
            self._bits.write(0, 1)

    def _write_difference(self, size: int, add: bool) -> None:
        self._bits.write(add, 1)
        self._bits.write(size, self._significant)

    def _new_significant(self, needed: int) -> int:
        """The bits that differences take from now on, if the next one needs so many."""
        if needed > self._significant:
            return needed
        if self._significant - needed < _SHRINK_BY:
            self._fewer = 0
            return self._significant
        self._most_of_fewer = max(needed, self._most_of_fewer) if self._fewer else needed
        self._fewer += 1
        if self._fewer < _SHRINK_AFTER:
            return self._significant
        self._fewer = 0
        return self._most_of_fewer


def _whole(value: float, multiplier: int) -> tuple[float | None, int]:
    """``value`` as a whole number times ten to the power of the least multiplier from ``multiplier`` on; None if it stays a double.

    What is one step of the double away from a whole number counts as that number.
    """
    if multiplier == 0 and value < _MAX_INT and value.is_integer():
        return value, 0
    sign = -1.0 if value < 0 else 1.0
    for power in range(multiplier, MAX_MULTIPLIER + 1):
        scaled = value * float(10**power) * sign
        if scaled >= _MAX_SCALED:
            break
        if math.isnan(scaled):
            continue
        fraction, whole = math.modf(scaled)
        if (
            fraction == 0
            or (fraction < 0.1 and math.nextafter(scaled, 0.0) <= whole)
            or (fraction > 0.9 and math.nextafter(scaled, whole + 1) >= whole + 1)
        ):
            return sign * (whole + 1 if fraction > 0.9 else whole), power
    return None, 0


def _pattern(value: float) -> int:
    bits: int = struct.unpack(">Q", struct.pack(">d", value))[0]
    return bits


def _unsigned(value: float) -> int:
    """A positive double as M3 makes a uint64 of it on 64-bit x86: what is no int64 becomes 2^63."""
    return int(value) if value < _MAX_INT else 1 << 63


def _wrapped(value: int) -> int:
    return ((value + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)


def _zeros(xor: int) -> tuple[int, int]:
    """Leading and trailing zeros of 64 bits."""
    return 64 - xor.bit_length(), (xor & -xor).bit_length() - 1 if xor else 0

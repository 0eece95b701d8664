"""Points as an m3tsz stream, as a node stores and sends them: floats only, which is a part of the format that every reader has to know.

Bits, the most significant first: the 64 bits of the block's start, then points, then ``100000000 00``, zeros up to a byte. A point is a
marker ``100000000 01`` with an annotation if it has another one than was written last, a marker ``100000000 10`` with its unit if that
changes (the first one is seconds), the delta of its delta of time, and its value: 64 bits at first, later ``01`` for the same value, or
``1`` and what an XOR with the value before leaves: ``10`` and the bits between the zeros of the last XOR, or ``11``, their place, the bits.
"""

from collections.abc import Sequence

from lab.m3db.storage import Point
from lab.m3db.structs import TIME_UNITS

__all__ = ["encode"]

_MARKER, _MARKER_BITS = 0b100000000, 9
_END, _ANNOTATION, _UNIT = 0, 1, 2
_UNIT_NUMBERS = {0: 1, 1: 3, 2: 2, 3: 4}
"""TimeType → number of a unit."""
_SECONDS = 0
_BUCKETS = ((0b10, 2, 7), (0b110, 3, 9), (0b1110, 4, 12))


class _Bits:
    def __init__(self) -> None:
        self._value, self._size = 0, 0

    def put(self, value: int, size: int) -> None:
        """The low bits of a number, negative ones as two's complement."""
        self._value = self._value << size | value & ((1 << size) - 1)
        self._size += size

    def bytes(self) -> bytes:
        """All of them, zeros behind."""
        pad = -self._size % 8
        return (self._value << pad).to_bytes((self._size + pad) // 8, "big")


def encode(start_ns: int, points: Sequence[Point]) -> bytes:
    """A stream of points in ascending order of a block that begins at ``start_ns``, a whole second."""
    bits = _Bits()
    bits.put(start_ns, 64)
    unit, time_ns, delta, annotation = _SECONDS, start_ns, 0, b""
    xor = _Xor(bits)
    for point in points:
        if point.annotation and point.annotation != annotation:
            annotation = point.annotation
            _put_annotation(bits, annotation)
        dod = point.time_ns - time_ns - delta
        delta += dod
        if point.unit != unit:
            unit = point.unit
            _put_marker(bits, _UNIT)
            bits.put(_UNIT_NUMBERS[unit], 8)
            bits.put(dod, 64)
            delta = 0
        else:
            _put_dod(bits, dod // TIME_UNITS[unit], 32 if TIME_UNITS[unit] >= 10**6 else 64)
        time_ns = point.time_ns
        xor.put(point.bits)
    _put_marker(bits, _END)
    return bits.bytes()


def _put_marker(bits: _Bits, kind: int) -> None:
    bits.put(_MARKER, _MARKER_BITS)
    bits.put(kind, 2)


def _put_annotation(bits: _Bits, annotation: bytes) -> None:
    _put_marker(bits, _ANNOTATION)
    zigzag = 2 * (len(annotation) - 1)
    while zigzag > 0x7F:
        bits.put(zigzag & 0x7F | 0x80, 8)
        zigzag >>= 7
    bits.put(zigzag, 8)
    for byte in annotation:
        bits.put(byte, 8)


def _put_dod(bits: _Bits, dod: int, most: int) -> None:
    if dod == 0:
        bits.put(0, 1)
        return
    for prefix, prefix_bits, size in _BUCKETS:
        if -(1 << (size - 1)) <= dod < 1 << (size - 1):
            bits.put(prefix, prefix_bits)
            bits.put(dod, size)
            return
    if not -(1 << (most - 1)) <= dod < 1 << (most - 1):
        raise ValueError(f"a step of {dod} units does not fit {most} bits")
    bits.put(0b1111, 4)
    bits.put(dod, most)


class _Xor:
    """Values, one after the other."""

    def __init__(self, bits: _Bits) -> None:
        self._bits = bits
        self._last: int | None = None
        self._xor = 0

    def put(self, value: int) -> None:
        """The bits of a double."""
        if self._last is None:
            self._bits.put(1, 1)
            self._bits.put(value, 64)
            self._xor = value
        elif value == self._last:
            self._bits.put(0b01, 2)
        else:
            self._bits.put(1, 1)
            self._put_xor(value ^ self._last)
        self._last = value

    def _put_xor(self, xor: int) -> None:
        lead, trail = _zeros(self._xor)
        new_lead, new_trail = _zeros(xor)
        if new_lead >= lead and new_trail >= trail:
            self._bits.put(0b10, 2)
            self._bits.put(xor >> trail, 64 - lead - trail)
        else:
            size = 64 - new_lead - new_trail
            self._bits.put(0b11, 2)
            self._bits.put(new_lead, 6)
            self._bits.put(size - 1, 6)
            self._bits.put(xor >> new_trail, size)
        self._xor = xor


def _zeros(value: int) -> tuple[int, int]:
    """Leading and trailing zeros of 64 bits."""
    if value == 0:
        return 64, 0
    return 64 - value.bit_length(), (value & -value).bit_length() - 1

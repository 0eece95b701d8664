# mypy: ignore-errors
"""The compiled reader of m3tsz: many streams to columns (docs/m3/m3db_reading.md, m3tsz streams). The authority is ``plain``.

Positions are bits, counted from address 0. A point is read without asking where its stream ends, and judged by where it has ended itself:
so up to ``PADDING`` bytes behind a stream are looked at, and have to be there. Only annotations, whose lengths a stream chooses, are
checked before they are passed over.
"""

import numpy as np
from numba import njit

from m3db.m3tsz.format import MARKER, MARKER_BITS, MAX_MULTIPLIER, UNIT_NS, StreamEnd, Unit
from m3x.kernels import base, double_bits, load8, load64
from m3x.protobuf.words import leading_zeros, swap64, trailing_zeros

__all__ = ["NO_NOTES", "NO_ROWS", "PADDING", "decode", "warm"]

PADDING = 64
"""Readable bytes that have to follow the last stream."""

_0, _1, _2, _3, _4, _6, _7, _8 = (np.uint64(n) for n in (0, 1, 2, 3, 4, 6, 7, 8))
_9, _12, _16, _36, _58, _63, _64, _68 = (np.uint64(n) for n in (9, 12, 16, 36, 58, 63, 64, 68))
_BEGIN_2, _BEGIN_3, _BEGIN_4, _BEGIN_5 = (np.uint64(n << 60) for n in (0b1000, 0b1100, 0b1110, 0b1111))
"""The least words that begin with one, two, three and four ones."""
_MARKER, _MARKER_BITS = np.uint64(MARKER), np.uint64(MARKER_BITS)
_MARKER_SHIFT, _WHICH_SHIFT = np.uint64(55), np.uint64(53)
_NS = np.array(UNIT_NS, np.int64)
_POWERS = np.array([10.0**power for power in range(MAX_MULTIPLIER + 1)])
_MAX_MULTIPLIER = np.int64(MAX_MULTIPLIER)
_UNITS, _YEAR, _SECOND, _MILLISECOND = len(UNIT_NS), int(Unit.YEAR), int(Unit.SECOND), int(Unit.MILLISECOND)
_GOOD, _TRUNCATED, _NO_UNIT = int(StreamEnd.MARKER), int(StreamEnd.TRUNCATED), int(StreamEnd.NO_UNIT)
_BAD_MULTIPLIER, _BAD_ANNOTATION = int(StreamEnd.MULTIPLIER), int(StreamEnd.ANNOTATION)
_GO_ON = -3
NO_ROWS, NO_NOTES = -1, -2
"""In place of a ``StreamEnd``: a column is full."""


@njit(cache=True, nogil=True)
def _peek(at):
    """The next bits at the top of a word, at least 57 of them."""
    return swap64(load64(at >> _3)) << (at & _7)


@njit(cache=True, nogil=True)
def _read64(at):
    shift = at & _7
    return (swap64(load64(at >> _3)) << shift) | (load8((at >> _3) + _8) >> (_8 - shift))


@njit(cache=True, nogil=True)
def _read(at, count):
    """``count`` bits, 0 to 64 of them."""
    if count == _0:
        return _0
    return _read64(at) >> (_64 - count)


@njit(cache=True, nogil=True)
def _delta_of_delta(at, scheme):
    """``(how many units, position after)``."""
    word = _peek(at)
    if word < _BEGIN_2:
        return np.int64(0), at + _1
    if scheme >= _UNITS:
        return np.int64(0), at + _1
    if word < _BEGIN_3:
        return np.int64(word << _2) >> np.int64(57), at + _9
    if word < _BEGIN_4:
        return np.int64(word << _3) >> np.int64(55), at + _12
    if word < _BEGIN_5:
        return np.int64(word << _4) >> np.int64(52), at + _16
    if scheme <= _MILLISECOND:
        return np.int64(word << _4) >> np.int64(32), at + _36
    return np.int64(_read64(at + _4)), at + _68


@njit(cache=True, nogil=True)
def _annotation(at, end):
    """``(where its bytes begin, how many, a StreamEnd that is good if there are so many)``."""
    zigzag, shift = _0, _0
    while True:
        if at + _8 > end:
            return at, _0, _TRUNCATED
        byte = _peek(at) >> np.uint64(56)
        at += _8
        if shift == _63 and byte > _1:
            return at, _0, _BAD_ANNOTATION
        zigzag |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            break
        shift += _7
    if zigzag & _1 or zigzag >= np.uint64(0xFFFFFFFFFFFFFFFE):
        return at, _0, _BAD_ANNOTATION
    size = (zigzag >> _1) + _1
    return at, size, _GOOD if size <= (end - at) >> _3 else _TRUNCATED


@njit(cache=True, nogil=True)
def _xor(at, previous):
    """``(the bits that differ from the double before, position after)``; ``previous``: those that did at the last one."""
    word = _peek(at)
    if word < _BEGIN_2:
        return _0, at + _1
    if word < _BEGIN_3:
        leading, trailing = _64, _0
        if previous:
            leading, trailing = leading_zeros(previous), trailing_zeros(previous)
        count = _64 - leading - trailing
        return _read(at + _2, count) << trailing, at + _2 + count
    leading = (word << _2) >> _58
    count = ((word << _8) >> _58) + _1
    if leading + count > _64:
        return _0, at + np.uint64(14) + count
    return _read(at + np.uint64(14), count) << (_64 - leading - count), at + np.uint64(14) + count


@njit(cache=True, nogil=True)
def _shape(at, significant, multiplier):
    """``(significant bits, multiplier, position after)``: what has changed of them."""
    word = _peek(at)
    used = _1
    if word >= _BEGIN_3:
        significant = ((word << _2) >> _58) + _1
        used = _8
    elif word >= _BEGIN_2:
        significant = _0
        used = _2
    word <<= used
    if word >= _BEGIN_2:
        return significant, np.int64((word << _1) >> np.uint64(61)), at + used + _4
    return significant, multiplier, at + used + _1


@njit(cache=True, nogil=True)
def _difference(at, significant, whole):
    """The whole number after the next difference; it takes ``significant`` bits and one."""
    size = np.float64(_read(at + _1, significant))
    return whole + size if _peek(at) >= _BEGIN_2 else whole - size


@njit(cache=True, nogil=True)
def _is_marker(word, at, end):
    return word >> _MARKER_SHIFT == _MARKER and (word >> _WHICH_SHIFT) & _3 != _3 and end - at >= _MARKER_BITS


@njit(cache=True, nogil=True)
def _markers(at, end, unit, scheme, changed):
    """Passes the markers at ``at``: ``(position after, where the bytes of an annotation are, how many, unit, scheme, whether the unit has
    changed, a StreamEnd or _GO_ON)``."""
    note_at, note_size = _0, _0
    word = _peek(at)
    while _is_marker(word, at, end):
        which = (word >> _WHICH_SHIFT) & _3
        at += _MARKER_BITS
        if which == _0:
            return at, note_at, note_size, unit, scheme, changed, _GOOD
        if which == _1:
            note_at, note_size, status = _annotation(at, end)
            if status != _GOOD:
                return at, note_at, note_size, unit, scheme, changed, status
            at = note_at + _8 * note_size
        else:
            if at + _8 > end:
                return at, note_at, note_size, unit, scheme, changed, _TRUNCATED
            named = np.int64(_peek(at) >> np.uint64(56))
            at += _8
            if named != unit and 0 < named <= _YEAR:
                changed = True
                scheme = named
            unit = named
        word = _peek(at)
    return at, note_at, note_size, unit, scheme, changed, _GO_ON


@njit(cache=True, nogil=True)
def _stream(at, end, origin, times, bits, units, notes, out, noted):
    """Reads one stream: ``(rows, notes, a StreamEnd, NO_ROWS or NO_NOTES)``, the first two counted from the beginning of the columns."""
    if end - at < _64:
        return out, noted, _TRUNCATED
    time, delta = np.int64(_read64(at)), np.int64(0)
    at += _64
    unit = np.int64(0 if time % _NS[_SECOND] else _SECOND)
    scheme, changed, ns = unit, False, _NS[unit]
    is_first, is_float = True, False
    whole, significant, multiplier = 0.0, _0, np.int64(0)
    double, xor = _0, _0
    while True:
        note_at, note_size = _0, _0
        if _is_marker(_peek(at), at, end):
            at, note_at, note_size, unit, scheme, changed, status = _markers(at, end, unit, scheme, changed)
            if status != _GO_ON:
                return out, noted, status
            ns = _NS[unit] if unit < _UNITS else np.int64(0)
        if scheme == 0 or (changed and not 0 < unit <= _YEAR):
            return out, noted, _NO_UNIT
        if changed:
            time += delta + np.int64(_read64(at))
            delta, changed = np.int64(0), False
            at += _64
        else:
            count, at = _delta_of_delta(at, scheme)
            delta += count * ns
            time += delta
        word = _peek(at)
        if not is_first and word >= _BEGIN_2:
            if is_float:
                xor, at = _xor(at + _1, xor)
                double ^= xor
            else:
                whole = _difference(at + _1, significant, whole)
                at += significant + _2
        elif is_first or word << _1 < _BEGIN_2:
            if not is_first:
                word <<= _2
                at += _2
            is_first, is_float = False, word >= _BEGIN_2
            if is_float:
                double = xor = _read64(at + _1)
                at += _64 + _1
            else:
                significant, multiplier, at = _shape(at + _1, significant, multiplier)
                if multiplier > _MAX_MULTIPLIER:
                    return out, noted, _BAD_MULTIPLIER if at <= end else _TRUNCATED
                whole = _difference(at, significant, whole)
                at += significant + _1
        else:
            at += _2
        if at > end:
            return out, noted, _TRUNCATED
        if out == len(times):
            return out, noted, NO_ROWS
        if note_size:
            if noted == len(notes):
                return out, noted, NO_NOTES
            notes[noted, 0], notes[noted, 1], notes[noted, 2] = out, note_at - origin, note_size
            noted += 1
        times[out] = time
        units[out] = unit
        bits[out] = double if is_float else double_bits(whole / _POWERS[multiplier] if multiplier else whole)
        out += 1


@njit(cache=True, nogil=True)
def decode(arena, at, size, first, out, noted, times, bits, units, notes, stops, ends):
    """Reads the streams ``arena[at[i]:at[i] + size[i]]`` from ``first`` on, to rows from ``out`` and notes from ``noted`` on.

    ``stops[i]`` becomes the row behind the last one of the stream, ``ends[i]`` how it ended (``StreamEnd``). A row of ``notes`` is an
    annotation: row of the point, first bit in the arena, bytes. Returns ``(streams, rows, notes, column)``: how many there are now, and
    which column has to grow before the rest is read, ``NO_ROWS`` or ``NO_NOTES``.
    """
    origin = base(arena) << _3
    for i in range(first, len(at)):
        begin = origin + (np.uint64(at[i]) << _3)
        end = begin + (np.uint64(size[i]) << _3)
        rows, found, status = _stream(begin, end, origin, times, bits, units, notes, out, noted)
        if status < 0:
            return i, out, noted, status
        out, noted = rows, found
        stops[i] = out
        ends[i] = status
    return len(at), out, noted, _GOOD


def warm() -> None:
    """Compiles what is called from plain code."""
    no_bytes, numbers = np.zeros(PADDING, np.uint8), np.zeros(1, np.int64)
    columns = np.zeros(1, np.int64), np.zeros(1, np.uint64), np.zeros(1, np.uint8), np.zeros((1, 3), np.int64)
    decode(no_bytes, numbers, numbers, 0, 0, 0, *columns, numbers.copy(), np.zeros(1, np.uint8))

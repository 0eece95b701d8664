# mypy: ignore-errors
"""The compiled reader of answers to ``fetchTagged``: bytes → rows of elements and streams; streams put together and checked.

The authority is ``m3db.thrift.plain`` with ``FETCH_TAGGED_RESULT``; here as there a field that occurs again replaces the one before.
"""

import numpy as np
from numba import njit

from m3db.m3tsz.kernels import PADDING
from m3db.thrift.kernels import binary, elements, field, int64_at, skip
from m3db.thrift.schema import Kind
from m3x.kernels import base, copy_short, load8

__all__ = ["ELEMENT", "HAS_CHECKSUM", "STREAM", "join", "scan", "warm"]

ELEMENT = np.dtype([("id_at", "<i8"), ("id_size", "<i8"), ("tags_at", "<i8"), ("tags_size", "<i8"), ("streams", "<i8")])
"""One series: where its id and its encoded tags are in the answer; the row behind its last stream."""
STREAM = np.dtype(
    [("head_at", "<i8"), ("head_size", "<i8"), ("tail_at", "<i8"), ("tail_size", "<i8"), ("start_ns", "<i8"),
     ("block_ns", "<i8"), ("checksum", "<i8"), ("flags", "<i8")]
)  # fmt: skip
"""One stream: its two parts in the answer, its block."""
HAS_CHECKSUM = 1

_0, _8 = np.uint64(0), np.uint64(8)
_BOOL, _I64, _BINARY, _STRUCT, _LIST = (
    np.int64(kind) for kind in (Kind.BOOL, Kind.I64, Kind.BINARY, Kind.STRUCT, Kind.LIST)
)
_RESULT_DEPTH, _ELEMENT_DEPTH, _SEGMENTS_DEPTH, _MERGED_DEPTH, _UNMERGED_DEPTH = 1, 3, 5, 6, 7
"""How deep the structs are in each other, lists counted."""


@njit(cache=True, nogil=True)
def _segment(at, end, origin, depth, streams, row):
    """Reads a Segment into a row of streams, if there is one; the position behind it."""
    head, head_end, tail, tail_end = _0, _0, _0, _0
    start, block, checksum, flags = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    while True:
        kind, number, at = field(at, end)
        if at == _0:
            return _0
        if kind == 0:
            break
        value, at = at, skip(at, end, kind, depth)
        if at == _0:
            return _0
        if kind == _BINARY and number == 1:
            head, head_end = binary(value, end)
        elif kind == _BINARY and number == 2:
            tail, tail_end = binary(value, end)
        elif kind == _I64 and number == 3:
            start = int64_at(value)
        elif kind == _I64 and number == 4:
            block = int64_at(value)
        elif kind == _I64 and number == 5:
            checksum, flags = int64_at(value), np.int64(HAS_CHECKSUM)
    if _0 in (head, tail):
        return _0
    if row < len(streams):
        one = streams[row]
        one.head_at, one.head_size = head - origin, head_end - head
        one.tail_at, one.tail_size = tail - origin, tail_end - tail
        one.start_ns, one.block_ns, one.checksum, one.flags = start, block, checksum, flags
    return at


@njit(cache=True, nogil=True)
def _segments(at, end, origin, streams, first):
    """Reads a Segments: ``(position behind it, row behind its streams)``. A merged stream counts, whatever else is there."""
    merged = _0
    row = first
    while True:
        kind, number, at = field(at, end)
        if at == _0:
            return _0, row
        if kind == 0:
            break
        if kind == _STRUCT and number == 1:
            merged = at
            at = _segment(at, end, origin, _MERGED_DEPTH, streams, len(streams))
        elif kind == _LIST and number == 2:
            inner, count, at = elements(at, end)
            if at == _0 or (count and inner != _STRUCT):
                return _0, row
            row = first + count
            for n in range(count):
                at = _segment(at, end, origin, _UNMERGED_DEPTH, streams, first + n)
                if at == _0:
                    return _0, row
        else:
            at = skip(at, end, kind, _SEGMENTS_DEPTH)
        if at == _0:
            return _0, row
    if merged:
        _segment(merged, end, origin, _MERGED_DEPTH, streams, first)
        row = first + 1
    return at, row


@njit(cache=True, nogil=True)
def _element(at, end, origin, rows, n, streams, first):
    """Reads an element: ``(position behind it, row behind its streams)``."""
    ident, ident_end, tags, tags_end, space = _0, _0, _0, _0, _0
    row = first
    while True:
        kind, number, at = field(at, end)
        if at == _0:
            return _0, row
        if kind == 0:
            break
        if kind == _LIST and number == 4:
            inner, count, at = elements(at, end)
            if at == _0 or (count and inner != _STRUCT):
                return _0, row
            row = first
            for _ in range(count):
                at, row = _segments(at, end, origin, streams, row)
                if at == _0:
                    return _0, row
            continue
        value, at = at, skip(at, end, kind, _ELEMENT_DEPTH)
        if at == _0 or (kind == _STRUCT and number == 5):
            return _0, row
        if kind == _BINARY and number == 1:
            ident, ident_end = binary(value, end)
        elif kind == _BINARY and number == 2:
            space = value
        elif kind == _BINARY and number == 3:
            tags, tags_end = binary(value, end)
    if _0 in (ident, tags, space):
        return _0, row
    if n < len(rows):
        one = rows[n]
        one.id_at, one.id_size = ident - origin, ident_end - ident
        one.tags_at, one.tags_size = tags - origin, tags_end - tags
        one.streams = row
    return at, row


@njit(cache=True, nogil=True)
def _result(at, end, origin, rows, streams):
    """Reads a FetchTaggedResult: ``(position behind it, elements, streams, exhaustive)``."""
    count, row, exhaustive = np.int64(-1), np.int64(0), np.int64(-1)
    while True:
        kind, number, at = field(at, end)
        if at == _0:
            return _0, count, row, exhaustive
        if kind == 0:
            break
        if kind == _LIST and number == 1:
            inner, count, at = elements(at, end)
            if at == _0 or (count and inner != _STRUCT):
                return _0, count, row, exhaustive
            row = np.int64(0)
            for n in range(count):
                at, row = _element(at, end, origin, rows, n, streams, row)
                if at == _0:
                    return _0, count, row, exhaustive
            continue
        if kind == _BOOL and number == 2 and at < end:
            exhaustive = np.int64(load8(at) == 1)
        at = skip(at, end, kind, _RESULT_DEPTH)
        if at == _0:
            return _0, count, row, exhaustive
    return at if count >= 0 and exhaustive >= 0 else _0, count, row, exhaustive


@njit(cache=True, nogil=True)
def scan(data, size, rows, streams):
    """Reads the first ``size`` bytes of ``data`` as what ``fetchTagged`` answers when it succeeds.

    Returns ``(elements, streams, exhaustive)``, or -1 for all where the bytes are bad or an error. If there are more than rows for them,
    those that fit are filled, and the caller reads again with more.
    """
    origin = base(data)
    at, end = origin, origin + np.uint64(size)
    bad = np.int64(-1)
    found, count, row, exhaustive = False, np.int64(0), np.int64(0), np.int64(0)
    while True:
        kind, number, at = field(at, end)
        if at == _0:
            return bad, bad, bad
        if kind == 0:
            break
        if kind == _STRUCT and number == 0:
            at, count, row, exhaustive = _result(at, end, origin, rows, streams)
            found = True
        elif kind == _STRUCT and number == 1:
            return bad, bad, bad
        else:
            at = skip(at, end, kind, 0)
        if at == _0:
            return bad, bad, bad
    if not found or at != end:
        return bad, bad, bad
    return count, row, exhaustive


@njit(cache=True, nogil=True)
def _adler32(a, b, at, size):
    """Adler-32 of some bytes, from and to its two halves."""
    end = at + size
    while at < end:
        stop = min(at + np.uint64(5552), end)
        while at < stop:
            a += load8(at)
            b += a
            at += np.uint64(1)
        a %= np.uint64(65521)
        b %= np.uint64(65521)
    return a, b


@njit(cache=True, nogil=True)
def join(data, streams, arena, at):
    """Copies head and tail of each stream to ``arena[at[i]:]``. Returns the first whose checksum is wrong, or -1."""
    origin, to = base(data), base(arena)
    for i in range(len(streams)):
        one = streams[i]
        head, tail = origin + np.uint64(one.head_at), origin + np.uint64(one.tail_at)
        head_size, tail_size = np.uint64(one.head_size), np.uint64(one.tail_size)
        copy_short(to + np.uint64(at[i]), head, head_size)
        copy_short(to + np.uint64(at[i]) + head_size, tail, tail_size)
        if one.flags & HAS_CHECKSUM:
            a, b = _adler32(np.uint64(1), _0, to + np.uint64(at[i]), head_size + tail_size)
            if np.int64((b << np.uint64(16)) | a) != one.checksum:
                return i
    return -1


def warm() -> None:
    """Compiles what is called from plain code."""
    data = np.zeros(PADDING, np.uint8)
    rows, streams = np.zeros(1, ELEMENT), np.zeros(1, STREAM)
    scan(data, 1, rows, streams)
    join(data, streams, data.copy(), np.zeros(1, np.int64))

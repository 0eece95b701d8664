# mypy: ignore-errors
"""The compiled reader of answers to ``aggregateRaw``: bytes → rows of names and values of tags.

The authority is ``m3db.thrift.plain`` with ``AGGREGATE_QUERY_RAW_RESULT``; here as there a field that occurs again replaces the one before.
"""

import numpy as np
from numba import njit

from m3db.thrift.kernels import binary, elements, field, skip
from m3db.thrift.schema import Kind
from m3x.kernels import base, load8

__all__ = ["NAME", "VALUE", "scan", "warm"]

NAME = np.dtype([("at", "<i8"), ("size", "<i8"), ("values", "<i8")])
"""The name of a tag: where it is in the answer; the row behind its last value."""
VALUE = np.dtype([("at", "<i8"), ("size", "<i8")])

_0 = np.uint64(0)
_BOOL, _BINARY, _STRUCT, _LIST = (np.int64(kind) for kind in (Kind.BOOL, Kind.BINARY, Kind.STRUCT, Kind.LIST))
_RESULT_DEPTH, _NAME_DEPTH, _VALUE_DEPTH = 1, 3, 5
"""How deep the structs are in each other, lists counted."""


@njit(cache=True, nogil=True)
def _value(at, end, origin, values, row):
    """Reads a value into a row, if there is one; the position behind it."""
    start, stop = _0, _0
    while True:
        kind, number, at = field(at, end)
        if at == _0:
            return _0
        if kind == 0:
            break
        content, at = at, skip(at, end, kind, _VALUE_DEPTH)
        if at == _0:
            return _0
        if kind == _BINARY and number == 1:
            start, stop = binary(content, end)
    if start == _0:
        return _0
    if row < len(values):
        values[row].at, values[row].size = start - origin, stop - start
    return at


@njit(cache=True, nogil=True)
def _name(at, end, origin, names, n, values, first):
    """Reads a name with its values: ``(position behind it, row behind its values)``."""
    start, stop = _0, _0
    row = first
    while True:
        kind, number, at = field(at, end)
        if at == _0:
            return _0, row
        if kind == 0:
            break
        if kind == _LIST and number == 2:
            inner, count, at = elements(at, end)
            if at == _0 or (count and inner != _STRUCT):
                return _0, row
            row = first + count
            for k in range(count):
                at = _value(at, end, origin, values, first + k)
                if at == _0:
                    return _0, row
            continue
        content, at = at, skip(at, end, kind, _NAME_DEPTH)
        if at == _0:
            return _0, row
        if kind == _BINARY and number == 1:
            start, stop = binary(content, end)
    if start == _0:
        return _0, row
    if n < len(names):
        names[n].at, names[n].size, names[n].values = start - origin, stop - start, row
    return at, row


@njit(cache=True, nogil=True)
def _result(at, end, origin, names, values):
    """Reads an AggregateQueryRawResult: ``(position behind it, names, values, exhaustive)``."""
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
                at, row = _name(at, end, origin, names, n, values, row)
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
def scan(data, size, names, values):
    """Reads the first ``size`` bytes of ``data`` as what ``aggregateRaw`` answers when it succeeds.

    Returns ``(names, values, exhaustive)``, or -1 for all where the bytes are bad or an error. If there are more than rows for them, those
    that fit are filled, and the caller reads again with more.
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
            at, count, row, exhaustive = _result(at, end, origin, names, values)
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


def warm() -> None:
    """Compiles what is called from plain code."""
    scan(np.zeros(1, np.uint8), 1, np.zeros(1, NAME), np.zeros(1, VALUE))

"""Answers of nodes as rows, by the compiled readers; what is wrong with one, by the plain codec."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m3db.errors import M3DBError, ThriftError
from m3db.thrift import Method

__all__ = ["Scan", "bytes_of", "rows_of"]

Scan = Callable[[NDArray[np.uint8], int, NDArray[Any], NDArray[Any]], tuple[int, int, int]]
"""Fills rows and what belongs to them: how many there are of both, and whether these are all; -1 for bytes that are no result."""

_EXPLAINED_BYTES = 1 << 20
"""Answers up to here, if they are bad, are read again by the plain codec, which knows what is wrong."""


def bytes_of(body: bytes) -> NDArray[np.uint8]:
    """A copy of an answer; writable, as kernels are compiled for."""
    return np.frombuffer(bytearray(body or bytes(1)), np.uint8)


def rows_of(
    method: Method, scan: Scan, outer: np.dtype[Any], inner: np.dtype[Any], body: bytes, data: NDArray[np.uint8]
) -> tuple[NDArray[Any], NDArray[Any], bool]:
    """The rows of an answer, whose ``bytes_of`` are ``data``, and whether it is exhaustive. Raises ``NodeError`` where it is an error,
    ``ThriftError`` where its bytes are bad."""
    room = len(body) // 128 + 16
    rows, parts = np.empty(room, outer), np.empty(room, inner)
    while True:
        count, found, exhaustive = map(int, scan(data, len(body), rows, parts))
        if count < 0:
            raise _error(method, body)
        if count <= len(rows) and found <= len(parts):
            return rows[:count], parts[:found], bool(exhaustive)
        rows, parts = np.empty(count, outer), np.empty(found, inner)


def _error(method: Method, body: bytes) -> M3DBError:
    if len(body) <= _EXPLAINED_BYTES:
        try:
            method.outcome(body)
        except M3DBError as error:
            return error
    return ThriftError(f"cannot read the {len(body)} bytes that {method.name} has answered")

"""Answers to ``fetchTagged`` as columns: no object for a series, a stream or a point (docs/m3/m3db_reading.md, tagged reads)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m3db.errors import M3DBError
from m3db.m3tsz import PADDING, Points, StreamEnd, StreamError, decode
from m3db.read import fetch_kernels as kernels
from m3db.read.answers import bytes_of, rows_of
from m3db.thrift import METHODS

__all__ = ["MAX_POINTS", "ChecksumError", "TaggedAnswer", "read_answer", "request_body"]

MAX_POINTS = 1 << 25
"""Of one answer; a point takes 17 bytes."""
_METHOD = METHODS["fetchTagged"]


class ChecksumError(M3DBError):
    """A stream whose bytes are not those that the node has sent a checksum of."""


@dataclass(frozen=True, slots=True)
class TaggedAnswer:
    """What a node found. A series is a row of ``elements``, one of its streams a row of ``streams``, in the order of the answer."""

    body: NDArray[np.uint8]
    """The bytes in which ids and tags are."""
    elements: NDArray[Any]
    """``fetch_kernels.ELEMENT``."""
    streams: NDArray[Any]
    """``fetch_kernels.STREAM``."""
    arena: NDArray[np.uint8]
    """The streams one behind the other: for annotations."""
    points: Points
    exhaustive: bool
    """Whether these are all series that match."""

    def __len__(self) -> int:
        """The number of series."""
        return len(self.elements)

    def ident(self, series: int) -> bytes:
        """The id of a series."""
        return self._bytes(self.elements[series]["id_at"], self.elements[series]["id_size"])

    def tags(self, series: int) -> bytes:
        """Its encoded tags."""
        return self._bytes(self.elements[series]["tags_at"], self.elements[series]["tags_size"])

    def _bytes(self, at: int, size: int) -> bytes:
        return self.body[at : at + size].tobytes()


def request_body(
    namespace: bytes,
    query: bytes,
    start_ns: int,
    end_ns: int,
    *,
    series_limit: int = 0,
    docs_limit: int = 0,
    require_exhaustive: bool = True,
    fetch_data: bool = True,
) -> bytes:
    """The arguments of a call, as the coordinator writes them; a limit of 0 is none."""
    request = {
        "nameSpace": namespace,
        "query": query,
        "rangeStart": start_ns,
        "rangeEnd": end_ns,
        "fetchData": fetch_data,
        "requireExhaustive": require_exhaustive,
    }
    if series_limit:
        request["seriesLimit"] = series_limit
    if docs_limit:
        request["docsLimit"] = docs_limit
    return _METHOD.body(request)


def read_answer(body: bytes, *, max_points: int = MAX_POINTS) -> TaggedAnswer:
    """The answer of one node, all streams decoded; may run beside the event loop. A stream of no bytes has no points.

    Raises ``NodeError`` where it is an error, ``ThriftError``, ``ChecksumError``, ``StreamError`` where its bytes are bad, and
    ``TooManyPointsError``.
    """
    data = bytes_of(body)
    elements, streams, exhaustive = rows_of(_METHOD, kernels.scan, kernels.ELEMENT, kernels.STREAM, body, data)
    size = streams["head_size"] + streams["tail_size"]
    at = np.cumsum(size) - size
    arena = np.empty(int(size.sum()) + PADDING, np.uint8)
    arena[-PADDING:] = 0
    wrong = int(kernels.join(data, streams, arena, at))
    if wrong >= 0:
        raise ChecksumError(f"stream {wrong} of {len(streams)} does not have the checksum that was sent with it")
    points = decode(arena, at, size, most=max_points)
    bad = points.ends[(size > 0) & (points.ends != StreamEnd.MARKER)]
    if len(bad):
        raise StreamError(StreamEnd(int(bad[0])))
    return TaggedAnswer(data, elements, streams, arena, points, exhaustive)

"""Rows → the frames of ``writeTaggedBatchRaw`` calls (docs/m3/m3db_wire.md, batch write), checksums left out.

The same frames can go to several nodes: ``Connection.send`` takes them as they are, if the connections share one ``MessageIds``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from m3db.tchannel.calls import Call
from m3db.tchannel.frames import MAX_FRAME_BYTES
from m3db.thrift import METHODS
from m3db.write import request_kernels as kernels
from m3db.write.rows import WriteRows

__all__ = ["MOST_ELEMENTS", "WRITE", "Calls", "encode_calls"]

WRITE = METHODS["writeTaggedBatchRaw"]
MOST_ELEMENTS = 512
"""Of a call. M3's client has 128; with 512 a node needs a seventh less CPU for a value, with 2048 no less."""

_WHOLE: tuple[Literal["C"], Literal["W"]] = ("C", "W")
_CONTINUATION_BYTES = 20
_LONGEST_NAMESPACE = 4096
_ENDS = 2
"""Bytes that end the structs around the list of elements."""


@dataclass(slots=True, eq=False)
class Calls:
    """Frames of calls whose message ids count from ``first_id``; the k-th is ``frames[at[k]:at[k + 1]]``."""

    frames: memoryview = field(repr=False)
    """All of them, ready to be sent."""
    first_id: int
    at: NDArray[np.int64]
    rows: NDArray[np.int64]
    """The rows of the batch that the elements are, call by call."""
    row_at: NDArray[np.int64]
    """The k-th call has the elements ``rows[row_at[k]:row_at[k + 1]]``."""

    def __len__(self) -> int:
        return len(self.at) - 1

    def rows_of(self, calls: Sequence[int]) -> NDArray[np.int64]:
        """The row of each element of some calls, one call after the other."""
        if _consecutive(calls):
            return self.rows[self.row_at[calls[0]] : self.row_at[calls[-1] + 1]]
        return np.concatenate([self.rows[self.row_at[call] : self.row_at[call + 1]] for call in calls])

    def size_of(self, calls: Sequence[int]) -> int:
        """Bytes of the frames of some calls."""
        if _consecutive(calls):
            return int(self.at[calls[-1] + 1] - self.at[calls[0]])
        return sum(int(self.at[call + 1] - self.at[call]) for call in calls)


def _consecutive(calls: Sequence[int]) -> bool:
    return calls[-1] - calls[0] == len(calls) - 1 and (
        len(calls) == 1 or list(calls) == list(range(calls[0], calls[-1] + 1))
    )


def encode_calls(
    rows: WriteRows,
    picked: NDArray[np.int64] | None,
    reserve: Callable[[int], int],
    ttl_ms: int,
    *,
    most_elements: int = MOST_ELEMENTS,
) -> Calls:
    """The calls that write the rows ``picked`` (None: all), one namespace a call.

    ``reserve``: how many calls → the first of as many message ids in a row. ``ttl_ms``: at least 1. Raises ``ValueError`` for rows whose
    series has no form, for indices of nothing, and for namespaces with impossible names.
    """
    order = np.arange(len(rows), dtype=np.int64) if picked is None else np.require(picked, np.int64, _WHOLE)
    # As the kernels were compiled for them: nothing is copied of columns that are whole and writable.
    series, timestamp = np.require(rows.series, np.uint32, _WHOLE), np.require(rows.timestamp, np.int64, _WHOLE)
    namespace, annotation = (np.require(column, np.uint16, _WHOLE) for column in (rows.namespace, rows.annotation))
    time_type, values = np.require(rows.time_type, np.uint8, _WHOLE), np.require(rows.values, np.float64, _WHOLE)
    texts, text_at, text_size = _packed(rows.annotations)
    forms = rows.forms
    nbytes = kernels.measure(
        order, series, namespace, time_type, annotation, forms.entries, text_size, len(rows.namespaces)
    )
    if nbytes < 0:
        unknown = "an index of no namespace or annotation" if nbytes == kernels.NO_SUCH else "a series without form"
        raise ValueError(f"a row with {unknown}")
    order, count = _grouped(rows, order, most_elements)
    head, head_at, head_size, content_at = _heads(rows.namespaces, ttl_ms)
    nbytes += count * (int(head_size.max()) + _ENDS)
    # Of each frame that is full all but its beginning is content; the others are the last of their calls.
    nbytes += _CONTINUATION_BYTES * (nbytes // (MAX_FRAME_BYTES - _CONTINUATION_BYTES) + count + 1)
    out = np.empty(nbytes, np.uint8)
    at, row_at = np.empty(count + 1, np.int64), np.empty(count + 1, np.int64)
    first_id = reserve(count)
    written = kernels.encode(
        order, series, namespace, timestamp, time_type, values, annotation,
        forms.entries, forms.arena, texts, text_at, text_size, head, head_at, head_size,
        content_at, most_elements, first_id, out, at, row_at,
    )  # fmt: skip
    assert written == count
    return Calls(out[: at[-1]].data, first_id, at, order, row_at)


def _grouped(rows: WriteRows, order: NDArray[np.int64], most: int) -> tuple[NDArray[np.int64], int]:
    """The rows with those of each namespace together, in their order, and how many calls they need."""
    if len(rows.namespaces) == 1:
        return order, -(-len(order) // most)
    namespace = rows.namespace[order]
    counts = np.bincount(namespace, minlength=len(rows.namespaces))
    if np.count_nonzero(counts) > 1:
        order = order[np.argsort(namespace, kind="stable")]
    return order, int((-(-counts // most)).sum())


@lru_cache(maxsize=16)
def _heads(
    namespaces: tuple[bytes, ...], ttl_ms: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64], int]:
    """What stands before the elements of a call, for each namespace, and where in it the struct of the arguments begins."""
    if ttl_ms < 1:
        raise ValueError(f"a time to live of {ttl_ms} ms: nodes would never answer")
    empty = Call(0, WRITE.name.encode(), b"", ttl_ms).frames()
    heads = []
    for namespace in namespaces:
        if not 0 < len(namespace) <= _LONGEST_NAMESPACE:
            raise ValueError(f"a namespace of {len(namespace)} bytes, 1 to {_LONGEST_NAMESPACE} are possible")
        heads.append(empty + WRITE.body({"nameSpace": namespace, "elements": []})[:-_ENDS])
    return *_packed(heads), len(empty)


def _packed(literals: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Literals side by side, and where each stands."""
    size = np.fromiter(map(len, literals), np.int64, len(literals))
    # Writable, and never of an empty buffer, which numpy does not take.
    return np.frombuffer(bytearray(b"".join(literals) + b"\0"), np.uint8), np.cumsum(size) - size, size

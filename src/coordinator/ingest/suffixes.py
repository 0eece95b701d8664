"""Where aggregation happens inside, the suffix of a type becomes the label ``agg`` (docs/m3/coordinator.md, aggregation inside).

Aggregators put it behind the encoded tags of an id. A label ``agg`` that the series has already is kept as ``exported_agg``, as Prometheus
does with labels that are in the way; M3 loses the value.
"""

import numpy as np
from numpy.typing import NDArray

from coordinator.ingest.suffix_kernels import tags_sizes
from m3metrics.errors import IdError
from m3metrics.ids import decode_tags, encode_tags

__all__ = ["SUFFIX_LABEL", "Suffixes"]

SUFFIX_LABEL, _OTHER = b"agg", b"exported_agg"
_MOST_KNOWN = 1 << 16


class Suffixes:
    """Ids with suffixes → ids with labels, as far as it is asked for."""

    def __init__(self) -> None:
        self._known: dict[bytes, bytes] = {}

    def labelled(
        self, buf: NDArray[np.uint8], at: NDArray[np.int64], size: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """``buf[at[i]:at[i] + size[i]]`` are ids; the same with those that had a suffix behind the others."""
        sizes = np.empty(len(at), np.int64)
        if not tags_sizes(buf, at, size, sizes):
            return buf, at, size
        at, size, more = at.copy(), size.copy(), bytearray()
        for row in np.flatnonzero(sizes < size).tolist():
            begin = int(at[row])
            ident = self._labelled(buf[begin : begin + int(size[row])].tobytes(), int(sizes[row]))
            at[row], size[row] = len(buf) + len(more), len(ident)
            more += ident
        return np.concatenate([buf, np.frombuffer(more, np.uint8)]), at, size

    def _labelled(self, ident: bytes, size: int) -> bytes:
        found = self._known.get(ident)
        if found is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            found = self._known[ident] = with_label(ident[:size], ident[size:])
        return found


def with_label(ident: bytes, suffix: bytes) -> bytes:
    """The id with the suffix as a label; unchanged where it is no id."""
    try:
        tags = [(_OTHER if name == SUFFIX_LABEL else name, value) for name, value in decode_tags(ident)]
        return encode_tags(sorted([*tags, (SUFFIX_LABEL, suffix)]))
    except IdError:
        return ident

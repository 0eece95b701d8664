"""Which series of a request a shadow target gets (docs/m3/coordinator.md, forwarding), and the request that has only these.

Whether it gets a series follows from a hash of its labels, so that it gets all samples of it or none. Pure; used from threads.
"""

from dataclasses import dataclass
from typing import Any

import cramjam
import mmh3
import xxhash
from numpy.typing import NDArray

from coordinator import prompb
from coordinator.config.forwarding import ShadowConfig
from coordinator.write.options import WriteOptions, apply_map_tags
from m3x.protobuf import Field, Kind, generated, marshal, unmarshal

__all__ = ["Chosen", "Shadow"]

_REQUEST = generated("WriteRequest", Field(1, "timeseries", Kind.BYTES, repeated=True))
"""Of series that are encoded already."""
_PARTS = 10_000
"""Of which ``percent`` names some."""
_MOST_REMEMBERED = 1 << 20


@dataclass(frozen=True, slots=True)
class Chosen:
    """A request of the chosen series."""

    body: bytes
    """Compressed; empty: none was chosen."""
    kept: int
    """Series."""
    left_out: int


class Shadow:
    """The choice of one target. Sorting labels costs many times what hashing them as they are does: by that it is remembered."""

    def __init__(self, config: ShadowConfig) -> None:
        self._limit = int(config.percent * _PARTS)
        self._murmur = config.hash == "murmur3"
        self._known: dict[int, bool] = {}

    def choose(self, data: bytes, series: NDArray[Any], options: WriteOptions) -> Chosen:
        """``data``: the decompressed request; ``series``: its rows (``kernels.SERIES_ROW``); their labels are sound."""
        context = hash(options.map_tags)
        at, size = series["labels_at"].tolist(), series["labels_size"].tolist()
        rows = [
            row
            for row, (start, length) in enumerate(zip(at, size, strict=True))
            if self._takes(data[start : start + length], context, options)
        ]
        parts = [_message(data, series[row], options) for row in rows]
        request = marshal(_REQUEST, {"timeseries": parts})
        body = bytes(cramjam.snappy.compress_raw(request)) if parts else b""
        return Chosen(body, len(rows), len(series) - len(rows))

    def _takes(self, labels: bytes, context: int, options: WriteOptions) -> bool:
        key = hash(labels) ^ context
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            known = self._known[key] = self._hash(_identity(labels, options)) % _PARTS < self._limit
        return known

    def _hash(self, identity: bytes) -> int:
        if self._murmur:
            first: int = mmh3.hash64(identity, 0, True, False)[0]
            return first
        return xxhash.xxh64_intdigest(identity)


def _identity(labels: bytes, options: WriteOptions) -> bytes:
    """What M3 hashes of a series: ``a=1,b=2``, by name."""
    pairs = prompb.labels_of(labels)
    apply_map_tags(pairs, options.map_tags)
    return b",".join(name + b"=" + value for name, value in sorted(pairs, key=lambda pair: pair[0]))


def _message(data: bytes, row: Any, options: WriteOptions) -> bytes:
    """A series with the labels and the type that the headers of its request give it."""
    at = int(row["message_at"])
    message = data[at : at + int(row["message_size"])]
    if options.map_tags:
        values = unmarshal(prompb.TIME_SERIES, message)
        pairs = [(label.get("name", b""), label.get("value", b"")) for label in values.get("labels", [])]
        apply_map_tags(pairs, options.map_tags)
        values["labels"] = [{"name": name, "value": value} for name, value in pairs]
        message = marshal(prompb.TIME_SERIES, values)
    if options.prom_type is not None:
        # Of a field that is there twice the last one counts.
        message += marshal(prompb.TIME_SERIES, {"type": int(options.prom_type)})
    return message

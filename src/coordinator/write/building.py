"""Samples one by one → the columns of a request: what decoders of everything but remote write are made with.

A row has one sample. Its key are the bytes of its labels as Prometheus writes them, so that a series that comes both ways is one of the
cache. What a decoder knows of series that come again and again (their label bytes) it keeps itself, in a ``Known``.
"""

from array import array
from collections.abc import Iterable
from typing import TypeVar

import numpy as np

from coordinator.not_kept import Reason
from coordinator.write import kernels
from coordinator.write.attributes import PromType
from coordinator.write.batches import MILLISECOND_NS
from coordinator.write.decoding import Decoded
from coordinator.write.options import WriteOptions
from m3metrics.errors import IdError
from m3metrics.ids import MAX_LITERAL_BYTES, Tag
from m3x.protobuf import varint

__all__ = ["MOST_KNOWN", "Builder", "Known", "label_fields"]

MOST_KNOWN = 100_000


def label_fields(labels: Iterable[Tag]) -> bytes:
    """The label fields of a TimeSeries, sorted by name. Raises ``IdError`` for a name or value that no label may have the length of."""
    parts = []
    for name, value in sorted(labels):
        if max(len(name), len(value)) > MAX_LITERAL_BYTES:
            raise IdError(
                f"label literal is too long: nameLength={len(name)}, valueLength={len(value)}, maxLength={MAX_LITERAL_BYTES}"
            )
        inner = b"\x0a" + varint(len(name)) + name + b"\x12" + varint(len(value)) + value
        parts.append(b"\x0a" + varint(len(inner)) + inner)
    return b"".join(parts)


K = TypeVar("K")
V = TypeVar("V")


class Known(dict[K, V]):
    """What a decoder remembers between requests: forgotten altogether when it is more than ``most`` things."""

    def __init__(self, most: int = MOST_KNOWN) -> None:
        super().__init__()
        self._most = most
        self._kept = 0

    def keep(self, key: K, value: V) -> V:
        """Remembers, and returns ``value``."""
        self.weigh()
        self[key] = value
        return value

    def weigh(self) -> None:
        """One thing more is remembered, be it inside of a value."""
        self._kept += 1
        if self._kept > self._most:
            self.clear()
            self._kept = 1


class Builder:
    """Of one request. ``unit_ns``: what its times count."""

    def __init__(self, unit_ns: int = MILLISECOND_NS) -> None:
        self._unit_ns = unit_ns
        self._keys: list[bytes] = []
        self._times, self._values = array("q"), array("d")
        self._m3_types, self._prom_types = array("B"), array("B")
        self._others: dict[Reason, int] = {}
        self._points: int | None = None
        self._unread = 0
        self._last_unread = ""

    def add(self, labels: bytes, time: int, value: float, m3_type: int = 0, prom_type: int = PromType.UNKNOWN) -> None:
        """A sample. ``labels``: of ``label_fields``; ``m3_type``: field 101 of a TimeSeries; ``time`` fits into 64 bits."""
        self._keys.append(labels)
        self._times.append(time)
        self._values.append(value)
        self._m3_types.append(m3_type)
        self._prom_types.append(prom_type)

    def count_points(self, number: int) -> None:
        """So many data points come, whatever becomes of them."""
        self._points = (self._points or 0) + number

    def leave(self, reason: Reason, number: int = 1) -> None:
        """Something that is not kept, and that the sender need not hear of."""
        self._others[reason] = self._others.get(reason, 0) + number

    def refuse(self, reason: Reason, text: str, number: int = 1) -> None:
        """Something that is not kept, and whose sender is told."""
        self.leave(reason, number)
        self._unread += number
        self._last_unread = text

    def decoded(self, options: WriteOptions) -> Decoded:
        """All of it."""
        rows = len(self._keys)
        series = np.zeros(rows, kernels.SERIES_ROW)
        if rows:
            sizes = np.fromiter(map(len, self._keys), np.int64, rows)
            series["labels_at"] = np.cumsum(sizes) - sizes
            series["labels_size"] = sizes
            series["sample_from"] = np.arange(rows)
            series["samples"] = 1
            series["m3_type"] = np.frombuffer(self._m3_types, np.uint8)
            series["prom_type"] = np.frombuffer(self._prom_types, np.uint8)
            if options.prom_type is not None:
                series["prom_type"] = options.prom_type
        # Compiled code writes into no request, but wants the type of a writable array.
        buf = np.frombuffer(bytearray(b"".join(self._keys)), np.uint8)
        return Decoded(
            buf, series, np.array(self._times), np.array(self._values), self._others,
            unit_ns=self._unit_ns, unread=self._unread, last_unread=self._last_unread, points=self._points, lasting=True,
        )  # fmt: skip

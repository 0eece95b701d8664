"""Rows of a batch → the body of a remote write request (protocol 1.0: ``prometheus.WriteRequest`` in snappy's block format)."""

from typing import Any

import cramjam
import numpy as np
from numpy.typing import NDArray

from coordinator.sinks.prom_remote.encode_kernels import GROUP, group, write
from coordinator.sinks.prom_remote.labels import LabelFields
from coordinator.sinks.values import Values

__all__ = ["Encoder"]


class Encoder:
    """Keeps its working memory between requests: one for each sink. Nothing of it is in use once a method has returned."""

    def __init__(self) -> None:
        self._slots = np.zeros(16, np.int32)
        self._groups = np.zeros(8, GROUP)
        self._following = np.zeros(8, np.int32)
        self._out = np.zeros(1 << 16, np.uint8)

    def request(self, batch: Values, rows: NDArray[np.int64], labels: LabelFields) -> NDArray[np.uint8]:
        """The message of these rows, whose series ``labels`` has; good until the next call.

        One ``TimeSeries`` per series, in the order of first rows; its samples in the order of ``rows``. Times become milliseconds,
        truncated towards zero; zeros of either sign are left out; NaN keeps its bits.
        """
        count, size = self._group(batch, rows, labels.forms)
        out = self._room(size)
        ids, id_at, _ = batch.table.ids()
        write(
            batch.time_ns, batch.values, rows, labels.forms, labels.arena, labels.orders, ids, id_at,
            self._groups, count, self._following, out,
        )  # fmt: skip
        return out[:size]

    def body(self, batch: Values, rows: NDArray[np.int64], labels: LabelFields) -> bytes:
        """``request``, compressed."""
        return bytes(cramjam.snappy.compress_raw(self.request(batch, rows, labels).data))

    def _group(self, batch: Values, rows: NDArray[np.int64], entries: NDArray[Any]) -> tuple[int, int]:
        """How many series the rows have, and their bytes, where ``entries`` have the sizes of what stands before samples."""
        if len(rows) > len(self._following):
            self._groups = np.zeros(len(rows), GROUP)
            self._following = np.zeros(len(rows), np.int32)
            self._slots = np.zeros(1 << (2 * len(rows) - 1).bit_length(), np.int32)
        count, size = group(
            batch.series, batch.time_ns, batch.values, rows, entries, self._slots, self._groups, self._following
        )
        return int(count), int(size)

    def _room(self, size: int) -> NDArray[np.uint8]:
        """Memory for a request."""
        if size > len(self._out):
            self._out = np.zeros(2 * size, np.uint8)
        return self._out

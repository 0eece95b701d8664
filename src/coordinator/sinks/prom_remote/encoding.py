"""Rows of a batch → the body of a remote write request (protocol 1.0: ``prometheus.WriteRequest`` in snappy's block format)."""

import cramjam
import numpy as np
from numpy.typing import NDArray

from coordinator.sinks.prom_remote.encode_kernels import GROUP, group, write
from coordinator.sinks.prom_remote.labels import LabelFields, LabelRules
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.values import UNAGGREGATED, Values
from m3metrics.ids import encode_tags

__all__ = ["Encoder", "warm"]


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
        if len(rows) > len(self._following):
            self._groups = np.zeros(len(rows), GROUP)
            self._following = np.zeros(len(rows), np.int32)
            self._slots = np.zeros(1 << (2 * len(rows) - 1).bit_length(), np.int32)
        count, size = group(
            batch.series, batch.time_ns, batch.values, rows, labels.entries, self._slots, self._groups, self._following
        )
        if size > len(self._out):
            self._out = np.zeros(2 * size, np.uint8)
        write(
            batch.time_ns, batch.values, rows, labels.entries, labels.arena,
            self._groups, count, self._following, self._out,
        )  # fmt: skip
        return self._out[:size]

    def body(self, batch: Values, rows: NDArray[np.int64], labels: LabelFields) -> bytes:
        """``request``, compressed."""
        return bytes(cramjam.snappy.compress_raw(self.request(batch, rows, labels).data))


def warm() -> None:
    """Calls the kernels of this package with the dtypes of batches."""
    # The columns of a table's ids have gaps between them, but with a single id numpy says that they have none: both happen.
    for count in (1, 2):
        ids = [encode_tags([(b"a", b"%d" % i)]) for i in range(count)]
        size = np.array([len(one) for one in ids], np.int64)
        table = SeriesTable()
        series = table.numbers(np.frombuffer(bytearray(b"".join(ids)), np.uint8), np.cumsum(size) - size, size)
        labels = LabelFields(LabelRules())
        labels.require(table, series)
        batch = Values(
            table, series, np.zeros(count, np.int64), np.zeros(count), (UNAGGREGATED,), np.zeros(count, np.uint16)
        )
        Encoder().body(batch, np.arange(count), labels)

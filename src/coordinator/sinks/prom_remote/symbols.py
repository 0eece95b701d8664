"""Rows of a batch → the body of a request of Remote Write 2.0: texts once a request, series with the types of their metrics."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import cramjam
import numpy as np
from numpy.typing import NDArray

from coordinator.sinks.metric_types import NOTHING, Described
from coordinator.sinks.prom_remote.encoding import Encoder
from coordinator.sinks.prom_remote.labels import LabelFields, LabelRules
from coordinator.sinks.prom_remote.symbol_kernels import ENTRY, measure, spans, write_2
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.values import UNAGGREGATED, Values
from m3metrics.ids import encode_tags
from m3x.byte_table import ByteTable

__all__ = ["SymbolEncoder", "warm"]

_AT_ONCE = 1 << 14
"""Texts that are numbered in one go."""


class _Symbols:
    """The texts of the labels of one table. Only series that are asked for take memory."""

    def __init__(self) -> None:
        self.entries = np.zeros(1 << 10, ENTRY)
        """By series number: where its references are."""
        self.refs = np.zeros(1 << 12, np.int32)
        self.texts = ByteTable()
        self.texts.add([b""], [0])
        self.stamps = np.zeros(1 << 10, np.int64)
        self.local = np.zeros(1 << 10, np.int64)
        self.used = np.zeros(1 << 10, np.int64)
        self.told = np.zeros(1, np.int32)
        """The numbers of ``Described.texts``."""
        self._used = 0
        self._at, self._size = np.zeros(_AT_ONCE, np.int64), np.zeros(_AT_ONCE, np.int64)

    def require(self, labels: LabelFields, table: SeriesTable, series: NDArray[np.uint32]) -> None:
        """Makes what is missing of these series of the table."""
        if len(self.entries) < len(labels.forms):
            self.entries = _grown(self.entries, len(labels.forms))
        ids, id_at, _ = table.ids()
        for kept in (False, True) if labels.any_kept else (False,):
            row = 0
            while row < len(series):
                before = row
                row, count = spans(
                    series, row, kept, labels.forms, labels.arena, labels.orders, ids, id_at,
                    self.entries, self._used, self._at, self._size,
                )  # fmt: skip
                if count:
                    self._add(labels.arena if kept else ids, int(count))
                elif row == before:
                    # One series alone has more texts.
                    self._at, self._size = (
                        np.zeros(2 * len(self._at), np.int64),
                        np.zeros(2 * len(self._size), np.int64),
                    )
        self._keep_up()

    def tell(self, texts: Sequence[bytes]) -> None:
        """Gives those of ``Described.texts`` that are new their numbers."""
        new = texts[len(self.told) :]
        if new:
            size = np.array([len(text) for text in new], np.int64)
            buf = np.frombuffer(bytearray(b"".join(new)), np.uint8)
            numbers = self.texts.number(buf, np.cumsum(size) - size, size)
            self.told = np.concatenate((self.told, numbers.astype(np.int32)))
            self._keep_up()

    def _keep_up(self) -> None:
        if len(self.stamps) < len(self.texts):
            size = 2 * len(self.texts)
            self.stamps, self.local = _grown(self.stamps, size), _grown(self.local, size)
            self.used = _grown(self.used, size)

    def _add(self, buf: NDArray[np.uint8], count: int) -> None:
        if self._used + count > len(self.refs):
            self.refs = _grown(self.refs, max(2 * len(self.refs), self._used + count))
        numbers = self.texts.number(buf, self._at[:count], self._size[:count])
        self.refs[self._used : self._used + count] = numbers
        self._used += count


def _grown(old: NDArray[Any], size: int) -> NDArray[Any]:
    new = np.zeros(size, old.dtype)
    new[: len(old)] = old
    return new


class SymbolEncoder(Encoder):
    """Of requests of Remote Write 2.0."""

    def __init__(self) -> None:
        super().__init__()
        self._known: WeakKeyDictionary[LabelFields, _Symbols] = WeakKeyDictionary()
        self._packed = np.zeros(8, np.int32)
        self._request = 0

    def request_2(
        self, batch: Values, rows: NDArray[np.int64], labels: LabelFields, described: Described = NOTHING
    ) -> NDArray[np.uint8]:
        """As ``request``, with what is known of the metrics."""
        symbols = self._known.get(labels)
        if symbols is None:
            symbols = self._known[labels] = _Symbols()
        symbols.require(labels, batch.table, batch.series[rows])
        symbols.tell(described.texts)
        about = described.types, described.names, described.helps, described.units, symbols.told
        count, _ = self._group(batch, rows, symbols.entries)
        if len(self._packed) < len(rows):
            self._packed = np.zeros(len(rows), np.int32)
        self._request += 1
        arena, at, size = symbols.texts.ranges()
        total, texts = measure(
            symbols.entries, symbols.refs, about, self._groups, count, size,
            symbols.stamps, symbols.local, self._request, symbols.used, self._packed,
        )  # fmt: skip
        out = self._room(int(total))
        write_2(
            batch.time_ns, batch.values, rows, symbols.entries, symbols.refs, about, self._groups, count, self._following,
            arena, at, size, symbols.local, symbols.used, texts, self._packed, out,
        )  # fmt: skip
        return out[:total]

    def body_2(
        self, batch: Values, rows: NDArray[np.int64], labels: LabelFields, described: Described = NOTHING
    ) -> bytes:
        """``request_2``, compressed."""
        return bytes(cramjam.snappy.compress_raw(self.request_2(batch, rows, labels, described).data))


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
        labels.rows_of(b"", table, series)
        batch = Values(
            table, series, np.zeros(count, np.int64), np.zeros(count), (UNAGGREGATED,), np.zeros(count, np.uint16)
        )
        encoder = SymbolEncoder()
        encoder.body(batch, np.arange(count), labels)
        encoder.body_2(batch, np.arange(count), labels)

"""Samples for stores, from a write process to the main process, which has the stores.

A batch is a record as queues have it (``coordinator.sinks.records``): columns, and the ids of series that have not been on the way before.
So that both ends count series alike, what comes over a link is one *segment*; a write process begins another one where its table of series
or that of the stores is a new one. A call begins with the number of its segment (u32, little endian).
"""

import struct

import msgspec
import numpy as np

from coordinator.not_kept import Reason
from coordinator.sinks import SeriesTable, Values
from coordinator.sinks.records import Encoder, Interner, decode
from coordinator.write.direct import DirectWriteError, HubDirectStore, RefusedSample, Writable
from coordinator.writers.link import Link, LinkError
from coordinator.writers.told import DIRECT, DirectAnswer, Stored

__all__ = ["HandedStore", "Taker"]

_SEGMENT = struct.Struct("<I")
_MOST_SERIES = 5_000_000
_MOST_TABLE_BYTES = 2 << 30
"""A table with more is left, as the stores leave theirs; shared out."""
_MOST_ROWS = 1 << 20
_decode_answer = msgspec.msgpack.Decoder(DirectAnswer).decode


class HandedStore(Writable):
    """A ``DirectStore`` whose samples the main process stores. ``parts``: how many processes share its limits."""

    def __init__(self, link: Link, parts: int) -> None:
        super().__init__(())
        self._link = link
        self._parts = parts
        self._table = SeriesTable()
        self._encoder = Encoder()
        self._segment = 0
        self._begin()

    def _begin(self) -> None:
        self._segment += 1
        self._encoder.begin_segment()

    @property
    def table(self) -> SeriesTable:
        """See ``DirectStore``."""
        table = self._table
        if len(table) >= _MOST_SERIES // self._parts or table.size_bytes >= _MOST_TABLE_BYTES // self._parts:
            self._table = SeriesTable()
            self._begin()
        return self._table

    async def write(self, batch: Values, *, patient: bool = False) -> list[RefusedSample]:
        """See ``DirectStore``; nobody is patient here, as that is for carbon. Of many rows some may be safe when the others fail."""
        refused: list[RefusedSample] = []
        for begin in range(0, len(batch), _MOST_ROWS):
            piece = batch
            if len(batch) > _MOST_ROWS:
                piece = batch.rows(np.arange(begin, min(begin + _MOST_ROWS, len(batch))))
            answer = await self._handed(piece)
            if answer.failed:
                raise DirectWriteError(answer.failed)
            refused += [RefusedSample(begin + one.row, Reason(one.reason), one.text) for one in answer.refused]
        return refused

    async def _handed(self, batch: Values) -> DirectAnswer:
        while True:
            segment = self._segment
            parts = [_SEGMENT.pack(segment), *map(bytes, self._encoder.encode(batch, 0, 0))]
            try:
                answer = _decode_answer(await self._link.ask(DIRECT, b"".join(parts)))
            except LinkError as error:
                raise DirectWriteError(f"the main process of this coordinator: {error}") from error
            if not answer.again:
                return answer
            if segment == self._segment:
                self._begin()


class Taker:
    """The main process's end, of one link. ``store``: where samples go."""

    def __init__(self, store: HubDirectStore) -> None:
        self._store = store
        self._segment = 0
        self._table: SeriesTable | None = None
        self._interner: Interner | None = None

    async def take(self, body: bytes) -> bytes:
        """Answers a call when storage has the samples, or does not take them."""
        return msgspec.msgpack.encode(await self._take(body))

    async def _take(self, body: bytes) -> DirectAnswer:
        (segment,) = _SEGMENT.unpack_from(body)
        table = self._store.table
        if segment != self._segment:
            self._segment, self._table, self._interner = segment, table, Interner(table)
        assert self._interner is not None
        if table is not self._table:
            return DirectAnswer(again=True)
        # In the order of the calls, before anything is waited for: what a record defines the next ones use.
        values = self._interner.values(decode(memoryview(body)[_SEGMENT.size :]))
        try:
            refused = await self._store.write(values)
        except DirectWriteError as error:
            return DirectAnswer(failed=str(error))
        return DirectAnswer(refused=[Stored(one.row, one.reason, one.text) for one in refused])

"""Direct writes that are more than a record of a queue holds."""

from pathlib import Path

import numpy as np
import pytest

from coordinator.config import Namespace
from coordinator.not_kept import Reason
from coordinator.sinks import Delivered, Destination, QueuedSink, QueueOptions, Refused, RefusedWhy, Values, open_hub
from coordinator.write import direct
from coordinator.write.direct import HubDirectStore, RefusedSample, one_destination
from m3metrics.ids import encode_tags
from m3x.instrument import Registry


class Picky:
    """Refuses negative values; remembers how many rows it was given at a time."""

    name, ordered, lanes, batch_rows = "picky", True, 1, 1000

    def __init__(self) -> None:
        self.values: list[float] = []

    def takes(self, destination: Destination) -> bool:
        return True

    async def deliver(self, batch: Values, *, again: bool) -> Delivered:
        self.values += batch.values.tolist()
        rows = np.flatnonzero(batch.values < 0)
        return Delivered([Refused(RefusedWhy.BAD_REQUEST, rows, "negative")] if len(rows) else [])

    async def close(self) -> None:
        pass


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(direct, "_MOST_ROWS", 10)
    return 10


async def test_a_large_batch_is_written_in_pieces_and_refusals_keep_their_rows(tmp_path: Path, pieces: int) -> None:
    sink = Picky()
    async with open_hub([QueuedSink(sink, QueueOptions())], tmp_path, Registry().scope("sink")) as hub:
        store = HubDirectStore(hub, [Namespace("raw", 0, 10**12)], 20.0)
        table = store.table
        values = np.arange(2 * pieces + 5, dtype=np.float64)
        values[[3, 2 * pieces + 1]] = -1.0
        series = np.full(len(values), table.number(encode_tags([(b"__name__", b"up")])), np.uint32)
        batch = one_destination(table, series, np.arange(len(values)) * 10**9, values, None)
        refused = await store.write(batch)
    assert refused == [RefusedSample(row, Reason.REFUSED_BY_STORE, "negative") for row in (3, 2 * pieces + 1)]
    assert sink.values == values.tolist()

"""Batches for the tests of sinks, from rows and back to rows; and a sink to give them to."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from coordinator.sinks.annotations import Annotations
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.sink import Delivered
from coordinator.sinks.values import Destination, Values
from m3metrics.policy import StoragePolicy

SHORT = Destination.of(StoragePolicy.parse("10s:2d"))
LONG = Destination.of(StoragePolicy.parse("1m@1s:40d"))


class Row(NamedTuple):
    """A value as a test writes it."""

    id: bytes
    time_ns: int
    value: float = 1.0
    destination: Destination = SHORT
    annotation: bytes = b""


def batch_of(table: SeriesTable, rows: Sequence[Row]) -> Values:
    """The rows in columns."""
    sizes = np.array([len(row.id) for row in rows], np.int64)
    buf = np.frombuffer(bytearray(b"".join(row.id for row in rows)) or bytearray(1), np.uint8)
    destinations = tuple(dict.fromkeys(row.destination for row in rows))
    texts = tuple(dict.fromkeys([b"", *(row.annotation for row in rows)]))
    annotations = Annotations(texts, np.array([texts.index(row.annotation) for row in rows], np.uint32))
    return Values(
        table=table,
        series=table.numbers(buf, np.cumsum(sizes) - sizes, sizes),
        time_ns=np.array([row.time_ns for row in rows], np.int64),
        values=np.array([row.value for row in rows], np.float64),
        destinations=destinations,
        destination=np.array([destinations.index(row.destination) for row in rows], np.uint16),
        annotations=annotations if len(texts) > 1 else None,
    )


def rows_of(values: Values) -> list[Row]:
    """And back."""
    annotations = values.annotations
    return [
        Row(
            values.table.id(int(values.series[i])),
            int(values.time_ns[i]),
            float(values.values[i]),
            values.destinations[values.destination[i]],
            b"" if annotations is None else annotations.texts[annotations.column[i]],
        )
        for i in range(len(values))
    ]


class RecordingSink:
    """Keeps what it is given; ``verdict`` says what becomes of a batch (an exception is raised)."""

    def __init__(self, name: str = "recording", *, ordered: bool = True, lanes: int = 2, batch_rows: int = 100) -> None:
        self.name = name
        self.ordered = ordered
        self.lanes = lanes
        self.batch_rows = batch_rows
        self.gather_s = 0.0
        self.destinations: set[Destination] | None = None
        self.verdict: Callable[[Values], Delivered | Exception] = lambda _: Delivered()
        self.open = asyncio.Event()
        """Nothing is answered while it is not set."""
        self.open.set()
        self.calls: list[tuple[list[Row], bool]] = []
        self.rows: list[Row] = []
        """Of the calls that did not fail."""
        self.closed = False

    def takes(self, destination: Destination) -> bool:
        """See ``Sink``."""
        return self.destinations is None or destination in self.destinations

    async def deliver(self, batch: Values, *, again: bool) -> Delivered:
        """See ``Sink``."""
        self.calls.append((rows_of(batch), again))
        await self.open.wait()
        verdict = self.verdict(batch)
        if isinstance(verdict, Exception):
            raise verdict
        self.rows += rows_of(batch)
        return verdict

    async def close(self) -> None:
        """See ``Sink``."""
        self.closed = True

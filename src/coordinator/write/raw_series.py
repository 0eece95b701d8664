"""Series of remote writes → numbers for the stores behind the queues, where samples are kept as they come.

What was seen before is found by the bytes of its labels, as in the series cache; only new series cost Python.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.sinks import SeriesTable
from coordinator.sinks.annotations import Annotations
from m3x.byte_table import ByteTable

__all__ = ["DROPPED", "INVALID", "Found", "RawSeries"]

DROPPED = -1
"""Instead of a number: a rule keeps the series out of the unaggregated namespace."""
INVALID = -2
"""Instead of a number: its labels cannot be stored."""
_CODES = 2
_MAX_SERIES = 5_000_000
_ANNOTATION_BIT = 32
"""A value of the table has the number and its code below this bit, and which annotation the series has above."""


@dataclass(slots=True)
class Found:
    """What is known of the series of a request, one row for each."""

    numbers: NDArray[np.int64]
    """Of the table, or ``DROPPED`` or ``INVALID``."""
    annotations: Annotations | None
    """Of their samples; None: no series has any."""

    def annotations_of(self, samples: NDArray[np.int64], kept: NDArray[np.bool_]) -> Annotations | None:
        """Of the samples that are ``kept``; ``samples``: how many each series has."""
        if self.annotations is None:
            return None
        return self.annotations.rows(np.repeat(np.arange(len(samples)), samples)[kept])


class RawSeries:
    """Remembers numbers and annotations of one ``SeriesTable`` and one generation of rules; of others it knows nothing."""

    def __init__(self) -> None:
        self._table: SeriesTable | None = None
        self._generation = -1
        self._forget()

    def _forget(self) -> None:
        self._known = ByteTable()
        self._annotations: tuple[bytes, ...] = (b"",)

    def numbers(
        self,
        table: SeriesTable,
        generation: int,
        buf: NDArray[np.uint8],
        at: NDArray[np.int64],
        size: NDArray[np.int64],
        contexts: NDArray[np.uint64],
        prepare: Callable[[int], tuple[bytes, bytes] | int],
    ) -> Found:
        """What is known of each series, whose labels are ``buf[at[i]:at[i] + size[i]]``.

        ``prepare`` tells encoded tags and annotation of row ``i``, or ``DROPPED`` or ``INVALID``; what is invalid is asked about again
        each time.
        """
        if table is not self._table or generation != self._generation or len(self._known) > _MAX_SERIES:
            self._forget()
            self._table, self._generation = table, generation
        found, unknown = self._known.find(buf, at, size, contexts)
        if unknown:
            self._add(table, buf, at, size, contexts, found, prepare)
        if len(self._annotations) == 1:
            return Found(found - _CODES, None)
        column = (found >> _ANNOTATION_BIT).astype(np.uint32)
        return Found((found & ((1 << _ANNOTATION_BIT) - 1)) - _CODES, Annotations(self._annotations, column))

    def _add(
        self,
        table: SeriesTable,
        buf: NDArray[np.uint8],
        at: NDArray[np.int64],
        size: NDArray[np.int64],
        contexts: NDArray[np.uint64],
        found: NDArray[np.int64],
        prepare: Callable[[int], tuple[bytes, bytes] | int],
    ) -> None:
        """Fills in what is missing in ``found``, and remembers it."""
        fresh: dict[tuple[bytes, int], int] = {}
        for row in np.flatnonzero(found < 0).tolist():
            key = (buf[at[row] : at[row] + size[row]].tobytes(), int(contexts[row]))
            known = fresh.get(key)
            if known is None:
                made = prepare(row)
                if isinstance(made, int):
                    known = made + _CODES
                else:
                    known = table.number(made[0]) + _CODES | self._annotation(made[1]) << _ANNOTATION_BIT
                if made != INVALID:
                    fresh[key] = known
            found[row] = known
        if fresh:
            self._known.add(
                [labels for labels, _ in fresh],
                list(fresh.values()),
                np.array([context for _, context in fresh], np.uint64),
            )

    def _annotation(self, text: bytes) -> int:
        """The number of an annotation; there are as many as there are combinations of types."""
        if text not in self._annotations:
            self._annotations += (text,)
        return self._annotations.index(text)

"""Series of remote writes → numbers for the stores behind the queues, where samples are kept as they come.

What was seen before is found by the bytes of its labels, as in the series cache; only new series cost Python.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from coordinator.sinks import SeriesTable
from m3x.byte_table import ByteTable

__all__ = ["DROPPED", "INVALID", "RawSeries"]

DROPPED = -1
"""Instead of a number: a rule keeps the series out of the unaggregated namespace."""
INVALID = -2
"""Instead of a number: its labels cannot be stored."""
_CODES = 2
_MAX_SERIES = 5_000_000


class RawSeries:
    """Remembers numbers of one ``SeriesTable`` and one generation of rules; of others it knows nothing."""

    def __init__(self) -> None:
        self._known = ByteTable()
        self._table: SeriesTable | None = None
        self._generation = -1

    def numbers(
        self,
        table: SeriesTable,
        generation: int,
        buf: NDArray[np.uint8],
        at: NDArray[np.int64],
        size: NDArray[np.int64],
        contexts: NDArray[np.uint64],
        prepare: Callable[[int], bytes | int],
    ) -> NDArray[np.int64]:
        """A number of ``table``, ``DROPPED`` or ``INVALID`` for each series, whose labels are ``buf[at[i]:at[i] + size[i]]``.

        ``prepare`` tells the encoded tags of row ``i``, or one of these two; what is invalid is asked about again each time.
        """
        if table is not self._table or generation != self._generation or len(self._known) > _MAX_SERIES:
            self._known, self._table, self._generation = ByteTable(), table, generation
        found, unknown = self._known.find(buf, at, size, contexts)
        numbers = found - _CODES
        if not unknown:
            return numbers
        fresh: dict[tuple[bytes, int], int] = {}
        for row in np.flatnonzero(found < 0).tolist():
            key = (buf[at[row] : at[row] + size[row]].tobytes(), int(contexts[row]))
            number = fresh.get(key)
            if number is None:
                made = prepare(row)
                number = made if isinstance(made, int) else table.number(made)
                if number != INVALID:
                    fresh[key] = number
            numbers[row] = number
        if fresh:
            self._known.add(
                [labels for labels, _ in fresh],
                np.array(list(fresh.values()), np.int64) + _CODES,
                np.array([context for _, context in fresh], np.uint64),
            )
        return numbers

"""Values to be written, in columns."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from m3db.write.forms import SeriesForms

__all__ = ["WriteRows"]


@dataclass(eq=False)
class WriteRows:
    """Columns, one row per value; the series of all of them have a form."""

    forms: SeriesForms
    series: NDArray[np.uint32]
    """Numbers in the table that ``forms`` is of."""
    namespaces: tuple[bytes, ...]
    namespace: NDArray[np.uint16]
    """Index of ``namespaces``."""
    timestamp: NDArray[np.int64]
    """In its unit."""
    time_type: NDArray[np.uint8]
    """The unit, a ``TimeType``."""
    values: NDArray[np.float64]
    """Any double; its bits are kept."""
    annotations: tuple[bytes, ...]
    """The first one is empty: none."""
    annotation: NDArray[np.uint16]
    """Index of ``annotations``."""

    def __len__(self) -> int:
        return len(self.series)

    @cached_property
    def shards(self) -> NDArray[np.uint32]:
        """The shard of each row."""
        return self.forms.shards[self.series]

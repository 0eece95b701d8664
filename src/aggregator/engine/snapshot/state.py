"""What of an engine is saved and loaded."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aggregator.engine.ingest.metadata import MetadataTable
from aggregator.engine.tables.layout import Tables

__all__ = ["State", "Table"]


class State(NamedTuple):
    """The parts of an engine."""

    tables: Tables
    address: np.uint64
    """``t`` of the kernels."""
    metadata: MetadataTable
    committed: NDArray[np.int64]
    owned: NDArray[np.int64]
    grow_index: Callable[[], None]


class Table(NamedTuple):
    """A piece of a table."""

    name: str
    columns: dict[str, NDArray[Any]]

"""Values in columns: what goes to a store. Pure."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from coordinator.sinks.annotations import Annotations
from coordinator.sinks.series import SeriesTable
from m3metrics.policy import UNITS, StoragePolicy

__all__ = ["UNAGGREGATED", "Destination", "TimeUnit", "Values", "milliseconds"]

_ROW_BYTES = 22
"""Memory of a row, without an annotation."""


class TimeUnit(IntEnum):
    """What a value's time is counted in where a store asks for it (M3DB); the numbers are those of records and of M3DB's time types."""

    SECONDS = 0
    MICROSECONDS = 1
    MILLISECONDS = 2
    NANOSECONDS = 3

    @classmethod
    def of(cls, precision_ns: int) -> "TimeUnit":
        """Of a policy's precision: seconds for seconds and all that is longer, nanoseconds for what is no unit."""
        if precision_ns >= UNITS["s"]:
            return cls.SECONDS if precision_ns in UNITS.values() else cls.NANOSECONDS
        return _SHORT_UNITS.get(precision_ns, cls.NANOSECONDS)

    @property
    def ns(self) -> int:
        """How long one is."""
        return _LENGTHS[self]


_LENGTHS = (UNITS["s"], UNITS["us"], UNITS["ms"], UNITS["ns"])
_SHORT_UNITS = {UNITS["ms"]: TimeUnit.MILLISECONDS, UNITS["us"]: TimeUnit.MICROSECONDS}


@dataclass(frozen=True, slots=True)
class Destination:
    """What a value says about where it belongs: its storage policy, or that it was not aggregated; and how its time is written there."""

    policy: StoragePolicy | None
    """None: a raw sample, as it came."""
    unit: TimeUnit

    @classmethod
    def of(cls, policy: StoragePolicy) -> Self:
        """Of an aggregated value: its time is written in the precision of its policy."""
        return cls(policy, TimeUnit.of(policy.precision_ns))

    @property
    def attributes(self) -> tuple[int, int]:
        """Resolution and retention in ns, the pair that M3 looks namespaces and endpoints up by; (0, 0) for raw samples."""
        return (0, 0) if self.policy is None else (self.policy.window_ns, self.policy.retention_ns)

    def __str__(self) -> str:
        return "unaggregated" if self.policy is None else str(self.policy)


UNAGGREGATED = Destination(None, TimeUnit.MILLISECONDS)
"""Samples of Prometheus."""


@dataclass(slots=True)
class Values:
    """A batch: one row per value. All columns have the same length; rows of a series are in the order in which they came."""

    table: SeriesTable
    """What ``series`` counts in."""
    series: NDArray[np.uint32]
    time_ns: NDArray[np.int64]
    values: NDArray[np.float64]
    """NaN bit patterns are kept."""
    destinations: tuple[Destination, ...]
    destination: NDArray[np.uint16]
    """Indexes into ``destinations``."""
    annotations: Annotations | None = None
    """None: no row has one."""

    def __len__(self) -> int:
        return len(self.series)

    @property
    def size_bytes(self) -> int:
        """Memory of the columns."""
        annotated = 0 if self.annotations is None else self.annotations.size_bytes
        return _ROW_BYTES * len(self.series) + annotated

    @property
    def columns(self) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.float64], NDArray[np.uint16]]:
        """For compiled code, which wants them contiguous: series, times, values, destinations."""
        return (
            np.ascontiguousarray(self.series),
            np.ascontiguousarray(self.time_ns),
            np.ascontiguousarray(self.values),
            np.ascontiguousarray(self.destination),
        )

    def rows(self, rows: NDArray[np.int64]) -> "Values":
        """Some of the rows, copied."""
        return Values(
            self.table,
            self.series[rows],
            self.time_ns[rows],
            self.values[rows],
            self.destinations,
            self.destination[rows],
            None if self.annotations is None else self.annotations.rows(rows),
        )


def milliseconds(time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Towards zero, as Go divides."""
    whole: NDArray[np.int64] = time_ns // 1_000_000
    whole[(time_ns < 0) & (whole * 1_000_000 != time_ns)] += 1
    return whole

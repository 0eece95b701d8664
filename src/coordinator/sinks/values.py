"""Values in columns: what goes to a store. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.sinks.series import SeriesTable
from m3metrics.policy import StoragePolicy

__all__ = ["UNAGGREGATED", "Destination", "Values", "milliseconds"]


@dataclass(frozen=True, slots=True)
class Destination:
    """What a value says about where it belongs: its storage policy, or that it was not aggregated."""

    policy: StoragePolicy | None
    """None: a raw sample, as it came."""

    @property
    def attributes(self) -> tuple[int, int]:
        """Resolution and retention in ns, the pair that M3 looks namespaces and endpoints up by; (0, 0) for raw samples."""
        return (0, 0) if self.policy is None else (self.policy.window_ns, self.policy.retention_ns)

    def __str__(self) -> str:
        return "unaggregated" if self.policy is None else str(self.policy)


UNAGGREGATED = Destination(None)


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

    def __len__(self) -> int:
        return len(self.series)

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
        )


def milliseconds(time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Towards zero, as Go divides."""
    whole: NDArray[np.int64] = time_ns // 1_000_000
    whole[(time_ns < 0) & (whole * 1_000_000 != time_ns)] += 1
    return whole

"""Points of series onto the grid of their resolution, and fewer of them for ``maxDataPoints``."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coordinator.query.errors import QueryError

__all__ = ["Grid", "grid_of"]

_MAX_POINTS = 50_000
_STEP_MS = 1000
"""Of what is stored as it comes."""


class Grid(NamedTuple):
    """A series as it is answered."""

    start_ms: int
    step_ms: int
    values: NDArray[np.float64]
    """NaN where there is nothing."""

    def answer(self, path: str) -> dict[str, Any]:
        """The series in M3's JSON; without points if there is no value."""
        points = [
            [value if math.isfinite(value) else None, (self.start_ms + k * self.step_ms) // 1000]
            for k, value in enumerate(self.values.tolist())
        ]
        empty = bool(np.isnan(self.values).all())
        return {"target": path, "datapoints": [] if empty else points, "step_size_ms": self.step_ms}


def grid_of(
    path: str,
    time_ms: NDArray[np.int64],
    values: NDArray[np.float64],
    resolution_ms: int,
    start_ms: int,
    end_ms: int,
    max_points: int,
) -> Grid:
    """The points of a series (ascending) in ``[start_ms, end_ms]``: each belongs to the first time of the grid at or after it.

    Of several at one time the last counts. More than ``max_points`` times are made fewer by the mean of neighbours, as Graphite does it.
    Raises ``QueryError`` if even so there are too many. The effort is that of the points, however long the range is.
    """
    step_ms = resolution_ms or _STEP_MS
    first_ms = -(-start_ms // step_ms) * step_ms
    steps = max((end_ms - first_ms) // step_ms + 1, 0)
    stride = -(-steps // max_points) or 1
    number = -(-steps // stride)
    if number > _MAX_POINTS:
        raise QueryError(
            f"{path}: {number} points of {step_ms * stride / 1000:g} s; at most {_MAX_POINTS}: ask for a shorter range, "
            "or for less with maxDataPoints"
        )
    at = -((first_ms - time_ms) // step_ms)
    # Times outside of the range, and all but the last point of a step.
    chosen = (at >= 0) & (at < steps) & np.append(at[1:] != at[:-1], True)[: len(at)] & np.isfinite(values)
    bucket, present = at[chosen] // stride, values[chosen]
    counts = np.bincount(bucket, minlength=number)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        means = np.bincount(bucket, present, minlength=number) / counts
    return Grid(first_ms, step_ms * stride, means)

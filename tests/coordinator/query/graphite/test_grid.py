"""Points on a grid, and fewer of them."""

import numpy as np
import pytest

from coordinator.query import QueryError
from coordinator.query.graphite.grid import Grid, grid_of

DAY_MS = 86_400_000


def gridded(
    points: list[tuple[int, float]], resolution_ms: int, start_ms: int, end_ms: int, most: int = 1 << 62
) -> Grid:
    times = np.array([time for time, _ in points], np.int64)
    values = np.array([value for _, value in points], np.float64)
    return grid_of("a.b", times, values, resolution_ms, start_ms, end_ms, most)


def shown(grid: Grid) -> list[float | None]:
    return [None if np.isnan(value) else value for value in grid.values.tolist()]


def test_a_point_belongs_to_the_first_time_at_or_after_it() -> None:
    grid = gridded([(10_001, 1.0), (20_000, 2.0), (20_001, 3.0), (45_000, 4.0)], 10_000, 5_000, 49_000)
    assert (grid.start_ms, grid.step_ms, shown(grid)) == (10_000, 10_000, [None, 2.0, 3.0, None])


def test_the_last_point_of_a_step_counts_whatever_it_is() -> None:
    assert shown(gridded([(11_000, 1.0), (12_000, 2.0), (21_000, 1.0), (22_000, np.nan)], 10_000, 0, 30_000)) == [
        None, None, 2.0, None,
    ]  # fmt: skip


def test_neighbours_make_a_mean_of_what_there_is() -> None:
    points = [(0, 1.0), (10_000, 2.0), (20_000, np.inf), (40_000, 7.0), (90_000, 1.0)]
    grid = gridded(points, 10_000, 0, 90_000, 4)
    assert (grid.step_ms, shown(grid)) == (30_000, [1.5, 7.0, None, 1.0])


def test_fewer_points_come_before_the_limit() -> None:
    year = [(365 * DAY_MS - 1000, 3.0)]
    grid = gridded(year, 1000, 0, 365 * DAY_MS - 1000, 1000)
    assert (len(grid.values), shown(grid)[-1]) == (1000, 3.0)
    with pytest.raises(QueryError, match="31536000 points of 1 s; at most 50000: ask for a shorter range, or for less"):
        gridded(year, 1000, 0, 365 * DAY_MS - 1000)


def test_what_is_stored_as_it_comes_is_shown_by_the_second() -> None:
    assert shown(gridded([(999, 1.0), (1001, 2.0), (1999, 3.0)], 0, 0, 2000)) == [None, 1.0, 3.0]


def test_no_time_at_all() -> None:
    assert shown(gridded([(5_000, 1.0)], 10_000, 1_000, 9_000)) == []


def test_a_series_without_values_has_no_points() -> None:
    assert gridded([(10_000, np.nan)], 10_000, 0, 10_000).answer("x") == {
        "target": "x", "datapoints": [], "step_size_ms": 10_000,
    }  # fmt: skip

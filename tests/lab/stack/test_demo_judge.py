"""What scripts/run calls right: every series, every window, and the rollups of them."""

from lab.prometheus import Points
from lab.stack.demo import WINDOW_S, all_rollups, all_series, expected, expected_rollup
from lab.stack.judge import judge

FIRST = 1_767_355_200


def stored(windows: int, rollup_windows: int) -> Points:
    """What storage holds after a run without faults."""
    starts = [FIRST + k * WINDOW_S for k in range(windows)]
    points: Points = {s.labels: {(at + WINDOW_S) * 1000: expected(s, at) for at in starts} for s in all_series()}
    for rollup in all_rollups():
        values = {(at + WINDOW_S) * 1000: expected_rollup(rollup, at) for at in starts[:rollup_windows]}
        points[rollup.labels] = {at: value for at, value in values.items() if value is not None}
    return points


def verdict_of(points: Points):
    return judge(points, FIRST, FIRST + 4 * WINDOW_S, FIRST + 2 * WINDOW_S, 3, 2)


def test_rates_by_code_are_summed_over_the_hosts() -> None:
    # The demo's counters grow by 1 to 5 a second; each code has six of each.
    assert [expected_rollup(rollup, FIRST) for rollup in all_rollups()] == [90.0, 90.0]


def test_a_window_in_which_every_counter_was_reset_has_no_rate() -> None:
    assert expected_rollup(all_rollups()[0], FIRST - FIRST % 100_000 - WINDOW_S) is not None
    assert expected_rollup(all_rollups()[0], FIRST - FIRST % 100_000) is None


def test_all_right() -> None:
    verdict = verdict_of(stored(4, 2))
    assert verdict.good, str(verdict)
    assert (verdict.series, verdict.values) == (202, 200 * 4 + 2 * 2)


def test_a_wrong_or_missing_rollup_is_found() -> None:
    points = stored(4, 2)
    labels = all_rollups()[1].labels
    points[labels][(FIRST + WINDOW_S) * 1000] += 1.0
    assert "91.0, expected 90.0" in str(verdict_of(points))
    del points[labels]
    assert "missing, expected 90.0" in str(verdict_of(points))
    assert "0 windows judged, at least 2 are needed" in str(verdict_of(points))


def test_a_wrong_value_of_a_series_is_found() -> None:
    points = stored(4, 2)
    points[all_series()[70].labels][(FIRST + 2 * WINDOW_S) * 1000] += 1.0
    verdict = verdict_of(points)
    assert not verdict.good
    assert len(verdict.problems) == 1

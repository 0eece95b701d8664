"""The feed of recent windows."""

import numpy as np

from coordinator.store.windows import RecentWindows


def add(windows: RecentWindows, policy: int, times: list[int], now_s: float) -> None:
    n = len(times)
    windows.add(policy, np.arange(n), np.array(times, np.int64), np.arange(n) + 0.5, now_s)


def test_a_window_is_told_when_it_is_quiet_and_again_when_more_comes() -> None:
    windows = RecentWindows(quiet_s=0.5)
    add(windows, 0, [10, 10, 10], 1.0)
    add(windows, 0, [10, 10], 1.4)
    assert windows.since(0, 1.8) == ([], 0)
    found, following = windows.since(0, 2.0)
    assert [(w.time_ms, w.count, len(w.samples)) for w in found] == [(10, 5, 5)]
    assert windows.since(following, 9.0) == ([], following)
    add(windows, 0, [10], 9.0)
    assert [(w.time_ms, w.count) for w in windows.since(following, 10.0)[0]] == [(10, 6)]


def test_nothing_is_skipped_while_a_window_is_not_quiet() -> None:
    windows = RecentWindows(quiet_s=0.5)
    add(windows, 0, [10], 1.0)
    add(windows, 1, [10], 1.0)
    add(windows, 0, [20], 1.3)
    add(windows, 0, [10], 1.4)
    first, following = windows.since(0, 1.6)
    assert [(w.policy, w.time_ms) for w in first] == [(1, 10)]
    second, following = windows.since(following, 2.0)
    assert [(w.policy, w.time_ms, w.count) for w in second] == [(0, 10, 2), (0, 20, 1)]
    assert windows.since(following, 3.0) == ([], following)


def test_times_in_one_batch_and_a_bounded_memory() -> None:
    windows = RecentWindows(quiet_s=0.0)
    add(windows, 0, [20, 10, 20, 30], 1.0)
    found, _ = windows.since(0, 1.0)
    assert [(w.time_ms, w.count) for w in found] == [(10, 1), (20, 2), (30, 1)]
    assert found[1].samples == [(0, 0.5), (2, 2.5)]
    add(windows, 0, list(range(5000)), 2.0)
    found, _ = windows.since(0, 2.0)
    assert len(found) == 1024
    assert found[-1].time_ms == 4999

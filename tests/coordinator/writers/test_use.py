"""How many write processes take connections."""

from collections.abc import Iterable

import pytest

from coordinator.writers.use import Use

SECOND = 10**9


def after(busy: Iterable[list[float]], in_use: int = 1) -> int:
    """What comes of seconds like these."""
    use = Use(0.6)
    for second, parts in enumerate(busy):
        in_use = use.of(in_use, parts, second * SECOND)
    return in_use


@pytest.mark.parametrize(
    ("busy", "in_use"),
    [
        ([0.0, 0.0], 1),
        ([0.59, 0.0], 1),
        ([0.61, 0.0], 2),
        ([0.3, 0.25], 1),
        ([1.0, 0.0, 0.0, 0.0], 2),
        ([1.0, 1.0, 0.0, 0.0], 4),
        ([1.0, 1.0], 2),
        ([0.7, 0.7, 0.7, 0.0], 4),
        ([], 1),
    ],
)
def test_as_many_as_the_work_is_enough_for_and_as_there_are(busy: list[float], in_use: int) -> None:
    assert after([busy]) == in_use


def test_all_of_many_are_in_use_after_some_looks() -> None:
    """What is saturated says less than there is to do."""
    use, in_use = Use(0.6), 1
    for look in range(8):
        in_use = use.of(in_use, [1.0] * in_use + [0.0] * (16 - in_use), look * SECOND)
    assert in_use == 16


def test_fewer_are_in_use_only_after_a_long_calm() -> None:
    assert after([[1.0, 0.0], *[[0.1, 0.1]] * 59]) == 2
    assert after([[1.0, 0.0], *[[0.1, 0.1]] * 61]) == 1


def test_what_came_within_the_calm_counts() -> None:
    """After a minute as many are in use as its busiest moment needed, and a little less busy than what brings in the next one."""
    calm = [[0.1, 0.0, 0.0, 0.0]] * 30
    busy = [[0.7, 0.2, 0.0, 0.0]]
    assert after([*calm, *busy, *calm, [0.1, 0.0, 0.0, 0.0]], in_use=4) == 2
    assert after([[0.5, 0.0]] * 200, in_use=2) == 2, "one would be too busy to stay alone"
    assert after([[0.4, 0.0]] * 200, in_use=2) == 1


def test_those_that_die_have_their_place_when_they_come_back() -> None:
    assert after([[1.0, 1.0, 1.0], [1.0], [1.0, 0.0, 0.0]]) == 3

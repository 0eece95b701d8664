"""How many write processes take connections."""

from collections.abc import Iterable

import pytest

from coordinator.writers.use import LOOKS, Use

SECOND = 10**9


def after(busy: Iterable[list[float]], in_use: int = 1) -> int:
    """What comes of seconds like these."""
    use = Use(0.6)
    use.begin(0)
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
        ([1.0, 1.0, 0.0, 0.0], 2),
        ([1.0, 1.0], 2),
        ([], 1),
    ],
)
def test_as_many_as_the_work_is_enough_for_and_as_there_are(busy: list[float], in_use: int) -> None:
    assert after([busy] * LOOKS) == in_use
    assert after([busy] * (LOOKS - 1)) == 1, "a moment brings in nobody"


def test_at_most_twice_as_many_come_into_use_at_once() -> None:
    """What one costs more that has just come into use brings in no further one before the others have been looked at again."""
    seen = [after([[1.0] * 16] * looks) for looks in range(4 * LOOKS + 1)]
    assert [seen[0], *seen[LOOKS::LOOKS]] == [1, 2, 4, 8, 16]
    assert seen[LOOKS : 2 * LOOKS] == [2] * LOOKS
    assert after([[0.7, 0.7, 0.7, 0.0]] * LOOKS, in_use=3) == 4


def test_fewer_are_in_use_only_after_a_long_calm() -> None:
    busy = [[1.0, 0.0]] * LOOKS
    assert after([*busy, *[[0.1, 0.1]] * 59]) == 2
    assert after([*busy, *[[0.1, 0.1]] * 61]) == 1


def test_whoever_begins_to_say_it_waits_for_a_calm_first() -> None:
    """It does not know what was before it."""
    use = Use(0.6)
    use.begin(1000 * SECOND)
    assert use.of(3, [0.1, 0.1, 0.1], 1000 * SECOND) == 3
    assert use.of(3, [0.1, 0.1, 0.1], 1059 * SECOND) == 3
    assert use.of(3, [0.1, 0.1, 0.1], 1061 * SECOND) == 1


def test_what_came_within_the_calm_counts() -> None:
    """After a minute as many are in use as its busiest moment needed, and a little less busy than what brings in the next one."""
    calm = [[0.1, 0.0, 0.0, 0.0]] * 30
    busy = [[0.7, 0.2, 0.0, 0.0]]
    assert after([*calm, *busy, *calm, [0.1, 0.0, 0.0, 0.0]], in_use=4) == 2
    assert after([[0.5, 0.0]] * 200, in_use=2) == 2, "one would be too busy to stay alone"
    assert after([[0.4, 0.0]] * 200, in_use=2) == 1


def test_those_that_die_have_their_place_when_they_come_back() -> None:
    assert after([[1.0, 1.0, 1.0], [1.0], [1.0, 0.0, 0.0]], in_use=3) == 3

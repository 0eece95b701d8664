"""What counts as missing, wrong and doubled."""

import math

import numpy as np
from lab.failover.judge import Verdict, judge

S = 1_000_000_000
RESOLUTION = 10 * S
IDS = {b"a": 0, b"b": 1}


def verdict(*arrivals: tuple[bytes, int, float, float], expected: tuple[float, float] = (3.0, 5.0)) -> Verdict:
    """Arrivals: id, window end and time of arrival in seconds, and the value; one window, from 0 to 10 s."""
    return judge(
        {0: np.array(expected)},
        [(ident, end * S, value, int(at * S)) for ident, end, value, at in arrivals],
        IDS,
        [0],
        RESOLUTION,
        lambda series, window: series == 0,
        lambda series: 2 * S,
    )


def test_a_right_value_is_clean_and_its_delay_counts_from_when_it_is_due() -> None:
    found = verdict((b"a", 10, 3.0, 12.5), (b"b", 10, 5.0, 13))
    assert found.clean
    assert (found.judged, found.outside, found.outside_bad) == (1, 1, 0)
    assert found.delays_s == [0.5]


def test_the_same_value_again_is_no_fault() -> None:
    found = verdict((b"a", 10, 3.0, 13), (b"a", 10, 3.0, 14))
    assert found.clean
    assert found.repeated == 1
    assert found.delay_s(1.0) == 1.0


def test_missing_wrong_and_doubled() -> None:
    assert verdict().missing == 1
    late_repair = verdict((b"a", 10, 2.0, 13), (b"a", 10, 3.0, 14))
    assert (late_repair.missing, late_repair.wrong, late_repair.doubled) == (0, 0, 1)
    zombie = verdict((b"a", 10, 3.0, 13), (b"a", 10, 2.0, 14))
    assert (zombie.missing, zombie.wrong, zombie.doubled) == (0, 1, 1)
    assert verdict((b"a", 10, 4.0, 13)).wrong == 1
    assert not zombie.clean
    assert zombie.worst == 0
    assert "expected 3" in zombie.examples[0]


def test_values_of_other_windows_and_of_strangers_do_not_count() -> None:
    assert verdict((b"a", 20, 3.0, 13), (b"stranger", 10, 3.0, 13)).missing == 1


def test_nothing_is_expected_where_nothing_was_sent() -> None:
    found = verdict(expected=(math.nan, math.nan))
    assert (found.judged, found.outside) == (0, 0)
    assert math.isnan(found.delay_s(0.5))


def test_pairs_that_no_replica_held_are_looked_at_apart() -> None:
    found = verdict((b"a", 10, 3.0, 13), (b"b", 10, 1.0, 13))
    assert found.clean
    assert found.outside_bad == 1

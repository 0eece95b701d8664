"""How late samples may be, by resolution."""

import pytest

from m3metrics.past_limits import DEFAULT_PAST_LIMITS, PastLimits

S = 1_000_000_000


@pytest.mark.parametrize(
    ("resolution_s", "past_s"), [(1, 15), (29, 15), (30, 30), (59, 30), (60, 60), (119, 60), (120, 120), (3600, 120)]
)
def test_the_default_table(resolution_s: int, past_s: int) -> None:
    assert DEFAULT_PAST_LIMITS.of(resolution_s * S) == past_s * S


def test_the_first_entry_counts_for_what_is_finer_too() -> None:
    limits = PastLimits(((10 * S, 3 * S), (60 * S, 8 * S)))
    assert [limits.of(r * S) // S for r in (1, 10, 59, 60, 61)] == [3, 3, 3, 8, 8]


def test_a_table_that_is_not_ascending_is_read_as_m3_does() -> None:
    limits = PastLimits(((0, 1 * S), (60 * S, 2 * S), (10 * S, 3 * S)))
    assert [limits.of(r * S) // S for r in (5, 10, 60)] == [1, 1, 3]

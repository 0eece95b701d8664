"""What is said of clocks that disagree."""

from aggregator.supervisor.clock_faults import ClockFaults

S = 1_000_000_000
NOON = 1_767_355_200 * S
KEYS = ("flush", "delivered")


def test_a_clock_that_goes_back_is_told_until_it_is_where_it_was() -> None:
    faults = ClockFaults()
    assert faults.went_back(NOON) is None
    assert faults.went_back(NOON - S) is None
    said = [faults.went_back(NOON - 3600 * S), faults.went_back(NOON - 1800 * S)]
    assert said[0] == said[1] is not None, "one line in the log"
    assert "from 2026-01-02 12:00:00 UTC" in str(said[0])
    assert faults.went_back(NOON) is None


def test_flush_times_of_the_future_are_told_with_what_to_do() -> None:
    assert ClockFaults.flushed_ahead(NOON, NOON + 30 * S, KEYS) is None
    said = ClockFaults.flushed_ahead(NOON, NOON + 3600 * S, KEYS)
    assert said is not None
    assert "reach to 2026-01-02 13:00:00 UTC" in said
    assert "delete flush and delivered and their journals" in said

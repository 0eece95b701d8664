"""Times as people write them; what M3 reads is in the golden vectors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.query.graphite.times import TimeTextError, local_zone, parse_time, zone_named

NOW_NS = 1_700_000_000 * 10**9
UTC = zone_named("UTC")


def seconds(text: str) -> float:
    """From now."""
    return (parse_time(text, NOW_NS, UTC) - NOW_NS) / 10**9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", 0), ("-1h", -3600), ("-90s", -90), ("-5min", -300), ("now-2days", -172_800), ("-1w", -604_800), ("-2hours", -7200),
        ("-1mon", -2_592_000), ("-1y", -31_536_000), ("-5m", -300), ("-5M", -300), ("now-5m", -300), ("+3m", 180), ("-250ms", -0.25),
        ("-1h30min", -5400), ("-1d12h", -129_600), ("now+1d2h", 93_600), ("-1 hour ago", -3600), ("-1h\n", -3600),
        ("-300y", -9_460_800_000),
        ("noon-5m", -37_100),
    ],
)  # fmt: skip
def test_relative_times(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "time cannot be empty"), (" ", "time cannot be blank"), (",", "time cannot be blank"), ("-", "invalid relative time -"),
        ("now-", "invalid time offset -"), ("-h", "invalid relative time -h"), ("-5x", "invalid relative time -5x"),
        ("now-5x", "invalid time offset -5x"), ("+5", None), ("monday-friday", "invalid time offset -friday"),
        ("-1h-1h", "unknown time string -1h-1h"), ("now+1d-1h", "invalid time offset"), ("-1h30", "invalid relative time -1h30"),
        ("may32", "unknown time reference may32: may 2023 has no day 32"), ("february29", "february 2023 has no day 29"),
        ("20150230", "the date 20150230 does not exist"), ("1e3", "unknown time reference 1e3"),
        ("-99999999999s", "value out of range"),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, why: str | None) -> None:
    if why is None:
        assert parse_time(text, NOW_NS, UTC) == 5 * 10**9
        return
    with pytest.raises(TimeTextError) as caught:
        parse_time(text, NOW_NS, UTC)
    assert why in str(caught.value)


def test_days_and_hours_are_those_of_the_zone() -> None:
    kolkata = zone_named("Asia/Kolkata")
    assert parse_time("midnight", NOW_NS, kolkata) == 1_699_986_600 * 10**9
    assert parse_time("20231115", NOW_NS, kolkata) == 1_700_006_400 * 10**9
    assert local_zone(0) % 60 == 0


@given(st.text(alphabet="now-+1234567890hmindaysyterpmfb:/._, \n\u00e9", max_size=12))
def test_a_text_is_a_time_or_refused(text: str) -> None:
    try:
        assert isinstance(parse_time(text, NOW_NS, UTC), int)
    except TimeTextError as error:
        assert str(error)

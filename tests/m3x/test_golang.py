"""Values as Go writes, reads and rounds them."""

import pytest

from m3x.golang import go_duration, go_time, parse_bool, parse_int64


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (250, "250ns"),
        (1_500, "1.5µs"),
        (2_000_000, "2ms"),
        (62_500_000_000, "1m2.5s"),
        (3_600_000_000_000, "1h0m0s"),
        (285_021_080_770, "4m45.02108077s"),
        (-1_000_000_000, "-1s"),
    ],
)
def test_durations_are_printed_as_go_does(nanoseconds: int, text: str) -> None:
    assert go_duration(nanoseconds) == text


def test_times_are_printed_as_go_does() -> None:
    assert go_time(1_795_373_775_903_507_578) == "2026-11-22 18:56:15.903507578 +0000 UTC"
    assert go_time(1_767_323_045_000_000_000) == "2026-01-02 03:04:05 +0000 UTC"


@pytest.mark.parametrize(("text", "value"), [("1", True), ("T", True), ("true", True), ("0", False), ("False", False)])
def test_bools_are_read_as_go_does(text: str, value: bool) -> None:
    assert parse_bool(text) is value


@pytest.mark.parametrize("text", ["", "yes", "tRUE", " 1"])
def test_other_texts_are_no_bools(text: str) -> None:
    with pytest.raises(ValueError, match=f'strconv.ParseBool: parsing "{text}": invalid syntax'):
        parse_bool(text)


@pytest.mark.parametrize("text", ["0", "+5", "-007", "9223372036854775807", "-9223372036854775808", "0" * 30 + "12"])
def test_whole_numbers_of_64_bits(text: str) -> None:
    assert parse_int64(text) == int(text)


@pytest.mark.parametrize("text", ["9223372036854775808", "-9223372036854775809", "9" * 20, "1" + "0" * 6000])
def test_whole_numbers_beyond_64_bits(text: str) -> None:
    assert parse_int64(text) is None


def test_zeros_in_front_may_be_very_many() -> None:
    assert parse_int64("-" + "0" * 6000 + "5") == -5

"""What the log says of a refused sample."""

import pytest

from coordinator.examples import Examples, SampleTime, about
from m3metrics.ids import encode_tags

NOW = 1_767_323_045_500_000_000
NOW_MS = NOW // 1_000_000
METRIC = encode_tags([(b"__name__", b"up"), (b"job", b"a")])


@pytest.mark.parametrize(
    ("time", "likely"),
    [
        (SampleTime(NOW_MS, "milliseconds"), ""),
        (SampleTime(NOW_MS - 90 * 86_400_000, "milliseconds"), ""),
        (SampleTime(NOW_MS // 1000, "milliseconds"), "its sender seems to give seconds where milliseconds are meant"),
        (SampleTime(NOW_MS * 1000, "milliseconds"), "its sender seems to give microseconds where milliseconds are meant"),
        (SampleTime(NOW, "milliseconds"), "its sender seems to give nanoseconds where milliseconds are meant"),
        (SampleTime(NOW_MS, "seconds"), "its sender seems to give milliseconds where seconds are meant"),
        (SampleTime(NOW // 1000), "its time seems to be in another unit, as seconds are where milliseconds are meant"),
        (SampleTime(0, "milliseconds"), "it has no time"),
        (SampleTime(NOW + 61 * 10**9), "the clock of its sender seems to be fast, or that of this machine slow"),
        (SampleTime(-NOW_MS, "milliseconds"), ""),
    ],
)  # fmt: skip
def test_what_is_likely_wrong_with_a_time(time: SampleTime, likely: str) -> None:
    assert time.likely(NOW) == likely


def test_times_are_shown_with_how_far_off_they_are() -> None:
    assert SampleTime(NOW - 723 * 10**9).shown(NOW) == "2026-01-02T02:52:02.500Z, 12m3s ago"
    assert SampleTime(NOW_MS + 61_000, "milliseconds").shown(NOW) == "2026-01-02T03:05:06.500Z, 1m1s ahead"
    assert SampleTime(NOW, "seconds").shown(NOW) == f"{NOW} seconds since 1970"


def test_fields_of_a_line() -> None:
    assert about(METRIC, SampleTime(NOW_MS // 1000, "milliseconds"), NOW) == {
        "metric": 'up{job="a"}',
        "time": "1970-01-21T10:55:23.045Z, 20434 days ago",
        "likely": "its sender seems to give seconds where milliseconds are meant",
    }
    assert set(about(METRIC, SampleTime(NOW), NOW)) == {"metric", "time"}


@pytest.mark.parametrize("step", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_examples_rotate_also_where_only_some_are_seen(count: int, step: int) -> None:
    examples = Examples()
    chosen = [examples.choose(count) for _ in range(200)][::step]
    assert set(chosen) == set(range(count))

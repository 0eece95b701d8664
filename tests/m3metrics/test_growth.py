"""The sketch of which names new series have."""

from m3metrics.growth import Growth, merged


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def grow(
    growth: Growth, count: int, name: bytes, label: bytes = b"pod", same_value: bool = False, first: int = 0
) -> int:
    """So many new series; how many of them were looked at."""
    chosen = growth.sample(count)
    for k in chosen:
        value = b"same" if same_value else b"%s-%d" % (name, first + k)
        growth.add([(b"__name__", name), (label, value)], chosen.step)
    return len(chosen)


def test_few_series_are_counted_exactly() -> None:
    growth = Growth(Clock())
    for name, count in ((b"up", 3), (b"http_requests", 200), (b"go_info", 1)):
        grow(growth, count, name)
    grow(growth, 50, b"http_requests", b"job", same_value=True)
    report = growth.report()
    assert report.new_series == 254
    assert [(one.name, one.series) for one in report.metric_names] == [
        ("http_requests", 250),
        ("up", 3),
        ("go_info", 1),
    ]
    assert [(one.name, one.series, one.values) for one in report.label_names] == [("pod", 204, 204), ("job", 50, 1)]


def test_of_very_many_a_sample_is_looked_at_that_stands_for_all() -> None:
    clock = Clock()
    growth = Growth(clock)
    looked_at, first = 0, 0
    for _ in range(50):
        for _ in range(20):
            looked_at += grow(growth, 9000, b"storm", first=first)
            looked_at += grow(growth, 1000, b"calm", b"job", same_value=True)
            first += 9000
        clock.now_s += 1
    assert looked_at < 50 * 5000
    report = growth.report()
    assert report.new_series == 10_000_000
    storm, calm = report.metric_names
    assert (storm.name, calm.name) == ("storm", "calm")
    assert abs(storm.series - 9_000_000) < 900_000
    assert abs(calm.series - 1_000_000) < 200_000
    pod, job = report.label_names
    assert abs(pod.values - 9_000_000) < 1_800_000
    assert job.values < 5000


def test_names_beyond_its_size_give_way_and_what_has_its_share_is_found() -> None:
    clock = Clock()
    growth = Growth(clock)
    for k in range(3000):
        grow(growth, 1, b"name_%d" % k)
        if k % 20 == 0:
            grow(growth, 2, b"hot", first=k * 10)
        clock.now_s += 0.01
    hot = growth.report(1000).metric_names[0]
    assert (hot.name, hot.series) == ("hot", 300)
    assert len(growth.report(1000).metric_names) == 256


def test_what_has_stopped_growing_gives_way_to_what_grows_now() -> None:
    clock = Clock()
    growth = Growth(clock)
    grow(growth, 400, b"before")
    clock.now_s += 3600
    grow(growth, 100, b"now")
    names = growth.report().metric_names
    assert [one.name for one in names] == ["now", "before"]
    assert names[1].per_minute == 0 < names[0].per_minute


def test_a_rate_is_that_of_a_minute() -> None:
    clock = Clock()
    growth = Growth(clock)
    for second in range(7200):
        grow(growth, 10, b"even", first=second * 10)
        clock.now_s += 1
        if second % 10 == 0:
            growth.report()
    assert abs(growth.report().metric_names[0].per_minute - 600) < 30


def test_reports_of_processes_are_added_up() -> None:
    one, other = Growth(Clock()), Growth(Clock())
    grow(one, 10, b"a")
    grow(other, 5, b"a")
    grow(other, 20, b"b")
    both = merged([one.report(), other.report()])
    assert both.new_series == 35
    assert [(name.name, name.series) for name in both.metric_names] == [("b", 20), ("a", 15)]
    assert [(label.name, label.series, label.values) for label in both.label_names] == [("pod", 35, 35)]


def test_bytes_that_are_no_text_and_long_names_are_shown_as_far_as_they_go() -> None:
    growth = Growth(Clock())
    growth.add([(b"__name__", b"\xff" + 1000 * b"x")], 1)
    assert growth.report().metric_names[0].name == "\\xff" + 255 * "x"


def test_what_was_told_is_told_again_until_something_changes() -> None:
    clock = Clock()
    growth = Growth(clock)
    grow(growth, 3, b"up")
    first = growth.report()
    assert growth.report() is first
    assert [len(growth.report(most).metric_names) for most in (0, 1)] == [0, 1]
    grow(growth, 1, b"up")
    assert [one.series for one in growth.report().metric_names] == [4]
    before = growth.report().metric_names[0].per_minute
    clock.now_s += 600
    assert growth.report().metric_names[0].per_minute < max(before, 1)
    growth.sample(5)
    assert growth.report().new_series == 9
